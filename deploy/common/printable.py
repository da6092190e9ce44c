"""Texts that come from files, made fit for a terminal or a log.

A file name, a class name or a key of a configuration may hold anything: codes that a terminal obeys, marks that turn
the direction of writing around, halves of characters that no encoding has, line breaks that make up a log line of
their own, or ten megabytes of letters.
"""

from __future__ import annotations

import logging
import reprlib
import unicodedata

__all__ = ["PrintableFormatter", "one_line", "printable", "shortened", "shown"]

LONGEST_MESSAGE = 640
"""Characters of an error message; the culprit is at its beginning, the remedy at its end."""
LONGEST_LOG_LINE = 100_000
_JOINERS = "\u200c\u200d"
"""Invisible, but parts of words in Persian and Hindi and of many emoji."""


def _shown(letter: str, kept: str) -> str:
    if letter.isprintable() or letter in kept or unicodedata.category(letter) == "Zs":
        return letter
    return letter.encode("unicode_escape").decode("ascii")


def printable(text: str, kept: str = "") -> str:
    r"""Return a text with everything that is not written but obeyed replaced by its escape, such as ``\x1b``.

    Args:
        text: letters of any language and emoji stay as they are.
        kept: control characters to keep, too, such as the newline.
    """
    if text.isprintable():
        return text
    return "".join(_shown(letter, kept + _JOINERS) for letter in text)


def shortened(text: str, limit: int) -> str:
    """Return a text of at most ``limit`` characters, of a longer one the first two thirds and the last third."""
    if len(text) <= limit:
        return text
    tail = limit // 3
    return f"{text[: limit - tail - 3]} … {text[-tail:]}"


def one_line(value: object, limit: int = LONGEST_MESSAGE) -> str:
    """Return a text for a value as one printable line of at most ``limit`` characters."""
    text = shortened(str(value), 4 * limit)  # first, so that ten megabytes are not looked at letter by letter
    return shortened(printable(" ".join(text.split())), limit)


def shown(value: object, limit: int = 80) -> str:
    """Return a text for a value of any kind from a file; nested ones are cut before they are written out."""
    return one_line(value if isinstance(value, str) else reprlib.repr(value), limit)


class PrintableFormatter(logging.Formatter):
    """Formats log records so that nothing in them reaches the terminal raw.

    Line breaks stay, as tables and tracebacks have them, but the lines after the first are indented: no text can pass
    for a log record of its own.
    """

    def format(self, record: logging.LogRecord) -> str:
        """See `logging.Formatter`."""
        lines = shortened(super().format(record), LONGEST_LOG_LINE).split("\n")
        return "\n  ".join(printable(line, kept="\t") for line in lines)
