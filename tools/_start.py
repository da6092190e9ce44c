"""Imported first by every tool: selects the ``ppdet`` of this checkout and checks the installed packages.

Paddle is not imported here, because this takes several seconds; the tools parse their command lines before."""

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
"""Modules required by the tools, and the packages that provide them."""


def _fail(message: str) -> None:
    print(f"error: {message}", file=sys.stderr)
    sys.exit(1)


def prepare() -> None:
    """Add the checkout to ``sys.path`` and check the installed packages; exit with an error message on failure."""
    sys.path.insert(0, str(ROOT))
    if Path(getattr(sys.modules["__main__"], "__file__", None) or ".").resolve().parent == ROOT / "tools":
        from deploy.common.interruption import exit_on_interrupt

        exit_on_interrupt()
    # Hide messages of Paddle that are not relevant to users of these tools.
    os.environ.setdefault("GLOG_minloglevel", "2")
    warnings.filterwarnings("ignore", message="No ccache found")
    warnings.filterwarnings("ignore", message="When training, we now always track global mean and variance")
    for module, package in PACKAGES.items():
        if importlib.util.find_spec(module) is None:
            _fail(f"{package} is not installed; run: python -m pip install -r {ROOT / 'requirements.txt'}")
    import ppdet

    location = Path(ppdet.__file__ or "").resolve().parent
    if ROOT not in location.parents:
        _fail(f"the tools in {ROOT} need its own ppdet, but {location} has been imported; run them in a new process")


prepare()
