"""A model that is no two-stage detector goes through training, evaluation, prediction, export and deployment."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import paddle
import pytest
import yaml
from paddle import nn

from deploy.common.image_files import find_images
from deploy.common.image_io import read_image
from deploy.python import Predictor
from ppdet.checkpoint.weight_files import write_state
from ppdet.checkpoint.weights import state_arrays
from ppdet.core.workspace import Config, register
from ppdet.engine.data import EvalData, predict_loader
from ppdet.engine.evaluator import predict_batch
from ppdet.engine.predictor import PredictOptions, predict_images
from ppdet.engine.trainer import Trainer
from ppdet.export.exporter import export_model
from ppdet.export.onnx_export import DEFAULT_OPSET
from ppdet.structures.batch import Batch
from ppdet.utils.errors import UserError
from tests.export.test_onnx import needs_onnx, run_onnx
from tests.modeling.architectures.one_stage import OneStageNet, one_stage_config, write_data


@register
class NoArchitecture(nn.Layer):
    """A layer of its own kind."""

    __category__ = "architecture"


def trained(folder: Path, **overrides: Any) -> tuple[Config, list[str]]:
    """Train one epoch; return the configuration with the weights, and the images."""
    paths = write_data(folder)
    config = one_stage_config(folder, **overrides)
    Trainer(config).train(validate=True)
    config["weights"] = str(folder / "output" / "one_stage" / "model_final")
    return config, paths


def test_from_training_to_deployment(tmp_path: Path) -> None:
    config, paths = trained(tmp_path)
    trainer = Trainer(config)
    trainer.load_weights()
    numbers = trainer.evaluate()
    assert list(numbers) == ["bbox", "mask"] and all(len(values) == 12 for values in numbers.values())

    images = find_images([*paths], None, None)
    loader = predict_loader(config, images.paths, trainer.categories)
    options = PredictOptions(str(tmp_path / "out"), draw_threshold=0.0, save_threshold=0.0, save_results=True)
    assert predict_images(trainer.model, loader, images, options) == 0
    rows = json.loads((tmp_path / "out" / "mask.json").read_text())
    assert len(rows) == 4 and {path.name for path in (tmp_path / "out").iterdir()} == {
        *("1.png", "2.png", "bbox.json", "mask.json"),
    }

    folder = export_model(config, tmp_path / "exported")
    about = yaml.safe_load((folder / "infer_cfg.yml").read_text())
    assert about["arch"] == "OneStageNet" and about["min_subgraph_size"] == 3
    assert about["mask"] is True and about["mask_frame"] == "image"
    assert about["inputs"] == ["image", "scale_factor", "prompt"]
    assert about["outputs"] == ["bbox", "bbox_num", "mask", "mask_extent", "mask_score"]
    assert about["extra_inputs"] == [{"name": "prompt", "shape": ["B", 2], "dtype": "float32"}]

    predictor = Predictor(folder, enable_mkldnn=False)
    (batch,) = predict_loader(config, images.paths)
    outputs = predict_batch(trainer.model, batch)
    deployed = predictor.run(predictor.preprocess([read_image(path) for path in paths], {"prompt": batch["prompt"]}))
    assert list(deployed) == list(outputs)
    for name, values in outputs.items():
        np.testing.assert_allclose(deployed[name], values, rtol=1e-4, atol=1e-4)
    assert outputs["mask"].shape == (4, 16, 16)
    np.testing.assert_allclose(outputs["mask_extent"], 60, atol=0.5)  # 64 px of the input, at 64 / 60
    detections = predictor(paths[0], {"prompt": [0.0, 1.0]})
    for index in range(2):
        assert detections.rle(index) == rows[index]["segmentation"]
    different = predictor(paths[0], {"prompt": [9.0, -9.0]})
    assert not np.allclose(different.scores, detections.scores)


@needs_onnx
def test_onnx_has_the_inputs_and_outputs_by_name(tmp_path: Path) -> None:
    import onnx

    paths = write_data(tmp_path)
    config = one_stage_config(tmp_path)
    trainer = Trainer(config)
    write_state(state_arrays(trainer.model), tmp_path / "weights")
    config["weights"] = str(tmp_path / "weights.pdparams")
    file = export_model(config, tmp_path / "exported", DEFAULT_OPSET) / "model.onnx"
    trainer.model.eval()
    (batch,) = predict_loader(config, paths)
    wanted = predict_batch(trainer.model, batch)
    (found,) = run_onnx(file, {name: batch[name].numpy() for name in ("image", "scale_factor", "prompt")})
    assert list(found) == list(wanted)
    for name, values in wanted.items():
        np.testing.assert_allclose(found[name], values, rtol=1e-4, atol=1e-4)
    graph = onnx.load(str(file)).graph
    axes = {
        value.name: [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim]
        for value in (*graph.input, *graph.output)
    }
    assert axes["image"] == ["batch", 3, "height", "width"] and axes["prompt"] == axes["scale_factor"] == ["batch", 2]
    assert [axes[name][0] for name in wanted] == ["detections", "batch", "detections", "batch", "detections"]
    assert not any("htc" in node.name for node in graph.node)


def test_a_missing_input_is_named(tmp_path: Path) -> None:
    write_data(tmp_path)
    config = one_stage_config(tmp_path)
    config["EvalDataset"] = {"name": "COCODataSet", **config["EvalDataset"].arguments}
    trainer = Trainer(config)
    with pytest.raises(UserError, match=r"OneStageNet takes the input prompt \(float32 \[B, 2\]\), which the batches"):
        trainer.evaluate(EvalData.from_config(config))


def test_missing_ground_truth_is_named(tmp_path: Path) -> None:
    write_data(tmp_path)
    config = one_stage_config(tmp_path, TrainDataset={"data_fields": ["gt_bbox", "gt_class"]})
    with pytest.raises(UserError, match="^OneStageNet learns from masks, but TrainDataset.data_fields .* 'gt_poly'"):
        Trainer(config).train()
    trainer = Trainer(one_stage_config(tmp_path))
    trainer.model.training_fields = {"gt_keypoint": "box"}
    message = r"^OneStageNet.box learns from 'gt_keypoint', which TrainDataset \(OneStageCOCO\)"
    with pytest.raises(UserError, match=message):
        trainer.train()


@pytest.mark.parametrize(
    ("settings", "key"),
    [
        ({"nms": False}, "export.nms"),
        ({"benchmark": True}, "export.benchmark"),
        ({"post_process": False}, "export.p"),
    ],
)
def test_candidates_are_refused_where_there_are_none(settings: dict[str, bool], key: str, tmp_path: Path) -> None:
    write_data(tmp_path)
    config = one_stage_config(tmp_path, export=settings)
    with pytest.raises(UserError, match=f"^{key}.* OneStageNet has no candidate boxes before suppression"):
        export_model(config, tmp_path / "exported")
    assert not (tmp_path / "exported").exists()


def test_other_layers_are_refused(tmp_path: Path) -> None:
    write_data(tmp_path)
    with pytest.raises(UserError, match="architecture: NoArchitecture .* derive the class from ppdet.modeling"):
        Trainer(one_stage_config(tmp_path, architecture="NoArchitecture"))


def test_losses_and_predictions_follow_the_mode() -> None:
    model = OneStageNet()
    inputs = {
        "image": paddle.rand([1, 3, 64, 64]),
        "prompt": paddle.ones([1, 2]),
        "gt_bbox": paddle.to_tensor([[[0.0, 0.0, 9.0, 9.0]]]),
        "gt_class": paddle.zeros([1, 1], "int64"),
        "gt_segm": paddle.ones([1, 1, 64, 64], "uint8"),
    }
    assert set(model(inputs)) == {"loss_mask", "loss_box", "loss"}
    model.eval()
    predictions = model(**inputs)
    assert tuple(predictions.to_outputs()) == model.output_names and model.has_masks and model.has_boxes
    assert [field.name for field in model.extra_inputs] == ["prompt"]
    ((name, complete),) = model.parts().items()
    assert name == "model" and len(complete(Batch.from_inputs(inputs))) == len(model.output_names)
