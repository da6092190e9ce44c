"""Visual order of right-to-left texts. A, B and C below stand for the first Hebrew letters."""

from __future__ import annotations

import pytest

from deploy.common.bidi import runs_right_to_left, visual_order

pytestmark = pytest.mark.same_on_every_paddle

_HEBREW = str.maketrans("ABCD", "אבגד")


@pytest.mark.parametrize(
    ("logical", "visual"),
    [
        ("cat", "cat"),
        ("ABC", "CBA"),
        ("AB CD", "DC BA"),
        ("ABC 12", "12 CBA"),
        ("ABC 0.95", "0.95 CBA"),
        ("cat ABC 0.9", "cat 0.9 CBA"),
        ("ABC cat", "cat CBA"),
        ("ABC cat (x) D", "D cat (x) CBA"),
        ("ABC (D)", "(D) CBA"),
        ("12 AB", "BA 12"),
        ("cat 12 (AB) dog", "cat 12 (BA) dog"),
        ("A\u05b0B", "BA\u05b0"),  # a vowel sign stays with its letter
    ],
)
def test_order(logical: str, visual: str) -> None:
    assert visual_order(logical.translate(_HEBREW)) == visual.translate(_HEBREW)


@pytest.mark.parametrize(
    ("word", "glyphs"),
    [
        ("بيت", "FE91 FEF4 FE96"),  # beh initial, yeh medial, teh final
        ("دار", "FEA9 FE8D FEAD"),  # none of the letters joins to the left
        ("سلام", "FEB3 FEFC FEE1"),  # lam with alef is a single glyph
        ("لا", "FEFB"),
        ("پل", "FB58 FEDE"),  # a Persian letter
        ("بَت", "FE91 064E FE96"),  # a vowel sign does not separate the letters
    ],
)
def test_joining_forms(word: str, glyphs: str) -> None:
    expected = "".join(chr(int(code, 16)) for code in glyphs.split())
    clusters = visual_order(word)
    assert sorted(clusters) == sorted(expected) and clusters[-1] in expected[:2]
    assert runs_right_to_left(word) and not runs_right_to_left("cat 猫 0.9")
