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
"""Value of ``--resume``: continue the run of the folder if there is one, otherwise start it."""

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
"""What a training writes in addition to checkpoints and ``train.log``."""


def _files(folder: Path, name: re.Pattern[str]) -> list[Path]:
    files = (file for file in folder.glob("*.*") if file.suffix in (*_WEIGHTS, ".pdopt") and name.fullmatch(file.stem))
    return sorted(files)


def halfway_stems(folder: Path) -> list[Path]:
    """Return mid-epoch checkpoints (``<epoch>_<iteration>``, without extension), complete or not."""
    return sorted({file.with_suffix("") for file in _files(folder, _HALFWAY)})


def epoch_checkpoints(folder: Path) -> list[int]:
    """Return the numbers of the checkpoints written at the ends of epochs, ascending; the first epoch has number 0."""
    return sorted({int(file.stem) for file in _files(folder, _EPOCH)})


def checkpoints(folder: Path) -> list[str]:
    """Return the names, without extension, of the checkpoints and weights that a folder holds.

    Mid-epoch weights count only with their ``.pdopt`` file; without it they remain from a deletion that was cut off.
    """
    halfway = [file for file in _files(folder, _HALFWAY) if file.suffix == ".pdopt"]
    return sorted({file.stem for file in [*_files(folder, _STEM), *halfway]})


def has_checkpoint(folder: Path) -> bool:
    """Return whether a folder holds a checkpoint to resume from, complete or not."""
    return any(file.suffix == ".pdopt" for name in (_STEM, _HALFWAY) for file in _files(folder, name))


def check_start(folder: Path, resume_from: str | None, overwrite: bool) -> None:
    """Check that a training may start in a folder; two runs in one folder would destroy each other's files.

    Args:
        folder: of the run; it need not exist.
        resume_from: checkpoint to continue from, empty or `AUTO` for one of this folder; None for a fresh start.
        overwrite: an earlier run in the folder may be removed.

    Raises:
        UserError: the folder holds another run, or the options contradict each other.
    """
    if resume_from not in (None, "", AUTO):
        _check_resume_path(Path(str(resume_from)).expanduser(), folder)
    own = resume_from in ("", AUTO) or (
        resume_from is not None and checkpoint_stem(resume_from).parent.resolve() == folder.resolve()
    )
    if own and overwrite:
        raise UserError(f"-r continues the run in {folder} and --overwrite removes it: give only one of them")
    existing = [] if own or overwrite else checkpoints(folder)
    if existing:
        names = ", ".join(existing[:4]) + (", …" if len(existing) > 4 else "")
        held = f"{folder} holds an earlier run ({names})"
        if resume_from is not None:
            raise UserError(
                f"{resume_from} is not a checkpoint of {folder}, and {held}: continue this run with -r alone, or the "
                "other one in another folder by adding -o run_name=NAME or -o save_dir=DIR"
            )
        raise UserError(
            f"{held}: continue it with -r, replace it with --overwrite, or keep it and "
            "choose another folder with -o run_name=NAME or -o save_dir=DIR"
        )


def _check_resume_path(path: Path, folder: Path) -> None:
    """Check that ``-r`` names a checkpoint, not a folder of checkpoints or another file.

    Raises:
        UserError: it names something else.
    """
    if not path.is_dir():
        if path.is_file() and path.suffix not in (*_WEIGHTS, ".pdopt"):
            raise UserError(
                f"{path} is not a checkpoint: pass one such as {folder / 'model_final'}, or use -r without a value"
            )
        return
    if Path(f"{checkpoint_stem(path)}.pdopt").is_file():  # a checkpoint has the same name as the folder
        return
    stems = [stem for stem in checkpoints(path) if (path / f"{stem}.pdopt").is_file()]
    if not stems:
        raise UserError(f"-r {path}: this folder has no checkpoint to resume from")
    raise UserError(
        f"-r {path} is a folder; name one of its checkpoints ({', '.join(stems[:4])}): -r {path / stems[-1]}"
    )


def clear(folder: Path) -> None:
    """Delete what an earlier run wrote, except for ``train.log``, which is open, and files of other programs."""
    files = [*_files(folder, _STEM), *_files(folder, _HALFWAY)]
    files += [file for pattern in _OTHERS for file in folder.glob(pattern)]
    # Delete the .pdopt files first: without it, the rest does not count as a checkpoint if the deletion is cut off.
    for file in sorted(files, key=lambda file: file.suffix != ".pdopt"):
        file.unlink(missing_ok=True)
