"""The folder of a run: the files that a training writes into it, and what a new training may do there."""

from __future__ import annotations

import re
from pathlib import Path

from ppdet.engine.training.checkpoint import checkpoint_stem
from ppdet.utils.errors import UserError

__all__ = [
    "AUTO",
    "LOG",
    "check_start",
    "checkpoints",
    "clear",
    "epoch_checkpoints",
    "halfway_stems",
    "has_checkpoint",
]

AUTO = "auto"
"""Value of ``--resume``: go on with the run of the folder where there is one, or else start it."""

LOG = "train.log"

_WEIGHTS = (".pdparams", ".safetensors")
_STEM = re.compile(r"[0-9]+|model_final|best_model")
_EPOCH = re.compile(r"[0-9]+")
_HALFWAY = re.compile(r"[0-9]+_[0-9]+")
_OTHERS = (
    "config.yml",
    "categories.json",
    "run.txt",
    "train_scalars.csv",
    "eval_scalars.csv",
    "curves.png",
    "nonfinite_[0-9]*.json",
    "vdl/vdlrecords.*.log",
)
"""What a training writes beside checkpoints and ``train.log``."""


def _files(folder: Path, name: re.Pattern[str]) -> list[Path]:
    found = (file for file in folder.glob("*.*") if file.suffix in (*_WEIGHTS, ".pdopt") and name.fullmatch(file.stem))
    return sorted(found)


def halfway_stems(folder: Path) -> list[Path]:
    """Checkpoints in the middle of an epoch (``<epoch>_<iteration>``, without extension), whole or not."""
    return sorted({file.with_suffix("") for file in _files(folder, _HALFWAY)})


def epoch_checkpoints(folder: Path) -> list[int]:
    """Numbers of the checkpoints written at the end of an epoch, ascending; 0 is that of the first epoch."""
    return sorted({int(file.stem) for file in _files(folder, _EPOCH)})


def checkpoints(folder: Path) -> list[str]:
    """Names of the checkpoints and weights that a run has left in a folder, without extension.

    Weights in the middle of an epoch count with their ``.pdopt`` alone: without it they are what remained of a
    deletion.
    """
    halfway = [file for file in _files(folder, _HALFWAY) if file.suffix == ".pdopt"]
    return sorted({file.stem for file in [*_files(folder, _STEM), *halfway]})


def has_checkpoint(folder: Path) -> bool:
    """Whether there is a checkpoint to go on from, whole or not."""
    return any(file.suffix == ".pdopt" for name in (_STEM, _HALFWAY) for file in _files(folder, name))


def check_start(folder: Path, resume_from: str | None, overwrite: bool) -> None:
    """Check that a training may begin in a folder: two runs in one folder would ruin each other.

    Args:
        folder: of the run; it may be missing.
        resume_from: checkpoint to go on from, empty or `AUTO` for one of this folder; None for a fresh start.
        overwrite: an earlier run in the folder may be removed.

    Raises:
        UserError: the folder holds another run, or the options contradict each other.
    """
    if resume_from not in (None, "", AUTO):
        _check_given(Path(str(resume_from)).expanduser(), folder)
    own = resume_from in ("", AUTO) or (
        resume_from is not None and checkpoint_stem(resume_from).parent.resolve() == folder.resolve()
    )
    if own and overwrite:
        raise UserError(f"-r goes on with the run in {folder} and --overwrite removes it: give one of them")
    found = [] if own or overwrite else checkpoints(folder)
    if found:
        names = ", ".join(found[:4]) + (", …" if len(found) > 4 else "")
        held = f"{folder} holds an earlier run ({names})"
        if resume_from is not None:
            raise UserError(
                f"{resume_from} is no checkpoint of {folder}, and {held}: go on with this one by -r alone, or with the "
                "other by adding -o run_name=NAME or -o save_dir=DIR"
            )
        raise UserError(
            f"{held}: go on with it by -r, replace it by --overwrite, or keep it and "
            "choose another folder by -o run_name=NAME or -o save_dir=DIR"
        )


def _check_given(given: Path, folder: Path) -> None:
    """Check what ``-r`` names: a checkpoint, not a folder of them or another file.

    Raises:
        UserError: it is something else.
    """
    if not given.is_dir():
        if given.is_file() and given.suffix not in (*_WEIGHTS, ".pdopt"):
            raise UserError(f"{given} is no checkpoint: -r takes one such as {folder / 'model_final'}, or stands alone")
        return
    if Path(f"{checkpoint_stem(given)}.pdopt").is_file():  # a folder beside a checkpoint of its name
        return
    stems = [stem for stem in checkpoints(given) if (given / f"{stem}.pdopt").is_file()]
    if not stems:
        raise UserError(f"-r {given}: this folder has no checkpoint to go on from")
    raise UserError(
        f"-r {given} is a folder; name one of its checkpoints ({', '.join(stems[:4])}): -r {given / stems[-1]}"
    )


def clear(folder: Path) -> None:
    """Delete what an earlier run wrote, other files and ``train.log`` (which is open) excepted."""
    files = [*_files(folder, _STEM), *_files(folder, _HALFWAY)]
    files += [file for pattern in _OTHERS for file in folder.glob(pattern)]
    # The .pdopt files first: a checkpoint whose deletion is cut off is none, instead of half of one.
    for file in sorted(files, key=lambda file: file.suffix != ".pdopt"):
        file.unlink(missing_ok=True)
