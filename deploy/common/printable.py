"""Sanitising texts from files for output on a terminal or in a log.

File names, class names and configuration keys may contain anything: terminal escape codes, directional marks,
incomplete characters, line breaks that imitate log lines, or megabytes of text.
"""

from __future__ import annotations

import logging
import reprlib
import unicodedata

__all__ = ["PrintableFormatter", "one_line", "printable", "shortened", "shown"]

LONGEST_MESSAGE = 640
"""Maximum length of an error message in characters. Its beginning names the cause and its end the solution."""
LONGEST_LOG_LINE = 100_000
_JOINERS = "\u200c\u200d"
"""Invisible characters that are part of words in Persian and Hindi and of many emoji."""


def _shown(letter: str, kept: str) -> str:
    if letter.isprintable() or letter in kept or unicodedata.category(letter) == "Zs":
        return letter
    return letter.encode("unicode_escape").decode("ascii")


def printable(text: str, kept: str = "") -> str:
    r"""Replace control characters with escape sequences such as ``\x1b``.

    Args:
        text: the text; letters of all languages and emoji are not changed.
        kept: control characters that are not replaced, such as the newline.
    """
    if text.isprintable():
        return text
    return "".join(_shown(letter, kept + _JOINERS) for letter in text)


def shortened(text: str, limit: int) -> str:
    """Shorten a text to ``limit`` characters, keeping the beginning and the end at a ratio of two to one."""
    if len(text) <= limit:
        return text
    tail = limit // 3
    return f"{text[: limit - tail - 3]} … {text[-tail:]}"


def one_line(value: object, limit: int = LONGEST_MESSAGE) -> str:
    """Convert a value to a single printable line of at most ``limit`` characters."""
    text = shortened(str(value), 4 * limit)  # done first to avoid processing megabytes of text
    return shortened(printable(" ".join(text.split())), limit)


def shown(value: object, limit: int = 80) -> str:
    """Convert a value from a file to a single printable line; nested values are abbreviated first."""
    return one_line(value if isinstance(value, str) else reprlib.repr(value), limit)


class PrintableFormatter(logging.Formatter):
    """Formats log records with escaped control characters.

    Line breaks are kept for tables and tracebacks, but all lines except the first are indented, so that a text cannot
    imitate another log record.
    """

    def format(self, record: logging.LogRecord) -> str:
        """See `logging.Formatter`."""
        lines = shortened(super().format(record), LONGEST_LOG_LINE).split("\n")
        return "\n  ".join(printable(line, kept="\t") for line in lines)
