"""Objects out of configurations: precedence, injection, sharing, overrides, and what mistakes are answered with."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ppdet.core import registry, workspace
from ppdet.core.workspace import (
    Config,
    ConfigError,
    Descriptor,
    build_op,
    create,
    current_config,
    dump_config,
    load_config,
    merge_config,
    register,
    registered,
    serializable,
)
from ppdet.utils.cli import parse_overrides

pytestmark = pytest.mark.same_on_every_paddle


class Neck:
    __shared__ = ["norm_type"]

    def __init__(self, in_channels: int, width: int = 256, norm_type: str = "bn") -> None:
        self.in_channels, self.width, self.norm_type = in_channels, width, norm_type

    @classmethod
    def from_config(cls, cfg: Any, input_shape: int) -> dict[str, Any]:
        cls.seen = dict(cfg)
        return {"in_channels": input_shape * 2}


class Backbone:
    def __init__(self, depth: int = 50, stages: list[int] | None = None, ratio: float = 1.0) -> None:
        self.depth, self.stages, self.ratio = depth, stages, ratio


class Loss:
    def __init__(self, weight: float = 1.0) -> None:
        self.weight = weight


class Crop:
    def __init__(self, size: tuple[int, int], pad: bool = False) -> None:
        self.size, self.pad = size, pad

    def __len__(self) -> int:
        return 1


class Records:
    def __init__(self, folder: str = "", fields: list[str] | None = None, extra: dict[str, Any] | None = None) -> None:
        self.folder, self.fields, self.extra = folder, fields, extra

    def __len__(self) -> int:
        return 1


class Net:
    __category__ = "architecture"
    __inject__ = {"backbone": None, "neck": None, "loss": "Loss", "losses": None}
    __shared__ = ["num_classes"]

    def __init__(
        self, backbone: Any, neck: Any = None, loss: Any = None, losses: Any = None, num_classes: int = 80
    ) -> None:
        self.backbone, self.neck, self.loss, self.losses, self.num_classes = backbone, neck, loss, losses, num_classes

    @classmethod
    def from_config(cls, cfg: Any) -> dict[str, Any]:
        backbone = create(cfg["backbone"])
        return {"backbone": backbone, "neck": create(cfg["neck"], input_shape=backbone.depth) if cfg.neck else None}


class Plain:
    __inject__ = ["loss"]

    def __init__(self, loss: Any = None, **options: Any) -> None:
        self.loss, self.options = loss, options


@pytest.fixture(autouse=True)
def _classes(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(registry, "_REGISTRY", dict(registry._REGISTRY))
    monkeypatch.setattr(workspace, "_PACKAGES", ())
    for cls in (Neck, Backbone, Loss, Net, Plain):
        register(cls)
    for cls in (Crop, Records):
        serializable(cls)
    yield


@pytest.fixture()
def write(tmp_path: Path):
    def _write(text: str, name: str = "net.yml") -> str:
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True, parents=True)
        path.write_text(text)
        return str(path)

    return _write


NET = """
architecture: Net
num_classes: 7
norm_type: gn
Net: {backbone: Backbone, neck: Neck}
Backbone:
  depth: 101
  stages: [1, 2]
Neck: {width: 64}
"""


def override(*assignments: str) -> Config:
    return merge_config(parse_overrides(assignments))


def test_create_follows_references_sections_and_shared_keys(write) -> None:
    cfg = load_config(write(NET))
    net = create(cfg.architecture)
    assert (net.num_classes, net.backbone.depth, net.backbone.stages) == (7, 101, [1, 2])
    assert (net.neck.in_channels, net.neck.width, net.neck.norm_type) == (202, 64, "gn")
    assert isinstance(net.loss, Loss) and net.loss.weight == 1.0
    assert net.losses is None


def test_section_wins_over_shared_key_and_argument_over_section(write) -> None:
    load_config(write(NET + "Loss: {weight: 2}\n"))
    override("Net.num_classes=3")
    assert create("Net").num_classes == 3
    assert create("Net", num_classes=5).num_classes == 5
    assert create("Loss").weight == 2
    assert create(Loss, weight=4.0).weight == 4.0


def test_from_config_sees_defaults_sections_and_shared_values(write) -> None:
    load_config(write(NET))
    create("Neck", input_shape=4)
    assert Neck.seen == {"width": 64, "norm_type": "gn"}
    assert create("Neck", input_shape=4, in_channels=1).in_channels == 1  # an explicit argument wins


def test_mapping_with_name_lies_over_the_section_of_that_class(write) -> None:
    load_config(write(NET + "Loss: {weight: 2.0}\n"))
    override("Net.backbone={name: Backbone, ratio: 0.5}", "Net.losses=[Loss, {name: Loss, weight: 3.0}, null]")
    net = create("Net")
    assert (net.backbone.depth, net.backbone.ratio) == (101, 0.5)
    assert [loss and loss.weight for loss in net.losses] == [2.0, 3.0, None]


def test_mapping_without_name_uses_the_default_class_and_null_none(write) -> None:
    load_config(write(NET))
    override("Net.loss.weight=0.25")
    assert create("Net").loss.weight == 0.25
    override("Net.loss=null")
    assert create("Net").loss is None


def test_built_object_is_injected_as_it_is() -> None:
    loss = Loss(9.0)
    assert create("Plain", loss=loss).loss is loss
    assert create(loss) is loss


def test_create_leaves_the_config_untouched_and_gives_copies(write) -> None:
    cfg = load_config(write(NET + "TrainDataset: !Records {fields: [a], extra: {k: [1]}}\n"))
    before = dump_config()
    net, records = create("Net"), create(cfg.TrainDataset)
    net.backbone.stages.append(3)
    records.fields.append("b")
    records.extra["k"].append(2)
    assert dump_config() == before
    assert create("Net").backbone.stages == [1, 2]
    assert create(cfg.TrainDataset).extra == {"k": [1]}


def test_base_files_merge_in_order_and_relative_to_the_file(write) -> None:
    write("epoch: 1\nsave_dir: a\nBackbone: {depth: 18, stages: [1]}\n", "parts/a.yml")
    write("epoch: 2\nBackbone: {ratio: 0.5}\n", "parts/b.yml")
    cfg = load_config(write("_BASE_: [parts/a.yml, parts/b.yml]\nBackbone: {stages: [9]}\n"))
    assert cfg == {"epoch": 2, "save_dir": "a", "Backbone": {"depth": 18, "stages": [9], "ratio": 0.5}}
    assert cfg.Backbone.origin("ratio").endswith("parts/b.yml, line 2")


def test_second_load_has_nothing_of_the_first(write) -> None:
    load_config(write("epoch: 3\nLoss: {weight: 5.0}\n"))
    cfg = load_config(write("save_dir: x\n", "other.yml"))
    assert cfg == {"save_dir": "x"} and current_config() is cfg
    assert create("Loss").weight == 1.0


def test_every_override_takes_effect_in_the_same_object(write) -> None:
    cfg = load_config(write(NET))
    merged = override("Backbone.depth=18", "Backbone.ratio=1e-3", "epoch=4", "Net.neck=null")
    assert merged is cfg and cfg.Backbone == {"depth": 18, "stages": [1, 2], "ratio": 0.001} and cfg.epoch == 4
    assert create("Net").neck is None


def test_override_below_a_class_name_adds_arguments(write) -> None:
    load_config(write(NET))
    override("Net.backbone.ratio=0.5")
    assert (create("Net").backbone.ratio, create("Net").backbone.depth) == (0.5, 101)


def test_wrong_override_changes_nothing(write) -> None:
    cfg = load_config(write(NET))
    before = copy.deepcopy(cfg)
    with pytest.raises(ConfigError):
        override("epoch=4", "Backbone.dept=1")
    assert cfg == before


def test_tagged_calls_are_inert_until_built_and_can_be_overridden(write) -> None:
    cfg = load_config(write("TrainDataset: !Records {folder: a}\nEvalDataset:\n  !Records\n    fields: [x]\n"))
    assert isinstance(cfg.TrainDataset, Descriptor) and cfg.TrainDataset.folder == "a"
    override("TrainDataset.folder=b", "EvalDataset.extra.k=1")
    assert create(cfg.TrainDataset).folder == "b"
    evaluation = create("EvalDataset", folder="c")
    assert (evaluation.fields, evaluation.extra, evaluation.folder) == (["x"], {"k": 1}, "c")
    override("TrainDataset={name: Crop, size: [1, 2]}")
    assert create("TrainDataset").size == [1, 2]


def test_another_tag_replaces_the_call_whole(write) -> None:
    write("TrainDataset: !Records {folder: a, fields: [x]}\n", "base.yml")
    cfg = load_config(write("_BASE_: base.yml\nTrainDataset: !Records {folder: b}\n"))
    assert cfg.TrainDataset == Descriptor("Records", workspace.ConfigDict(folder="b"))


def test_list_elements_are_overridden_by_position_and_by_class(write) -> None:
    cfg = load_config(write("Records:\n  extra:\n    ops:\n    - Crop: {size: [1, 1]}\n    - !Crop {size: [2, 2]}\n"))
    override("Records.extra.ops.0.Crop.pad=true", "Records.extra.ops.1.size=[5, 6]")
    first, second = cfg.Records.extra.ops
    assert build_op(first).pad is True and create(second).size == [5, 6]
    cfg = load_config(write("Records: {fields: [a, b], extra: {ops: [Crop: {size: [1, 1]}, Loss: ]}}\n"))
    override("Records.extra.ops.Crop.size=[8, 9]", "Records.fields.1=c", "Records.extra.ops.Loss.weight=2")
    assert build_op(cfg.Records.extra.ops[0]).size == [8, 9]
    assert build_op(cfg.Records.extra.ops[1]).weight == 2
    assert cfg.Records.fields == ["a", "c"]


def test_build_op_forms() -> None:
    assert build_op({"Loss": None}).weight == 1.0
    assert build_op("Loss").weight == 1.0
    assert build_op({"Crop": {"size": [1, 2]}}, pad=True).pad is True
    for entry, message in [
        ({"Crp": {}}, "did you mean 'Crop'"),
        ({"Crop": 3}, "takes a mapping"),
        ({"Crop": {"sise": [1, 2]}}, "did you mean 'size'"),
        ({"Crop": {"size": [1]}}, "a list of 2"),
        (7, "an operation is written"),
        ({"Crop": {}, "Loss": {}}, "has no 'name'"),
    ]:
        with pytest.raises(ConfigError, match=message):
            build_op(entry)


def test_open_ended_constructor_takes_any_argument() -> None:
    assert create("Plain", anything=1).options == {"anything": 1}


def test_dumped_config_loads_to_itself(write) -> None:
    cfg = load_config(
        write(NET + "TrainDataset: !Records {folder: a, extra: {lr: 1.0e-05, s: '1e-3'}}\nweights: null\n")
    )
    again = load_config(write(dump_config(cfg), "again.yml"))
    assert again == cfg and isinstance(again.TrainDataset, Descriptor)
    assert again.TrainDataset.extra == {"lr": 1e-05, "s": "1e-3"}
    with pytest.raises(ConfigError, match="cannot be written"):
        again.Net["backbone"] = Loss()
        dump_config(again)


def test_config_behaves_as_a_dict(write) -> None:
    cfg = load_config(write(NET))
    for twin in (copy.deepcopy(cfg), pickle.loads(pickle.dumps(cfg)), cfg.copy()):
        assert twin == cfg and twin.Backbone.depth == 101 and twin.origin("Net") == cfg.origin("Net")
        twin.Backbone.stages.append(5)
        assert cfg.Backbone.stages == [1, 2]
    assert cfg.get("epoch", 12) == 12 and not hasattr(cfg, "epoch") and "Net" in cfg
    with pytest.raises(ConfigError, match=r"does not set 'epoch' \(.*net\.yml\)"):
        _ = cfg.epoch
    with pytest.raises(ConfigError, match="'epoch'"):
        _ = cfg["epoch"]
    descriptor = pickle.loads(pickle.dumps(Descriptor("Records", workspace.ConfigDict(folder="a"))))
    descriptor.folder = "b"
    assert descriptor.arguments == {"folder": "b"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("epochs: 3", r"unknown key 'epochs' \(.*net\.yml, line 1\); did you mean 'epoch'\?"),
        ("epoch: 3\nNett: {}", r"'Nett' \(.*line 2\); did you mean 'Net'"),
        ("Backbone:\n  depth: 1\n  dept: 2", r"'Backbone\.dept' \(.*line 3\); did you mean 'depth'"),
        ("Loss: {zzz: 1}", r"'Loss\.zzz' .*; valid: weight"),
        ("Backbone: {depth: '50'}", r"'Backbone\.depth' takes an integer, got '50'"),
        ("Backbone: {depth: true}", "takes an integer, got true"),
        ("Backbone: {depth: 1.5}", "takes an integer, got 1.5"),
        ("Backbone: {stages: [1, a]}", r"takes a list of \(an integer\) or null"),
        ("Crop: {size: [1, 2, 3]}", r"takes a list of 2 \(an integer, an integer\)"),
        ("Crop: {pad: 1}", "takes true or false, got 1"),
        ("Loss: {weight: null}", "takes a number, got null"),
        ("Backbone: 50", r"'Backbone' takes a mapping of arguments, got 50"),
        ("epoch: many", "'epoch' takes an integer between 1 and 2147483647, got 'many'"),
        ("num_classes: [1]", "'num_classes' takes an integer"),
        ("architecture: Nett", "unknown architecture 'Nett'.*did you mean 'Net'"),
        ("Net: {backbone: Backbon}", r"class for 'Net\.backbone': 'Backbon' .*did you mean 'Backbone'"),
        ("Net: {backbone: {name: Backbone, dpth: 1}}", r"'Net\.backbone\.dpth'.*did you mean 'depth'"),
        ("Net: {loss: {wight: 1}}", r"'Net\.loss\.wight'.*did you mean 'weight'"),
        ("Net: {losses: [Loss, Lss]}", r"'Net\.losses\.1': 'Lss'"),
        ("TrainDataset: !Record {}", r"tag at 'TrainDataset': 'Record' .*did you mean 'Records'"),
        ("TrainDataset: !Records {fodler: a}", r"'TrainDataset\.fodler'.*did you mean 'folder'"),
        ("TrainDataset: !Records {extra: {a: [!Crap {}]}}", r"'TrainDataset\.extra\.a\.0': 'Crap'"),
        ("TrainDataset: {name: Record}", "did you mean 'Records'"),
        ("TrainDataset: !Records [1]", "named arguments"),
        ("epoch: 1\nepoch: 2", "'epoch' is set twice .*line 2"),
        ("epoch: [", "cannot read as YAML.*line"),
        ("- 1", "'key: value'"),
        ("? [1]\n: 2", "a key must be a plain text"),
        ("save_dir: !!python/object/apply:os.system [ls]", "python/object/apply:os.system' is not allowed"),
        ("save_dir: !!python/name:os.system ''", "cannot read as YAML: .*python/name"),
        ("export: &a {b: *a}", "without end"),
        ("_BASE_: nett.yml", r"_BASE_ file '.*nett\.yml' does not exist \(.*line 1\); did you mean '.*net\.yml'"),
        ("_BASE_: 3", "_BASE_ takes a file name"),
        ("_BASE_: .", r"_BASE_ takes files, but '.*' is a folder \(.*line 1\)"),
        ("_BASE_: net.yml", "its own _BASE_"),
        ("_BASE_: nowhere/a.yml", "there is no folder"),
    ],
)
def test_mistakes_are_one_line_that_names_them(write, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        load_config(write(text))
    assert "\n" not in str(caught.value)


def test_alias_bomb_is_refused(write) -> None:
    lines = ["a0: &a0 [1, 1, 1, 1, 1, 1, 1, 1]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 8)}]" for i in range(1, 9)]
    with pytest.raises(ConfigError, match="without end"):
        load_config(write("\n".join(lines)))


def test_missing_config_file_names_the_nearest(write) -> None:
    path = write("epoch: 1")
    with pytest.raises(ConfigError, match=r"no configuration file '.*nex\.yml'; did you mean '.*net\.yml'"):
        load_config(path.replace("net", "nex"))


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("epochs=3", r"unknown key 'epochs' \(command line\); did you mean 'epoch'"),
        ("Backbone.depth=x", r"'Backbone\.depth' takes an integer, got 'x' \(command line\)"),
        ("Backbone.stages.5=1", "has 2 elements"),
        ("Backbone.stages.Crop=1", "has no element 'Crop'"),
        ("Net.backbone.dpth=1", r"'Net\.backbone\.dpth' \(command line\)"),
        ("TrainDataset=!Recrds {}", "did you mean 'Records'"),
    ],
)
def test_wrong_overrides_name_the_command_line(write, assignment: str, message: str) -> None:
    load_config(write(NET))
    with pytest.raises(ConfigError, match=message):
        override(assignment)


def test_unset_required_argument_is_named(write) -> None:
    load_config(write("epoch: 1"))
    with pytest.raises(ConfigError, match=r"'Crop\.size' must be set"):
        create("Crop")
    with pytest.raises(ConfigError, match="does not set 'backbone'"):
        create("Net")


def test_unknown_class_and_duplicate_registration() -> None:
    assert registered("Crop") is Crop
    with pytest.raises(ConfigError, match="did you mean 'Crop'"):
        registered("crop_")
    with pytest.raises(ConfigError, match="unknown class 'Nothing'"):
        create("Nothing")
    with pytest.raises(ValueError, match="the name is already registered by"):
        register(type("Crop", (), {"__module__": "elsewhere"}))
    with pytest.raises(ValueError, match="no constructor argument"):
        register(type("Odd", (), {"__inject__": ["x"]}))
