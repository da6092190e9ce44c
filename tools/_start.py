"""What every tool does first: use this checkout's ``ppdet``, and say how to install what is missing.

Paddle takes seconds to import and is left to the tools, which read their command lines before."""

from __future__ import annotations

import importlib.util
import os
import sys
import warnings
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

PACKAGES = {
    "numpy": "numpy",
    "yaml": "PyYAML",
    "cv2": "opencv-python-headless",
    "pycocotools": "pycocotools",
    "safetensors": "safetensors",
}
"""Modules that the tools cannot do without, and the packages that have them."""


def _fail(message: str) -> None:
    print(f"error: {message}", file=sys.stderr)
    sys.exit(1)


def prepare() -> None:
    """Put the checkout first on ``sys.path`` and check what it needs; ends the process with one line otherwise."""
    sys.path.insert(0, str(ROOT))
    if Path(getattr(sys.modules["__main__"], "__file__", None) or ".").resolve().parent == ROOT / "tools":
        from deploy.common.interruption import leave_while_importing

        leave_while_importing()
    # Remarks of Paddle that a user of these tools can do nothing with.
    os.environ.setdefault("GLOG_minloglevel", "2")
    warnings.filterwarnings("ignore", message="No ccache found")
    warnings.filterwarnings("ignore", message="When training, we now always track global mean and variance")
    for module, package in PACKAGES.items():
        if importlib.util.find_spec(module) is None:
            _fail(f"{package} is not installed: python -m pip install -r {ROOT / 'requirements.txt'}")
    import ppdet

    found = Path(ppdet.__file__ or "").resolve()
    if ROOT not in found.parents:
        _fail(f"these tools belong to {ROOT}, but Python imported ppdet from {found.parent}; run them in a new process")


prepare()
