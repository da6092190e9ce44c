"""Hebrew, Arabic and other right-to-left scripts, for renderers that draw glyphs from left to right.

This is a simplified version of Unicode's bidirectional algorithm (a single paragraph without explicit marks) and of the
joining of Arabic letters.
"""

from __future__ import annotations

import unicodedata
from functools import lru_cache

__all__ = ["runs_right_to_left", "visual_order"]

_RIGHT = ("R", "AL")
_NUMBERS = ("EN", "AN")
_MIRRORED = str.maketrans("()[]{}<>«»", ")(][}{><»«")


def runs_right_to_left(text: str) -> bool:
    """Return whether a text contains letters of a right-to-left script."""
    return any(unicodedata.bidirectional(letter) in _RIGHT for letter in text)


def visual_order(text: str, joined: bool = True) -> str:
    """Return the letters of a text in visual order from left to right; with ``joined``, Arabic letters are joined."""
    if not runs_right_to_left(text):
        return text
    clusters = _clusters(_joined(text) if joined else text)
    levels = _levels(clusters)
    clusters = [cluster.translate(_MIRRORED) if level % 2 else cluster for cluster, level in zip(clusters, levels)]
    for level in range(max(levels), 0, -1):
        begin = 0
        while begin < len(levels):
            end = begin
            while end < len(levels) and levels[end] >= level:
                end += 1
            clusters[begin:end] = clusters[begin:end][::-1]
            levels[begin:end] = levels[begin:end][::-1]
            begin = max(end, begin + 1)
    return "".join(clusters)


def _clusters(text: str) -> list[str]:
    """Split a text into letters with their combining marks."""
    clusters: list[str] = []
    for letter in text:
        if clusters and unicodedata.combining(letter):
            clusters[-1] += letter
        else:
            clusters.append(letter)
    return clusters


def _levels(clusters: list[str]) -> list[int]:
    """Return the embedding level of each cluster; odd levels run from right to left."""
    kinds = [unicodedata.bidirectional(cluster[0]) for cluster in clusters]
    for place in range(1, len(kinds) - 1):  # the point in 0.9 is part of the number
        if kinds[place] in ("CS", "ES") and kinds[place - 1] == kinds[place + 1] == "EN":
            kinds[place] = "EN"
    base = next((int(kind in _RIGHT) for kind in kinds if kind in (*_RIGHT, "L")), 0)
    known: list[tuple[int, int] | None] = []  # level, and the direction for neighbours (1: right to left)
    last = base
    for kind in kinds:
        if kind in _RIGHT or kind == "L":
            last = int(kind in _RIGHT)
            known.append((1 if last else 2 * base, last))
        elif kind in _NUMBERS:
            known.append((2 if last or base else 0, last))
        else:
            known.append(None)
    levels: list[int] = []
    opened: list[int] = []
    for place, cluster in enumerate(clusters):
        entry = known[place]
        if entry is not None:
            levels.append(entry[0])
            continue
        before = next((neighbour[1] for neighbour in reversed(known[:place]) if neighbour), base)
        after = next((neighbour[1] for neighbour in known[place:] if neighbour), base)
        level = base if before != after else 1 if before else 2 * base
        if cluster in ")]}" and opened:
            level = opened.pop()
        levels.append(level)
        if cluster in "([{":
            opened.append(level)
    return levels


@lru_cache(maxsize=1)
def _forms() -> dict[str, dict[str, str]]:
    """Return the ``isolated``, ``initial``, ``medial`` and ``final`` forms of Arabic letters (and of lam with alef)."""
    forms: dict[str, dict[str, str]] = {}
    for code in (*range(0xFB50, 0xFBB2), *range(0xFBD3, 0xFC00), *range(0xFE80, 0xFEFD)):
        kind, *letters = unicodedata.decomposition(chr(code)).split() or [""]
        if kind.strip("<>") in ("isolated", "initial", "medial", "final") and len(letters) <= 2:
            plain = "".join(chr(int(letter, 16)) for letter in letters)
            if len(plain) == 1 or (plain[0] == "\u0644" and plain[1] in "\u0622\u0623\u0625\u0627"):
                forms.setdefault(plain, {}).setdefault(kind.strip("<>"), chr(code))
    return forms


def _joined(text: str) -> str:
    """Replace Arabic letters with their joined forms."""
    forms = _forms()
    letters: list[str] = []
    for letter in text:
        if letters and letters[-1] + letter in forms:
            letters[-1] += letter  # lam with alef is a single glyph
        else:
            letters.append(letter)
    result = []
    for place, letter in enumerate(letters):
        if letter not in forms:
            result.append(letter)
            continue
        before = next((letter for letter in reversed(letters[:place]) if not unicodedata.combining(letter[0])), "")
        after = next((letter for letter in letters[place + 1 :] if not unicodedata.combining(letter[0])), "")
        own = forms[letter]
        from_right = "initial" in forms.get(before, ()) and "final" in own
        to_left = "initial" in own and "final" in forms.get(after, ())
        kind = {(False, False): "isolated", (False, True): "initial", (True, False): "final", (True, True): "medial"}
        result.append(own.get(kind[from_right, to_left], letter))
    return "".join(result)
