"""Requests that the service refuses, and the limits of uploads: pixels, bytes, memory."""

from __future__ import annotations

import socket
import struct
import sys
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from serving_fakes import (
    PATIENCE,
    Client,
    FakePredictor,
    Running,
    form,
    picture,
    png,
    wait_until,
)

from deploy.serving import service as service_module
from deploy.serving.uploads import Limits

Serve = Callable[..., Running]

PICTURE = picture(level=100)


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
