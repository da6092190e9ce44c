"""Matching the tensors of a weight file with those of a model, and describing the differences in one line."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from paddle.nn import Layer

from ppdet.structures.categories import listed

__all__ = [
    "BACKBONE",
    "LISTED",
    "ClassCounts",
    "Match",
    "Shape",
    "apart_from_classes",
    "class_layer",
    "depth_difference",
    "join_names",
    "layer_of",
    "match_state",
    "other_class_count",
    "part_counts",
    "part_of",
    "shape_texts",
    "starts_neutral",
]

BACKBONE = "backbone."
LISTED = 6
"""Number of tensors that a message lists. If they are the reason of an error, the log lists all of them."""

Shape = tuple[int, ...]

_PARTS = ("backbone", "neck", "rpn_head", "bbox_head", "mask_head", "semantic")
_SEMANTIC = "fused_semantic_head."
_SCORE = re.compile(r"bbox_head\.bbox_score(_stage\d+)?\.")
_STUFF = "fused_semantic_head.conv_logits."
_CLASS_LAYER = re.compile(r"(bbox_head\.bbox_(score|delta)(_stage\d+)?|mask_head\.(head\.\d+\.conv|mask_fcn)_logits)\.")
_BLOCK = re.compile(r"backbone\.res(\d)\.(res\w+)\.")


@dataclass
class Match:
    """The result of comparing a file with a model.

    Attributes:
        matched: arrays of the file by name in the model, with equal shapes.
        missing: names of the model's tensors that the file lacks.
        mismatched: (shape in the model, shape in the file) of the tensors whose shapes differ.
        unused: names of tensors in the file that the model lacks.
    """

    matched: dict[str, np.ndarray] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)
    mismatched: dict[str, tuple[Shape, Shape]] = field(default_factory=dict)
    unused: list[str] = field(default_factory=list)

    def unfilled(self) -> list[str]:
        """Return the names of the model's tensors that the file cannot fill."""
        return [*self.missing, *self.mismatched]


class ClassCounts(NamedTuple):
    """Numbers of classes according to the shapes of tensors; None without the respective branch.

    Attributes:
        things: number of classes of the box branch, without background.
        stuff: number of classes of the semantic branch.
    """

    things: int | None
    stuff: int | None

    @classmethod
    def of(cls, shapes: Mapping[str, Shape]) -> ClassCounts:
        """Derive the numbers from the shapes of the classifiers, whose weights and biases have to agree."""
        scores = {shape[-1] - 1 for name, shape in shapes.items() if _SCORE.match(name) and shape}
        stuff = {shape[0] for name, shape in shapes.items() if name.startswith(_STUFF) and shape}
        return cls(*(counts.pop() if len(counts) == 1 else None for counts in (scores, stuff)))


def match_state(model: Layer, arrays: Mapping[str, np.ndarray], prefix: str = "") -> Match:
    """Compare the tensors of a model with those of a file.

    Args:
        model: the model.
        arrays: the arrays of the file by name.
        prefix: added in front of each name of the file.
    """
    match = Match()
    named = {prefix + name: array for name, array in arrays.items()}
    tensors = model.state_dict()
    for name, tensor in tensors.items():
        shape = tuple(int(side) for side in tensor.shape)
        if name not in named:
            match.missing.append(name)
        elif named[name].shape != shape and not (named[name].size == 1 and shape in ((), (1,))):
            match.mismatched[name] = (shape, named[name].shape)
        else:
            match.matched[name] = named[name].reshape(shape)
    match.unused = [name for name in named if name not in tensors]
    return match


def layer_of(name: str) -> str:
    """Return the name of the layer that a tensor belongs to."""
    return name.rpartition(".")[0]


def part_of(name: str) -> str:
    """Return the part of the model that a tensor belongs to, such as backbone, neck, rpn_head or semantic."""
    return "semantic" if name.startswith(_SEMANTIC) else name.partition(".")[0]


def part_counts(names: Iterable[str]) -> Counter[str]:
    """Count the tensors of each part, in the order in which an image passes through the parts."""
    counts = Counter(part_of(name) for name in names)
    return Counter({part: counts[part] for part in [*_PARTS, *counts] if counts[part]})


def starts_neutral(name: str) -> bool:
    """Whether a tensor's initial value has no effect, as the zero offsets of deformable convolutions."""
    return layer_of(name).endswith(".conv_offset")


def class_layer(name: str, shape: Shape) -> bool:
    """Whether a tensor has an entry for each object class, unlike those of class-agnostic boxes and masks."""
    match = _CLASS_LAYER.match(name)
    if match is None or not shape:
        return False
    return {"score": True, "delta": shape[-1] != 4}.get(match.group(2) or "", shape[0] != 1)


def apart_from_classes(mismatched: Mapping[str, tuple[Shape, Shape]]) -> dict[str, tuple[Shape, Shape]]:
    """Remove the layers whose shapes depend on the number of classes."""
    return {
        name: pair for name, pair in mismatched.items() if not (_CLASS_LAYER.match(name) or name.startswith(_STUFF))
    }


def other_class_count(
    model_shapes: Mapping[str, Shape], file_shapes: Mapping[str, Shape], names: Sequence[str] | None = None
) -> str | None:
    """Describe how the numbers of classes of a file and a model differ; None if they do not.

    Args:
        model_shapes: the shapes of the model's tensors by name.
        file_shapes: the shapes of the file's tensors by name.
        names: the class names in the file, if there are any.

    Returns:
        A text such as ``weights have 3 classes, num_classes is 6``.
    """
    model, file = ClassCounts.of(model_shapes), ClassCounts.of(file_shapes)
    differences = []
    if model.things and file.things and model.things != file.things:
        suffix = f" ({listed(names)})" if names else ""
        differences.append(f"weights have {_classes(file.things)}{suffix}, num_classes is {model.things}")
    if model.stuff and file.stuff and model.stuff != file.stuff:
        differences.append(
            f"weights have {_classes(file.stuff)} in the semantic branch, semantic_num_classes is {model.stuff}"
        )
    return " and ".join(differences) or None


def _classes(count: int) -> str:
    return "1 class" if count == 1 else f"{count} classes"


def _blocks(names: Iterable[str]) -> str:
    """Return the numbers of residual blocks per stage, ``3-4-6-3`` for ResNet-50; empty for other backbones."""
    stages: dict[str, set[str]] = {}
    for name in names:
        match = _BLOCK.match(name)
        if match:
            stages.setdefault(match.group(1), set()).add(match.group(2))
    return "-".join(str(len(stages[stage])) for stage in sorted(stages))


def depth_difference(model_names: Iterable[str], file_names: Iterable[str]) -> str | None:
    """Describe how the residual blocks of a model's and a file's backbone differ; None if they do not."""
    model, file = _blocks(model_names), _blocks(file_names)
    if not file or model == file:
        return None
    return f"its backbone has {file} residual blocks, the model's {model or 'none'}"


def join_names(names: Iterable[str]) -> str:
    """Join names for a message; only the first few if there are many."""
    all_names = list(names)
    more = f" and {len(all_names) - LISTED} more" if len(all_names) > LISTED else ""
    return ", ".join(all_names[:LISTED]) + more


def shape_texts(mismatched: Mapping[str, tuple[Shape, Shape]]) -> list[str]:
    """Return a text such as ``neck.bias [7] instead of [5]`` for each tensor."""
    return [f"{name} {list(file)} instead of {list(model)}" for name, (model, file) in mismatched.items()]
