"""The compiled C++ extension: the path of its library, what it was built for, and registration of its operators.

`ppdet.ext_op` builds the library inside of a checkout. An export that uses it takes a copy along, so that a copy of
``deploy`` runs the exported folder without the checkout. A compiled library fits one version of Paddle, one version of
Python, one platform and the processors that have the instructions it was compiled for; ``infer_cfg.yml`` records them
under ``export.extension_build``.
"""

from __future__ import annotations

import os
import platform
import sys
import zlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import paddle

from deploy.common.errors import UserError
from deploy.common.printable import one_line, shown

__all__ = ["FILE", "HOW_TO_BUILD", "NAME", "THREADS", "Build", "library", "register", "sources"]

NAME = "htc_ext"
FILE = f"{NAME}.so"
"""Name of the library, in an exported folder, too."""
HOW_TO_BUILD = "build it for this machine: python -m ppdet.ext_op"

_HOME = Path(__file__).resolve().parents[2] / "ppdet" / "ext_op"
_CPUINFO = Path("/proc/cpuinfo")
_INSTRUCTIONS = ("avx", "fma", "f16c", "bmi", "amx")
"""Prefixes of the processor features that the compiler makes use of (``-march=native``)."""
THREADS = "HTC_EXT_THREADS"
"""Environment variable: threads of an operator; by default one for each core."""

_registered = False


@dataclass(frozen=True)
class Build:
    """What a library was compiled for.

    Attributes:
        paddle: version of Paddle, whose C++ interface changes with every release.
        python: version of Python, such as ``3.11``.
        platform: such as ``linux-x86_64``.
        processor: instruction sets of the processor, sorted.
    """

    paddle: str
    python: str
    platform: str
    processor: tuple[str, ...] = ()

    @classmethod
    def current(cls) -> Build:
        """Return what a library for this process has to be compiled for."""
        return cls(
            paddle=paddle.__version__,
            python=f"{sys.version_info[0]}.{sys.version_info[1]}",
            platform=f"{sys.platform}-{platform.machine()}",
            processor=_instruction_sets(),
        )

    @classmethod
    def from_config(cls, record: Any, source: str) -> Build:
        """Read ``export.extension_build``.

        Args:
            record: the entry of the file.
            source: name of the file, for messages.

        Raises:
            UserError: the entry is not such a record.
        """
        keys = ("paddle", "python", "platform")
        processor = record.get("processor") or [] if isinstance(record, Mapping) else None
        if (
            not isinstance(record, Mapping)
            or not all(isinstance(record.get(key), str) for key in keys)
            or not isinstance(processor, list)
            or not all(isinstance(name, str) for name in processor)
        ):
            raise UserError(
                f"{source}: export.extension_build is {shown(record)}, expected what the extension was built for: "
                "export again"
            )
        return cls(**{key: one_line(record[key], 40) for key in keys}, processor=tuple(processor))

    def to_config(self) -> dict[str, Any]:
        """Return the record for ``infer_cfg.yml``."""
        return {**asdict(self), "processor": list(self.processor)}

    def mismatch(self) -> str | None:
        """Say why the library does not run in this process, such as ``for Paddle 3.3.1, this is Paddle 2.6.2``."""
        current = Build.current()
        pairs = (
            ("Paddle ", self.paddle, current.paddle),
            ("Python ", self.python, current.python),
            ("", self.platform, current.platform),
        )
        for label, built, running in pairs:
            if built != running:
                return f"was built for {label}{built}, this is {label}{running}"
        missing = sorted(set(self.processor) - set(current.processor))
        if missing and current.processor:
            names = one_line(", ".join(missing), 60)
            return f"was built for a processor with {names}, which this one lacks"
        return None


def _instruction_sets() -> tuple[str, ...]:
    """Return the instruction sets of this processor that matter; empty where the system does not list them."""
    try:
        text = _CPUINFO.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ()
    line = next((line for line in text.splitlines() if line.startswith("flags")), "")
    return tuple(sorted({flag for flag in line.partition(":")[2].split() if flag.startswith(_INSTRUCTIONS)}))


def library() -> Path:
    """Return the library of this checkout, whether or not it exists; its folder names the Paddle and the source."""
    source = b"".join(path.read_bytes() for path in sources())
    return _HOME / "build" / f"paddle-{paddle.__version__}-{zlib.crc32(source):08x}" / NAME / FILE


def sources() -> list[Path]:
    """Return the C++ files."""
    return sorted(_HOME.glob("*.cc")) + sorted(_HOME.glob("*.h"))


def register(threads: int | None = None, exported: Path | None = None, build: Build | None = None) -> None:
    """Register the operators with Paddle, once per process; afterwards, graphs that contain them can be run.

    Args:
        threads: number of threads of an operator, in the whole process; None leaves it as it is.
        exported: the copy of the library in an exported folder, used if it exists and fits; otherwise the library of
            this checkout is.
        build: what the copy was built for.

    Raises:
        UserError: there is no library that fits.
    """
    global _registered
    if threads is not None:
        os.environ[THREADS] = str(threads)
    if _registered:
        return
    path = _choose(exported, build)
    from paddle.utils.cpp_extension.extension_utils import load_op_meta_info_and_register_op

    try:
        load_op_meta_info_and_register_op(str(path))
    except (RuntimeError, OSError, ValueError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[-1]
        raise UserError(f"cannot load the extension {path}: {one_line(reason, 200)}; {HOW_TO_BUILD}") from error
    _registered = True


def _choose(exported: Path | None, build: Build | None) -> Path:
    """Return the library to load.

    Raises:
        UserError: there is none for this process.
    """
    mismatch = None
    if exported is not None and build is not None and exported.is_file():
        mismatch = build.mismatch()
        if mismatch is None:
            return exported
    if library().is_file():
        return library()
    if mismatch is not None:
        raise UserError(
            f"{exported} {mismatch}: export again where both are the same, or without -o use_ext_op=true; in a "
            f"checkout of the project, {HOW_TO_BUILD}"
        )
    raise UserError(f"the extension for Paddle {paddle.__version__} was not built; {HOW_TO_BUILD}")
