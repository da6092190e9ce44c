"""Inputs besides the image: which values are taken, and what becomes of a batch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from deploy.common.errors import UserError
from deploy.common.extra_inputs import ExtraInput, ExtraInputs, predict_grouped, read_extra_inputs

KEYPOINTS = ExtraInput("keypoints", ("B", None, 17, 3))
LEVEL = ExtraInput("level", ("B",), "int32")
GRID = ExtraInput("grid", (None, 2))
INPUTS = ExtraInputs([KEYPOINTS, LEVEL])


def person(count: int) -> list[Any]:
    return np.arange(count * 51, dtype=float).reshape(count, 17, 3).tolist()


def test_values_of_an_image() -> None:
    values = INPUTS.of_image({"level": 3, "keypoints": person(2)}, "a.jpg")
    assert values["keypoints"].shape == (2, 17, 3) and values["keypoints"].dtype == np.float32
    assert values["level"].shape == () and values["level"] == 3 and values["level"].dtype == np.int32
    assert INPUTS.of_image({"level": 0, "keypoints": []}, "a.jpg")["keypoints"].shape == (0, 17, 3)
    assert ExtraInputs().of_image(None, "a.jpg") == {}
    flags = ExtraInputs([ExtraInput("flags", ("B", 2), "bool")]).of_image({"flags": [True, False]}, "a.jpg")
    assert flags["flags"].tolist() == [True, False]


def test_arrays_of_a_batch() -> None:
    arrays = INPUTS.of_batch({"keypoints": np.zeros((2, 5, 17, 3)), "level": [1, 2]}, 2)
    assert arrays["keypoints"].dtype == np.float32 and arrays["level"].tolist() == [1, 2]
    with pytest.raises(UserError, match=r"'level' has the shape \[2\]; expected int32 \[3\]"):
        INPUTS.of_batch({"keypoints": np.zeros((3, 5, 17, 3)), "level": [1, 2]}, 3)
    each = [INPUTS.of_image({"level": level, "keypoints": person(2)}, "") for level in (4, 5)]
    stacked = INPUTS.stack(each)
    assert stacked["level"].tolist() == [4, 5] and stacked["keypoints"].shape == (2, 2, 17, 3)
    blank = INPUTS.blank()
    assert blank["keypoints"].shape == (1, 17, 3) and blank["level"].shape == ()


GOOD = {"level": 1, "keypoints": person(1)}
WRONG: list[tuple[Any, str]] = [
    (None, "the extra input keypoints (float32 [any, 17, 3]) is missing"),
    ([1], "is [1]; expected a mapping"),
    ({"level": 1}, "keypoints (float32 [any, 17, 3]) is missing; the model requires keypoints"),
    ({**GOOD, "prompt": 1}, "'prompt' is not an extra input of this model, which takes keypoints"),
    ({**GOOD, "level": [1]}, "'level' has the shape [1]; expected int32 []"),
    ({**GOOD, "level": 1.5}, "'level' is 1.5; expected int32 []"),
    ({**GOOD, "level": "1"}, "'level' is 1; expected int32"),
    ({**GOOD, "level": True}, "'level' is True; expected int32"),
    ({**GOOD, "level": None}, "'level' is None; expected int32"),
    ({**GOOD, "level": 1 << 40}, "'level' has a value that is too large"),
    ({**GOOD, "level": 10**400}, "'level' is 1000"),
    ({**GOOD, "level": {"a": 1}}, "'level' is {'a': 1}"),
    ({**GOOD, "keypoints": person(1)[0]}, "has the shape [17, 3]; expected float32 [any, 17, 3]"),
    ({**GOOD, "keypoints": [[[1, 2, 3]] * 16]}, "has the shape [1, 16, 3]"),
    ({**GOOD, "keypoints": [[1, 2], [3]]}, "has lists of different lengths"),
    ({**GOOD, "keypoints": [[[float("nan")] * 3] * 17]}, "has a value that is not finite"),
    ({**GOOD, "keypoints": [[[1e300] * 3] * 17]}, "has a value that is not finite"),
    ({**GOOD, "keypoints": [[["1"] * 3] * 17]}, "'keypoints' is"),
    ({**GOOD, "\x1b[31m" * 50: 1}, "\\x1b[31m"),
]


@pytest.mark.parametrize(("values", "culprit"), WRONG, ids=[culprit[:40] for _, culprit in WRONG])
def test_values_that_do_not_fit(values: Any, culprit: str) -> None:
    with pytest.raises(UserError) as caught:
        INPUTS.of_image(values, "a.jpg")
    message = str(caught.value)
    assert culprit in message and "a.jpg" in message and len(message) < 400
    assert "\n" not in message and "\x1b" not in message


class Predictor:
    """Returns the sum of each image's inputs and notes its batches."""

    def __init__(self, inputs: ExtraInputs) -> None:
        self.extra_inputs = inputs
        self.batches: list[int] = []

    def predict(self, images: Any, extra: Any = None) -> list[float]:
        self.batches.append(len(images))
        if extra is None:
            return [float(image.sum()) for image in images]
        arrays = self.extra_inputs.of_batch(extra, len(images))
        return [float(sum(array[place].sum() for array in arrays.values())) for place in range(len(images))]


def test_images_share_batches_as_far_as_their_shapes_allow() -> None:
    images = [np.full((2, 2, 3), level, np.uint8) for level in range(4)]
    values = [
        INPUTS.of_image({"level": 1000 * place, "keypoints": person(people)}, "")
        for place, people in enumerate((1, 2, 1, 2))
    ]
    predictor = Predictor(INPUTS)
    expected = [1000.0 * place + np.arange(51 * people).sum() for place, people in enumerate((1, 2, 1, 2))]
    assert predict_grouped(predictor, images, values) == expected and predictor.batches == [2, 2]
    alone = Predictor(ExtraInputs([GRID]))
    grids = [alone.extra_inputs.of_image({"grid": [[place, 1]]}, "") for place in range(3)]
    assert len(predict_grouped(alone, images[:3], grids)) == 3 and alone.batches == [1, 1, 1]
    plain = Predictor(ExtraInputs())
    assert predict_grouped(plain, images, [{}] * 4) == [0, 12, 24, 36] and plain.batches == [4]


def test_a_file_of_extra_inputs(tmp_path: Path) -> None:
    file = tmp_path / "extra.json"
    file.write_text(json.dumps({"one/a.jpg": {**GOOD, "level": 1}, "a.jpg": {**GOOD, "level": 2}}))
    values = read_extra_inputs(str(file), ["one/a.jpg", "two/a.jpg"], INPUTS)
    assert [int(value["level"]) for value in values] == [1, 2]
    for names, content, culprit in (
        (["b.jpg"], {"a.jpg": GOOD}, r"no entry for the image b\.jpg: the model requires keypoints"),
        (["a.jpg"], {"a.jpg": {"level": 1}}, r"extra\.json, image a\.jpg: the extra input keypoints .* is missing"),
        (["a.jpg"], [GOOD], "is not a mapping from file names"),
    ):
        file.write_text(json.dumps(content))
        with pytest.raises(UserError, match=culprit):
            read_extra_inputs(str(file), names, INPUTS)
