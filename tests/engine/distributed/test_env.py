"""Device and ranks as the launcher's environment gives them."""

from __future__ import annotations

import paddle
import pytest

from ppdet.core.config.settings import RuntimeSettings
from ppdet.engine.device import select_device
from ppdet.engine.distributed import env


@pytest.fixture
def eight_gpus(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A machine with GPUs; the devices that are chosen."""
    chosen: list[str] = []
    monkeypatch.setattr(paddle, "is_compiled_with_cuda", lambda: True)
    monkeypatch.setattr(paddle.device.cuda, "device_count", lambda: 8)
    monkeypatch.setattr(paddle, "set_device", chosen.append)
    for name in ("PADDLE_TRAINER_ID", "PADDLE_TRAINERS_NUM", "FLAGS_selected_gpus"):
        monkeypatch.delenv(name, raising=False)
    return chosen


@pytest.mark.parametrize(
    ("variables", "device", "rank", "world"),
    [
        ({}, "gpu:0", 0, 1),
        # launch --gpus 3: one process
        ({"PADDLE_TRAINER_ID": "0", "PADDLE_TRAINERS_NUM": "1", "FLAGS_selected_gpus": "3"}, "gpu:3", 0, 1),
        # the second node of two with eight each, its third process
        ({"PADDLE_TRAINER_ID": "10", "PADDLE_TRAINERS_NUM": "16", "FLAGS_selected_gpus": "2"}, "gpu:2", 10, 16),
    ],
)
def test_rank_counts_all_nodes_and_the_device_its_own(
    eight_gpus: list[str],
    monkeypatch: pytest.MonkeyPatch,
    variables: dict[str, str],
    device: str,
    rank: int,
    world: int,
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert select_device(RuntimeSettings(use_gpu=True)) == device and eight_gpus == [device]
    assert (env.rank(), env.world_size(), env.is_main()) == (rank, world, rank == 0)
