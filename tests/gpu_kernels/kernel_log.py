"""Which kernels Paddle chose, read from its log, and whether its GPU build has them."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

__all__ = ["FLOATS", "HALF", "Trace", "half_types_missing", "missing", "parse", "read_table", "traced"]

TABLE = Path(__file__).parent / "paddle_2.6.2.tsv"
HALF = ("float16", "bfloat16")
FLOATS = (*HALF, "float32")
STEPS = Path(__file__).parent / "steps.py"
Table = Mapping[str, Collection[str]]

_OWN = re.compile(r"@(model|phase|line) (.*)")
_KEY = re.compile(r"\] (\w+) API kernel key: \[\w+, [^,\]]*, (\w+)\]")
_CHOSEN = re.compile(r"\] (\w+) kernel: \{")
"""What follows a key: the kernel's own name, which may be another one than the function's."""
_LEGACY = re.compile(r"kernel name: (\w+) \| kernel key: \(\w+, [^,]*, (\w+)\)")
"""Operators that have an old-style entry point only."""


@dataclass
class Trace:
    """Kernels by name and type.

    Attributes:
        places: for each (operator, type) the models that use it, and the lines of Python that do. A backward's line is
            that of the step which calls it.
        phases: for each (operator, type) the phases it was used in.
        models: in the order of the log; the last one is ``end`` where the log is whole.
    """

    places: dict[tuple[str, str], set[tuple[str, str]]] = field(default_factory=dict)
    phases: dict[tuple[str, str], set[str]] = field(default_factory=dict)
    models: list[str] = field(default_factory=list)

    def where(self, operator: str, kind: str) -> str:
        """Return the lines that use a kernel, those of the forward for a backward, and the models they are part of."""
        forward = operator[: -len("_grad")] if operator.endswith("_grad") else operator
        used = self.places.get((forward, kind)) or self.places.get((operator, kind)) or set()
        lines, models = sorted({line for _, line in used}), sorted({model for model, _ in used})
        if not any(lines):
            return "?"
        return f"{', '.join(lines[:4])}{' and elsewhere' if len(lines) > 4 else ''} in {models[0]}"


def traced(script: Path = STEPS) -> Iterator[str]:
    """Run a program with Paddle's log of kernels switched on, and yield the lines of its stderr.

    Raises:
        RuntimeError: it failed; with the end of its log.
    """
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GLOG_")}
    # GLOG_v=6 in the files that choose kernels, and nothing of the many lines that all others would write.
    environment |= {"GLOG_vmodule": "*api*=6,prepared_operator=6", "GLOG_logtostderr": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(script)]
    tail: list[str] = []
    with subprocess.Popen(
        command, env=environment, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True, errors="replace"
    ) as program:
        assert program.stderr is not None
        for line in program.stderr:
            yield line
            if line.strip() and line[0] not in "@I":
                tail = [*tail[-29:], line]
    if program.returncode:
        raise RuntimeError(f"{script.name} ended with status {program.returncode}:\n{''.join(tail)}")


def parse(log: Iterable[str]) -> Trace:
    """Read a log.

    A key without the name of a kernel behind it is one for which Paddle found none: it counts under the function's
    name.
    """
    trace, now, waiting = Trace(), {"model": "", "phase": "", "line": ""}, None

    def add(operator: str, kind: str) -> None:
        trace.places.setdefault((operator, kind), set()).add((now["model"], now["line"]))
        trace.phases.setdefault((operator, kind), set()).add(now["phase"])

    for line in log:
        own = _OWN.match(line)
        if own:
            now[own[1]] = own[2]
            if own[1] == "model":
                trace.models.append(own[2])
            continue
        chosen, key, legacy = _CHOSEN.search(line), _KEY.search(line), _LEGACY.search(line)
        if waiting is not None and (chosen or key):
            add(chosen[1] if chosen else waiting[0], waiting[1])
            waiting = None
        if key:
            waiting = key.groups()
        elif legacy:
            add(*legacy.groups())
    if waiting is not None:
        add(*waiting)
    return trace


def read_table(path: Path = TABLE) -> dict[str, frozenset[str]]:
    """Return the types that each operator of the GPU build has a GPU kernel for."""
    table: dict[str, frozenset[str]] = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            kinds, operators = line.split("\t")
            table.update(dict.fromkeys(operators.split(), frozenset(kinds.split())))
    return table


def missing(trace: Trace, table: Table) -> list[str]:
    """Return a line for each operator and type of the trace that has no GPU kernel."""
    return [
        _fault(trace, operator, kind, kind)
        for operator, kind in sorted(trace.places)
        if kind not in table.get(operator, ())
    ]


def half_types_missing(
    trace: Trace, table: Table, half: str, white: Collection[str], black: Collection[str], update: bool
) -> list[str]:
    """Return a line for each operator that automatic mixed precision computes in half precision without a GPU kernel.

    Paddle lowers what is on its white list, and whatever else gets half precision in and is not on the black list,
    unless the *forward* has no such kernel: then it computes in float32. What follows from that is not looked at again:
    the backward gets the forward's type, and gradients are summed, checked and unscaled in it.

    Args:
        trace: of steps in float32.
        table: see `read_table`.
        half: ``float16`` or ``bfloat16``.
        white: kernels on the white list.
        black: kernels on the black list of the level.
        update: weights are in half precision as well (level O2): so is the optimizer.
    """
    single = {operator for operator, kind in trace.places if kind == "float32"}

    def phases(operator: str) -> set[str]:
        return trace.phases[operator, "float32"]

    def lowered(operator: str) -> bool:
        return operator in white or (operator not in black and half in table.get(operator, ()))

    asked = {operator for operator in single if operator in white and phases(operator) & {"forward", "predict"}}
    for operator in single:
        forward = operator[: -len("_grad")]
        if operator.endswith("_grad") and forward in single:
            if lowered(forward):
                asked.add(operator)
        elif "backward" in phases(operator) or (update and "update" in phases(operator)):
            asked.add(operator)
    return [
        _fault(trace, operator, half, "float32") for operator in sorted(asked) if half not in table.get(operator, ())
    ]


def _fault(trace: Trace, operator: str, kind: str, traced_kind: str) -> str:
    return f"'{operator}' has no GPU kernel for {kind} ({trace.where(operator, traced_kind)})"
