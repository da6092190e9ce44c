"""What the log shows of a training and of an evaluation."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import fakes
import pytest
from fakes import make_trainer

from ppdet.engine import evaluator
from ppdet.engine.evaluator import evaluate
from ppdet.engine.training.callbacks import Callback, Report, log_line, loss_groups
from ppdet.engine.training.checkpoint import RunState
from ppdet.engine.training.run import Run
from ppdet.metrics.coco import COCOMetric
from ppdet.utils import stats
from ppdet.utils.logger import add_log_file, setup_logger

pytestmark = pytest.mark.filterwarnings("ignore")

LOSSES = {"loss_rpn_cls": 0.4, "loss_rpn_reg": 0.1, "loss_semantic": 0.25}
LOSSES.update({f"loss_{kind}_stage{stage}": 0.5 for stage in range(3) for kind in ("bbox_cls", "bbox_reg", "mask")})
LOSSES["loss"] = sum(LOSSES.values())


def _report(**changes: Any) -> Report:
    values: dict[str, Any] = {
        "losses": LOSSES, "lr": 0.00123456, "step_time": 0.31, "data_time": 0.01, "images_per_second": 51.6,
        "eta": 27 * 3600.0, "memory": "10234 MB",
    }  # fmt: skip
    return Report(**{**values, **changes})


def _run(folder: Path, **state: Any) -> Run:
    return Run(folder, None, RunState(**state), epochs=20)  # type: ignore[arg-type]


def test_losses_are_added_up_by_what_they_train() -> None:
    groups = loss_groups(LOSSES)
    assert groups == {"rpn": 0.5, "semantic": 0.25, "box": 3.0, "mask": 1.5}
    assert sum(groups.values()) == pytest.approx(LOSSES["loss"])


def test_a_line_fits_the_screen(tmp_path: Path) -> None:
    line = log_line(_run(tmp_path, epoch=11, iteration=7330, steps_per_epoch=7330), _report())
    assert line == (
        "Epoch 12/20 [7330/7330] loss 5.250 (rpn 0.500 semantic 0.250 box 3.000 mask 1.500) lr 0.00123 51.6 img/s "
        "eta 27:00:00 10234 MB"
    )
    add_log_file(tmp_path / "train.log")
    setup_logger().info("%s", line)
    setup_logger().warning("ends")
    written = (tmp_path / "train.log").read_text().splitlines()
    assert len(written[0]) <= 150 and re.fullmatch(r"\[[-0-9]{10} [:0-9]{8}\] Epoch .*", written[0])
    assert len(written[0]) - len("2026-") <= 145, "the screen has no year"
    assert written[1].endswith("] WARNING: ends")


def test_waiting_for_data_is_said_where_it_matters(tmp_path: Path) -> None:
    run = _run(tmp_path, iteration=1, steps_per_epoch=10)
    assert log_line(run, _report(data_time=0.155)).endswith(" waiting for data 50%")
    assert log_line(run, _report(images_per_second=0.0123)).startswith("Epoch  1/20 [ 1/10] loss 5.250 ")
    assert " 0.012 img/s " in log_line(run, _report(images_per_second=0.0123))


class _Lines(Callback):
    def __init__(self) -> None:
        self.seen: list[tuple[int, bool, float]] = []

    def on_report(self, run: Run, report: Report) -> None:
        """Remember."""
        self.seen.append((run.state.step, report.early, report.losses["loss"]))


def test_slow_steps_are_each_logged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing for a minute, here: for no time at all; the table keeps its rhythm and its means."""
    tables = []
    for name, seconds in (("quick", 1000.0), ("slow", 0.0)):
        monkeypatch.setattr(stats, "REMIND_SECONDS", seconds)
        lines = _Lines()
        trainer = make_trainer(tmp_path / name, log_iter=3, epoch=1)
        trainer.train(callbacks=(lines,))
        early = [step for step, early, _ in lines.seen if early]
        assert early == ([1] if name == "quick" else [1, 2])
        assert [step for step, early, _ in lines.seen if not early] == [3, 4]
        rows = (trainer.folder / "train_scalars.csv").read_text().splitlines()
        tables.append([row.split(",")[:6] for row in rows])
        assert [row.split(",")[:2] for row in rows[1:]] == [["3", "1"], ["4", "1"]]
    assert tables[0] == tables[1]


def test_epochs_count_from_one_everywhere(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path)
    trainer.train()
    log = (trainer.folder / "train.log").read_text()
    assert "Epoch 1/2 [1/4]" in log and "Epoch 2/2 [4/4]" in log and "Epoch 0" not in log
    assert re.search(r"saved .*/0\.pdparams \(after epoch 1\)", log)
    assert re.search(r"saved .*/model_final\.pdparams \(after epoch 2\)", log)
    assert re.search(r"training is complete after 2 epochs: .*/model_final\.pdparams$", log, re.M)
    assert RunState(epoch=3, iteration=7, steps_per_epoch=9).place == "epoch 4, step 7 of 9"


class _Metric:
    def update(self, batch: dict[str, Any], outputs: dict[str, Any]) -> None:
        """Takes no notice."""

    def accumulate(self) -> None:
        """Nothing to do."""

    log = accumulate

    def get_results(self) -> dict[str, list[float]]:
        """No numbers."""
        return {}


def test_an_evaluation_shows_total_and_remaining_time(capsys: pytest.CaptureFixture[str]) -> None:
    model = fakes.FakeNet()
    capsys.readouterr()
    evaluate(model, fakes.FakeLoader(fakes.FakeDataset(12), 2), _Metric(), log_iter=2)
    lines = [line.partition("] ")[2] for line in capsys.readouterr().out.splitlines()]
    assert [re.sub(r"[0-9.]+ img/s", "V", line) for line in lines[:-1]] == [
        f"evaluated {done} of 12 images, V, eta 0:00:00" for done in (2, 4, 8)
    ]
    assert lines[-1].startswith("evaluated 12 images in ")
    assert evaluator._Progress(iter([]), 1)._images == 0  # type: ignore[arg-type]


def test_the_table_of_an_evaluation_is_in_the_log_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    metric = COCOMetric.__new__(COCOMetric)
    metric._numbers = {"bbox": [0.25] * 12, "mask": [0.125] * 12}
    metric._tables = {"mask": "class     AP\nstar   0.125"}
    add_log_file(tmp_path / "train.log")
    capsys.readouterr()
    metric.log()
    for text in ((tmp_path / "train.log").read_text(), capsys.readouterr().out):
        assert text.count(" Average Precision  (AP) @[ IoU=0.50:0.95 | area=   all | maxDets=100 ] = 0.250") == 1
        assert text.count("Average ") == 24 and "star   0.125" in text
        assert "] box AP (COCO's bbox)\n" in text and "] mask AP (COCO's segm)\n" in text
