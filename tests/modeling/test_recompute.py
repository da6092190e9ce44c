"""Recomputed activations change memory, not numbers."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import paddle
import pytest
from paddle.base import core

from ppdet.modeling.backbones import resnet
from ppdet.modeling.backbones.resnet import ResNet
from ppdet.utils.errors import UserError
from tests.modeling.small_htc import small_htc

SETUPS = {
    "frozen first stage, stored statistics": {"freeze_at": 0, "norm_eval": True},
    "all train, batch statistics": {"freeze_at": -1, "norm_eval": False},
    "group normalisation, frozen scales": {"freeze_at": 1, "norm_type": "gn", "freeze_norm": True},
    "deformable": {"freeze_at": -1, "norm_eval": False, "dcn_v2_stages": [2, 3]},
}


def _run(recompute: bool | list[int], batches: int = 1, **settings: object) -> tuple[dict[str, np.ndarray], int]:
    """Outputs, gradients and buffers by name, and the bytes that the forward pass keeps."""
    paddle.seed(1)
    model = ResNet(depth=50, ch_in=8, recompute=recompute, **settings)  # type: ignore[arg-type]
    model.train()
    found: dict[str, np.ndarray] = {}
    for index in range(batches):
        image = paddle.to_tensor(np.random.default_rng(index).normal(size=(2, 3, 64, 64)).astype("float32"))
        before = core.host_memory_stat_current_value("Allocated", 0)
        outputs = model(image)
        kept = core.host_memory_stat_current_value("Allocated", 0) - before
        sum((x * x).mean() for x in outputs).backward()
        found.update({f"out{i}": x.numpy() for i, x in enumerate(outputs)})
    for name, value in model.state_dict().items():
        found[name] = value.numpy()
        if value.grad is not None:
            found[f"{name}.grad"] = value.grad.numpy()
    return found, kept


@pytest.mark.parametrize("setup", SETUPS)
def test_outputs_gradients_and_statistics_are_the_same_to_the_bit(setup: str) -> None:
    """Two batches, so that gradients accumulate and running statistics move twice."""
    plain, kept = _run(False, 2, **SETUPS[setup])
    again, kept_again = _run(True, 2, **SETUPS[setup])
    assert plain.keys() == again.keys() and sum(name.endswith(".grad") for name in plain) > 20
    for name, value in plain.items():
        np.testing.assert_array_equal(again[name], value, err_msg=name)
    assert kept_again < (0.75 if "scales" in setup else 0.6) * kept


def test_stages_are_chosen(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    blocks: list[str] = []
    plain = resnet.recomputed
    monkeypatch.setattr(resnet, "recomputed", lambda block, x: blocks.append(block.full_name()) or plain(block, x))
    kept = [_run(choice, freeze_at=0)[1] for choice in (True, [3], False)]
    assert len(blocks) == 4 + 6 + 3 + 3, "never the frozen res2"
    assert kept[0] < kept[1] < kept[2]
    assert "NO need to recompute" not in "".join(capfd.readouterr())
    model = ResNet(depth=18, ch_in=8, recompute=True, freeze_at=-1)
    blocks.clear()
    with paddle.no_grad():
        model(paddle.zeros([1, 3, 64, 64]))
    model.eval()
    model(paddle.zeros([1, 3, 64, 64]))
    assert blocks == [], "predictions compute once"
    with pytest.raises(UserError, match=r"'ResNet\.recompute' .* between 0 and 3\).*got \[4\]"):
        ResNet(depth=18, recompute=[4])


def test_small_htc_trains_the_same(repo_root: Path) -> None:
    seen = []
    for recompute in (False, True):
        model, batch = small_htc(repo_root, ResNet={"recompute": recompute})
        losses = model(batch)
        losses["loss"].backward()
        values = {name: value.numpy() for name, value in losses.items()}
        values.update({name: p.grad.numpy() for name, p in model.named_parameters() if p.grad is not None})
        seen.append(values)
    assert seen[0].keys() == seen[1].keys() and len(seen[0]) > 100
    for name, value in seen[0].items():
        np.testing.assert_array_equal(seen[1][name], value, err_msg=name)


SCRIPT = """
import sys
import numpy as np, paddle
import paddle.distributed as dist
from ppdet.modeling.backbones.resnet import ResNet

paddle.set_device("cpu")
dist.init_parallel_env()
seen = []
for recompute in (False, True):
    paddle.seed(1)
    model = ResNet(depth=18, ch_in=8, recompute=recompute, freeze_at=0, norm_eval=False)
    model.train()
    network = paddle.DataParallel(model)
    for step in range(2):
        image = np.random.default_rng(10 * step + dist.get_rank()).normal(size=(1, 3, 64, 64)).astype("float32")
        sum((x * x).mean() for x in network(paddle.to_tensor(image))).backward()
    seen.append({name: p.grad.numpy() for name, p in model.named_parameters() if p.grad is not None})
same = all(np.array_equal(seen[0][name], seen[1][name]) for name in seen[0])
total = [float(abs(value).sum()) for value in seen[1].values()]
every = []
dist.all_gather_object(every, total)
print("RESULT", len(total) > 20 and seen[0].keys() == seen[1].keys() and same, every[0] == every[1], flush=True)
"""


def test_two_processes_exchange_the_same_gradients(tmp_path: Path, repo_root: Path) -> None:
    (tmp_path / "run.py").write_text(SCRIPT)
    command = [sys.executable, "-m", "paddle.distributed.launch", "--nproc_per_node", "2", "--log_dir", "log", "run.py"]
    env = {**os.environ, "PYTHONPATH": str(repo_root), "OMP_NUM_THREADS": "1", "GLOG_minloglevel": "2"}
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=120)
    logs = "".join((tmp_path / "log" / f"workerlog.{rank}").read_text() for rank in (0, 1))
    assert done.returncode == 0 and logs.count("RESULT True True") == 2, logs
