"""Counting what makes the host wait for a GPU, on a machine that has none.

Three instruments, none of which trusts the code under test:

- `HostReads` replaces every method of Paddle's tensors that hands a value to Python, and every operator's entry point
  that would read a tensor because it was given one in place of a shape or a number.
- `operators` asks Paddle's profiler which operators ran, those of backward and of the optimizer included.
- `Shapes` keeps the shape of everything that operators return, so that two steps on different data can be compared.
"""

from __future__ import annotations

import re
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import paddle
import pytest
from paddle import Tensor, _C_ops, profiler

METHODS = (
    "numpy item tolist cpu pin_memory _copy_to __bool__ __nonzero__ __int__ __long__ __float__ __index__ __array__ "
    "__complex__ __dlpack__ __format__ __str__ __repr__ __contains__ __deepcopy__"
).split()
"""Methods whose result lies on the host."""

DATA_DEPENDENT = (
    "nonzero where_index masked_select unique unique_consecutive nms matrix_nms multiclass_nms3 generate_proposals "
    "distribute_fpn_proposals collect_fpn_proposals bincount repeat_interleave_with_tensor_index histogram "
    "edit_distance ctc_align viterbi_decode tril_indices is_empty numel_tensor"
).split()
"""Operators whose output's shape depends on what is in their inputs."""


def _here() -> str:
    """The place outside of Paddle and this file that the call came from."""
    frames = [
        frame
        for frame in traceback.extract_stack()
        if "site-packages" not in frame.filename and frame.filename != __file__
    ]
    return f"{Path(frames[-1].filename).name}:{frames[-1].lineno}"


def _has_tensor(value: Any) -> bool:
    return isinstance(value, Tensor) or (
        isinstance(value, (list, tuple)) and any(isinstance(part, Tensor) for part in value)
    )


def _number_arguments() -> dict[str, list[int]]:
    """Positions of the arguments that operators take as numbers or shapes, from the headers Paddle comes with."""
    header = Path(paddle.__file__).parent / "include/paddle/phi/api/include/api.h"
    found: dict[str, list[int]] = {}
    for name, arguments in re.findall(r"^PADDLE_API .*?(\w+)\((.*)\);$", header.read_text(encoding="utf-8"), re.M):
        kinds = re.findall(
            r"(?:^|, )(?:const )?(?:paddle::)?(IntArray|Scalar|[\w:]+(?:<[^()]*?>)?)[&*]? \w+", arguments
        )
        places = [place for place, kind in enumerate(kinds) if kind in ("IntArray", "Scalar")]
        if places:
            found[name] = places
    return found


class HostReads:
    """Context in which reads are noted as ``what (file:line)`` in ``found``; a read within a read counts once."""

    def __init__(self) -> None:
        self.found: list[str] = []
        self._depth = 0
        self._patch = pytest.MonkeyPatch()

    def __enter__(self) -> HostReads:
        for name in METHODS:
            if getattr(Tensor, name, None) is not None:
                self._patch.setattr(Tensor, name, self._noting(f"Tensor.{name}", getattr(Tensor, name)))
        for name in ("__getitem__", "__setitem__"):
            self._patch.setattr(Tensor, name, self._indexing(name, getattr(Tensor, name)))
        for name, places in _number_arguments().items():
            if hasattr(_C_ops, name):
                self._patch.setattr(_C_ops, name, self._numbers(name, getattr(_C_ops, name), places))
        for name in ("arange", "linspace"):  # their operators get tensors either way
            self._patch.setattr(paddle, name, self._numbers(name, getattr(paddle, name), [0, 1, 2]))
        return self

    def __exit__(self, *_: object) -> None:
        self._patch.undo()

    def _note(self, what: str) -> None:
        if not self._depth:
            self.found.append(f"{what} ({_here()})")

    def _noting(self, what: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def noted(*args: Any, **kwargs: Any) -> Any:
            self._note(what)
            self._depth += 1
            try:
                return call(*args, **kwargs)
            finally:
                self._depth -= 1

        return noted

    def _indexing(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        """A slice between tensors and a tensor of no dimension are read; of a boolean one the True are counted."""

        def noted(tensor: Tensor, index: Any, *args: Any) -> Any:
            for part in index if isinstance(index, tuple) else (index,):
                ends = (part.start, part.stop, part.step) if isinstance(part, slice) else ()
                if _has_tensor(ends):
                    self._note(f"Tensor.{name} with a tensor in a slice")
                if isinstance(part, Tensor) and (part.dtype == paddle.bool or not part.shape):
                    self._note(f"Tensor.{name} with a boolean or 0-D tensor")
            return call(tensor, index, *args)

        return noted

    def _numbers(self, name: str, call: Callable[..., Any], places: Sequence[int]) -> Callable[..., Any]:
        def noted(*args: Any, **kwargs: Any) -> Any:
            for place in places:
                if place < len(args) and _has_tensor(args[place]):
                    self._note(f"{name} with a tensor as argument {place}")
            for key in ("shape", "start", "end", "stop", "step", "num", "min", "max"):
                if _has_tensor(kwargs.get(key)):
                    self._note(f"{name} with a tensor as {key}")
            return call(*args, **kwargs)

        return noted


def operators(run: Callable[[], Any]) -> Counter[str]:
    """How often each operator ran, by Paddle's own record."""
    recorder = profiler.Profiler(targets=[profiler.ProfilerTarget.CPU], on_trace_ready=lambda _: None)
    recorder.start()
    run()
    recorder.stop()
    count: Counter[str] = Counter()
    waiting = list(recorder.profiler_result.get_data().values())
    while waiting:
        node = waiting.pop()
        waiting += node.children_node
        if node.name.endswith(" infer_meta"):
            count[node.name[: -len(" infer_meta")]] += 1
    return count


def data_dependent(count: Counter[str]) -> dict[str, int]:
    """Those of the operators whose output's shape depends on data."""
    return {name: number for name, number in count.items() if name in DATA_DEPENDENT}


@contextmanager
def shapes() -> Iterator[list[tuple[str, Any]]]:
    """Collect operator and output shapes of everything that goes through an operator's entry point."""
    trace: list[tuple[str, Any]] = []

    def shape_of(value: Any) -> Any:
        if isinstance(value, Tensor):
            return tuple(value.shape)
        return [shape_of(part) for part in value] if isinstance(value, (list, tuple)) else None

    def traced(name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def run(*args: Any, **kwargs: Any) -> Any:
            result = call(*args, **kwargs)
            trace.append((name, shape_of(result)))
            return result

        return run

    with pytest.MonkeyPatch.context() as patch:
        for name in dir(_C_ops):
            call = getattr(_C_ops, name)
            if not name.startswith("_") and type(call).__name__ == "builtin_function_or_method":
                patch.setattr(_C_ops, name, traced(name, call))
        yield trace
