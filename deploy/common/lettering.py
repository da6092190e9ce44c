"""Letters on pictures: which renderer has them, how large they are, and drawing them.

ASCII is written in OpenCV's stroke font. Other scripts need OpenCV 5, whose built-in fonts have Chinese, Japanese,
Korean, Cyrillic, Greek, Hebrew and Arabic, or Pillow and a font of the system. A name that nothing at hand can write
becomes ASCII (accents dropped, emoji by name) or the class's number, and a warning lists the numbers once.
"""

from __future__ import annotations

import logging
import unicodedata
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple, Protocol

import cv2
import numpy as np

from deploy.common.bidi import runs_right_to_left, visual_order
from deploy.common.printable import shortened
from deploy.common.system_fonts import PillowFont, pillow_fonts

__all__ = ["Piece", "label_name", "measure", "pieces", "write"]

logger = logging.getLogger(__name__)

Ink = tuple[int, int, int]

_FONT = cv2.FONT_HERSHEY_SIMPLEX
_PIXELS = 30.0
"""Size of outline fonts, in pixels, where OpenCV's stroke font has scale 1."""
_SMALLEST = 11
"""Pixels of a Chinese character that can still be read."""
_LISTED = 30
"""Names that the warning lists."""


class Renderer(Protocol):
    """Something that writes text; ``scale`` is OpenCV's measure, in which 1 makes capitals of 21 pixels."""

    def glyphs(self, text: str) -> str:
        """The letters that are put one after the other for a text."""

    def has(self, letter: str) -> bool:
        """Whether there is a glyph for a letter."""

    def measure(self, text: str, scale: float) -> tuple[int, int, int]:
        """Width, ascent and descent in pixels."""

    def write(self, canvas: np.ndarray, text: str, x: int, foot: int, scale: float, ink: Ink) -> None:
        """Write on uint8 [h, w, 3], in place, from ``x`` on, with the base line at ``foot``."""


class _Strokes:
    """OpenCV's stroke font: ASCII."""

    def glyphs(self, text: str) -> str:
        """See `Renderer`."""
        return text

    def has(self, letter: str) -> bool:
        """See `Renderer`."""
        return letter.isascii() and letter.isprintable()

    def measure(self, text: str, scale: float) -> tuple[int, int, int]:
        """See `Renderer`; the same height whatever the letters are, so that plates in a row look alike."""
        (width, _), _ = cv2.getTextSize(text, _FONT, scale, _stroke(scale))
        (_, cap), base = cv2.getTextSize("Ag", _FONT, scale, _stroke(scale))
        return width, cap, max(1, min(base, round(cap * 0.4)))

    def write(self, canvas: np.ndarray, text: str, x: int, foot: int, scale: float, ink: Ink) -> None:
        """See `Renderer`."""
        cv2.putText(canvas, text, (x, foot), _FONT, scale, ink, _stroke(scale), cv2.LINE_AA)


def _stroke(scale: float) -> int:
    return max(1, round(scale * 2.1))


class _Outlines:
    """OpenCV 5's built-in outline fonts.

    Args:
        joins: write Arabic letters in their joining forms.
    """

    def __init__(self, joins: bool) -> None:
        self._joins = joins
        self._face: Any = cv2.FontFace("sans")
        self._missing = self._glyph("\u0378")  # a code point without a letter

    def glyphs(self, text: str) -> str:
        """See `Renderer`."""
        return visual_order(text, self._joins)

    def has(self, letter: str) -> bool:
        """See `Renderer`: OpenCV writes a question mark for what it lacks, and does not say so."""
        return letter.isspace() or not np.array_equal(self._glyph(letter), self._missing)

    def _glyph(self, letter: str) -> np.ndarray:
        canvas = np.zeros((48, 64, 3), np.uint8)
        cv2.putText(canvas, letter, (8, 34), (255, 255, 255), self._face, 24, 400)
        return canvas

    def measure(self, text: str, scale: float) -> tuple[int, int, int]:
        """See `Renderer`."""
        size = _pixels(scale)
        box = cv2.getTextSize((1 << 15, 1 << 15), self.glyphs(text), (0, 0), self._face, size, _weight(scale))
        return int(box[0] + box[2]) + 1, round(size * 0.86), round(size * 0.22)

    def write(self, canvas: np.ndarray, text: str, x: int, foot: int, scale: float, ink: Ink) -> None:
        """See `Renderer`."""
        # Without the range OpenCV breaks the line at the picture's border.
        span = (x, 1 << 15)
        cv2.putText(canvas, self.glyphs(text), (x, foot), ink, self._face, _pixels(scale), _weight(scale), 0, span)


class _System:
    """A font of the system, through Pillow."""

    def __init__(self, font: PillowFont) -> None:
        self._font = font

    def glyphs(self, text: str) -> str:
        """See `Renderer`."""
        return text if self._font.shapes else visual_order(text)

    def has(self, letter: str) -> bool:
        """See `Renderer`."""
        return self._font.has(letter)

    def measure(self, text: str, scale: float) -> tuple[int, int, int]:
        """See `Renderer`."""
        return self._font.measure(self.glyphs(text), _pixels(scale))

    def write(self, canvas: np.ndarray, text: str, x: int, foot: int, scale: float, ink: Ink) -> None:
        """See `Renderer`."""
        self._font.write(canvas, self.glyphs(text), x, foot, _pixels(scale), ink)


def _weight(scale: float) -> int:
    """Regular letters, on large pictures bold ones, as the stroke font has them."""
    return 400 if scale < 1 else 600


def _pixels(scale: float) -> int:
    return max(_SMALLEST, round(_PIXELS * scale))


class Piece(NamedTuple):
    """A part of a text that one renderer writes."""

    renderer: Renderer
    text: str


_STROKES = _Strokes()


@lru_cache(maxsize=1)
def _renderers() -> list[Renderer]:
    """All there are, liked best first."""
    fonts: list[Renderer] = [_System(font) for font in pillow_fonts()]
    if not hasattr(cv2, "FontFace"):
        return [_STROKES, *fonts]
    return [_STROKES, _Outlines(joins=True), *fonts, _Outlines(joins=False)]


@lru_cache(maxsize=4096)
def _has(place: int, letter: str) -> bool:
    if 0xD800 <= ord(letter) <= 0xDFFF:  # half a character, of a name that is no Unicode; OpenCV would crash
        return False
    return _renderers()[place].has(letter)


def _renderer_of(text: str) -> Renderer | None:
    """The first one that has all letters of a text."""
    if all(map(_STROKES.has, text)):  # nearly always: nobody needs to look for fonts then
        return _STROKES
    for place, renderer in enumerate(_renderers()):
        if all(_has(place, letter) for letter in renderer.glyphs(text)):
            return renderer
    return None


def pieces(text: str) -> list[Piece]:
    """Divide a text among renderers; every letter of it must have one, see `label_name`."""
    whole = _renderer_of(text)
    if whole is not None:
        return [Piece(whole, text)]
    if runs_right_to_left(text):  # the parts stand in another order than they are read in
        text = visual_order(text)
    parts: list[Piece] = []
    for letter in text:
        renderer = _renderer_of(letter) or _renderers()[0]
        if parts and (parts[-1].renderer is renderer or letter == " "):
            parts[-1] = Piece(parts[-1].renderer, parts[-1].text + letter)
        else:
            parts.append(Piece(renderer, letter))
    return parts


def measure(text: str, scale: float) -> tuple[int, int, int]:
    """Width, ascent and descent of a text in pixels, at a size of letters in OpenCV's measure."""
    sizes = [part.renderer.measure(part.text, scale) for part in pieces(text)]
    return sum(width for width, _, _ in sizes), max(up for _, up, _ in sizes), max(down for _, _, down in sizes)


def write(canvas: np.ndarray, text: str, x: int, foot: int, scale: float, ink: Ink) -> None:
    """Write a text on uint8 [h, w, 3], in place, from ``x`` on, with the base line at ``foot``."""
    for part in pieces(text):
        part.renderer.write(canvas, part.text, x, foot, scale, ink)
        x += part.renderer.measure(part.text, scale)[0]


def label_name(names: Sequence[str], label: int) -> str:
    """Return what to write for a class: its name, or what can be written of it.

    Where names cannot be written with the fonts at hand, a warning lists their numbers, once for each list of names.

    Args:
        names: of all classes.
        label: place in ``names``; beyond it, the class has its number.
    """
    if not 0 <= label < len(names):
        return f"class {label}"
    text = _writable(names[label])
    if text is None:
        _warn(tuple(names))
        return f"class {label}"
    return text


@lru_cache(maxsize=1024)
def _writable(name: str) -> str | None:
    """A name in letters that some renderer has; None if that would leave too little of it."""
    text = "".join(letter for letter in unicodedata.normalize("NFC", name) if not _is_unseen(letter))
    text = " ".join("".join(" " if unicodedata.category(letter) == "Cc" else letter for letter in text).split())
    letters = [letter if _renderer_of(letter) else _described(letter) for letter in text]
    written = " ".join("".join(letter for letter in letters if letter is not None).split())
    return written if written and None not in letters else None


def _is_unseen(letter: str) -> bool:
    """Joiners, marks of direction, and the variants of emoji."""
    return unicodedata.category(letter) == "Cf" or 0xFE00 <= ord(letter) <= 0xFE0F or 0x1F3FB <= ord(letter) <= 0x1F3FF


def _described(letter: str) -> str | None:
    """A letter in ASCII: without its accents, or a symbol by its name."""
    plain = "".join(part for part in unicodedata.normalize("NFKD", letter) if not unicodedata.combining(part))
    if plain.isascii():  # an accent of its own leaves nothing
        return plain
    if unicodedata.category(letter) == "So":
        return f" {unicodedata.name(letter, '').lower()} "
    return None


@lru_cache(maxsize=16)
def _warn(names: tuple[str, ...]) -> None:
    numbers = [number for number, name in enumerate(names) if _writable(name) is None]
    listed = ", ".join(f"class {number} = {shortened(names[number], 40)}" for number in numbers[:_LISTED])
    more = f" and {len(numbers) - _LISTED} more" if len(numbers) > _LISTED else ""
    logger.warning(
        "pictures show numbers in place of class names that no font at hand can write: %s%s. OpenCV 5 has fonts for "
        "Chinese and other scripts (pip install 'opencv-python-headless>=5'); or set LABEL_FONT to a font file",
        listed,
        more,
    )
