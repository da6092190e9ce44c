"""Python files that ``--plugins`` imports before a configuration is read."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from ppdet.core.plugins import import_plugins
from ppdet.core.workspace import create, load_config
from ppdet.utils.errors import UserError

LENGTH = """
from ppdet.core.workspace import register

@register
class LengthOf{name}:
    def __init__(self, value: int = 3) -> None:
        self.value = value
"""


@pytest.fixture(autouse=True)
def same_modules(monkeypatch: pytest.MonkeyPatch) -> None:
    """Forget folders and modules after the test."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "modules", dict(sys.modules))


def test_classes_become_available(tmp_path: Path) -> None:
    (tmp_path / "plugin_a.py").write_text("import plugin_b\n" + LENGTH.format(name="A"))
    (tmp_path / "plugin_b.py").write_text(LENGTH.format(name="B"))
    (tmp_path / "c.yml").write_text("LengthOfB: {value: 5}\n")
    with pytest.raises(UserError, match="LengthOfB"):
        load_config(str(tmp_path / "c.yml"))
    config = load_config(str(tmp_path / "c.yml"), [str(tmp_path / "plugin_a.py")])
    assert (create(config, "LengthOfA").value, create(config, "LengthOfB").value) == (3, 5)
    import_plugins([str(tmp_path / "plugin_a.py"), str(tmp_path / "plugin_b.py")])  # imported only once


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("missing.py", None, "missing.py does not exist"),
        ("my-model.py", "", "my-model.py is not a Python module"),
        ("model.txt", "", "model.txt is not a Python module"),
        ("json.py", "", "the name of .*json.py is taken by .*json.__init__.py: rename the file"),
        ("sys.py", "", "the name of .*sys.py is taken by .*: rename the file"),
        ("bad_syntax.py", "x = 1\ndef f(:\n", r"importing .*bad_syntax.py fails: SyntaxError: .*line 2"),
        (
            "bad_import.py",
            "\n\nimport no_such_package\n",
            "bad_import.py fails, line 3: ModuleNotFoundError: .*no_such",
        ),
        ("bad_code.py", "a = 1\n1 / 0\n", "bad_code.py fails, line 2: ZeroDivisionError: division by zero"),
    ],
)
def test_mistakes(tmp_path: Path, name: str, content: str | None, message: str) -> None:
    file = tmp_path / name
    if content is not None:
        file.write_text(content)
    with pytest.raises(UserError, match=message) as raised:
        import_plugins([str(file)])
    assert str(file) in str(raised.value) and "\n" not in str(raised.value)
