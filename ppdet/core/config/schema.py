"""Checking a configuration against the constructors it feeds, before anything is built."""

from __future__ import annotations

import inspect
from typing import Any, Optional, Union

from ppdet.core.config.errors import ConfigError, hint, located
from ppdet.core.config.node import Config, ConfigDict, Descriptor
from ppdet.core.config.types import describe, matches
from ppdet.core.registry import ClassInfo, class_info, is_registered, registered_names

__all__ = ["RUNTIME_KEYS", "check_arguments", "check_reference", "validate"]

_Text = Optional[str]
_Dataset = Union[str, dict, None]

RUNTIME_KEYS: dict[str, Any] = {
    # device and process
    "use_gpu": bool,
    "use_xpu": bool,
    "use_ext_op": bool,
    "use_mlu": bool,
    "use_npu": bool,
    "use_gcu": bool,
    "seed": Optional[int],
    "find_unused_parameters": bool,
    "sync_bn": bool,
    "to_static": bool,
    "fleet": bool,
    # model
    "architecture": str,
    "num_classes": int,
    "semantic_num_classes": int,
    "norm_type": str,
    "bias": bool,
    "weights": _Text,
    "pretrain_weights": _Text,
    # schedule, logs, files
    "epoch": int,
    "log_iter": int,
    "log_every": int,
    "snapshot_epoch": int,
    "snapshot_iter": int,
    "max_keep_checkpoints": Optional[int],
    "save_safetensors": bool,
    "max_nonfinite_steps": int,
    "max_broken_share": float,
    "save_dir": str,
    "run_name": Union[str, int, None],
    "output_dir": str,
    "worker_num": int,
    "print_flops": bool,
    "print_params": bool,
    "use_vdl": bool,
    "vdl_log_dir": _Text,
    # averaging and mixed precision
    "use_ema": bool,
    "ema_decay": float,
    "ema_decay_type": str,
    "amp": bool,
    "amp_level": str,
    "amp_dtype": str,
    "init_loss_scaling": float,
    "custom_white_list": Optional[list[str]],
    "custom_black_list": Optional[list[str]],
    "accumulate_steps": int,
    "auto_scale_lr": Union[bool, int],
    "global_loss_norm": bool,
    # evaluation and export
    "metric": str,
    "output_eval": _Text,
    "save_prediction_only": bool,
    "classwise": bool,
    "draw_threshold": float,
    "export": dict,
    # data: a tagged constructor call, or a mapping with `name`
    "TrainDataset": _Dataset,
    "EvalDataset": _Dataset,
    "TestDataset": _Dataset,
}
"""Top-level keys that are neither a class nor shared by one, with their types."""

_DATASETS = ("TrainDataset", "EvalDataset", "TestDataset")


def validate(config: Config) -> None:
    """Check every key, class name and simple type of a configuration.

    Raises:
        ConfigError: the first mistake found, with its key, place and the nearest valid name.
    """
    infos = [class_info(name) for name in registered_names()]
    shared = {name: info.annotations.get(name, Any) for info in infos for name in info.shared}
    for key, value in config.items():
        origin = config.origin(key)
        if is_registered(key):
            check_arguments(class_info(key), value, key, origin)
        elif key in _DATASETS:
            check_reference(value, key, origin)
        elif key in RUNTIME_KEYS:
            _check_type(value, RUNTIME_KEYS[key], key, origin)
        elif key in shared:
            _check_type(value, shared[key], key, origin)
        else:
            valid = [*RUNTIME_KEYS, *shared, *(info.name for info in infos)]
            raise ConfigError(f"unknown key '{key}'{located(origin)}{hint(key, valid)}")
    if config.get("architecture") is not None:
        class_info(config["architecture"], "architecture", config.origin("architecture"))


def check_arguments(info: ClassInfo, section: Any, path: str, origin: str | None = None) -> None:
    """Check names and types of the arguments in one section; None is an empty section.

    Args:
        info: the class whose constructor takes them.
        section: mapping of arguments. Arguments in ``__inject__`` may name classes.
        path: dotted key of the section, for messages.
        origin: where the section was written.

    Raises:
        ConfigError: not a mapping, an unknown argument, a value of the wrong type, an unknown class.
    """
    if section is None:
        return
    if not isinstance(section, dict):
        raise ConfigError(f"'{path}' takes a mapping of arguments, got {_show(section)}{located(origin)}")
    for key, value in section.items():
        where = f"{path}.{key}"
        place = _origin(section, key) or origin
        if key not in info.parameters:
            if info.open_ended:
                continue
            raise ConfigError(f"unknown key '{where}'{located(place)}{hint(str(key), info.parameters)}")
        if key in info.inject:
            check_reference(value, where, place, info.inject[key])
            continue
        _check_nested(value, where, place)
        if key in info.annotations and not _is_call(value) and not _is_default(value, info.parameters[key]):
            _check_type(value, info.annotations[key], where, place)


def check_reference(value: Any, path: str, origin: str | None = None, default: str | None = None) -> None:
    """Check a value that stands for an object: class name, mapping with ``name``, tagged call, or a list of these.

    Args:
        value: the value; built objects and None pass.
        path: dotted key, for messages.
        origin: where the value was written.
        default: class of a mapping without ``name``; where there is none such a mapping is plain data.

    Raises:
        ConfigError: an unknown class, or arguments that it does not take.
    """
    if isinstance(value, str):
        class_info(value, f"class for '{path}':", origin)
    elif isinstance(value, (list, tuple)):
        for index, item in enumerate(value):
            check_reference(item, f"{path}.{index}", origin, default)
    elif isinstance(value, dict) and (default is not None or "name" in value):
        name = value.get("name", default)
        if not isinstance(name, str):
            raise ConfigError(f"'{path}.name' takes the name of a class, got {_show(name)}{located(origin)}")
        info = class_info(name, f"class for '{path}':", _origin(value, "name") or origin)
        arguments = ConfigDict()
        for key, item in value.items():
            if key != "name":
                arguments.put(key, item, _origin(value, key))
        check_arguments(info, arguments, path, origin)
    else:
        _check_nested(value, path, origin)


def _check_nested(value: Any, path: str, origin: str | None) -> None:
    """Check the tagged calls anywhere inside a value."""
    if isinstance(value, Descriptor):
        place = value.origin or origin
        info = class_info(value.class_name, f"tag at '{path}':", place)
        check_arguments(info, value.arguments, path, place)
    elif isinstance(value, (list, tuple)):
        for index, item in enumerate(value):
            _check_nested(item, f"{path}.{index}", origin)
    elif isinstance(value, dict):
        for key, item in value.items():
            _check_nested(item, f"{path}.{key}", _origin(value, key) or origin)


def _is_call(value: Any) -> bool:
    """Return whether building the value gives an object whose type is not known yet."""
    if isinstance(value, (list, tuple)):
        return any(_is_call(item) for item in value)
    return isinstance(value, Descriptor)


def _is_default(value: Any, parameter: inspect.Parameter) -> bool:
    """Return whether the value is the default itself: `x: int = None` is careless, yet no user's mistake."""
    return value is None and parameter.default is None


def _check_type(value: Any, annotation: Any, path: str, origin: str | None) -> None:
    if not matches(value, annotation):
        raise ConfigError(f"'{path}' takes {describe(annotation)}, got {_show(value)}{located(origin)}")


def _show(value: Any) -> str:
    text = "null" if value is None else str(value).lower() if isinstance(value, bool) else repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _origin(section: dict, key: str) -> str | None:
    return section.origin(key) if isinstance(section, ConfigDict) else None
