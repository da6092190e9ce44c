"""Top-level keys of a configuration that configure no class: their types, and keys that are refused or ignored."""

from __future__ import annotations

from typing import Annotated, Any, Optional

from ppdet.core.config.errors import ConfigError, located
from ppdet.core.config.ranges import ClassCount, OneOf, Provides, SemanticClassCount
from ppdet.core.config.settings import RuntimeSettings, field_types
from ppdet.utils.logger import setup_logger

__all__ = ["DATASETS", "RUNTIME_KEYS", "check_obsolete", "explain_ineffective"]

logger = setup_logger(__name__)

MODEL_KEYS: dict[str, Any] = {
    "num_classes": ClassCount,
    "semantic_num_classes": SemanticClassCount,
    "norm_type": Annotated[str, OneOf("bn", "sync_bn", "gn")],
}
"""Types of the keys that several classes of the models share."""

RUNTIME_KEYS: dict[str, Any] = {**field_types(RuntimeSettings), **MODEL_KEYS}
"""Types of the keys that configure no class: the settings of the run, and the shared keys of the models."""

DATASETS: dict[str, Any] = {
    "TrainDataset": Optional[Annotated[Any, Provides("__len__")]],
    "EvalDataset": Optional[Annotated[Any, Provides("__len__")]],
    "TestDataset": Optional[Annotated[Any, Provides("__len__", "set_images")]],
}
"""Types of the keys of data sets, whose values are tagged constructor calls or mappings with ``name``."""

_OBSOLETE = {
    "sync_bn": "write norm_type: sync_bn",
    "log_every": "write log_iter",
    "output_dir": "training writes into save_dir; prediction and export have the option --output_dir",
}
"""Keys that other projects use for something else, with what to write instead."""

_INEFFECTIVE = {
    "to_static": "training always runs in dynamic graph mode",
    "bias": "it belongs to the evaluation of rotated boxes and keypoints",
    "fleet": "several processes train with DataParallel, without fleet",
}
"""Keys of PaddleDetection that have no effect here, with the reason."""

_explained: set[str] = set()


def check_obsolete(key: str, origin: str | None) -> None:
    """Refuse a key that has another name here.

    Raises:
        ConfigError: the message says what to write instead.
    """
    if key in _OBSOLETE:
        raise ConfigError(f"'{key}' is not a configuration key{located(origin)}: {_OBSOLETE[key]}")


def explain_ineffective(key: str, value: Any, origin: str | None) -> bool:
    """Return whether a key has no effect; log this once per key, unless its value switches it off."""
    if key in _INEFFECTIVE and value not in (None, False, 0, "") and key not in _explained:
        _explained.add(key)
        logger.warning("'%s' has no effect%s: %s", key, located(origin), _INEFFECTIVE[key])
    return key in _INEFFECTIVE
