"""The state of a training, and the ``.pdopt`` file that contains it together with everything else but the weights.

All contents of a file are checked before any of them is used: it may be damaged, edited, or written by another program.
"""

from __future__ import annotations

import math
import pickle
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
import paddle

from ppdet.checkpoint.formats.pickle_limits import brief
from ppdet.checkpoint.formats.unpickle import load_pickle
from ppdet.utils.errors import UserError

__all__ = ["LAYOUT", "RunState", "read_pdopt", "saved_state", "write_pdopt"]

LAYOUT = "ppdet run 1"
"""Identifies the layout of a ``.pdopt`` file."""
_COUNT_LIMIT = 1 << 53
"""More than any training counts."""


@dataclass
class RunState:
    """How far a training is.

    Attributes:
        epoch: the current epoch, counted from 0.
        iteration: number of its steps that are done.
        steps_per_epoch: number of steps of an epoch.
        step: number of steps done since the training began.
        seed: of all random streams.
        best_ap: best AP of an evaluation so far, -1 before the first one.
        eval_due: an evaluation of these weights has been requested and has not finished.
        started: when the training was last started or resumed, in seconds since 1970; distinguishes the checkpoints of
            a run that was resumed from an earlier one.
        skipped: number of steps skipped because a loss or gradient was not finite.
        window: losses of the steps since the last log line, by name.
    """

    epoch: int = 0
    iteration: int = 0
    steps_per_epoch: int = 0
    step: int = 0
    seed: int = 0
    best_ap: float = -1.0
    eval_due: bool = False
    started: float = 0.0
    skipped: int = 0
    window: dict[str, list[float]] = field(default_factory=dict)

    @property
    def place(self) -> str:
        """The position as text for messages, with epochs and steps counted from 1."""
        if self.iteration:
            return f"epoch {self.epoch + 1}, step {self.iteration} of {self.steps_per_epoch}"
        return f"after epoch {self.epoch}" if self.epoch else "before the first epoch"


def _count(value: Any) -> bool:
    return type(value) is int and 0 <= value < _COUNT_LIMIT


def _number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _losses(value: Any) -> bool:
    return isinstance(value, dict) and all(
        isinstance(name, str) and isinstance(losses, list) and all(isinstance(loss, float) for loss in losses)
        for name, losses in value.items()
    )


def _arrays(value: Any) -> bool:
    """Return whether a value maps names to real arrays; an array without dimensions has been read as a NumPy scalar."""
    return isinstance(value, dict) and all(
        isinstance(name, str) and isinstance(array, (np.ndarray, np.generic)) and array.dtype.kind in "biuf"
        for name, array in value.items()
    )


def _kinds(value: Any) -> bool:
    return isinstance(value, dict) and all(isinstance(kind, str) for kind in value.values())


def _mapping(value: Any) -> bool:
    return isinstance(value, dict)


def _mapping_or_none(value: Any) -> bool:
    return value is None or isinstance(value, dict)


_STATE: Mapping[str, Callable[[Any], bool]] = {
    **dict.fromkeys(("epoch", "iteration", "steps_per_epoch", "step", "skipped"), _count),
    "seed": lambda value: type(value) is int and value >= 0,
    "best_ap": lambda value: _number(value) and -1 <= value <= 1,
    "eval_due": lambda value: isinstance(value, bool),
    "started": lambda value: _number(value) and value >= 0,
    "window": _losses,
}
_POSITION = ("epoch", "iteration", "steps_per_epoch", "step", "seed")
"""Required in every file; entries that other versions did not write have defaults."""

_CONTENT: Mapping[str, Callable[[Any], bool]] = {
    "state": _mapping,
    "fingerprint": lambda value: type(value) is int,
    "kinds": _kinds,
    "optimizer": _arrays,
    "LR_Scheduler": _mapping_or_none,
    "scaler": _mapping_or_none,
    "ema": _mapping_or_none,
    "model": lambda value: value is None or _arrays(value),
}
_PARTS: Mapping[str, Mapping[str, Callable[[Any], bool]]] = {
    "LR_Scheduler": {"last_epoch": _count},
    "ema": {"step": _count, "average": _arrays},
}


def read_pdopt(file: Path) -> dict[str, Any]:
    """Read a ``.pdopt`` file and check the types and values of its contents.

    Returns:
        ``state`` (see `saved_state`), ``fingerprint``, ``kinds``, ``optimizer``, ``LR_Scheduler``, ``scaler``, ``ema``
        and ``model``.

    Raises:
        UserError: the file is missing or damaged, was written by another program, or lacks an entry.
    """
    content = load_pickle(file)
    if not isinstance(content, dict) or content.get("layout") != LAYOUT:
        raise UserError(
            f"{file} was not written by this project's training; start from its weights with -o pretrain_weights=…"
        )
    content = {"kinds": {}, **content}
    _check(file, content, _CONTENT, tuple(_CONTENT))
    _check(file, content["state"], _STATE, _POSITION)
    for name, rules in _PARTS.items():
        if content[name] is not None:
            _check(file, content[name], rules, tuple(rules), f"{name}.")
    state = content["state"]
    if state["iteration"] > state["steps_per_epoch"]:
        raise _damaged(file, f"iteration {state['iteration']} of an epoch of {state['steps_per_epoch']}")
    if (content["ema"] is None) != (content["model"] is None):
        raise _damaged(file, "it contains an average without the weights, or the weights without an average")
    average = {} if content["ema"] is None else content["ema"]["average"]
    for arrays in (content["optimizer"], content["model"] or {}, average):
        for name, array in arrays.items():
            if array.dtype.kind == "f" and not np.isfinite(array).all():
                raise _damaged(file, f"{brief(name)} is not finite")
    return content


def _check(
    file: Path,
    values: Mapping[Any, Any],
    rules: Mapping[str, Callable[[Any], bool]],
    needed: Sequence[str],
    prefix: str = "",
) -> None:
    """Check entries by their rules; messages put ``prefix``, the part of the file, before their names."""
    for name, rule in rules.items():
        if name not in values and name in needed:
            raise _damaged(file, f"'{prefix}{name}' is missing")
        if name in values and not rule(values[name]):
            raise _damaged(file, f"'{prefix}{name}' is {brief(values[name])}")


def _damaged(file: Path, what: str) -> UserError:
    return UserError(
        f"{file} is damaged or was changed ({what}): resume from another checkpoint with -r PATH, or start from its "
        "weights with -o pretrain_weights=…"
    )


def saved_state(content: Mapping[str, Any]) -> RunState:
    """Return the state from what `read_pdopt` has read, without entries that only other versions write."""
    known = {item.name for item in fields(RunState)}
    return RunState(**{key: value for key, value in content["state"].items() if key in known})


def _plain(value: Any) -> Any:
    """Turn tensors within containers into arrays, so that the file contains no tensors."""
    if isinstance(value, paddle.Tensor):
        return np.array(value.numpy(), copy=True)
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_plain(item) for item in value)
    return value


def write_pdopt(path: Path, content: Mapping[str, Any]) -> None:
    """Write a file that `read_pdopt` reads."""
    with open(path, "wb") as stream:
        pickle.dump(_plain(content), stream, protocol=4)
