"""An architecture from outside of the tree goes through every tool: nothing in the engine or in deployment knows it."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from deploy.common.image_io import read_image
from deploy.python.predictor import Predictor

HERE = Path(__file__).parent
RED, GREEN = [1, 0], [0, 1]


def run(script: Path, *arguments: Any, status: int = 0) -> str:
    """Run a program as a user would and return what it printed."""
    done = subprocess.run([sys.executable, script, *map(str, arguments)], capture_output=True, text=True, timeout=300)
    assert done.returncode == status, (done.stdout + done.stderr)[-4000:]
    return done.stdout + done.stderr


class Project:
    """The data, the run folder and the tools."""

    def __init__(self, root: Path, data: Path, folder: Path) -> None:
        self.root, self.data, self.folder = root, data, folder

    def tool(self, name: str, *arguments: Any, status: int = 0) -> str:
        datasets = [f"{kind}Dataset.dataset_dir={self.data}" for kind in ("Train", "Eval", "Test")]
        files = ["-c", HERE / "prompted_detector.yml", "--plugins", HERE / "prompted_detector.py"]
        weights = f"weights={self.folder}/output/prompted_detector/model_final"
        settings = ["-o", f"save_dir={self.folder}/output", "seed=1", weights, *datasets]
        return run(self.root / "tools" / f"{name}.py", *files, *settings, *arguments, status=status)


@pytest.fixture(scope="module")
def project(repo_root: Path, squares: Path, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A project with a trained and exported model."""
    project = Project(repo_root, squares, tmp_path_factory.mktemp("project"))
    (project.folder / "training.txt").write_text(project.tool("train", "--eval"))
    project.tool("export_model", "--output_dir", project.folder / "export")
    return project


@pytest.fixture(scope="module")
def exported(project: Project) -> Path:
    """The folder of the export."""
    return project.folder / "export" / "prompted_detector"


def ap(text: str) -> list[float]:
    """Box AP and mask AP of the last evaluation in a log."""
    pattern = r"IoU=0\.50:0\.95 \| area=   all \| maxDets=100 \] = (\S+)"
    precision = [float(value) for value in re.findall(r"Average Precision .*" + pattern, text)]
    return precision[-2:]


def test_it_is_short() -> None:
    assert len((HERE / "prompted_detector.py").read_text().splitlines()) <= 150


def test_training_and_evaluation(project: Project) -> None:
    box, mask = ap((project.folder / "training.txt").read_text())
    assert box > 0.3 and mask > 0.2
    assert ap(project.tool("eval")) == [box, mask]
    without_plugin = ("-c", HERE / "prompted_detector.yml", "-o", "weights=none")
    assert "'PromptedDataSet'" in run(project.root / "tools" / "eval.py", *without_plugin, status=1)


def test_predictions_of_the_model_and_of_its_export_agree(project: Project, exported: Path) -> None:
    images = project.data / "images"
    project.tool("infer", "--infer_dir", images, "--output_dir", project.folder / "ours", "--save_results", "True")
    extra = project.folder / "extra.json"
    extra.write_text(json.dumps({f"{number}.png": {"prompt": [1, 1]} for number in range(1, 9)}))
    arguments = ["--model_dir", exported, "--image_dir", images, "--save_results", "--extra_inputs", extra]
    run(project.root / "deploy/python/infer.py", *arguments, "--output_dir", project.folder / "theirs")
    for kind in ("bbox", "mask"):
        ours, theirs = (json.loads((project.folder / name / f"{kind}.json").read_text()) for name in ("ours", "theirs"))
        assert len(ours) == len(theirs) >= 8
        for one, other in zip(ours, theirs):
            assert (one["image_id"], one["category_id"]) == (other["image_id"], other["category_id"])
            assert one["score"] == pytest.approx(other["score"], abs=1e-4)
    assert sorted(path.name for path in (project.folder / "theirs").glob("*.png")) == [f"{n}.png" for n in range(1, 9)]


def test_prompt_selects_classes(project: Project, exported: Path) -> None:
    predictor = Predictor(exported)
    image = read_image(project.data / "images" / "1.png")
    found = predictor.predict([image, image], extra={"prompt": np.array([RED, GREEN], np.float32)})
    for label, detections in enumerate(found):
        best = detections.above(0.3)
        assert set(best.labels.tolist()) == {label}
        x1, y1, x2, y2 = (int(round(float(side))) for side in best.boxes[0])
        bitmap = best.bitmap(0)
        assert bitmap.shape == (64, 96) and bitmap.sum() > 200
        assert bitmap[max(0, y1 - 4) : y2 + 4, max(0, x1 - 4) : x2 + 4].sum() > 0.8 * bitmap.sum()
    out = run(
        project.root / "deploy/python/infer.py",
        *("--model_dir", exported, "--image_file", project.data / "images" / "1.png"),
        *("--output_dir", project.folder / "refused"),
        status=1,
    )
    assert "error: the model requires extra inputs for each image, prompt" in out and "Traceback" not in out


def test_service(project: Project, exported: Path) -> None:
    pytest.importorskip("fastapi", reason="fastapi is not installed (requirements-serving.txt)")
    from tests.deploy.serving.serving_fakes import Running, form

    running = Running(Predictor(exported))
    try:
        picture = (project.data / "images" / "1.png").read_bytes()
        for label, prompt in enumerate((RED, GREEN)):
            values = json.dumps({"prompt": prompt}).encode()
            body, headers = form(("file", picture), ("extra_inputs", values))
            reply = running.client.ask("POST", "/predict?threshold=0.3", body, headers)
            assert reply.status == 200, reply.body
            assert {found["class_id"] for found in reply.json()["instances"]} == {label + 1}
        assert "prompt" in running.client.predict(picture).error
    finally:
        running.stop()
