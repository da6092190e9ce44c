"""The service over HTTP with a fake predictor: responses, limits, overload, timeouts, failures and shutdown."""

from __future__ import annotations

import io
import json
import socket
import struct
import sys
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image
from serving_fakes import (
    IDS,
    NAMES,
    PATIENCE,
    Client,
    FakePredictor,
    PromptedPredictor,
    Running,
    form,
    picture,
    png,
    rows_of,
    wait_until,
)

from deploy.common.model_outputs import split_outputs
from deploy.serving import service as service_module
from deploy.serving.uploads import Limits
from tests.deploy.box_detections import box_detections

Serve = Callable[..., Running]

PICTURE = picture(level=100)


@pytest.fixture
def client(serve: Serve) -> Client:
    """Client of a service whose predictor is not paused."""
    return serve(FakePredictor()).client


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


# -- what is refused ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "query, culprit",
    [
        ("threshold=high", "'high'"),
        ("threshold=nan", "'nan'"),
        ("threshold=1.5", "'1.5'"),
        ("threshold=-0.1", "'-0.1'"),
        ("threshold=", "''"),
        ("masks=bitmap", "polygon, rle or none, not 'bitmap'"),
        ("format=jpeg", "json or png, not 'jpeg'"),
        ("treshold=0.5", "'treshold' is unknown; expected threshold, masks, format"),
        ("masks=rle&masks=none", "masks is given twice"),
    ],
)
def test_unknown_parameters(client: Client, query: str, culprit: str) -> None:
    reply = client.predict(png(PICTURE), query)
    assert reply.status == 422
    assert culprit in reply.error


def test_json_from_the_address_of_pictures(client: Client) -> None:
    reply = client.predict(png(PICTURE), "format=json", "/predict.png")
    assert (reply.status, reply.error) == (422, "/predict.png only returns PNG images; use /predict for JSON")


@pytest.mark.parametrize(
    "body, status, reason",
    [
        (b"", 400, "the uploaded image is empty"),
        (b"no picture at all", 400, "not a valid image; supported formats are"),
        (b"GIF89a" + bytes(50), 400, "not a valid image; supported formats are"),
        (b"\x89PNG\r\n\x1a\n" + bytes(50), 400, "not a valid image; supported formats are"),
        (png(PICTURE)[:-200], 400, "truncated"),
    ],
)
def test_bad_images(client: Client, body: bytes, status: int, reason: str) -> None:
    for reply in (client.predict(body), client.ask("POST", "/predict", *form(("file", body)))):
        assert reply.status == status
        assert reason in reply.error
    assert client.predict(png(PICTURE)).status == 200


def test_broken_pixels(client: Client) -> None:
    """A complete file with a valid header and invalid pixel data."""
    data = bytearray(png(PICTURE))
    at = data.index(b"IDAT") + 4
    data[at : at + 40] = bytes(40)
    reply = client.predict(bytes(data))
    assert reply.status == 400
    assert reply.error.startswith("the image that was uploaded is a broken PNG; copy it again, convert it")


@pytest.mark.parametrize(
    "body, content_type, reason",
    [
        (form(("image", b"x"))[0], "multipart/form-data; boundary=----a-boundary", "one field 'file'"),
        (form(("file", b"x"), ("file", b"y"))[0], "multipart/form-data; boundary=----a-boundary", "but it has 2"),
        (form(("file", b"x"))[0], "multipart/form-data", "no boundary"),
        (form(("file", b"x"))[0][:-10], "multipart/form-data; boundary=----a-boundary", "its end is missing"),
        (b"nothing of a form", "multipart/form-data; boundary=----a-boundary", "malformed"),
        (b"--" + b"b" * 300, f"multipart/form-data; boundary={'b' * 300}", "malformed"),
    ],
)
def test_bad_forms(client: Client, body: bytes, content_type: str, reason: str) -> None:
    reply = client.predict(body, Content_Type=content_type)
    assert reply.status == 400
    assert reason in reply.error


@pytest.mark.parametrize("content_type", ["application/x-www-form-urlencoded", "text/plain", "imagery", ""])
def test_other_types_of_content(client: Client, content_type: str) -> None:
    reply = client.predict(png(PICTURE), Content_Type=content_type)
    assert reply.status == 415
    assert "multipart field 'file'" in reply.error


def test_other_addresses_and_methods(client: Client) -> None:
    assert (client.get("/nothing").status, client.get("/nothing").error) == (404, "not found")
    reply = client.get("/predict")
    assert (reply.status, reply.headers["allow"], reply.error) == (405, "POST", "method not allowed")


# -- limits ------------------------------------------------------------------------------------------------------------


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def bomb(width: int, height: int) -> bytes:
    """Create a complete PNG file of a few bytes that claims a size."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize(
    "side, reason",
    [
        (100_000, "exceeds the limit of 4000 pixels"),
        (100, "100 x 100 = 10000 pixels; the limit of this service is 4000"),
    ],
)
def test_pixels_are_counted_before_they_are_decoded(
    serve: Serve, monkeypatch: pytest.MonkeyPatch, side: int, reason: str
) -> None:
    decoded: list[int] = []
    decode = service_module.decode

    def note(data: bytes) -> np.ndarray:
        decoded.append(len(data))
        return decode(data)

    monkeypatch.setattr(service_module, "decode", note)
    client = serve(FakePredictor(), limits=Limits(max_pixels=4000)).client
    reply = client.predict(bomb(side, side))
    assert reply.status == 413
    assert reason in reply.error
    assert decoded == []
    assert client.predict(png(picture(50, 80))).status == 200  # 4000 pixels
    assert len(decoded) == 1


def test_size_of_the_file(serve: Serve) -> None:
    data = png(PICTURE)
    client = serve(FakePredictor(), limits=Limits(max_bytes=len(data))).client
    assert client.predict(data).status == 200
    assert client.ask("POST", "/predict", *form(("file", data))).status == 200
    longer = data + b"x"
    for reply in (client.predict(longer), client.ask("POST", "/predict", *form(("file", longer)))):
        assert reply.status == 413
        assert reply.error == f"the image file exceeds the limit of {len(data)} bytes of this service"


def test_a_large_body_is_refused_by_its_announcement(client: Client) -> None:
    """The client waits for the response before it sends the body."""
    with socket.create_connection(("127.0.0.1", client.port), PATIENCE) as connection:
        connection.sendall(
            b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Type: image/png\r\nContent-Length: 99999999999\r\n"
            b"Expect: 100-continue\r\n\r\n"
        )
        assert connection.recv(100).startswith(b"HTTP/1.1 413 ")


def test_a_large_body_without_announcement_is_not_kept(serve: Serve) -> None:
    client = serve(FakePredictor(), limits=Limits(max_bytes=1000)).client

    def chunks() -> Iterator[bytes]:
        for _ in range(100):
            yield b"2710\r\n" + bytes(10_000) + b"\r\n"
        yield b"0\r\n\r\n"

    headers = {"Content-Type": "image/png", "Transfer-Encoding": "chunked"}
    reply = client.ask("POST", "/predict", chunks(), headers)
    assert reply.status == 413


def test_memory_for_pictures_is_bounded(serve: Serve) -> None:
    """Four images of the maximum size may be in memory; a fifth is refused although the queue is not full."""
    predictor = FakePredictor(held=True)
    running = serve(predictor, limits=Limits(max_pixels=2400), max_batch=1)
    replies = [running.client.later(png(PICTURE)) for _ in range(4)]
    wait_until(lambda: running.service.batcher.waiting == 3)
    refused = running.client.predict(png(PICTURE))
    assert refused.status == 503
    assert "memory" in refused.error
    predictor.release(4)
    assert [reply.result().status for reply in replies] == [200] * 4
    predictor.release()
    assert running.client.predict(png(PICTURE)).status == 200


def test_nothing_of_a_request_touches_the_disk(client: Client) -> None:
    """No file is written for an upload of 3 MB, which is more than form parsers keep in memory."""
    written: list[Any] = []
    watching = True

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if watching and event == "open" and (arguments[2] or 0) & 3:  # O_WRONLY, O_RDWR
            written.append(arguments[0])

    sys.addaudithook(hook)  # audit hooks cannot be removed, hence the switch
    noise = np.random.default_rng(0).integers(0, 256, (1000, 1000, 3), np.uint8)
    body, headers = form(("file", png(noise)), filename="../../../tmp/of-the-client.png")
    assert len(body) > 2_900_000
    reply = client.ask("POST", "/predict", body, headers)
    watching = False
    assert reply.status == 200
    assert written == []


# -- overload and time -------------------------------------------------------------------------------------------------


def test_a_full_queue_answers_503(serve: Serve) -> None:
    predictor = FakePredictor(held=True)
    running = serve(predictor, limits=Limits(queue_size=2), max_batch=1)
    client = running.client
    replies = [client.later(png(picture(level=1)))]
    predictor.wait_for_call()
    for level in (2, 3):
        replies.append(client.later(png(picture(level=level))))
    wait_until(lambda: running.service.batcher.waiting == 2)
    assert client.metric("htc_queue_length") == 2
    assert client.metric("htc_requests_under_way") == 3
    refused = client.predict(png(picture(level=4)))
    assert refused.status == 503
    assert refused.headers["retry-after"] == "1"
    assert refused.error == "the service is busy: 3 requests are being processed"
    predictor.release(3)
    assert [reply.result().status for reply in replies] == [200, 200, 200]
    # Each client has received its own result, since the score identifies the level.
    assert [reply.result().json()["instances"][0]["score"] for reply in replies] == [0.701, 0.702, 0.703]
    predictor.release()
    assert client.predict(png(picture(level=5))).status == 200
    assert sorted(level for batch in predictor.batches for level in batch) == [1, 2, 3, 5]


def test_requests_that_wait_share_a_batch(serve: Serve) -> None:
    predictor = FakePredictor(held=True)
    running = serve(predictor, max_batch=4, max_delay=0.0)
    replies = [running.client.later(png(picture(level=1)))]
    predictor.wait_for_call()
    replies += [running.client.later(png(picture(level=level))) for level in (2, 3, 4)]
    wait_until(lambda: running.service.batcher.waiting == 3)
    predictor.release(2)
    assert [reply.result().json()["timings"]["batch_size"] for reply in replies] == [1, 3, 3, 3]
    assert [len(batch) for batch in predictor.batches] == [1, 3]
    metric = running.client.metric
    wait_until(lambda: metric("htc_batch_size_count") == 2)
    assert metric('htc_batch_size_bucket{le="1.0"}') == 1
    assert metric('htc_batch_size_bucket{le="2.0"}') == 1
    assert metric('htc_batch_size_bucket{le="4.0"}') == 2
    assert metric("htc_images_total") == 4


def test_a_request_that_timed_out_is_not_computed(serve: Serve) -> None:
    predictor = FakePredictor(held=True)
    running = serve(predictor, limits=Limits(timeout=1.5), max_batch=1)
    client = running.client
    computed = client.later(png(picture(level=1)))
    predictor.wait_for_call()
    queued = client.later(png(picture(level=2)))
    for reply in (computed.result(), queued.result()):
        assert reply.status == 504
        assert reply.error == "the inference was not completed within 1.5 seconds"
    assert running.service.batcher.waiting == 0
    predictor.release()
    predictor.free()
    assert client.predict(png(picture(level=3))).status == 200
    assert predictor.batches == [[1], [3]]


def test_a_request_whose_client_went_away_is_not_computed(serve: Serve) -> None:
    predictor = FakePredictor(held=True)
    running = serve(predictor, max_batch=1)
    client = running.client
    first = client.later(png(picture(level=1)))
    predictor.wait_for_call()
    connection = client.connect()
    connection.request("POST", "/predict", png(picture(level=2)), {"Content-Type": "image/png"})
    wait_until(lambda: running.service.batcher.waiting == 1)
    connection.close()
    wait_until(lambda: running.service.batcher.waiting == 0)
    predictor.free()
    assert first.result().status == 200
    assert client.predict(png(picture(level=3))).status == 200
    assert predictor.batches == [[1], [3]]
    wait_until(lambda: client.metric("htc_requests_under_way") == 0)
    assert client.metric('htc_requests_total{path="/predict",status="499"}') == 1


def test_a_body_that_does_not_come(serve: Serve) -> None:
    running = serve(FakePredictor(), limits=Limits(timeout=0.2))
    with socket.create_connection(("127.0.0.1", running.client.port), PATIENCE) as connection:
        connection.sendall(
            b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Type: image/png\r\nContent-Length: 1000\r\n\r\nonly this"
        )
        assert connection.recv(100).startswith(b"HTTP/1.1 408 ")
    wait_until(lambda: running.client.metric("htc_requests_under_way") == 0)


# -- faults ------------------------------------------------------------------------------------------------------------


def test_the_service_survives_a_failing_inference(serve: Serve, caplog: pytest.LogCaptureFixture) -> None:
    predictor = FakePredictor()
    client = serve(predictor).client
    predictor.error = MemoryError("secret details\nover lines")
    reply = client.predict(png(PICTURE))
    assert reply.status == 500
    assert reply.error == "inference failed (MemoryError); see the log of the service for details"
    assert "secret details" in caplog.text
    predictor.error = None
    assert client.predict(png(PICTURE)).status == 200


def test_a_defect_elsewhere_is_answered_and_logged(
    serve: Serve, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def break_down(*_: Any) -> None:
        raise ZeroDivisionError("a defect")

    client = serve(FakePredictor()).client
    with monkeypatch.context() as patch:
        patch.setattr(service_module, "to_instances", break_down)
        reply = client.predict(png(PICTURE))
    assert reply.status == 500
    assert reply.error == "the service failed (ZeroDivisionError); see its log for details"
    wait_until(lambda: "a defect" in caplog.text)
    assert client.predict(png(PICTURE)).status == 200
    assert client.metric("htc_requests_under_way") == 0


# -- the rest ----------------------------------------------------------------------------------------------------------


def test_draining(serve: Serve) -> None:
    predictor = FakePredictor(held=True)
    running = serve(predictor)
    client = running.client
    assert (client.get("/health").status, client.get("/health").json()) == (200, {"status": "ready", "model": "fake"})
    accepted = client.later(png(PICTURE))
    predictor.wait_for_call()
    running.service.draining = True
    refused = client.predict(png(PICTURE))
    assert (refused.status, refused.error) == (503, "the service is shutting down")
    assert int(refused.headers["retry-after"]) > 0
    assert (client.get("/health").status, client.get("/health").json()["status"]) == (503, "draining")
    predictor.release()
    assert accepted.result().status == 200


def test_the_end_waits_for_what_was_accepted(serve: Serve) -> None:
    predictor = FakePredictor(held=True)
    running = serve(predictor, max_batch=1)
    replies = [running.client.later(png(picture(level=level))) for level in (1, 2)]
    wait_until(lambda: running.service.batcher.waiting == 1)
    running.server.should_exit = True

    def refused() -> bool:
        try:
            running.client.connect().connect()
        except OSError:
            return True
        return False

    wait_until(refused)
    assert not any(reply.done() for reply in replies)
    predictor.release(2)
    assert [reply.result().status for reply in replies] == [200, 200]


def test_metrics(client: Client) -> None:
    client.predict(png(PICTURE))
    client.predict(b"")
    client.get("/somewhere/else")
    client.get("/and/another")
    reply = client.get("/metrics")
    assert reply.headers["content-type"].startswith("text/plain; version=0.0.4")
    assert client.metric('htc_requests_total{path="/predict",status="200"}') == 1
    assert client.metric('htc_requests_total{path="/predict",status="400"}') == 1
    assert client.metric('htc_requests_total{path="other",status="404"}') == 2
    assert client.metric('htc_request_seconds_count{path="/predict"}') == 2
    assert client.metric('htc_request_seconds_bucket{le="+Inf",path="/predict"}') == 2
    assert client.metric("htc_images_total") == 1
    assert client.metric("htc_batch_size_sum") == 1
    assert client.metric("htc_batch_seconds_count") == 1
    assert client.metric("htc_queue_length") == 0
    text = reply.body.decode()
    assert "# TYPE htc_requests_total counter" in text
    assert "# TYPE htc_request_seconds histogram" in text


def test_model(serve: Serve) -> None:
    limits = Limits(max_bytes=1000, max_pixels=2000, timeout=3.0, queue_size=4)
    model = serve(FakePredictor(), limits=limits, threshold=0.4, max_batch=7).client.get("/model").json()
    colours = model.pop("colours")
    assert colours[0] == [255, 70, 60]
    assert len({tuple(colour) for colour in colours}) == 36
    assert model == {
        "name": "fake",
        "classes": [{"class": name, "class_id": number} for name, number in zip(NAMES, IDS)],
        "masks": True,
        "extra_inputs": [],
        "input": {"target_size": [32, 48], "keep_ratio": True, "stride": 16},
        "threshold": 0.4,
        "limits": {"max_bytes": 1000, "max_pixels": 2000, "timeout": 3.0, "queue_size": 4, "max_batch": 7},
    }


def test_openapi_and_no_foreign_origins(client: Client) -> None:
    paths = client.get("/openapi.json").json()["paths"]
    assert set(paths) == {"/predict", "/predict.png", "/health", "/metrics", "/model"}
    assert [one["name"] for one in paths["/predict"]["post"]["parameters"]] == ["threshold", "masks", "format"]
    reply = client.predict(png(PICTURE), Origin="http://elsewhere.example")
    assert not [name for name in reply.headers if name.startswith("access-control")]


def test_the_page_is_one_file(client: Client) -> None:
    reply = client.get("/")
    assert (reply.status, reply.headers["content-type"]) == (200, "text/html; charset=utf-8")
    assert "default-src 'none'" in reply.headers["content-security-policy"]
    text = reply.body.decode().replace("http://www.w3.org/2000/svg", "")  # a namespace, not an address
    for sign in ("http:", "https:", 'src="', "@import", "url(", '<link rel="stylesheet'):
        assert sign not in text
