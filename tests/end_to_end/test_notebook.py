"""The notebook runs from top to bottom, on the demo set where there is no COCO."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.same_on_every_paddle


@pytest.mark.slow
def test_notebook(repo_root: Path, tmp_path: Path) -> None:
    for name in ("ppdet", "deploy", "tools", "configs", "dataset"):
        ignored = (
            shutil.ignore_patterns("data*", "coco", "eight", "__pycache__")
            if name == "dataset"
            else shutil.ignore_patterns("build")
        )
        shutil.copytree(repo_root / name, tmp_path / name, ignore=ignored)
    shutil.copy(repo_root / "requirements.txt", tmp_path)
    cells = json.loads((repo_root / "notebooks" / "ai_studio.ipynb").read_text(encoding="utf-8"))["cells"]
    lines = ["import subprocess"]
    for cell in cells:
        if cell["cell_type"] == "code":
            for line in "".join(cell["source"]).splitlines():
                command = re.match(r"(\s*)!(.*)", line)
                lines.append(
                    f"{command[1]}subprocess.run(f{command[2]!r}, shell=True, check=True)" if command else line
                )
    script = tmp_path / "notebook.py"
    script.write_text("\n".join(lines), encoding="utf-8")
    environment = {**os.environ, "HOME": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, str(script)], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=1500
    )
    assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
    assert done.stdout.count("Average Precision") == 2 * 12  # after training, and of the weights
    assert list((tmp_path / "output" / "pictures").glob("*.jpg"))
