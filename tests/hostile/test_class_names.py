"""Data sets and weights whose classes differ by name, and own data on the whole way from training to deployment."""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from ppdet.checkpoint.weight_files import read_weights, write_state
from ppdet.checkpoint.weights import state_arrays
from ppdet.core.workspace import create, load_config
from ppdet.structures.categories import Categories
from tests.hostile.conftest import Bench

OWN = {"fish": 41, "mushroom": 5, "cup": 300, "rocket": 17, "star": 29, "cat": 8}
"""Category ids of data of one's own: neither 1..K nor in the order of the demo set's."""


@pytest.fixture
def weights(bench: Bench) -> Callable[..., str]:
    """Writes untrained weights of the bench's model that name these classes; returns the option that uses them."""

    def write(names: list[str] | None) -> str:
        config = load_config(str(bench.config))
        model = create(config, config.architecture)
        classes = None if names is None else Categories(tuple(names), tuple(range(1, len(names) + 1)))
        write_state(state_arrays(model), bench.folder / "weights", classes)
        return f"weights={bench.folder / 'weights'}"

    return write


def names_of(bench: Bench) -> list[str]:
    """Class names of the demo set."""
    listed = sorted(bench.annotations("val")["categories"], key=lambda entry: entry["id"])
    return [entry["name"] for entry in listed]


def renamed(bench: Bench, split: str, change: Callable[[dict[str, Any]], None], name: str = "other.json") -> Path:
    """Write the annotations of a split with changed categories."""
    content = bench.annotations(split)
    for category in content["categories"]:
        change(category)
    return bench.write(name, content)


def swap(category: dict[str, Any]) -> None:
    """Exchange two names, so that only their order differs."""
    category["name"] = {"star": "fish", "fish": "star"}.get(category["name"], category["name"])


def test_a_validation_set_of_other_names(bench: Bench, weights: Callable[..., str]) -> None:
    option = weights(names_of(bench))
    other = renamed(bench, "val", lambda category: category.update(name=category["name"].replace("star", "sun")))
    message = bench.refused(
        "eval", "-o", option, f"EvalDataset.anno_path={other}", names=("weights.safetensors", "other.json", "rename")
    )
    assert "only in" in message and "star" in message and "sun" in message
    order = renamed(bench, "val", swap)
    bench.refused(
        "eval", "-o", option, f"EvalDataset.anno_path={order}", names=("in another order", "'star'", "'fish'")
    )


def test_training_and_validation_set_are_compared(bench: Bench) -> None:
    order = renamed(bench, "val", swap)
    bench.refused(
        "train", "--eval", "-o", f"EvalDataset.anno_path={order}", names=("instances_train.json", "other.json", "order")
    )
    assert not list(bench.folder.glob("output/*/*.pdparams"))


def test_another_number_of_classes_is_a_short_line(bench: Bench, weights: Callable[..., str]) -> None:
    option = weights(names_of(bench))
    for tool in ("infer", "export_model"):
        extra = [f"--infer_img={next((bench.data / 'val').glob('*.jpg'))}"] if tool == "infer" else []
        message = bench.refused(tool, "-o", option, "num_classes=3", *extra, names="weights have 6 classes")
        assert "num_classes is 3" in message and names_of(bench)[0] in message and len(message) < 400


def test_weights_without_names_are_warned_of_once(bench: Bench, weights: Callable[..., str]) -> None:
    printed = bench.accepted("eval", "-o", weights(None))
    assert (printed.out + printed.err).count("does not name its classes") == 1


@pytest.mark.same_on_every_paddle
def test_own_data_from_training_to_deployment(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Trained by the README's overrides; from then on nobody has the annotation file of the classes."""
    for split in ("train", "val"):
        content = bench.annotations(split)
        ids = {category["id"]: OWN.get(category["name"], 900 + category["id"]) for category in content["categories"]}
        for entry in (*content["categories"], *content["annotations"]):
            key = "id" if "name" in entry else "category_id"
            entry[key] = ids[entry[key]]
        content["categories"] = [{**entry, "name": f"my {entry['name']}"} for entry in content["categories"]]
        bench.write(f"{split}.json", content)
        truth = {entry["id"]: entry["name"] for entry in sorted(content["categories"], key=lambda entry: entry["id"])}
    data = [
        f"TrainDataset.anno_path={bench.folder}/train.json",
        f"EvalDataset.anno_path={bench.folder}/val.json",
        "TestDataset.anno_path=nowhere.json",
        "TrainDataset.semantic={kind: instances, background: class}",
        "semantic_num_classes=7",
        "epoch=1",
    ]
    bench.accepted("train", "--eval", "-o", *data)
    run = bench.folder / "output" / "small"
    for name in ("best_model.pdparams", "best_model.safetensors", "model_final.pdparams", "model_final.safetensors"):
        carried = read_weights(run / name).categories
        assert carried is not None and dict(zip(carried.ids, carried.names)) == truth
    assert {one["id"]: one["name"] for one in json.loads((run / "categories.json").read_text())} == truth

    option = f"weights={run / 'model_final'}"
    bench.accepted("eval", "-o", *data, option)
    image = sorted((bench.data / "val").glob("*.jpg"))[0]
    low = ["BBoxPostProcess.nms.score_threshold=0.0"]
    arguments = ["--save_results", "--save_threshold=0", "--draw_threshold=0", f"--infer_img={image}"]
    printed = bench.accepted("infer", "-o", *data, *low, option, *arguments, "--output_dir", "pictures")
    found = json.loads((bench.folder / "pictures" / "bbox.json").read_text())
    assert found and {one["category_id"] for one in found} <= set(truth)
    assert "my " in printed.out + printed.err and "class 1" not in printed.out + printed.err

    bench.accepted("export_model", "-o", *data, *low, option, "--output_dir", "exported")
    about = yaml.safe_load((bench.folder / "exported" / "small" / "infer_cfg.yml").read_text(encoding="utf-8"))
    assert dict(zip(about["category_ids"], about["label_list"])) == truth
    monkeypatch.setattr(
        "sys.argv",
        [
            "infer.py",
            "--model_dir",
            "exported/small",
            "--image_file",
            str(image),
            "--threshold",
            "0",
            "--save_polygons",
        ],
    )
    with pytest.raises(SystemExit) as ended:
        importlib.import_module("deploy.common.command_line").main_guard(
            importlib.import_module("deploy.python.infer").main
        )
    assert not ended.value.code
    (file,) = (bench.folder / "output" / "polygons").glob("*.json")
    objects = json.loads(file.read_text(encoding="utf-8"))["objects"]
    assert objects and all(truth[one["category_id"]] == one["category"] for one in objects)
