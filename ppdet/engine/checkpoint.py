"""Checkpoints of a run: enough to continue as if nothing had happened.

``<tag>.pdparams`` and ``<tag>.safetensors`` hold the weights to evaluate (the averaged ones where EMA is on),
``<tag>.pdopt`` everything else: optimizer, schedule, position, best AP, seed, loss scaling, average. The ``.pdopt`` is
written last and knows the fingerprint of the weights it belongs to, so a checkpoint is whole exactly if its three files
agree. Random streams need no state of their own: every one is a function of (seed, rank, step), see `ppdet.engine.env`.

Optimizer tensors are kept under the model's parameter names, not under Paddle's generated ones, which depend on what
else the process has built.
"""

from __future__ import annotations

import pickle
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import paddle
from paddle.amp import GradScaler
from paddle.nn import Layer
from paddle.optimizer import Optimizer

from deploy.common.atomic import atomic_writer
from ppdet.engine.unpickle import load_pickle
from ppdet.engine.weights import array_fingerprint, load_weights, read_state, state_arrays, write_state
from ppdet.optimizer import ModelEMA
from ppdet.utils.errors import UserError
from ppdet.utils.logger import setup_logger

__all__ = ["RunState", "TrainParts", "find_resumable", "remove_checkpoint", "resume", "save_checkpoint", "update_state"]

logger = setup_logger(__name__)

LAYOUT = "ppdet run 1"
"""Marks the layout of a ``.pdopt`` file."""


@dataclass
class RunState:
    """Where a training stands.

    Attributes:
        epoch: index of the epoch under way (or to be started).
        iteration: iterations of that epoch that are done.
        steps_per_epoch: iterations of a whole epoch.
        step: iterations done since the training began.
        seed: what all random streams derive from.
        best_ap: best AP of an evaluation so far, -1 before the first one.
        eval_due: an evaluation of these weights was asked for and has not finished.
    """

    epoch: int = 0
    iteration: int = 0
    steps_per_epoch: int = 0
    step: int = 0
    seed: int = 0
    best_ap: float = -1.0
    eval_due: bool = False


@dataclass
class TrainParts:
    """What training changes, apart from the position.

    Attributes:
        model: the bare model, not its DataParallel wrapper.
        optimizer: with its scheduler, if it has one.
        ema: average of the weights, or None.
        scaler: loss scaling of mixed precision, or None.
    """

    model: Layer
    optimizer: Optimizer
    ema: ModelEMA | None = None
    scaler: GradScaler | None = None


def _accumulator_key(key: str, names: Mapping[str, str]) -> str:
    """Turn Paddle's ``linear_0.w_0_velocity_0`` into ``fc.weight:velocity``.

    Args:
        key: name of an optimizer tensor.
        names: model name by Paddle's parameter name.
    """
    owners = [paddle_name for paddle_name in names if key.startswith(paddle_name + "_")]
    if not owners:
        return key
    owner = max(owners, key=len)
    kind = re.sub(r"^fp32_master_\d+_", "", key[len(owner) + 1 :])
    return f"{names[owner]}:{re.sub(r'_[0-9]+$', '', kind)}"


def optimizer_arrays(model: Layer, optimizer: Optimizer) -> dict[str, np.ndarray]:
    """Copy an optimizer's tensors to the host, by ``<parameter>:<kind>``."""
    names = {parameter.name: name for name, parameter in model.named_parameters()}
    arrays = {}
    for key, value in optimizer.state_dict().items():
        if key == "master_weights":
            arrays.update({f"{names[owner]}:master": np.array(tensor.numpy()) for owner, tensor in value.items()})
        elif isinstance(value, paddle.Tensor):
            arrays[_accumulator_key(key, names)] = np.array(value.numpy(), copy=True)
    return arrays


def _create_accumulators(optimizer: Optimizer, model: Layer) -> None:
    """Make the optimizer create its tensors, by a step on zero gradients. The weights move; load them afterwards."""
    parameters = [parameter for parameter in model.parameters() if not parameter.stop_gradient]
    paddle.add_n([(parameter.astype("float32") * 0.0).sum() for parameter in parameters]).backward()
    optimizer.step()
    optimizer.clear_grad()


def _fill_optimizer(model: Layer, optimizer: Optimizer, content: Mapping[str, Any], file: Path) -> None:
    """Write saved tensors and the schedule's position into an optimizer that has created its tensors.

    Raises:
        UserError: a tensor of the optimizer is missing in the file or has another shape.
    """
    names = {parameter.name: name for name, parameter in model.named_parameters()}
    arrays = content["optimizer"]

    def saved(key: str, tensor: paddle.Tensor) -> np.ndarray:
        array = arrays.get(key)
        if array is None or array.size != int(np.prod(tensor.shape)):
            fault = "lacks" if array is None else "has in another shape"
            raise UserError(f"{file} {fault} the optimizer's '{key}': it belongs to another configuration")
        return np.asarray(array).reshape(tensor.shape)

    state: dict[str, Any] = {}
    if content["LR_Scheduler"] is not None:
        state["LR_Scheduler"] = content["LR_Scheduler"]
    elif _scheduler(optimizer) is not None:
        raise UserError(f"{file} was trained with a constant learning rate: it belongs to another configuration")
    for key, value in optimizer.state_dict().items():
        if key == "master_weights":
            state[key] = {owner: saved(f"{names[owner]}:master", tensor) for owner, tensor in value.items()}
        elif isinstance(value, paddle.Tensor):
            state[key] = saved(_accumulator_key(key, names), value)
    optimizer.set_state_dict(state)


def _scheduler(optimizer: Optimizer) -> Any:
    """Return the optimizer's learning rate scheduler, None for a constant rate."""
    rate = optimizer._learning_rate
    return rate if isinstance(rate, paddle.optimizer.lr.LRScheduler) else None


def save_checkpoint(stem: str | Path, parts: TrainParts, state: RunState) -> None:
    """Write ``<stem>.pdparams``, ``<stem>.safetensors`` and ``<stem>.pdopt``.

    Raises:
        UserError: a file cannot be written; files of an earlier checkpoint stay whole.
    """
    raw = state_arrays(parts.model)
    weights = raw
    if parts.ema is not None:
        weights = {
            name: np.array(value.astype("float32").numpy() if "float" in str(value.dtype) else value.numpy())
            for name, value in parts.ema.weights().items()
        }
    write_state(weights, stem)
    scheduler = _scheduler(parts.optimizer)
    content: dict[str, Any] = {
        "layout": LAYOUT,
        "state": asdict(state),
        "last_epoch": state.epoch,
        "fingerprint": array_fingerprint(weights),
        "optimizer": optimizer_arrays(parts.model, parts.optimizer),
        "LR_Scheduler": None if scheduler is None else scheduler.state_dict(),
        "scaler": None if parts.scaler is None else parts.scaler.state_dict(),
        "ema": None if parts.ema is None else parts.ema.state_dict(),
        "model": None if parts.ema is None else raw,
    }
    _write_pdopt(stem, content)
    logger.info("saved %s.pdparams, .pdopt and .safetensors", stem)


def _plain(value: Any) -> Any:
    """Turn tensors within plain containers into arrays, so that the file holds nothing else."""
    if isinstance(value, paddle.Tensor):
        return np.array(value.numpy(), copy=True)
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_plain(item) for item in value)
    return value


def _write_pdopt(stem: str | Path, content: Mapping[str, Any]) -> None:
    with atomic_writer(f"{stem}.pdopt") as stream:
        pickle.dump(_plain(content), stream, protocol=4)


def update_state(stem: str | Path, state: RunState) -> None:
    """Write a new position (best AP, evaluation done) into an existing checkpoint.

    Raises:
        UserError: the file cannot be read or written.
    """
    content = _read_pdopt(Path(f"{stem}.pdopt"))
    _write_pdopt(stem, {**content, "state": asdict(state)})


def remove_checkpoint(stem: str | Path) -> None:
    """Delete the three files of a checkpoint, the one that makes it whole first."""
    for suffix in (".pdopt", ".pdparams", ".safetensors"):
        Path(f"{stem}{suffix}").unlink(missing_ok=True)


def _read_pdopt(file: Path) -> dict[str, Any]:
    content = load_pickle(file)
    if not isinstance(content, dict) or content.get("layout") != LAYOUT:
        raise UserError(
            f"{file} was not written by this project's training; start from its weights with -o pretrain_weights=…"
        )
    return content


def _stem(path: str | Path) -> Path:
    """Drop a checkpoint extension, if there is one."""
    given = Path(path).expanduser()
    return given.with_suffix("") if given.suffix in (".pdparams", ".pdopt", ".safetensors") else given


def find_resumable(run_dir: str | Path) -> Path:
    """Return the newest whole checkpoint of a run folder (path without extension), whatever its name.

    Raises:
        UserError: there is none.
    """
    found = sorted(Path(run_dir).glob("*.pdopt"), key=lambda file: file.stat().st_mtime, reverse=True)
    best: tuple[int, Path] | None = None
    for file in found:
        try:
            content = _read_pdopt(file)
            if best is not None and content["state"]["step"] <= best[0]:
                continue
            if array_fingerprint(read_state(f"{_stem(file)}.pdparams")) != content["fingerprint"]:
                raise UserError(f"{file} and the weights beside it are of different moments")
        except UserError as error:
            logger.warning("passed over: %s", error)
            continue
        best = (content["state"]["step"], _stem(file))
    if best is None:
        raise UserError(f"no checkpoint to resume from in {run_dir}; name one with -r PATH, or train without -r")
    return best[1]


def resume(path: str | Path, parts: TrainParts) -> RunState:
    """Put a checkpoint back into freshly built parts.

    Args:
        path: with or without extension.
        parts: model, optimizer and so on, built from the run's configuration and not yet trained.

    Returns:
        Where the training stood.

    Raises:
        UserError: files are missing, damaged, of different moments, or of another configuration.
    """
    stem = _stem(path)
    file = Path(f"{stem}.pdopt")
    if not file.is_file():
        raise UserError(f"cannot resume from {stem}: {file} does not exist")
    content = _read_pdopt(file)
    if content["optimizer"]:
        _create_accumulators(parts.optimizer, parts.model)
    weights = load_weights(parts.model, f"{stem}.pdparams")
    if array_fingerprint(weights) != content["fingerprint"]:
        raise UserError(f"{stem}.pdparams and {file} are of different moments; resume from another checkpoint")
    if (parts.ema is None) != (content["ema"] is None):
        raise UserError(f"{file} was trained {'without' if parts.ema else 'with'} use_ema; set use_ema as it was")
    if parts.ema is not None:
        tensors = parts.model.state_dict()
        for name, array in content["model"].items():
            tensors[name].set_value(np.asarray(array).astype(tensors[name].numpy().dtype))
        parts.ema.set_state_dict(content["ema"])
    _fill_optimizer(parts.model, parts.optimizer, content, file)
    if parts.scaler is not None and content["scaler"]:
        parts.scaler.load_state_dict(content["scaler"])
    known = {item.name for item in fields(RunState)}
    state = RunState(**{key: value for key, value in content["state"].items() if key in known})
    logger.info("resumed from %s: epoch %d, iteration %d", stem, state.epoch, state.iteration)
    return state
