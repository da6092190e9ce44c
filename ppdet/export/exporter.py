"""From a trained model to the folder that Paddle Inference runs: graph, weights and how to prepare an image.

The graph is the ``predict`` of the model, traced with open height, width and batch size, so that deployment computes
what was evaluated. Its outputs are those of :meth:`ppdet.structures.predictions.Predictions.to_outputs`; masks are
pasted into the image after it.
"""

from __future__ import annotations

import contextlib
import io
import logging
import tempfile
import warnings
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import paddle
from paddle import nn
from paddle.static import InputSpec

from deploy.common.atomic import make_dir
from deploy.common.bounded_yaml import dump_plain
from ppdet import ext_op
from ppdet.core.switches import switched
from ppdet.core.workspace import Config, create
from ppdet.engine.session import Session
from ppdet.export.description import image_shape, inference_config, preprocessing
from ppdet.export.nets import ExportNet, choose_form, input_specs
from ppdet.export.onnx_export import check_converter, convert_to_onnx
from ppdet.modeling.fold import fold_batch_norms
from ppdet.utils.errors import UserError
from ppdet.utils.logger import setup_logger

__all__ = ["export_model", "save_graph"]

logger = setup_logger(__name__)

GRAPH = "model"
ONNX = "model.onnx"
CONFIG = "infer_cfg.yml"
_UNUSED_INPUT = ("is not involved in the target_vars", "doesn't exist in pruned inference program")
"""What Paddle 3 and Paddle 2.6 report about an input that no output depends on."""


def export_model(config: Config, output_dir: str | Path, onnx_opset: int | None = None) -> Path:
    """Export a trained model to the folder ``<output_dir>/<name of the configuration>``.

    Args:
        config: of the model, with ``weights``.
        output_dir: folder in which the folder of the export is created; an older export there is replaced once the
            new one is complete.
        onnx_opset: also write ``model.onnx``, with this version of ONNX' operators.

    Returns:
        The folder of the export.

    Raises:
        UserError: the weights or the configuration do not fit, the architecture cannot be exported with the settings,
            the folder cannot be written, or the conversion to ONNX fails.
    """
    if onnx_opset is not None:
        check_converter(onnx_opset)
    session = Session(config)
    with session.runtime:
        return _export(session, output_dir, onnx_opset)


def _export(session: Session, output_dir: str | Path, onnx_opset: int | None) -> Path:
    config, model, settings = session.config, session.model, session.settings.export
    form = choose_form(settings, model)
    preprocessing(create(config, "TestReader"))  # fail before the weights are loaded, which may take long
    session.load_weights()
    about = inference_config(config, model, session.categories)
    model.eval()
    if settings.fuse_conv_bn:
        logger.info("%d batch normalisations fused into convolutions", fold_batch_norms(model))
    target = make_dir(output_dir) / session.name
    logger.info("tracing the graph, which may take a minute")
    with _temporary_folder(target) as folder:
        net, shape = form.net(model), image_shape(config)
        save_graph(net, input_specs(net.fields, shape), folder)
        if onnx_opset is not None:
            logger.info("converting to ONNX, for which the graph is traced once more")
            _save_onnx(form.net(model), shape, folder / ONNX, onnx_opset)
        if ext_op.in_use():
            about["export"]["extension_build"] = ext_op.copy_library(folder)
        files = sorted(path.name for path in folder.iterdir())
        about["export"]["files"] = {name: _checksum(folder / name) for name in files}
        (folder / CONFIG).write_text(dump_plain(about), encoding="utf-8")
        size = sum(path.stat().st_size for path in folder.iterdir()) / 1e6
    logger.info("wrote %s (%s; %.0f MB)", target, ", ".join([CONFIG, *files]), size)
    return target


def save_graph(net: nn.Layer, specs: list[InputSpec], folder: Path) -> None:
    """Trace a net and write its graph and weights, ``model.*``, into a folder.

    Args:
        net: its forward takes one list of tensors.
        specs: the tensors of the list; their names become those of the graph's inputs.
        folder: to write to.

    Raises:
        UserError: the predictions do not depend on all inputs, which Paddle does not export; or the model refuses its
            inputs or its predictions.
    """
    net.eval()
    with warnings.catch_warnings(), _quiet(), paddle.no_grad():
        warnings.simplefilter("ignore")
        graph = paddle.jit.to_static(net, input_spec=[specs], full_graph=True)
        try:
            paddle.jit.save(graph, str(folder / GRAPH))
        except UserError as error:  # to whose message Paddle prefixes the traced code
            raise UserError(str(error).rpartition("UserError: ")[2].strip()) from error
        except ValueError as error:
            if not any(text in str(error) for text in _UNUSED_INPUT):
                raise
            names = ", ".join(spec.name for spec in specs)
            raise UserError(
                f"the predictions do not depend on all of the inputs {names}: remove the others from input_fields of "
                "the architecture"
            ) from error
    for extra in folder.glob("*.info"):  # names of parameters, which only training would need
        extra.unlink()


def _save_onnx(net: ExportNet, shape: Sequence[int | None], target: Path, opset: int) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        with switched(onnx=True, extension=False):
            save_graph(net, input_specs(net.fields, shape), Path(scratch))
        graph = Path(scratch) / GRAPH
        files = graph.with_suffix(".json"), graph.with_suffix(".pdiparams")
        convert_to_onnx(*files, target, opset, net.output_names, net.fields)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Suppress Paddle's messages about the tracing."""
    loggers = [logging.getLogger(name) for name in ("Dynamic-to-Static", "paddle.jit", "paddle")]
    levels = [each.level for each in loggers]
    for each in loggers:
        each.setLevel(logging.ERROR)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        for each, level in zip(loggers, levels):
            each.setLevel(level)


@contextlib.contextmanager
def _temporary_folder(target: Path) -> Iterator[Path]:
    """Yield a new folder, which replaces ``target`` if the block ends without an exception.

    Raises:
        UserError: the folder cannot be written; ``target`` is left as it was.
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
    """CRC-32 of a file, as eight hexadecimal digits."""
    value = 0
    with open(path, "rb") as stream:
        while block := stream.read(1 << 20):
            value = zlib.crc32(block, value)
    return f"{value:08x}"
