"""Sources of checkpoints: each is recognized and keeps its word, and a new one is one new file."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import paddle
import pytest

from ppdet.checkpoint import names, source
from ppdet.checkpoint.convert import convert_state
from ppdet.checkpoint.convert_file import check_files
from ppdet.checkpoint.fetch import local_weights
from ppdet.checkpoint.source import Source, find_source, register_source, registered_sources
from ppdet.checkpoint.weights import load_pretrained, load_weights, read_state, write_state
from ppdet.utils.errors import UserError
from tests.checkpoint.formats.pth_files import write_pth
from tests.checkpoint.test_zoo_weights import Server

TOY = '''
"""A detector whose classes are in another order, and whose classifier has no bias."""
import numpy as np
from ppdet.checkpoint.source import COMMON_IGNORED, Source, register_source

@register_source
class Toy(Source):
    """Toys."""

    description = "the toy"
    notice = "is a toy: converted while loading"
    signature = (r"body\\.conv1\\.weight$", r"backbone\\.conv1\\.weight$")
    rules = (
        (r"backbone\\.conv1\\.", "backbone.stem."),
        (r"body\\.conv1\\.", "backbone.body."),
        (r"score\\.", "bbox_head.score."),
    )
    ignored = (*COMMON_IGNORED, (r"anchors\\.", "anchors, which are computed"))
    prefixes = ("toy.",)
    hosts = ("toys.example",)
    canaries = {"backbone.conv1.weight": "backbone.stem.weight", "body.conv1.weight": "backbone.body.weight"}

    def values(self, model, whole):
        """The background comes first."""
        return lambda name, array: np.roll(array, -1, axis=-1) if name.startswith("score.") else array

    def complete(self, result):
        """A bias that it does not have."""
        result.arrays["bbox_head.score.bias"] = np.zeros(3, np.float32)
'''


def test_canaries() -> None:
    sources = registered_sources()
    assert list(sources) == ["mmdetection", "paddledet", "reproduction_2021", "torchvision"]
    for entry in sources.values():
        assert find_source(entry.canaries) is entry
        rename = entry.renamer(list(entry.canaries))
        assert {name: rename(name) for name in entry.canaries} == dict(entry.canaries)


@pytest.mark.parametrize(
    ("listed", "name"),
    [
        (["backbone.conv1.weight"], "mmdetection"),
        (["module.backbone.layer1.0.conv1.weight"], "mmdetection"),
        (["module.layer1.0.conv1.weight"], "torchvision"),
        (["backbone.conv1.conv1.conv.weight"], "paddledet"),
        (["backbone.conv1.conv1.conv.weight", "neck.lateral_convs.0.conv.weight"], "paddledet"),
        (["backbone.body.layer1.0.conv1.weight", "conv1_weight"], None),
        ([], None),
    ],
)
def test_recognition(listed: list[str], name: str | None) -> None:
    assert find_source(listed) is (None if name is None else registered_sources()[name])


@pytest.fixture
def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """One new file in the folder of names."""
    (tmp_path / "names").mkdir()
    (tmp_path / "names" / "toy.py").write_text(TOY)
    monkeypatch.setattr(names, "__path__", [*names.__path__, str(tmp_path / "names")])
    monkeypatch.setattr(source, "_SOURCES", dict(registered_sources()))
    yield
    sys.modules.pop("ppdet.checkpoint.names.toy", None)


class ToyModel(paddle.nn.Layer):
    """Three layers by this project's rules of names."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone, self.bbox_head = paddle.nn.Layer(), paddle.nn.Layer()
        self.backbone.stem = paddle.nn.Conv2D(3, 2, 1, bias_attr=False)
        self.backbone.body = paddle.nn.Conv2D(2, 2, 1, bias_attr=False)
        self.bbox_head.score = paddle.nn.Linear(2, 3)


STATE = {
    "toy.backbone.conv1.weight": np.ones((2, 3, 1, 1), np.float32),
    "toy.body.conv1.weight": np.full((2, 2, 1, 1), 2, np.float32),
    "toy.score.weight": np.array([[0, 1, 2], [3, 4, 5]], np.float32),
    "toy.anchors.3": np.zeros(5, np.float32),
    "toy.bn1.num_batches_tracked": np.zeros((), np.int64),
}


def test_a_new_source_is_one_new_file(toy: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """mmdetection has its stem's name, too, but does not account for as many of the tensors."""
    assert registered_sources()["mmdetection"].recognizes(["backbone.conv1.weight"])
    model = ToyModel()
    result = convert_state(model, STATE)
    assert set(result.arrays) == set(model.state_dict()) and len(result.sources) + len(result.left) == len(STATE)
    assert result.left == {
        "toy.anchors.3": "anchors, which are computed",
        "toy.bn1.num_batches_tracked": "a counter that nothing reads",
    }
    assert result.arrays["bbox_head.score.weight"].tolist() == [[1, 2, 0], [4, 5, 3]]
    write_state(STATE, tmp_path / "toy")
    for load in (load_weights, load_pretrained):
        load(model, tmp_path / "toy")
        assert model.state_dict()["bbox_head.score.weight"].numpy().tolist() == [[1, 2, 0], [4, 5, 3]]
    log = capsys.readouterr().out
    assert "toy.safetensors is a toy: converted while loading" in log
    assert "toy.safetensors: toy.anchors.3\n" in log and "num_batches_tracked" not in log
    write_state(result.arrays, tmp_path / "converted")
    check_files(str(tmp_path / "toy"), str(tmp_path / "converted"))
    with pytest.raises(UserError, match="these can be converted: mmdetection's .*; the HTC of .*; the toy$"):
        convert_state(model, {"encoder.weight": np.zeros(1)})


def test_its_published_files_are_checked_and_converted(toy: None, tmp_path: Path) -> None:
    content = write_pth(tmp_path / "toy.pth", STATE).read_bytes()
    address = f"https://toys.example/toy-{hashlib.sha256(content).hexdigest()[:8]}.pth"
    file = local_weights(address, "weights", tmp_path / "cache", Server(content))
    assert set(read_state(file)) == {"backbone.stem.weight", "backbone.body.weight"} | {
        f"bbox_head.score.{kind}" for kind in ("weight", "bias")
    }
    with pytest.raises(UserError, match="the sha256 of the downloaded file is not the expected one"):
        local_weights("https://toys.example/toy-00000000.pth", "weights", tmp_path / "other", Server(content))


def test_what_a_source_has_to_state() -> None:
    class Silent(Source):
        """Without a signature."""

    with pytest.raises(ValueError, match="Silent lacks 'signature'"):
        register_source(Silent)
