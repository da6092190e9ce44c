"""What a run switches for the whole process holds inside its block and nowhere else."""

from __future__ import annotations

import contextlib
from pathlib import Path

import paddle
import pytest
from fakes import make_trainer

from ppdet import ext_op
from ppdet.core.config.settings import RuntimeSettings
from ppdet.core.switches import Switches, switched, switches
from ppdet.engine import runtime
from ppdet.engine.runtime import DETERMINISTIC, Runtime
from ppdet.modeling.losses.divisor import divisor_of


def test_switches_nest_and_are_restored() -> None:
    with switched(extension=True):
        with pytest.raises(KeyError), switched(onnx=True, count_processes=4):
            assert switches() == Switches(extension=True, count_processes=4, onnx=True)
            raise KeyError
        assert switches() == Switches(extension=True)
    assert switches() == Switches()


@pytest.fixture
def two_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two training processes with equal counts, and an extension that exists."""
    monkeypatch.setattr(runtime.dist, "get_world_size", lambda: 2)
    monkeypatch.setattr(runtime.dist, "all_reduce", lambda tensor: tensor.set_value(tensor * 2))
    monkeypatch.setattr(ext_op, "require", lambda: None)


def divisor() -> float:
    return float(divisor_of(paddle.to_tensor([3.0])))


def test_settings_hold_inside_and_are_restored(two_processes: None) -> None:
    own, shared = Runtime(RuntimeSettings()), Runtime(RuntimeSettings(global_loss_norm=True, use_ext_op=True))
    seen = []
    with shared:
        seen.append((switches().count_processes, ext_op.in_use()))
        with own:
            seen.append((switches().count_processes, ext_op.in_use()))
            with shared:  # a runtime may be entered again
                seen.append((switches().count_processes, ext_op.in_use()))
        seen.append((switches().count_processes, ext_op.in_use()))
    assert seen == [(2, True), (1, False), (2, True), (2, True)] and switches() == Switches()


def test_second_trainer_is_not_affected_by_the_first(
    two_processes: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both are built before either works, as in a script that compares settings."""
    first = make_trainer(tmp_path / "first", use_ext_op=True, global_loss_norm=True, epoch=1)
    second = make_trainer(tmp_path / "second", epoch=1)
    seen: dict[str, set[tuple[int, bool]]] = {}
    for name, trainer in (("second", second), ("first", first)):
        forward = trainer.model.forward

        def spy(batch: object, name: str = name, forward: object = forward) -> object:
            seen.setdefault(name, set()).add((switches().count_processes, ext_op.in_use()))
            return forward(batch)  # type: ignore[operator]

        monkeypatch.setattr(trainer.model, "forward", spy)
        trainer.train()
    assert seen == {"second": {(1, False)}, "first": {(2, True)}}
    assert switches() == Switches()


def test_a_failure_while_entering_leaves_nothing_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise OSError("no library")

    monkeypatch.setattr(ext_op, "require", fail)
    with pytest.raises(OSError, match="no library"), Runtime(RuntimeSettings(use_ext_op=True)):
        pass
    assert switches() == Switches() and Runtime._entered == []


def test_device_of_the_outer_block_comes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    chosen: list[str] = []
    monkeypatch.setattr(paddle, "set_device", chosen.append)
    monkeypatch.setattr(runtime, "select_device", lambda settings: settings.run_name)
    first, second = (Runtime(RuntimeSettings(run_name=name)) for name in ("gpu:0", "cpu"))
    with first:
        with second:
            pass
        assert chosen == ["gpu:0"]
    assert chosen == ["gpu:0"]  # the outermost one leaves its device selected
    with second:
        assert chosen[-1] == "cpu"


def test_deterministic_flags_that_exist_are_set_and_restored(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a GPU build, and as on one that lacks a flag."""
    have: dict[str, object] = dict.fromkeys(DETERMINISTIC, "before")
    del have["FLAGS_embedding_deterministic"]

    def get_flags(names: list[str]) -> dict[str, object]:
        if names[0] not in have:
            raise ValueError("no such flag")
        return {names[0]: have[names[0]]}

    monkeypatch.setattr(paddle, "get_flags", get_flags)
    monkeypatch.setattr(paddle, "set_flags", have.update)
    with Runtime(RuntimeSettings(), deterministic=True):
        assert have == {name: value for name, value in DETERMINISTIC.items() if "embedding" not in name}
    assert set(have.values()) == {"before"}


def test_deterministic_flags_on_this_build() -> None:
    """A CPU build of Paddle 2.6 has one of the flags, that of Paddle 3 none."""
    before = {}
    for name in DETERMINISTIC:
        with contextlib.suppress(ValueError):
            before.update(paddle.get_flags([name]))
    names = list(before)
    with Runtime(RuntimeSettings(), deterministic=True):
        assert paddle.get_flags(names) == {name: DETERMINISTIC[name] for name in names}
    assert paddle.get_flags(names) == before
