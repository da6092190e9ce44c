"""Conversion of a graph to one ONNX file with paddle2onnx.

The model is traced once more in the form of :mod:`ppdet.modeling.ops.onnx_form`. The conversion of two operators is
corrected afterwards: paddle2onnx's RoIAlign takes all features from the first image; its multi-class suppression
returns nothing unless ``nms_top_k`` is positive, confuses the scores if the number of boxes is open, and handles only
one image. The result consists of standard operators.
"""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deploy.common.extra_inputs import BATCH
from ppdet.utils.errors import UserError
from ppdet.utils.logger import setup_logger

if TYPE_CHECKING:
    from ppdet.modeling.architectures.architecture import InputField

__all__ = ["DEFAULT_OPSET", "OPSETS", "check_converter", "convert_to_onnx"]

logger = setup_logger(__name__)

DEFAULT_OPSET = 17
OPSETS = range(16, 20)
"""RoIAlign has its half-pixel correction from version 16 on; version 19 adds deformable convolution."""

_CONVERT = """
import sys
import paddle2onnx
graph, weights, target, opset = sys.argv[1:]
paddle2onnx.export(graph, weights, target, opset_version=int(opset), optimize_tool="none")
"""
"""A separate process runs it: paddle2onnx aborts on what it cannot convert, and writes to the standard streams."""


def check_converter(opset: int) -> None:
    """Check the requirements of ``convert_to_onnx``, before anything that takes long.

    Raises:
        UserError: the version of the operators, Paddle, or a missing package rules the conversion out.
    """
    if opset not in OPSETS:
        raise UserError(f"--opset is {opset}, expected {OPSETS.start} to {OPSETS.stop - 1}")
    import paddle  # here, because the command line of tools/export_model.py reads DEFAULT_OPSET before it is parsed

    if paddle.__version__.startswith("2."):
        raise UserError(f"ONNX export needs PaddlePaddle 3; this is {paddle.__version__}")
    for name in ("paddle2onnx", "onnx"):
        if importlib.util.find_spec(name) is None:
            raise UserError(f"{name} is not installed: python -m pip install -r requirements-onnx.txt")


def convert_to_onnx(
    graph: Path, weights: Path, target: Path, opset: int, outputs: Sequence[str], inputs: Sequence[InputField] = ()
) -> None:
    """Write an ONNX file.

    Args:
        graph: ``.json`` of a net traced within ``onnx_form``.
        weights: its ``.pdiparams``.
        target: the file to write.
        opset: version of ONNX' operators.
        outputs: names of the outputs, in order.
        inputs: descriptions of the inputs, by which the open sizes are named.

    Raises:
        UserError: paddle2onnx fails, or writes something that this function does not recognise.
    """
    import onnx

    command = [sys.executable, "-c", _CONVERT, str(graph), str(weights), str(target), str(opset)]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace")
    if done.returncode or not target.is_file():
        raise UserError(f"paddle2onnx cannot convert this model: {_complaint(done.stdout)}")
    model = onnx.load(str(target))
    _Graph(model).complete(outputs, {field.name: field for field in inputs})
    try:
        onnx.checker.check_model(model, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise UserError(f"the ONNX file would not be valid: {str(error).splitlines()[0]}") from error
    onnx.save(model, str(target))


def _complaint(output: str) -> str:
    """The line of paddle2onnx's output that states the reason, without time and level."""
    lines = [re.sub(r"\x1b\[[0-9;]*m", "", line).strip() for line in output.splitlines()]
    lines = [line for line in lines if re.search("error|fail|unsupported", line, re.IGNORECASE)] or ["no reason given"]
    return re.sub(r"^[-0-9]* ?[:0-9]*\s*(\[\w*\]\s*)*", "", lines[0])


class _Graph:
    """The nodes of a converted model, some of which are replaced.

    Args:
        model: changed in place by :meth:`complete`.
    """

    def __init__(self, model: Any) -> None:
        self.model = model
        self.nodes: list[Any] = list(model.graph.node)
        self.by_output = {name: node for node in self.nodes for name in node.output}
        self.new: dict[int, list[Any]] = {}
        """New nodes, by the id of the node that they are inserted before."""
        self.count = 0

    def complete(self, outputs: Sequence[str], inputs: Mapping[str, InputField]) -> None:
        """Replace what is wrong, remove nodes whose outputs are unused, and name outputs and open sizes."""
        for node in self.nodes:
            if node.op_type == "RoiAlign":
                self._image_of_rois(node)
        matches = [match for name in self.by_output if (match := re.fullmatch(r"(.*\.multiclass_nms3\.\d+)\.0", name))]
        for match in matches:
            self._suppression(match[1])
        if len(matches) != sum(node.op_type == "NonMaxSuppression" for node in self.nodes):
            raise _unexpected("suppression")
        self._write(outputs, inputs)

    def _add(
        self, before: Any, kind: str, inputs: Sequence[str], outputs: int | Sequence[str] = 1, **attrs: Any
    ) -> Any:
        """Add a node; return the name of its output, or the names if it has several."""
        import onnx

        self.count += 1
        name = f"export.{kind}.{self.count}"
        names = [f"{name}.{i}" for i in range(outputs)] if isinstance(outputs, int) else list(outputs)
        node = onnx.helper.make_node(kind, list(inputs), names, name=name, **attrs)
        self.new.setdefault(id(before), []).append(node)
        return names if len(names) > 1 else names[0]

    def _constant(self, before: Any, values: Any, dtype: str = "int64") -> str:
        import numpy as np
        import onnx

        name: str = self._add(before, "Constant", [], value=onnx.numpy_helper.from_array(np.asarray(values, dtype)))
        return name

    def _maker(self, name: str, kind: str) -> Any:
        """The node of the type ``kind`` that computes a tensor; Identity nodes are skipped."""
        node = self.by_output.get(name)
        while node is not None and node.op_type == "Identity":
            node = self.by_output.get(node.input[0])
        if node is None or node.op_type != kind:
            raise _unexpected(f"the input of a {kind}")
        return node

    def _image_of_rois(self, node: Any) -> None:
        """Connect RoIAlign to the image indices of its RoIs, which are the column before the boxes."""
        table = self._maker(self._maker(node.input[1], "Slice").input[0], "Concat")
        column = self._add(node, "Squeeze", [table.input[0], self._constant(node, [1])])
        node.input[2] = self._add(node, "Cast", [column], to=7)  # int64

    def _suppression(self, prefix: str) -> None:
        """Compute rows (class, score, box) and the number of each image's rows from NonMaxSuppression's selection."""
        outputs = [f"{prefix}.{index}" for index in range(3)]
        if not self.by_output.keys() >= set(outputs):
            raise _unexpected("suppression")
        first = min(self.nodes.index(self.by_output[name]) for name in outputs)
        kind = "NonMaxSuppression"
        suppression = next((node for node in reversed(self.nodes[:first]) if node.op_type == kind), None)
        if suppression is None:
            raise _unexpected("suppression")
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
        for name in (outputs[0], outputs[2]):  # the outputs of the original nodes become unused
            old = self.by_output[name]
            old.output[list(old.output).index(name)] = f"{name}.unused"

    def _write(self, outputs: Sequence[str], inputs: Mapping[str, InputField]) -> None:
        """Assemble the graph again."""
        import onnx

        graph = self.model.graph
        ordered = [each for node in self.nodes for each in (*self.new.get(id(node), []), node)]
        needed = {output.name for output in graph.output}
        used = []
        for node in reversed(ordered):
            if needed.intersection(node.output):
                needed.update(node.input)
                used.append(node)
        used.reverse()
        described = []
        for name, output in zip(outputs, graph.output):
            used.append(onnx.helper.make_node("Identity", [output.name], [name], name=f"export.{name}"))
            kind = output.type.tensor_type.elem_type
            described.append(onnx.helper.make_tensor_value_info(name, kind, _output_shape(output, name)))
        for value in graph.input:
            names = _input_axes(inputs[value.name]) if value.name in inputs else []
            for dim, name in zip(value.type.tensor_type.shape.dim, names):
                if not dim.dim_value:
                    dim.dim_param = name
        del graph.node[:], graph.output[:], graph.value_info[:]  # the converter's own shapes are not all right
        graph.node.extend(used)
        graph.output.extend(described)


def _input_axes(field: InputField) -> list[str]:
    """Names of the axes of an input, for those of open size."""
    if field.name == "image":
        return ["batch", "channels", "height", "width"]
    return ["batch" if side == BATCH else f"{field.name}_{axis}" for axis, side in enumerate(field.shape)]


def _output_shape(value: Any, name: str) -> list[int | str]:
    """The shape of an output according to the converter, with names for open sizes; the first axis always is open."""
    from ppdet.structures.predictions import DETECTION_OUTPUTS

    sizes = [dim.dim_value for dim in value.type.tensor_type.shape.dim]
    first = "detections" if name in DETECTION_OUTPUTS else "batch"
    return [first, *(size if size > 0 else f"{name}_{axis}" for axis, size in enumerate(sizes[1:], start=1))]


def _unexpected(what: str) -> UserError:
    return UserError(f"paddle2onnx converts {what} in an unknown way: install the version in requirements-onnx.txt")
