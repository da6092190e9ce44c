"""Top-level keys of a configuration which are neither a class nor shared by one: types, ranges, and those of no use."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Optional, Union

from ppdet.core.config.errors import ConfigError, located
from ppdet.core.config.ranges import (
    ClassCount,
    DecayType,
    Entries,
    Fraction,
    FractionBelowOne,
    NonNegative,
    NonNegativeInt,
    OneOf,
    Positive,
    PositiveInt,
    Provides,
    SemanticClassCount,
    WorkerCount,
)
from ppdet.utils.logger import setup_logger

__all__ = ["DATASETS", "RUNTIME_KEYS", "check_obsolete", "explain_ineffective"]

logger = setup_logger(__name__)

_Text = Optional[str]

RUNTIME_KEYS: dict[str, Any] = {
    # device and process
    "use_gpu": bool,
    "use_xpu": bool,
    "use_ext_op": bool,
    "use_mlu": bool,
    "use_npu": bool,
    "use_gcu": bool,
    "seed": Optional[NonNegativeInt],
    "find_unused_parameters": bool,
    # model
    "architecture": str,
    "num_classes": ClassCount,
    "semantic_num_classes": SemanticClassCount,
    "norm_type": Annotated[str, OneOf("bn", "sync_bn", "gn")],
    "weights": _Text,
    "pretrain_weights": _Text,
    # schedule, logs, files
    "epoch": PositiveInt,
    "log_iter": PositiveInt,
    "snapshot_epoch": PositiveInt,
    "snapshot_iter": NonNegativeInt,
    "max_keep_checkpoints": Optional[PositiveInt],
    "save_safetensors": bool,
    "max_nonfinite_steps": NonNegativeInt,
    "max_broken_share": FractionBelowOne,
    "save_dir": str,
    "run_name": Union[str, int, None],
    "worker_num": WorkerCount,
    "join_timeout": NonNegative,
    "heartbeat_timeout": NonNegative,
    "progress_timeout": NonNegative,
    "print_flops": bool,
    "print_params": bool,
    "use_vdl": bool,
    "vdl_log_dir": _Text,
    # averaging and mixed precision
    "use_ema": bool,
    "ema_decay": FractionBelowOne,
    "ema_decay_type": DecayType,
    "amp": bool,
    "amp_level": Annotated[str, OneOf("O1", "O2")],
    "amp_dtype": Annotated[str, OneOf("auto", "float16", "bfloat16")],
    "init_loss_scaling": Positive,
    "custom_white_list": Optional[Sequence[str]],
    "custom_black_list": Optional[Sequence[str]],
    "accumulate_steps": PositiveInt,
    "auto_scale_lr": Union[bool, PositiveInt],
    "global_loss_norm": bool,
    # evaluation and export
    "metric": Annotated[str, OneOf("COCO")],
    "output_eval": _Text,
    "save_prediction_only": bool,
    "classwise": bool,
    "draw_threshold": Fraction,
    "export": Annotated[dict, Entries({"post_process": bool, "nms": bool, "benchmark": bool, "fuse_conv_bn": bool})],
}
"""Type of each key."""

DATASETS: dict[str, Any] = {
    "TrainDataset": Optional[Annotated[Any, Provides("__len__")]],
    "EvalDataset": Optional[Annotated[Any, Provides("__len__")]],
    "TestDataset": Optional[Annotated[Any, Provides("__len__", "set_images")]],
}
"""Keys of data sets: a tagged constructor call, or a mapping with ``name``."""

_OBSOLETE = {
    "sync_bn": "write norm_type: sync_bn",
    "log_every": "write log_iter",
    "output_dir": "training writes into save_dir; prediction and export have the option --output_dir",
}
"""Keys that would change a result if they were known, with what to write instead."""

_INEFFECTIVE = {
    "to_static": "training always runs in dynamic graph mode",
    "bias": "it belongs to the evaluation of rotated boxes and keypoints",
    "fleet": "several processes train with DataParallel, without fleet",
}
"""Keys of PaddleDetection without effect here, with the reason."""

_explained: set[str] = set()


def check_obsolete(key: str, origin: str | None) -> None:
    """Refuse a key under which something else is meant.

    Raises:
        ConfigError: naming what to write instead.
    """
    if key in _OBSOLETE:
        raise ConfigError(f"'{key}' is no key of a configuration{located(origin)}: {_OBSOLETE[key]}")


def explain_ineffective(key: str, value: Any, origin: str | None) -> bool:
    """Return whether a key has no effect; say so once, unless it is switched off."""
    if key in _INEFFECTIVE and value not in (None, False, 0, "") and key not in _explained:
        _explained.add(key)
        logger.warning("'%s' has no effect%s: %s", key, located(origin), _INEFFECTIVE[key])
    return key in _INEFFECTIVE
