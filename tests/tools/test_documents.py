"""The documents name files and packages that exist, and architecture.md describes every package."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

pytestmark = pytest.mark.same_on_every_paddle

ROOT = Path(__file__).parents[2]
DOCUMENTS = (
    "README.md",
    "README_cn.md",
    "CHANGELOG.md",
    *(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md")),
)
PATHS = re.compile(r"(?<![\w./-])(?:ppdet|deploy|tools|tests|configs|benchmarks|docs)/[\w./-]*\w")


@pytest.mark.parametrize("document", DOCUMENTS)
def test_paths_exist(document: str) -> None:
    paths = set(PATHS.findall((ROOT / document).read_text(encoding="utf-8")))
    missing = [
        path for path in sorted(paths) if not (ROOT / path).exists() and not (ROOT / path.split(":")[0]).exists()
    ]
    assert not missing, f"{document} names {missing}"


def test_every_package_is_described() -> None:
    text = (ROOT / "docs/architecture.md").read_text(encoding="utf-8")
    packages = [path.parent for path in (*ROOT.glob("ppdet/*/__init__.py"), *ROOT.glob("deploy/*/__init__.py"))]
    assert len(packages) >= 12
    rows = "\n".join(line.split("|")[1] for line in text.splitlines() if line.startswith("| `"))
    described = set(re.findall(r"`([^`]+)`", rows))
    assert {str(package.relative_to(ROOT)) for package in packages} <= described


def test_module_names_in_the_architecture_exist() -> None:
    """Files that are named without their folder, such as ``loop.py``."""
    existing = {path.name for top in ("ppdet", "deploy", "tools") for path in (ROOT / top).rglob("*.py")}
    named = set(re.findall(r"`([a-z_0-9]+\.py)`", (ROOT / "docs/architecture.md").read_text(encoding="utf-8")))
    assert len(named) > 10 and named <= existing, named - existing
