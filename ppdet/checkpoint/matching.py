"""Which tensors of a weight file fit which of a model, and how that is said in a line."""

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
"""A message names this many tensors; the log names all of them where an error is about them."""

Shape = tuple[int, ...]

_PARTS = ("backbone", "neck", "rpn_head", "bbox_head", "mask_head", "semantic")
_SEMANTIC = "fused_semantic_head."
_SCORE = re.compile(r"bbox_head\.bbox_score(_stage\d+)?\.")
_STUFF = "fused_semantic_head.conv_logits."
_CLASS_LAYER = re.compile(r"(bbox_head\.bbox_(score|delta)(_stage\d+)?|mask_head\.(head\.\d+\.conv|mask_fcn)_logits)\.")
_BLOCK = re.compile(r"backbone\.res(\d)\.(res\w+)\.")


@dataclass
class Match:
    """What a file has for a model.

    Attributes:
        found: model names with the file's array, shapes equal.
        missing: model names that the file lacks.
        reshaped: model names with (shape in the model, shape in the file).
        unused: names in the file that the model has no tensor for.
    """

    found: dict[str, np.ndarray] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)
    reshaped: dict[str, tuple[Shape, Shape]] = field(default_factory=dict)
    unused: list[str] = field(default_factory=list)

    def unfilled(self) -> list[str]:
        """Names of the model's tensors that do not come from the file."""
        return [*self.missing, *self.reshaped]


class ClassCounts(NamedTuple):
    """Numbers of classes that shapes tell of; None where there is no such branch.

    Attributes:
        things: K of the box branch.
        stuff: classes of the semantic branch.
    """

    things: int | None
    stuff: int | None

    @classmethod
    def of(cls, shapes: Mapping[str, Shape]) -> ClassCounts:
        """Read them off the shapes of the classifiers, whose weights and biases have to agree."""
        scores = {shape[-1] - 1 for name, shape in shapes.items() if _SCORE.match(name) and shape}
        stuff = {shape[0] for name, shape in shapes.items() if name.startswith(_STUFF) and shape}
        things, others = (found.pop() if len(found) == 1 else None for found in (scores, stuff))
        return cls(things, others)


def match_state(model: Layer, arrays: Mapping[str, np.ndarray], prefix: str = "") -> Match:
    """Compare a model's tensors with a file's, ``prefix`` put before each name of the file."""
    match = Match()
    named = {prefix + name: array for name, array in arrays.items()}
    tensors = model.state_dict()
    for name, tensor in tensors.items():
        shape = tuple(int(side) for side in tensor.shape)
        if name not in named:
            match.missing.append(name)
        elif named[name].shape != shape and not (named[name].size == 1 and shape in ((), (1,))):
            match.reshaped[name] = (shape, named[name].shape)
        else:
            match.found[name] = named[name].reshape(shape)
    match.unused = [name for name in named if name not in tensors]
    return match


def layer_of(name: str) -> str:
    """Name of the layer that a tensor belongs to."""
    return name.rpartition(".")[0]


def part_of(name: str) -> str:
    """Name of the model's part that a tensor belongs to: backbone, neck, rpn_head, bbox_head, mask_head, semantic."""
    return "semantic" if name.startswith(_SEMANTIC) else name.partition(".")[0]


def part_counts(names: Iterable[str]) -> Counter[str]:
    """Number of tensors in each part, in the order in which an image passes them."""
    counts = Counter(part_of(name) for name in names)
    return Counter({part: counts[part] for part in [*_PARTS, *counts] if counts[part]})


def starts_neutral(name: str) -> bool:
    """Whether a tensor of a backbone starts at a value that changes nothing: offsets of deformable convolutions."""
    return layer_of(name).endswith(".conv_offset")


def class_layer(name: str, shape: Shape) -> bool:
    """Whether a tensor has an entry for each class of things (class-agnostic boxes and masks have not)."""
    found = _CLASS_LAYER.match(name)
    if found is None or not shape:
        return False
    return {"score": True, "delta": shape[-1] != 4}.get(found.group(2) or "", shape[0] != 1)


def apart_from_classes(reshaped: Mapping[str, tuple[Shape, Shape]]) -> dict[str, tuple[Shape, Shape]]:
    """Leave out the layers whose size is the number of classes."""
    return {name: pair for name, pair in reshaped.items() if not (_CLASS_LAYER.match(name) or name.startswith(_STUFF))}


def other_class_count(
    ours: Mapping[str, Shape], theirs: Mapping[str, Shape], names: Sequence[str] | None = None
) -> str | None:
    """Say that a file is of another number of classes than the model, or None if it is not.

    Args:
        ours: the model's shapes.
        theirs: the file's.
        names: the file's class names, if it has them.

    Returns:
        Such as ``weights have 3 classes, num_classes is 6``.
    """
    here, there = ClassCounts.of(ours), ClassCounts.of(theirs)
    faults = []
    if here.things and there.things and here.things != there.things:
        which = f" ({listed(names)})" if names else ""
        faults.append(f"weights have {_classes(there.things)}{which}, num_classes is {here.things}")
    if here.stuff and there.stuff and here.stuff != there.stuff:
        faults.append(
            f"weights have {_classes(there.stuff)} in the semantic branch, semantic_num_classes is {here.stuff}"
        )
    return " and ".join(faults) or None


def _classes(count: int) -> str:
    return "1 class" if count == 1 else f"{count} classes"


def _blocks(names: Iterable[str]) -> str:
    """Residual blocks of the stages, such as ``3-4-6-3`` for ResNet-50; empty for another kind of backbone."""
    stages: dict[str, set[str]] = {}
    for name in names:
        found = _BLOCK.match(name)
        if found:
            stages.setdefault(found.group(1), set()).add(found.group(2))
    return "-".join(str(len(stages[stage])) for stage in sorted(stages))


def depth_difference(ours: Iterable[str], theirs: Iterable[str]) -> str | None:
    """Say how the residual blocks of two backbones differ, or None if they do not."""
    here, there = _blocks(ours), _blocks(theirs)
    if not there or here == there:
        return None
    return f"its backbone has {there} residual blocks, the model's {here or 'none'}"


def join_names(names: Iterable[str]) -> str:
    """Join names for a message, the first few of many."""
    listed = list(names)
    more = f" and {len(listed) - LISTED} more" if len(listed) > LISTED else ""
    return ", ".join(listed[:LISTED]) + more


def shape_texts(reshaped: Mapping[str, tuple[Shape, Shape]]) -> list[str]:
    """Such as ``neck.bias [7] instead of [5]`` for each."""
    return [f"{name} {list(theirs)} instead of {list(ours)}" for name, (ours, theirs) in reshaped.items()]
