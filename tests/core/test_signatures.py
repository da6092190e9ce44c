"""Constructors with many arguments are called by name."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Iterator
from types import ModuleType

import ppdet

MOST_POSITIONAL = 5
"""Arguments that a reader can still tell apart by their positions."""


def modules(package: ModuleType) -> Iterator[ModuleType]:
    """Yield all modules of a package."""
    for info in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
        if not info.name.endswith("__main__"):
            yield importlib.import_module(info.name)


def test_constructors_with_many_arguments_take_keywords_only() -> None:
    counted, positional = 0, []
    for module in modules(ppdet):
        for cls in vars(module).values():
            if not inspect.isclass(cls) or cls.__module__ != module.__name__ or "__init__" not in vars(cls):
                continue
            if hasattr(cls, "__dataclass_fields__"):  # records: dataclass(kw_only=True) needs Python 3.10
                continue
            parameters = list(inspect.signature(cls.__init__).parameters.values())[1:]
            kinds = {parameter.kind for parameter in parameters}
            counted += 1
            if len(parameters) > MOST_POSITIONAL and inspect.Parameter.POSITIONAL_OR_KEYWORD in kinds:
                positional.append(f"{cls.__module__}.{cls.__qualname__}")
    assert counted > 60 and positional == []
