"""What a run writes down about itself, and whether that is enough to repeat it."""

from __future__ import annotations

import datetime
import os
import shlex
import subprocess
import sys
from pathlib import Path

import fakes
import numpy
import paddle
import pytest

from ppdet.core.workspace import dump_config, load_config
from ppdet.engine.trainer import Trainer
from ppdet.engine.training.run_facts import describe_run


def _facts(text: str) -> dict[str, str]:
    return dict(line.split(": ", 1) for line in text.splitlines())


def test_facts_of_a_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    facts = _facts(describe_run(7))
    assert facts["seed"] == "7" and facts["paddle"] == paddle.__version__ and facts["numpy"] == numpy.__version__
    for name in ("python", "platform", "pycocotools", "processor", "CUDA", "cuDNN", "revision", "folder", "device"):
        assert facts[name], name
    assert facts["CUDA"] == "none" or paddle.is_compiled_with_cuda()
    assert facts["cores"] == f"{len(os.sched_getaffinity(0))} of {os.cpu_count()}"
    age = datetime.datetime.now().astimezone() - datetime.datetime.fromisoformat(facts["date"])
    assert datetime.timedelta(0) <= age < datetime.timedelta(minutes=1)
    assert "OMP_NUM_THREADS=3" in shlex.split(facts["settings"])


def test_command_line_can_be_pasted(tmp_path: Path) -> None:
    """Through a shell: the words come back, spaces, quotes, braces and dollars among them."""
    words = ["-o", "TrainDataset.semantic={kind: png, dir: x}", "a='b \"c'", "$HOME", "", "*"]
    code = "import sys; sys.path.insert(0, sys.argv.pop(1)); from ppdet.engine.training.run_facts import command_line; "
    script = tmp_path / "a script.py"
    script.write_text(code + "print('LINE', command_line())\nprint('WORDS', sys.argv[1:])")
    root = str(Path(__file__).resolve().parents[3])
    done = subprocess.run([sys.executable, str(script), root, *words], capture_output=True, text=True, timeout=120)
    line = next(line for line in done.stdout.splitlines() if line.startswith("LINE "))[len("LINE ") :]
    assert shlex.split(line) == [sys.executable, str(script), *words]
    pasted = line.replace(shlex.quote(str(script)), f"{shlex.quote(str(script))} {shlex.quote(root)}", 1)
    again = subprocess.run(["sh", "-c", pasted], capture_output=True, text=True, timeout=120)
    assert f"WORDS {words}" in again.stdout, again.stderr


def test_revision_has_a_mark_where_files_differ(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from ppdet.engine.training import run_facts

    def git(*words: str) -> str:
        identity = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
        done = subprocess.run(["git", *identity, *words], cwd=tmp_path, check=True, capture_output=True, text=True)
        return done.stdout.strip()

    file = tmp_path / "ppdet" / "engine" / "training" / "run_facts.py"
    file.parent.mkdir(parents=True)
    file.write_text("")
    git("init", "-q")
    git("add", ".")
    git("commit", "-q", "-m", "x")
    monkeypatch.setattr(run_facts, "__file__", str(file))
    revision = git("rev-parse", "HEAD")[:12]
    assert _facts(describe_run(0))["revision"] == revision
    file.write_text("changed")
    assert _facts(describe_run(0))["revision"] == f"{revision}-dirty"


def test_config_of_a_run_is_a_config(tmp_path: Path) -> None:
    config = fakes.make_config(tmp_path, epoch=1, log_iter=3)
    trainer = Trainer(config)
    trainer.train()
    written = (trainer.folder / "config.yml").read_text(encoding="utf-8")
    again = load_config(str(trainer.folder / "config.yml"))
    assert again.epoch == 1 and again.log_iter == 3 and again.seed == 5
    assert dump_config(again) == written
    repeated = Trainer(again)
    state = repeated.train(overwrite=True)
    assert state.step == 4
    for name, value in trainer.model.state_dict().items():
        assert value.numpy().tobytes() == repeated.model.state_dict()[name].numpy().tobytes(), name


def test_every_config_reloads_to_itself(repo_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(repo_root)
    files = [path for path in sorted(Path("configs").glob("*/*.yml")) if path.parts[1] not in ("_base_", "datasets")]
    assert len(files) > 10
    for path in files:
        first = dump_config(load_config(str(path)))
        (tmp_path / "config.yml").write_text(first, encoding="utf-8")
        assert dump_config(load_config(str(tmp_path / "config.yml"))) == first, path
