"""From a trained model to the folder that Paddle Inference runs: graph, weights and how to prepare an image.

The graph is the model's own prediction, traced with height, width and batch size left open: what is deployed computes
what was evaluated. Masks leave it as [N, 28, 28] probabilities in the frame of each box, never as full-image bitmaps.
"""

from __future__ import annotations

import contextlib
import io
import logging
import tempfile
import warnings
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import paddle
from paddle import Tensor, nn
from paddle.static import InputSpec

import ppdet
from deploy.common.atomic import make_dir
from deploy.common.bounded_yaml import dump_plain
from ppdet import ext_op
from ppdet.core.workspace import Config, create
from ppdet.data.transform import operators
from ppdet.engine.data import mask_threshold, test_dataset
from ppdet.engine.run_name import run_name
from ppdet.engine.session import Session
from ppdet.export.onnx_export import check_converter, convert_to_onnx
from ppdet.modeling.fold import fold_batch_norms
from ppdet.modeling.ops.onnx_form import onnx_form
from ppdet.structures.batch import Batch
from ppdet.structures.categories import Categories
from ppdet.utils.errors import UserError
from ppdet.utils.logger import setup_logger

__all__ = ["FORMAT", "ExportNet", "export_model", "inference_config", "save_graph"]

logger = setup_logger(__name__)

FORMAT = 1
"""Version of the folder's layout; deployment refuses a newer one."""

GRAPH = "model"
ONNX = "model.onnx"
CONFIG = "infer_cfg.yml"
_SMALLEST_SUBGRAPH = 40
"""PaddleDetection's value for two-stage detectors; only TensorRT reads it."""


class ExportNet(nn.Layer):
    """A detector as a function from tensors to a tuple of tensors.

    Args:
        model: in eval mode.
    """

    def __init__(self, model: nn.Layer) -> None:
        super().__init__()
        self.model = model

    def forward(self, image: Tensor, im_shape: Tensor, scale_factor: Tensor) -> tuple[Tensor, ...]:
        """bbox [N, 6] in original pixels, bbox_num [B] and, with a mask branch, mask [N, 28, 28]."""
        predictions = self.model({"image": image, "im_shape": im_shape, "scale_factor": scale_factor})
        return tuple(predictions.to_outputs().values())


class CandidatesNet(ExportNet):
    """The same before suppression."""

    def forward(self, image: Tensor, im_shape: Tensor, scale_factor: Tensor) -> tuple[Tensor, ...]:
        """Boxes [B, N, 4] (class by class [B, N, K, 4]) in original pixels, class probabilities [B, N, K]."""
        found = self.model.candidates(Batch(image, im_shape, scale_factor))
        boxes = self.model.bbox_post_process.candidates_to_original(found.boxes, scale_factor)
        return boxes, found.probability[..., :-1] * found.valid.astype("float32").unsqueeze(-1)


class RawNet(ExportNet):
    """The same without any post-processing."""

    def forward(self, image: Tensor, im_shape: Tensor) -> tuple[Tensor, ...]:  # type: ignore[override]
        """Boxes as before, in input pixels, and probabilities with the background, [B, N, K + 1]."""
        found = self.model.candidates(Batch(image, im_shape, im_shape))
        return found.boxes, found.probability


_NETS = {"detections": ExportNet, "candidates": CandidatesNet, "raw": RawNet}
_OUTPUT_NAMES = {
    "detections": ("bbox", "bbox_num", "mask"),
    "candidates": ("boxes", "scores"),
    "raw": ("boxes", "scores"),
}


def _kind_of_outputs(settings: Mapping[str, Any]) -> str:
    """What ``export`` of a configuration asks for, in PaddleDetection's keys."""
    if settings.get("benchmark") or not settings.get("post_process", True):
        return "raw"
    return "detections" if settings.get("nms", True) else "candidates"


def export_model(config: Config, output_dir: str | Path, onnx_opset: int | None = None) -> Path:
    """Write the folder of a configuration's trained model.

    Args:
        config: of the model, with ``weights``.
        output_dir: the folder ``<output_dir>/<name of the configuration>`` is made in it; an older one is replaced
            only when the new one is complete.
        onnx_opset: write ``model.onnx`` beside Paddle's files, too, in this version of ONNX' operators.

    Returns:
        The folder.

    Raises:
        UserError: weights or configuration do not fit, the folder cannot be written, or the conversion to ONNX fails.
    """
    if onnx_opset is not None:
        check_converter(onnx_opset)
    settings = config.get("export") or {}
    session = Session(config)
    model = session.model
    _preprocessing(create(config, "TestReader"))  # what cannot be deployed is said before the weights are loaded
    session.load_weights()
    about = inference_config(config, model, session.categories)
    model.eval()
    if settings.get("fuse_conv_bn", True):
        logger.info("%d batch normalisations folded into convolutions", fold_batch_norms(model))
    target = make_dir(output_dir) / run_name(config)
    logger.info("tracing the graph, which may take a minute")
    with _beside(target) as folder:
        outputs = _kind_of_outputs(settings)
        specs = _input_specs(config)[: 2 if outputs == "raw" else 3]
        save_graph(_NETS[outputs](model), specs, folder)
        if onnx_opset is not None:
            logger.info("converting to ONNX, which traces the graph once more")
            _save_onnx(_NETS[outputs](model), specs, folder / ONNX, _OUTPUT_NAMES[outputs], onnx_opset)
        if ext_op.in_use():
            about["export"]["extension_build"] = ext_op.copy_library(folder)
        files = sorted(path.name for path in folder.iterdir())
        about["export"]["files"] = {name: _checksum(folder / name) for name in files}
        (folder / CONFIG).write_text(dump_plain(about), encoding="utf-8")
        size = sum(path.stat().st_size for path in folder.iterdir()) / 1e6
    logger.info("wrote %s (%s; %.0f MB)", target, ", ".join([CONFIG, *files]), size)
    return target


def inference_config(config: Config, model: Any, categories: Categories | None = None) -> dict[str, Any]:
    """What ``infer_cfg.yml`` says: PaddleDetection's keys, and this project's ``category_ids``, ``mask_threshold``,
    ``export``.

    Args:
        config: of the model.
        model: built from it.
        categories: the classes of the weights; without them ``TestDataset`` says what the classes are.

    Raises:
        UserError: ``TestReader`` has a transform that deployment cannot repeat.
    """
    settings = config.get("export") or {}
    reader = create(config, "TestReader")
    classes = categories or test_dataset(config, None).categories
    return {
        "mode": "paddle",
        "draw_threshold": float(config.get("draw_threshold", 0.5)),
        "metric": "COCO",
        "use_dynamic_shape": all(side is None for side in _image_shape(config)[1:]),
        "arch": "RCNN",
        "min_subgraph_size": _SMALLEST_SUBGRAPH,
        "mask": model.mask_head is not None,
        "Preprocess": _preprocessing(reader),
        "label_list": list(classes.names),
        "category_ids": list(classes.ids),
        "mask_threshold": mask_threshold(model),
        "export": {
            "format": FORMAT,
            "project": ppdet.__version__,
            "paddle": paddle.__version__,
            "architecture": str(config.architecture),
            "outputs": _kind_of_outputs(settings),
            "extension": ext_op.in_use(),
            "image_shape": _image_shape(config),
        },
    }


def _preprocessing(reader: Any) -> list[dict[str, Any]]:
    """Describe a reader's transforms after Decode, and its padding."""
    steps: list[dict[str, Any]] = []
    for transform in reader.transforms:
        kind = type(transform).__name__
        if isinstance(transform, operators.Decode):
            continue
        if isinstance(transform, (operators.RandomResize, operators.RandomFlip)):
            raise UserError(f"TestReader has {kind}: what is drawn at random cannot be deployed")
        if isinstance(transform, operators.Resize):
            size = [int(side) for side in transform.target_size]
            steps.append(
                {"type": kind, "target_size": size, "keep_ratio": transform.keep_ratio, "interp": transform.interp}
            )
        elif isinstance(transform, operators.NormalizeImage):
            mean, std = ([float(value) for value in values] for values in (transform.mean, transform.std))
            steps.append({"type": kind, "is_scale": bool(transform.is_scale), "mean": mean, "std": std})
        elif isinstance(transform, operators.Permute):
            steps.append({"type": kind})
        else:
            raise UserError(f"TestReader has {kind}, which deployment cannot repeat")
    steps.append({"type": "PadStride", "stride": int(reader.padding.pad_to_stride)})
    return steps


def _image_shape(config: Config) -> list[int | None]:
    """Channels, height and width of the graph's input; None where they stay open."""
    given = ((config.get("TestReader") or {}).get("inputs_def") or {}).get("image_shape") or [3, None, None]
    shape = [None if side is None or int(side) < 1 else int(side) for side in given][-3:]
    if len(shape) != 3 or shape[0] != 3:
        raise UserError(
            f"TestReader.inputs_def.image_shape is {list(given)}, expected [3, height, width] (-1 for open)"
        )
    return shape


def _input_specs(config: Config) -> list[InputSpec]:
    return [
        InputSpec([None, *_image_shape(config)], "float32", "image"),
        InputSpec([None, 2], "float32", "im_shape"),
        InputSpec([None, 2], "float32", "scale_factor"),
    ]


def save_graph(net: nn.Layer, specs: list[InputSpec], folder: Path) -> None:
    """Trace a net and write its graph and weights, ``model.*``, into a folder."""
    net.eval()
    with warnings.catch_warnings(), _quiet(), paddle.no_grad():
        warnings.simplefilter("ignore")
        graph = paddle.jit.to_static(net, input_spec=specs, full_graph=True)
        paddle.jit.save(graph, str(folder / GRAPH))
    for extra in folder.glob("*.info"):  # names for going on training, which nobody does with a graph
        extra.unlink()


def _save_onnx(net: ExportNet, specs: list[InputSpec], target: Path, outputs: tuple[str, ...], opset: int) -> None:
    extension = ext_op.in_use()
    ext_op.use(False)
    try:
        with tempfile.TemporaryDirectory() as scratch:
            with onnx_form():
                save_graph(net, specs, Path(scratch))
            graph = Path(scratch) / GRAPH
            convert_to_onnx(graph.with_suffix(".json"), graph.with_suffix(".pdiparams"), target, opset, outputs)
    finally:
        ext_op.use(extension)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep Paddle's remarks about the tracing to itself."""
    loggers = [logging.getLogger(name) for name in ("Dynamic-to-Static", "paddle.jit", "paddle")]
    levels = [one.level for one in loggers]
    for one in loggers:
        one.setLevel(logging.ERROR)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        for one, level in zip(loggers, levels):
            one.setLevel(level)


@contextlib.contextmanager
def _beside(target: Path) -> Iterator[Path]:
    """Hand out a new folder that takes the place of ``target`` when the block ends without an exception.

    Raises:
        UserError: it cannot be written; an older folder stays.
    """
    try:
        with tempfile.TemporaryDirectory(prefix=".tmp-", dir=target.parent) as scratch:
            folder = Path(scratch) / target.name
            folder.mkdir()
            yield folder
            if target.exists():
                target.rename(Path(scratch) / "old")
            folder.rename(target)
    except OSError as error:
        raise UserError(f"cannot write {target}: {error.strerror or error}") from error


def _checksum(path: Path) -> str:
    """CRC-32 as eight hexadecimal digits."""
    value = 0
    with open(path, "rb") as stream:
        while block := stream.read(1 << 20):
            value = zlib.crc32(block, value)
    return f"{value:08x}"
