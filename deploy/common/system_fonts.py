"""System fonts, drawn with Pillow; none are available if Pillow is not installed."""

from __future__ import annotations

import importlib.util
import logging
import os
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

__all__ = ["PillowFont", "pillow_fonts"]

logger = logging.getLogger(__name__)

_PREFERRED = (
    *("notosanscjk-regular", "notosanssc-regular", "notosanscjksc-regular", "sourcehansanssc-regular", "wqy-microhei"),
    *("wqy-zenhei", "droidsansfallback", "msyh", "pingfang", "hiragino sans gb", "stheiti", "simhei", "simsun"),
    *("arial unicode", "arialuni", "segoeui", "seguisym", "dejavusans", "notosans-regular", "freesans"),
    *("notosansarabic-regular", "notosanshebrew-regular", "notosansdevanagari-regular", "notosansthai-regular"),
    *("nirmala", "leelawui", "unifont"),
)
"""Prefixes of file names in lower case, in order of preference."""
_SUFFIXES = (".ttf", ".ttc", ".otf")
_MOST_FILES = 20_000
"""Maximum number of font files to consider."""


class PillowFont:
    """A font file.

    Args:
        path: path of the file.

    Attributes:
        shapes: whether Pillow reorders and joins letters itself, as required for Arabic and Hindi.

    Raises:
        OSError: the file cannot be read.
    """

    def __init__(self, path: str) -> None:
        from PIL import features

        self._path = path
        self.shapes = bool(features.check("raqm"))
        self._missing = self._glyph("\u0378")  # an unassigned code point

    @lru_cache(maxsize=64)  # noqa: B019  fonts live as long as the process
    def _at(self, size: int) -> Any:
        from PIL import ImageFont

        return ImageFont.truetype(self._path, size)

    def _glyph(self, letter: str) -> tuple[tuple[int, int], bytes]:
        mask = self._at(24).getmask(letter)
        return mask.size, bytes(mask)

    def has(self, letter: str) -> bool:
        """Return whether the font has a glyph for a letter."""
        return letter.isspace() or self._glyph(letter) != self._missing

    def measure(self, text: str, size: int) -> tuple[int, int, int]:
        """Return width, ascent and descent of a text in pixels for a font size in pixels."""
        font = self._at(size)
        ascent, descent = font.getmetrics()
        left, _, right, _ = font.getbbox(text)
        return (
            max(right, round(font.getlength(text))) - min(left, 0),
            min(ascent, size),
            min(descent, round(size * 0.3)),
        )

    def write(self, canvas: np.ndarray, text: str, x: int, foot: int, size: int, ink: tuple[int, int, int]) -> None:
        """Draw text into an image, uint8 [h, w, 3], in place, starting at ``x`` with the baseline at ``foot``."""
        from PIL import Image, ImageDraw

        width = self.measure(text, size)[0]
        left, top = max(0, x), max(0, foot - 2 * size)
        right, bottom = min(canvas.shape[1], x + width + 2), min(canvas.shape[0], foot + size)
        if right <= left or bottom <= top:
            return
        part = Image.fromarray(np.ascontiguousarray(canvas[top:bottom, left:right]))
        ImageDraw.Draw(part).text((x - left, foot - top), text, font=self._at(size), fill=ink, anchor="ls")
        canvas[top:bottom, left:right] = np.asarray(part)


@lru_cache(maxsize=1)
def pillow_fonts() -> list[PillowFont]:
    """Return installed fonts with many letters in order of preference, starting with LABEL_FONT of the environment."""
    if importlib.util.find_spec("PIL") is None:
        return []
    files: dict[str, str] = {}
    for _, path in zip(range(_MOST_FILES), _font_files()):
        stem = path.stem.lower()
        preferred = next((name for name in _PREFERRED if stem == name or stem.startswith(f"{name}-l")), None)
        if preferred is not None:
            files.setdefault(preferred, str(path))
    custom = os.environ.get("LABEL_FONT")
    paths = [*([custom] if custom else []), *(files[name] for name in _PREFERRED if name in files)]
    fonts = []
    for file in paths:
        try:
            fonts.append(PillowFont(file))
        except (OSError, ValueError) as error:
            logger.warning("the font %s cannot be read: %s", file, error)
    return fonts


def _font_files() -> Iterator[Path]:
    home = Path.home()
    folders = [
        *(home / ".fonts", home / ".local/share/fonts", home / "Library/Fonts"),
        *map(Path, ("/usr/local/share/fonts", "/usr/share/fonts", "/System/Library/Fonts", "/Library/Fonts")),
        *map(Path, ("C:/Windows/Fonts",)),
    ]
    matplotlib = importlib.util.find_spec("matplotlib")
    if matplotlib is not None and matplotlib.origin:
        folders.append(Path(matplotlib.origin).parent / "mpl-data" / "fonts" / "ttf")
    for folder in folders:
        for parent, _, names in os.walk(folder):
            yield from (Path(parent, name) for name in sorted(names) if name.lower().endswith(_SUFFIXES))
