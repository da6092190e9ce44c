"""Text in images: selection of a font, measuring and drawing.

ASCII is drawn with the stroke font of OpenCV. Other scripts require OpenCV 5, whose built-in fonts support Chinese,
Japanese, Korean, Cyrillic, Greek, Hebrew and Arabic, or Pillow and a system font. A name that no available font
supports is converted to ASCII (without accents, emoji by name) or replaced by the number of the class; a warning lists
the numbers.
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
"""Size of outline fonts in pixels that corresponds to scale 1 of OpenCV's stroke font."""
_SMALLEST = 11
"""Minimum size of a readable Chinese character in pixels."""
_LISTED = 30
"""Maximum number of names listed in the warning."""


class Renderer(Protocol):
    """Draws text; ``scale`` is the font scale of OpenCV, for which 1 corresponds to capitals with 21 pixels."""

    def glyphs(self, text: str) -> str:
        """Return the letters of a text in drawing order."""

    def has(self, letter: str) -> bool:
        """Return whether there is a glyph for a letter."""

    def measure(self, text: str, scale: float) -> tuple[int, int, int]:
        """Return width, ascent and descent in pixels."""

    def write(self, canvas: np.ndarray, text: str, x: int, foot: int, scale: float, ink: Ink) -> None:
        """Draw text into an image, uint8 [h, w, 3], in place, starting at ``x`` with the baseline at ``foot``."""


class _Strokes:
    """The stroke font of OpenCV, which supports ASCII."""

    def glyphs(self, text: str) -> str:
        """See `Renderer`."""
        return text

    def has(self, letter: str) -> bool:
        """See `Renderer`."""
        return letter.isascii() and letter.isprintable()

    def measure(self, text: str, scale: float) -> tuple[int, int, int]:
        """See `Renderer`; the height does not depend on the letters, so that all labels have the same height."""
        (width, _), _ = cv2.getTextSize(text, _FONT, scale, _stroke(scale))
        (_, cap), base = cv2.getTextSize("Ag", _FONT, scale, _stroke(scale))
        return width, cap, max(1, min(base, round(cap * 0.4)))

    def write(self, canvas: np.ndarray, text: str, x: int, foot: int, scale: float, ink: Ink) -> None:
        """See `Renderer`."""
        cv2.putText(canvas, text, (x, foot), _FONT, scale, ink, _stroke(scale), cv2.LINE_AA)


def _stroke(scale: float) -> int:
    return max(1, round(scale * 2.1))


class _Outlines:
    """The built-in outline fonts of OpenCV 5.

    Args:
        joins: use the joined forms of Arabic letters.
    """

    def __init__(self, joins: bool) -> None:
        self._joins = joins
        self._face: Any = cv2.FontFace("sans")
        self._missing = self._glyph("\u0378")  # an unassigned code point

    def glyphs(self, text: str) -> str:
        """See `Renderer`."""
        return visual_order(text, self._joins)

    def has(self, letter: str) -> bool:
        """See `Renderer`; OpenCV draws a question mark for missing glyphs without an error."""
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
        # Without the range, OpenCV wraps the line at the border of the image.
        span = (x, 1 << 15)
        cv2.putText(canvas, self.glyphs(text), (x, foot), ink, self._face, _pixels(scale), _weight(scale), 0, span)


class _System:
    """A system font, drawn with Pillow."""

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
    """Return the font weight: regular or, for large text, bold, to match the stroke font."""
    return 400 if scale < 1 else 600


def _pixels(scale: float) -> int:
    return max(_SMALLEST, round(_PIXELS * scale))


class Piece(NamedTuple):
    """A part of a text that is drawn by a single renderer."""

    renderer: Renderer
    text: str


_STROKES = _Strokes()


@lru_cache(maxsize=1)
def _renderers() -> list[Renderer]:
    """Return the available renderers in order of preference."""
    fonts: list[Renderer] = [_System(font) for font in pillow_fonts()]
    if not hasattr(cv2, "FontFace"):
        return [_STROKES, *fonts]
    return [_STROKES, _Outlines(joins=True), *fonts, _Outlines(joins=False)]


@lru_cache(maxsize=4096)
def _has(place: int, letter: str) -> bool:
    if 0xD800 <= ord(letter) <= 0xDFFF:  # an incomplete character, for which OpenCV would crash
        return False
    return _renderers()[place].has(letter)


def _renderer_of(text: str) -> Renderer | None:
    """Return the first renderer that supports all letters of a text."""
    if all(map(_STROKES.has, text)):  # the most common case, in which no fonts have to be searched
        return _STROKES
    for place, renderer in enumerate(_renderers()):
        if all(_has(place, letter) for letter in renderer.glyphs(text)):
            return renderer
    return None


def pieces(text: str) -> list[Piece]:
    """Split a text into parts for different renderers; every letter must be supported, see `label_name`."""
    renderer = _renderer_of(text)
    if renderer is not None:
        return [Piece(renderer, text)]
    if runs_right_to_left(text):  # the visual order of the parts differs from the logical order
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
    """Return width, ascent and descent of a text in pixels for a font scale of OpenCV."""
    sizes = [part.renderer.measure(part.text, scale) for part in pieces(text)]
    return sum(width for width, _, _ in sizes), max(up for _, up, _ in sizes), max(down for _, _, down in sizes)


def write(canvas: np.ndarray, text: str, x: int, foot: int, scale: float, ink: Ink) -> None:
    """Draw text into an image, uint8 [h, w, 3], in place, starting at ``x`` with the baseline at ``foot``."""
    for part in pieces(text):
        part.renderer.write(canvas, part.text, x, foot, scale, ink)
        x += part.renderer.measure(part.text, scale)[0]


def label_name(names: Sequence[str], label: int) -> str:
    """Return the text for a class: its name, if possible, or the number of the class.

    If names cannot be drawn with the available fonts, a warning with their numbers is logged once per list of names.

    Args:
        names: names of all classes.
        label: index in ``names``; for indices out of range, the number of the class is returned.
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
    """Convert a name to letters that can be drawn; None if this is not possible."""
    text = "".join(letter for letter in unicodedata.normalize("NFC", name) if not _is_unseen(letter))
    text = " ".join("".join(" " if unicodedata.category(letter) == "Cc" else letter for letter in text).split())
    letters = [letter if _renderer_of(letter) else _described(letter) for letter in text]
    written = " ".join("".join(letter for letter in letters if letter is not None).split())
    return written if written and None not in letters else None


def _is_unseen(letter: str) -> bool:
    """Whether a letter is a joiner, a directional mark or an emoji modifier."""
    return unicodedata.category(letter) == "Cf" or 0xFE00 <= ord(letter) <= 0xFE0F or 0x1F3FB <= ord(letter) <= 0x1F3FF


def _described(letter: str) -> str | None:
    """Convert a letter to ASCII by removing accents, and a symbol to its name."""
    plain = "".join(part for part in unicodedata.normalize("NFKD", letter) if not unicodedata.combining(part))
    if plain.isascii():  # empty for a separate accent
        return plain
    if unicodedata.category(letter) == "So":
        return f" {unicodedata.name(letter, '').lower()} "
    return None


@lru_cache(maxsize=16)
def _warn(names: tuple[str, ...]) -> None:
    labels = [label for label, name in enumerate(names) if _writable(name) is None]
    listed = ", ".join(f"class {label} = {shortened(names[label], 40)}" for label in labels[:_LISTED])
    more = f" and {len(labels) - _LISTED} more" if len(labels) > _LISTED else ""
    logger.warning(
        "class names that cannot be drawn with the available fonts are replaced by numbers: %s%s; install OpenCV 5, "
        "which has fonts for Chinese and other scripts (pip install 'opencv-python-headless>=5'), or set LABEL_FONT "
        "to a font file",
        listed,
        more,
    )
