"""The session that evaluation, prediction and export begin with."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_only_the_trainer_imports_the_training() -> None:
    """On Paddle 2.6 this also covers the order of imports: Paddle before zlib would crash with pycocotools."""
    program = (
        "import sys, ppdet.engine.session, ppdet.engine.predictor, ppdet.export.exporter; "
        "print('imported: ' + ' '.join(name for name in sys.modules if name.startswith('ppdet.engine.training')))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=120, check=True
    )
    assert done.stdout.splitlines()[-1] == "imported: "
