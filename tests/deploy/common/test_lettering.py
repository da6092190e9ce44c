"""Class names in all scripts: the text that is drawn and the selected fonts."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import cv2
import numpy as np
import pytest

from deploy.common import lettering
from deploy.common.system_fonts import pillow_fonts
from deploy.common.visualizer import draw_detections

OUTLINES = hasattr(cv2, "FontFace")
"""OpenCV 5."""


@pytest.fixture
def no_fonts(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Simulate OpenCV 4 on a machine without fonts or without Pillow."""
    monkeypatch.delattr(cv2, "FontFace", raising=False)
    monkeypatch.setattr(lettering, "pillow_fonts", lambda: [])
    _forget()
    yield
    _forget()


def _forget() -> None:
    for cached in (lettering._renderers, lettering._has, lettering._writable, lettering._warn):
        cached.cache_clear()


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("cat", "cat"),
        ("éléphant", "elephant"),
        ("e\u0301le\u0301phant", "elephant"),
        ("a\nb\tc", "a b c"),
        ("\u202eevil\u200b", "evil"),
        ("😀 face", "grinning face face"),
        ("👍🏽", "thumbs up sign"),
        ("ｃａｔ", "cat"),
        ("人", "class 0"),
        ("hund 犬", "class 0"),
        ("half \udcff", "class 0"),
        ("", "class 0"),
        (" \n", "class 0"),
    ],
)
def test_names_without_a_font(no_fonts: None, name: str, text: str) -> None:
    assert lettering.label_name([name], 0) == text


def test_numbers_are_explained_once(no_fonts: None, caplog: pytest.LogCaptureFixture) -> None:
    names = ["cat", "狗", "猫"]
    with caplog.at_level(logging.WARNING):
        for label in (2, 1, 0, 2):
            lettering.label_name(names, label)
    assert [record.message.count("class 1 = 狗, class 2 = 猫") for record in caplog.records] == [1]
    assert "opencv-python-headless>=5" in caplog.text and "LABEL_FONT" in caplog.text


@pytest.mark.skipif(not OUTLINES, reason="OpenCV 4")
@pytest.mark.parametrize("name", ["猫和狗", "日本語テスト", "한국어", "Привет", "éléphant", "Ελληνικά", "עברית"])
def test_opencv_5_writes_other_scripts(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lettering, "pillow_fonts", lambda: [])
    _forget()
    assert lettering.label_name([name], 0) == name
    (part,) = lettering.pieces(f"{name} 0.91")
    assert type(part.renderer).__name__ == "_Outlines"
    _check_ink(f"{name} 0.91")
    _forget()


@pytest.mark.skipif(not OUTLINES, reason="OpenCV 4")
def test_what_opencv_5_lacks_is_not_a_question_mark(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lettering, "pillow_fonts", lambda: [])
    _forget()
    assert lettering.label_name(["ไทย"], 0) == "class 0"
    assert lettering.label_name(["猫 😀"], 0) == "猫 grinning face"
    assert lettering.label_name(["why?"], 0) == "why?"
    _forget()


@pytest.mark.skipif(not pillow_fonts(), reason="no font")
def test_a_font_of_the_system_writes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(cv2, "FontFace", raising=False)
    _forget()
    assert lettering.label_name(["Привет"], 0) == "Привет"
    (part,) = lettering.pieces("Привет 0.91")
    assert type(part.renderer).__name__ == "_System"
    _check_ink("Привет 0.91")
    _forget()


def test_a_text_in_parts() -> None:
    text = "cat 1"
    assert [part.text for part in lettering.pieces(text)] == [text]
    assert lettering.measure(text, 1.0)[0] == lettering.pieces(text)[0].renderer.measure(text, 1.0)[0]


def _check_ink(text: str) -> None:
    """All pixels of a text are within the measured box and fill most of it."""
    for scale in (0.36, 1.0, 3.0):
        width, ascent, descent = lettering.measure(text, scale)
        canvas = np.zeros((6 * ascent, width + 200, 3), np.uint8)
        lettering.write(canvas, text, 100, 3 * ascent, scale, (255, 255, 255))
        rows, columns = np.flatnonzero(canvas.any(axis=(1, 2))), np.flatnonzero(canvas.any(axis=(0, 2)))
        assert 97 <= columns[0] and columns[-1] <= 103 + width and columns[-1] - columns[0] > 0.8 * width
        assert 3 * ascent - rows[0] <= 1.25 * ascent and rows[-1] - 3 * ascent <= 2 * descent
        assert 3 * ascent - rows[0] >= 0.6 * ascent


@pytest.mark.parametrize("size", [(64, 64), (64, 20), (300, 60), (128, 4000), (1500, 2000)])
def test_hostile_names_are_drawn_on_pictures_of_all_sizes(size: tuple[int, int]) -> None:
    names = [
        "猫",
        "x" * 200,
        "图" * 200,
        "العربية قطة",
        "עברית",
        "😀" * 50,
        "half \udcff",
        "",
        "a\nb",
        "\x1b[31m",
    ]
    count = len(names)
    rng = np.random.default_rng(3)
    corners = np.sort(rng.uniform(0, 1, (count, 2, 2)) * [size[1], size[0]], axis=1).reshape(count, 4)
    rows = np.concatenate([np.arange(count)[:, None], np.full((count, 1), 0.9), corners], axis=1).astype(np.float32)
    picture = draw_detections(np.zeros((*size, 3), np.uint8), rows[:, 0], rows[:, 1], rows[:, 2:], None, names)
    assert picture.shape == (*size, 3) and picture.any()
