"""From a model to one ONNX file, by paddle2onnx.

The model is traced once more in the form of :mod:`ppdet.modeling.ops.onnx_form`. What paddle2onnx writes for two
operators is put right: its RoIAlign takes all features from the first image; its multi-class suppression finds nothing
unless ``nms_top_k`` is positive, mixes up the scores where the number of boxes is open, and knows one image only. The
result consists of standard operators alone.
"""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ppdet.utils.errors import UserError
from ppdet.utils.logger import setup_logger

__all__ = ["DEFAULT_OPSET", "OPSETS", "check_converter", "convert_to_onnx"]

logger = setup_logger(__name__)

DEFAULT_OPSET = 17
OPSETS = range(16, 20)
"""16 brings RoIAlign's half-pixel correction, 19 deformable convolution."""

_CONVERT = """
import sys
import paddle2onnx
graph, weights, target, opset = sys.argv[1:]
paddle2onnx.export(graph, weights, target, opset_version=int(opset), optimize_tool="none")
"""
"""A process of its own: what paddle2onnx cannot convert ends it at once, and it writes to the standard streams."""


def check_converter(opset: int) -> None:
    """Look whether ``convert_to_onnx`` can work at all, before anything else takes time.

    Raises:
        UserError: it cannot.
    """
    if opset not in OPSETS:
        raise UserError(f"--opset is {opset}, expected {OPSETS.start} to {OPSETS.stop - 1}")
    import paddle  # here, because the command line of tools/export_model.py reads DEFAULT_OPSET before it is parsed

    if paddle.__version__.startswith("2."):
        raise UserError(f"ONNX export needs PaddlePaddle 3; this is {paddle.__version__}")
    for name in ("paddle2onnx", "onnx"):
        if importlib.util.find_spec(name) is None:
            raise UserError(f"{name} is not installed: python -m pip install -r requirements-onnx.txt")


def convert_to_onnx(graph: Path, weights: Path, target: Path, opset: int, outputs: Sequence[str]) -> None:
    """Write an ONNX file.

    Args:
        graph: ``.json`` of a net traced within ``onnx_form``.
        weights: its ``.pdiparams``.
        target: the file to write.
        opset: version of ONNX' operators.
        outputs: names for the net's outputs, in order.

    Raises:
        UserError: paddle2onnx fails, or what it writes is not what this function knows how to complete.
    """
    import onnx

    command = [sys.executable, "-c", _CONVERT, str(graph), str(weights), str(target), str(opset)]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace")
    if done.returncode or not target.is_file():
        raise UserError(f"paddle2onnx cannot convert this model: {_complaint(done.stdout)}")
    model = onnx.load(str(target))
    _Graph(model).complete(outputs)
    try:
        onnx.checker.check_model(model, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise UserError(f"the ONNX file would not be valid: {str(error).splitlines()[0]}") from error
    onnx.save(model, str(target))


def _complaint(output: str) -> str:
    """The telling line of what paddle2onnx printed, without its time and level."""
    lines = [re.sub(r"\x1b\[[0-9;]*m", "", line).strip() for line in output.splitlines()]
    lines = [line for line in lines if re.search("error|fail|unsupported", line, re.IGNORECASE)] or ["no reason given"]
    return re.sub(r"^[-0-9]* ?[:0-9]*\s*(\[\w*\]\s*)*", "", lines[0])


class _Graph:
    """The nodes of a converted model while some of them are replaced.

    Args:
        model: changed in place by :meth:`complete`.
    """

    def __init__(self, model: Any) -> None:
        self.model = model
        self.nodes: list[Any] = list(model.graph.node)
        self.by_output = {name: node for node in self.nodes for name in node.output}
        self.new: dict[int, list[Any]] = {}
        """New nodes by the identity of the node that they stand before."""
        self.count = 0

    def complete(self, outputs: Sequence[str]) -> None:
        """Replace what is wrong, leave out what nobody reads any more, and name inputs and outputs."""
        for node in self.nodes:
            if node.op_type == "RoiAlign":
                self._image_of_rois(node)
        found = [match for name in self.by_output if (match := re.fullmatch(r"(.*\.multiclass_nms3\.\d+)\.0", name))]
        for match in found:
            self._suppression(match[1])
        if len(found) != sum(node.op_type == "NonMaxSuppression" for node in self.nodes):
            raise _strange("suppression")
        self._write(outputs)

    def _add(
        self, before: Any, kind: str, inputs: Sequence[str], outputs: int | Sequence[str] = 1, **attrs: Any
    ) -> Any:
        """A new node; returns its output's name, or their names if ``outputs`` is above 1."""
        import onnx

        self.count += 1
        names = [f"htc.{kind}.{self.count}.{i}" for i in range(outputs)] if isinstance(outputs, int) else list(outputs)
        node = onnx.helper.make_node(kind, list(inputs), names, name=f"htc.{kind}.{self.count}", **attrs)
        self.new.setdefault(id(before), []).append(node)
        return names if len(names) > 1 else names[0]

    def _constant(self, before: Any, values: Any, dtype: str = "int64") -> str:
        import numpy as np
        import onnx

        name: str = self._add(before, "Constant", [], value=onnx.numpy_helper.from_array(np.asarray(values, dtype)))
        return name

    def _maker(self, name: str, kind: str) -> Any:
        """The node that computes a tensor, which must be of a kind; nodes that do nothing are passed."""
        node = self.by_output.get(name)
        while node is not None and node.op_type == "Identity":
            node = self.by_output.get(node.input[0])
        if node is None or node.op_type != kind:
            raise _strange(f"the input of a {kind}")
        return node

    def _image_of_rois(self, node: Any) -> None:
        """Give RoIAlign the images of its RoIs, which stand in the column before the boxes."""
        table = self._maker(self._maker(node.input[1], "Slice").input[0], "Concat")
        column = self._add(node, "Squeeze", [table.input[0], self._constant(node, [1])])
        node.input[2] = self._add(node, "Cast", [column], to=7)  # int64

    def _suppression(self, prefix: str) -> None:
        """Write rows (class, score, box) and their number per image from what NonMaxSuppression selected."""
        outputs = [f"{prefix}.{index}" for index in range(3)]
        if not self.by_output.keys() >= set(outputs):
            raise _strange("suppression")
        first = min(self.nodes.index(self.by_output[name]) for name in outputs)
        kind = "NonMaxSuppression"
        suppression = next((node for node in reversed(self.nodes[:first]) if node.op_type == kind), None)
        if suppression is None:
            raise _strange("suppression")
        boxes, scores = suppression.input[:2]
        sizes = self._add(suppression, "Shape", [scores])
        suppression.input[2] = self._add(suppression, "Gather", [sizes, self._constant(suppression, [2])])  # no limit
        end = self.by_output[outputs[0]]
        (selected,) = suppression.output
        splits = self._constant(end, [1, 1, 1])
        image, label, box = self._add(end, "Split", [selected, splits], 3, axis=1)
        score = self._add(end, "Unsqueeze", [self._add(end, "GatherND", [scores, selected]), self._constant(end, [1])])
        place = self._add(end, "Concat", [image, box], axis=1)
        columns = [self._add(end, "Cast", [label], to=1), score, self._add(end, "GatherND", [boxes, place])]
        self._add(end, "Concat", columns, outputs[:1], axis=1)
        batch = self._add(end, "Gather", [sizes, self._constant(end, 0)])
        images = self._add(end, "Range", [self._constant(end, 0), batch, self._constant(end, 1)])
        own = self._add(end, "Cast", [self._add(end, "Equal", [image, images])], to=6)  # int32
        self._add(end, "ReduceSum", [own, self._constant(end, [0])], outputs[2:], keepdims=0)
        for name in (outputs[0], outputs[2]):  # the nodes written for them compute names that nobody reads
            old = self.by_output[name]
            old.output[list(old.output).index(name)] = f"{name}.unused"

    def _write(self, outputs: Sequence[str]) -> None:
        """Put the graph together again."""
        import onnx

        graph = self.model.graph
        ordered = [one for node in self.nodes for one in (*self.new.get(id(node), []), node)]
        wanted = {output.name for output in graph.output}
        used = []
        for node in reversed(ordered):
            if wanted.intersection(node.output):
                wanted.update(node.input)
                used.append(node)
        used.reverse()
        described = []
        for name, output in zip(outputs, graph.output):
            used.append(onnx.helper.make_node("Identity", [output.name], [name], name=f"htc.{name}"))
            shape = _open_shape(output, "detections" if name in ("bbox", "mask") else "batch", name)
            kind = output.type.tensor_type.elem_type
            described.append(onnx.helper.make_tensor_value_info(name, kind, shape))
        for value in graph.input:
            sizes = ["batch", 3, "height", "width"] if value.name == "image" else ["batch", 2]
            for dim, size in zip(value.type.tensor_type.shape.dim, sizes):
                if not dim.dim_value:
                    dim.dim_param = str(size)
        del graph.node[:], graph.output[:], graph.value_info[:]  # the converter's own shapes are not all right
        graph.node.extend(used)
        graph.output.extend(described)


def _open_shape(value: Any, first: str, name: str) -> list[int | str]:
    """The shape of an output as the converter knows it, with names for what is open; the first axis always is."""
    sizes = [dim.dim_value for dim in value.type.tensor_type.shape.dim]
    return [first, *(size if size > 0 else f"{name}_{axis}" for axis, size in enumerate(sizes[1:], start=1))]


def _strange(what: str) -> UserError:
    return UserError(
        f"what paddle2onnx writes for {what} is not known here: install the version in requirements-onnx.txt"
    )
