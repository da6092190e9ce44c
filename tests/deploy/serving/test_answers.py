"""Responses of the service over HTTP with a fake predictor: JSON, pictures, mask formats and extra inputs."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image
from serving_fakes import (
    IDS,
    NAMES,
    Client,
    FakePredictor,
    PromptedPredictor,
    Running,
    form,
    picture,
    png,
    rows_of,
)

from deploy.common.model_outputs import split_outputs
from tests.deploy.box_detections import box_detections

Serve = Callable[..., Running]

PICTURE = picture(level=100)


def pixels_of(data: bytes) -> np.ndarray:
    return cv2.cvtColor(cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)


# -- answers -----------------------------------------------------------------------------------------------------------


def test_json_answer(client: Client) -> None:
    reply = client.predict(png(PICTURE))
    assert reply.status == 200
    assert reply.headers["content-type"] == "application/json"
    answer = reply.json()
    assert answer["model"] == "fake"
    assert answer["image"] == {"width": 60, "height": 40}
    assert answer["threshold"] == 0.5
    # The masks fill their boxes, so the outlines run through the border pixels. The score 0.25 is below the threshold.
    assert answer["instances"] == [
        {
            "class": "ball",
            "class_id": 3,
            "score": 0.8,
            "box": [30.0, 10.0, 60.0, 30.0],
            "polygons": [[30.0, 10.0, 30.0, 29.0, 59.0, 29.0, 59.0, 10.0]],
        },
        {
            "class": "<b>cup</b>",
            "class_id": 17,
            "score": 0.64,
            "box": [0.0, 0.0, 15.0, 40.0],
            "polygons": [[0.0, 0.0, 0.0, 39.0, 14.0, 39.0, 14.0, 0.0]],
        },
    ]
    timings = answer["timings"]
    assert timings.pop("batch_size") == 1
    parts = ["receive_ms", "decode_ms", "queue_ms", "inference_ms", "encode_ms"]
    assert list(timings) == [*parts, "total_ms"]
    assert min(timings.values()) >= 0
    assert timings["total_ms"] >= timings["queue_ms"] + timings["inference_ms"]


def test_threshold_and_kinds_of_masks(client: Client) -> None:
    data = png(PICTURE)
    names = [one["class"] for one in client.predict(data, "threshold=0.25").json()["instances"]]
    assert names == NAMES
    assert len(client.predict(data, "threshold=0.7").json()["instances"]) == 1
    assert client.predict(data, "threshold=1").json()["instances"] == []
    bare = client.predict(data, "masks=none").json()["instances"][0]
    assert list(bare) == ["class", "class_id", "score", "box"]
    encoded = client.predict(data, "masks=rle").json()["instances"][1]
    # Columns 0 to 14 of 60 are filled: 0 zeros, 600 ones, 1800 zeros.
    assert encoded["rle"] == {"size": [40, 60], "counts": "0hb0Xh1"}


def test_without_a_mask_branch(serve: Serve) -> None:
    client = serve(FakePredictor(has_masks=False)).client
    assert list(client.predict(png(PICTURE)).json()["instances"][0]) == ["class", "class_id", "score", "box"]
    assert client.get("/model").json()["masks"] is False


def test_a_form_and_a_bare_body_give_the_same(client: Client) -> None:
    body, headers = form(("note", b"\r\n--unrelated"), ("file", png(PICTURE)))
    by_form = client.ask("POST", "/predict", body, headers)
    assert by_form.status == 200
    by_body = client.predict(png(PICTURE), Content_Type="image/x-whatever; q=1")
    assert by_form.json()["instances"] == by_body.json()["instances"]


@pytest.mark.parametrize(
    "path, query, accept",
    [
        ("/predict", "format=png", "application/json"),
        ("/predict.png", "", "*/*"),
        ("/predict", "", "image/png"),
        ("/predict", "", "image/webp, image/PNG;q=0.8, */*;q=0.1"),
    ],
)
def test_the_drawn_picture(client: Client, path: str, query: str, accept: str) -> None:
    reply = client.predict(png(PICTURE), query, path, Accept=accept)
    assert (reply.status, reply.headers["content-type"]) == (200, "image/png")
    expected = FakePredictor().found(PICTURE).above(0.5).draw(PICTURE)
    np.testing.assert_array_equal(pixels_of(reply.body), expected)


@pytest.mark.parametrize("accept", ["*/*", "image/png, application/json", "text/html"])
def test_json_is_the_rule(client: Client, accept: str) -> None:
    assert client.predict(png(PICTURE), Accept=accept).headers["content-type"] == "application/json"
    assert client.predict(png(PICTURE), "format=json", Accept="image/png").json()["model"] == "fake"


def test_exif_orientation_as_everywhere_else(client: Client) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    stream = io.BytesIO()
    Image.fromarray(PICTURE).save(stream, "JPEG", exif=exif)
    reply = client.predict(stream.getvalue(), Content_Type="image/jpeg")
    assert reply.json()["image"] == {"width": 40, "height": 60}


def test_boxes_that_are_not_finite_are_left_out(serve: Serve) -> None:
    predictor = FakePredictor()
    rows = rows_of(PICTURE)
    rows[0, 3] = np.nan
    found = box_detections(rows, np.ones((3, 28, 28), np.float32), PICTURE.shape[:2], NAMES, IDS)  # type: ignore[arg-type]
    predictor.found = lambda image: found  # type: ignore[method-assign]
    client = serve(predictor).client
    assert [one["class_id"] for one in client.predict(png(PICTURE)).json()["instances"]] == [17]


def test_mask_scores_and_boxes_of_bitmaps(serve: Serve) -> None:
    """A model without boxes that rates its masks: the threshold applies to the scores of the masks."""
    outputs = {
        "instances": np.array([[0, 0.9], [1, 0.8], [2, 0.7]], np.float32),
        "bbox_num": np.array([3]),
        "mask": np.stack([np.eye(2, dtype=np.float32), np.zeros((2, 2), np.float32), np.ones((2, 2), np.float32)]),
        "mask_extent": np.array([[40, 60]], np.float32),
        "mask_score": np.array([0.3, 0.75, 0.6], np.float32),
    }
    (found,) = split_outputs(outputs, [PICTURE.shape[:2]], NAMES, IDS)
    predictor = FakePredictor()
    predictor.found = lambda image: found  # type: ignore[method-assign]
    client = serve(predictor).client
    empty, full = client.predict(png(PICTURE)).json()["instances"]
    assert (empty["class_id"], empty["score"], empty["mask_score"]) == (17, 0.8, 0.75)
    assert empty["box"] == [0, 0, 0, 0] and empty["polygons"] == []
    assert full["box"] == [0, 0, 60, 40] and full["polygons"] == [[0, 0, 0, 39, 59, 39, 59, 0]]
    (_, full) = client.predict(png(PICTURE), "masks=rle").json()["instances"]
    assert full["rle"] == {"size": [40, 60], "counts": "0P[2"}  # no zeros, then 2400 ones
    picture = pixels_of(client.predict(png(PICTURE), "format=png").body)
    assert (picture != PICTURE).any(axis=2).mean() > 0.9


# -- extra inputs ------------------------------------------------------------------------------------------------------


def prompted(prompt: Any) -> tuple[bytes, dict[str, str]]:
    return form(("file", png(PICTURE)), ("extra_inputs", json.dumps({"prompt": prompt}).encode()))


def test_extra_inputs_reach_the_model(serve: Serve) -> None:
    client = serve(PromptedPredictor()).client
    for prompt, score in (([[0.5, 0.25]], 0.75), ([[0.5, 0.0], [0.125, 0.0]], 0.625)):
        reply = client.ask("POST", "/predict", *prompted(prompt))
        assert reply.status == 200 and reply.json()["instances"][0]["score"] == score
    assert client.get("/model").json()["extra_inputs"] == [{"name": "prompt", "shape": [None, 2], "dtype": "float32"}]


def test_extra_inputs_of_other_shapes_wait_together(serve: Serve) -> None:
    predictor = PromptedPredictor()
    client = serve(predictor, max_batch=3, max_delay=5.0).client
    with ThreadPoolExecutor(3) as pool:
        asked = [prompted(prompt) for prompt in ([[0.5, 0.1]], [[0.5, 0.0], [0.1, 0.0]], [[0.5, 0.2]])]
        replies = list(pool.map(lambda request: client.ask("POST", "/predict", *request), asked))
    assert [reply.json()["instances"][0]["score"] for reply in replies] == pytest.approx([0.6, 0.6, 0.7])
    assert sorted(predictor.batches) == [[1, 2, 2], [2, 1, 2]]
    assert replies[0].json()["timings"]["batch_size"] == 3


@pytest.mark.parametrize(
    "text, status, reason",
    [
        (b"{", 400, "not valid JSON"),
        (b"\xff", 400, "not valid JSON"),
        (b"[" * 100_000, 400, "not valid JSON"),
        (b"[1]", 422, "expected a mapping"),
        (b"{}", 422, "prompt (float32 [any, 2]) is missing"),
        (b'{"prompt": [1, 2]}', 422, "'prompt' has the shape [2]; expected float32 [any, 2]"),
        (b'{"prompt": [[1, "2"]]}', 422, "expected float32 [any, 2]"),
        (b'{"prompt": [[1, NaN]]}', 422, "not finite"),
        (b'{"prompt": [[1, 1e999]]}', 422, "not finite"),
        (b'{"prompt": [[1, 2]], "level": 1}', 422, "'level' is not an extra input of this model"),
        (b" " * (1 << 20) + b" ", 413, "'extra_inputs' is larger than 1048576 bytes"),
    ],
)
def test_extra_inputs_that_do_not_fit(serve: Serve, text: bytes, status: int, reason: str) -> None:
    client = serve(PromptedPredictor()).client
    reply = client.ask("POST", "/predict", *form(("file", png(PICTURE)), ("extra_inputs", text)))
    assert reply.status == status and reason in reply.error and "\n" not in reply.error
    assert client.ask("POST", "/predict", *prompted([[0.5, 0.25]])).status == 200


def test_a_request_without_extra_inputs_learns_how_to_send_them(serve: Serve, client: Client) -> None:
    reply = serve(PromptedPredictor()).client.predict(png(PICTURE))
    assert reply.status == 422 and "send it as JSON in the multipart field 'extra_inputs'" in reply.error
    reply = client.ask("POST", "/predict", *prompted([[1, 2]]))
    assert reply.status == 422 and "'prompt' is not an extra input of this model, which takes none" in reply.error
    twice = form(("file", png(PICTURE)), ("extra_inputs", b"{}"), ("extra_inputs", b"{}"))
    reply = client.ask("POST", "/predict", *twice)
    assert reply.status == 400 and "at most one field 'extra_inputs', but it has 2" in reply.error
