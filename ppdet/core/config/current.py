"""The configuration meant by a call that names none, as PaddleDetection writes it: ``create("TrainReader")``.

Inside ``with config.as_current():`` it is that configuration. Elsewhere it is the one that was loaded last, provided
that the program holds no other loaded configuration with different contents: then the call is ambiguous and is refused.
Code of this project passes the configuration instead and does not depend on this module.
"""

from __future__ import annotations

import contextlib
import gc
import os
import weakref
from collections.abc import Iterator
from contextvars import ContextVar
from typing import TYPE_CHECKING

from ppdet.core.config.errors import ConfigError

if TYPE_CHECKING:
    from ppdet.core.config.node import Config

__all__ = ["LoadedConfigs", "as_current", "implicit_config", "loaded_configs"]

_entered: ContextVar[Config | None] = ContextVar("configuration entered by as_current", default=None)


class LoadedConfigs:
    """The configurations loaded so far: the last one, and the earlier ones that the program still holds."""

    def __init__(self) -> None:
        self._last: Config | None = None
        self._earlier: list[weakref.ref[Config]] = []

    def add(self, config: Config) -> None:
        """Remember a configuration as the one loaded last."""
        if self._last is not None:
            self._earlier.append(weakref.ref(self._last))
        self._last = config

    def last(self) -> Config | None:
        """Return the configuration loaded last, or None."""
        return self._last

    def differing(self) -> list[Config]:
        """Return the earlier configurations that are still referenced and differ from the last one."""
        alive = [config for config in (reference() for reference in self._earlier) if config is not None]
        self._earlier = [weakref.ref(config) for config in alive]
        return [config for config in alive if config is not self._last and config != self._last]


_loaded = LoadedConfigs()


def loaded_configs() -> LoadedConfigs:
    """Return the record of the configurations that this process has loaded."""
    return _loaded


@contextlib.contextmanager
def as_current(config: Config) -> Iterator[Config]:
    """See :meth:`ppdet.core.config.node.Config.as_current`."""
    token = _entered.set(config)
    try:
        yield config
    finally:
        _entered.reset(token)


def implicit_config(call: str, remedy: str) -> Config | None:
    """Return the configuration meant by a call that names none, or None where nothing has been loaded.

    Args:
        call: the call as the user wrote it, for the message.
        remedy: the same call with the configuration passed to it.

    Raises:
        ConfigError: several configurations are loaded and none has been entered.
    """
    entered = _entered.get()
    if entered is not None:
        return entered
    if _loaded.differing():
        gc.collect()  # configurations that only unreachable cycles refer to are not in use
    others = _loaded.differing()
    last = _loaded.last()
    if last is not None and others:
        names = ", ".join(os.path.basename(config.filename) or "without a file" for config in [*others, last])
        raise ConfigError(
            f"{call} does not say which of the {len(others) + 1} loaded configurations ({names}) it refers to: "
            f"write {remedy}, or call it inside 'with config.as_current():'"
        )
    return last
