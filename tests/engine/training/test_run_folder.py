"""One run in one folder: fresh starts, overwriting, going on, and the name that travels with the configuration."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import fakes
import pytest
from fakes import make_trainer
from test_train import Recorder

from ppdet.checkpoint.formats.unpickle import load_pickle
from ppdet.core.workspace import load_config
from ppdet.engine.run_name import run_folder, run_name
from ppdet.engine.trainer import Trainer
from ppdet.engine.training.run_folder import checkpoints
from ppdet.utils.errors import UserError

pytestmark = pytest.mark.filterwarnings("ignore")


def _content(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def _step(stem: Path) -> int:
    return int(load_pickle(f"{stem}.pdopt")["state"]["step"])


def test_a_fresh_start_spares_an_earlier_run(tmp_path: Path) -> None:
    run = make_trainer(tmp_path).folder
    make_trainer(tmp_path).train()
    before = _content(run)
    message = (
        r"output/fake holds an earlier run \(0, model_final\): continue it with -r, replace it with --overwrite, or "
        r"keep it and choose another folder with -o run_name=NAME or -o save_dir=DIR$"
    )
    with pytest.raises(UserError, match=message):
        make_trainer(tmp_path, epoch=3, LearningRate={"base_lr": 0.3, "schedulers": []}).train()
    assert _content(run) == before
    elsewhere = make_trainer(tmp_path / "b", epoch=3)
    elsewhere.train()
    with pytest.raises(
        UserError, match=r"not a checkpoint of .* holds an earlier run .*-r alone"
    ):  # goes on with another run, in this one's folder
        make_trainer(tmp_path, epoch=4).train(resume_from=str(elsewhere.folder / "1"))
    assert _content(run) == before


def test_another_name_is_another_folder(tmp_path: Path) -> None:
    make_trainer(tmp_path, epoch=1).train()
    make_trainer(tmp_path, epoch=1, run_name="second").train()
    assert sorted(os.listdir(tmp_path / "output")) == ["fake", "second"]


def test_overwrite_removes_the_run_and_nothing_else(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, epoch=3)
    trainer.train()
    run = trainer.folder
    mine = ["notes.txt", "2024_06_before_fix.pdopt", "best_of_all.pdparams", "0.backup", "pictures/1.jpg", "vdl/a.log"]
    theirs = ["0_3.pdopt", "nonfinite_7.json", "best_model.pdparams", "vdl/vdlrecords.1700000000.log"]
    for name in mine + theirs:
        (run / name).parent.mkdir(exist_ok=True)
        (run / name).write_text(name)
    (run / "train.log").write_text("of the earlier run\n")
    make_trainer(tmp_path, epoch=1).train(overwrite=True)
    for name in mine:
        assert (run / name).read_text() == name
    assert not any((run / name).exists() for name in theirs)
    assert checkpoints(run) == ["model_final"] and _step(run / "model_final") == 4
    log = (run / "train.log").read_text()
    assert "of the earlier run" not in log and log.count("8 images, 4 steps per epoch") == 1
    assert log.count("training is complete") == 1
    assert (run / "train_scalars.csv").read_text().count("\n") == 3


def test_a_start_that_fails_costs_no_earlier_run(tmp_path: Path) -> None:
    run = make_trainer(tmp_path).folder
    make_trainer(tmp_path).train()
    before = {name: content for name, content in _content(run).items() if name != "train.log"}
    with pytest.raises(UserError, match="fewer images than one step"):
        make_trainer(tmp_path, TrainReader={"batch_size": 9}).train(overwrite=True)
    assert {name: content for name, content in _content(run).items() if name != "train.log"} == before


def test_a_start_that_saved_nothing_is_no_run(tmp_path: Path) -> None:
    """It ran out of memory in its first steps, say: the next one, with other settings, need not ask."""
    with pytest.raises(UserError, match="loss_fit = nan"):
        make_trainer(tmp_path, FakeNet={"blow_up_at": 1}).train()
    run = tmp_path / "output" / "fake"
    assert (run / "config.yml").is_file() and (run / "0_9.safetensors").write_bytes(b"of a deletion cut off")
    make_trainer(tmp_path, epoch=1).train()
    assert checkpoints(run) == ["model_final"] and not (run / "0_9.safetensors").exists()


def test_going_on_and_removing_contradict_each_other(tmp_path: Path) -> None:
    run = make_trainer(tmp_path).folder
    make_trainer(tmp_path, epoch=1).train()
    for resume in ("", "auto", str(run / "model_final")):
        with pytest.raises(UserError, match="continues the run in .*fake and --overwrite removes it"):
            make_trainer(tmp_path).train(resume_from=resume, overwrite=True)


def test_automatic_resumption(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(KeyboardInterrupt):
        make_trainer(tmp_path).train(resume_from="auto", callbacks=(Recorder(stop_after=6),))
    run = tmp_path / "output" / "fake"
    assert checkpoints(run) == ["0", "1_2"]
    assert make_trainer(tmp_path).train(resume_from="auto").step == 8
    before = (run / "model_final.pdopt").read_bytes()
    capsys.readouterr()
    assert make_trainer(tmp_path).train(resume_from="auto").step == 8
    printed = capsys.readouterr().out
    assert "model_final has all 2 epochs: nothing to do" in printed and "training is complete" not in printed
    assert (run / "model_final.pdopt").read_bytes() == before
    (run / "0.pdopt").write_bytes(b"")
    (run / "model_final.pdopt").write_bytes(b"")
    with pytest.raises(UserError, match="no checkpoint to resume from"):  # there is a run, and all of it is damaged
        make_trainer(tmp_path).train(resume_from="auto")


@pytest.mark.parametrize("epoch", [-1, -3])
def test_no_epochs_are_no_complete_training(tmp_path: Path, capsys: pytest.CaptureFixture[str], epoch: int) -> None:
    with pytest.raises(UserError, match=f"epoch.* 1 .*, got {epoch}"):
        make_trainer(tmp_path, epoch=epoch).train()
    assert "complete" not in capsys.readouterr().out


def test_the_name_travels_in_the_configuration(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        make_trainer(tmp_path, run_name="named").train(callbacks=(Recorder(stop_after=6),))
    run = tmp_path / "output" / "named"
    config = load_config(str(run / "config.yml"))
    assert run_name(config) == "named" and run_folder(config) == run
    assert Trainer(config).train(resume_from="").step == 8
    assert checkpoints(run) == ["0", "model_final"] and os.listdir(tmp_path / "output") == ["named"]
    assert run_name(fakes.make_config(tmp_path)) == "fake"


@pytest.mark.parametrize("name", ["", " ", ".", "..", "a/b", "../a", "/tmp/a", "a\\b", "a\nb", "x" * 300])
def test_a_name_that_no_folder_can_have(tmp_path: Path, name: Any) -> None:
    with pytest.raises(UserError, match="run_name is the name of a folder within save_dir, which .*; set save_dir"):
        run_folder(fakes.make_config(tmp_path, run_name=name))
    assert run_folder(fakes.make_config(tmp_path, run_name="实验 2")).name == "实验 2"
    assert run_folder(fakes.make_config(tmp_path, run_name=2024)).name == "2024"
