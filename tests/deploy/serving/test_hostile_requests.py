"""Invalid requests are answered with a 4xx status and one line of JSON, and the service continues to run."""

from __future__ import annotations

import json
import socket
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from serving_fakes import FakePredictor, Running, picture, png, wait_until

from deploy.serving import protocol
from deploy.serving.uploads import Limits

IMAGE = png(picture())
POST = b"POST /predict HTTP/1.1\r\nHost: x\r\n"
TYPED = POST + b"Content-Type: image/png\r\n"


@pytest.fixture(scope="module")
def running() -> Iterator[Running]:
    service = Running(FakePredictor(), limits=Limits(timeout=1.0))
    yield service
    service.stop()


@pytest.fixture(autouse=True)
def _still_serves(running: Running) -> Iterator[None]:
    yield
    assert running.client.predict(IMAGE).status == 200 and running.client.get("/health").status == 200


def send(running: Running, data: bytes) -> tuple[int, str]:
    """Send raw bytes and return the status and the error of the response."""
    with socket.create_connection(("127.0.0.1", running.client.port), timeout=20) as connection:
        received = b""
        try:
            connection.sendall(data)
            while not received.endswith(b"}") and (part := connection.recv(65536)):
                received += part
        except ConnectionResetError:  # the data sent after the refusal has been discarded
            pass
    head, _, body = received.partition(b"\r\n\r\n")
    assert b"content-type: application/json" in head.lower(), received[:300]
    content = json.loads(body)
    assert list(content) == ["error"] and "\n" not in content["error"] and len(content["error"]) < 300
    return int(head.split()[1]), content["error"]


@pytest.mark.parametrize(
    ("request_bytes", "status", "reason"),
    [
        (TYPED + b"Content-Length: abc\r\n\r\n", 400, "not a valid HTTP request"),
        (TYPED + b"Content-Length: -5\r\n\r\n", 400, "not a valid HTTP request"),
        (TYPED + b"Content-Length: 1e3\r\n\r\n", 400, "not a valid HTTP request"),
        (TYPED + b"Content-Length: " + b"9" * 40 + b"\r\n\r\n", 400, "not a valid HTTP request"),
        (TYPED + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nxxxxxx", 400, "not a valid HTTP request"),
        (TYPED + b"Transfer-Encoding: gzip\r\n\r\nabc", 400, "not a valid HTTP request"),
        (TYPED + b"Transfer-Encoding: chunked\r\n\r\nZZ\r\nabc\r\n0\r\n\r\n", 400, "not a valid HTTP request"),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"a" * 50, 400, "not a valid HTTP request"),
        (b"hello\r\n\r\n", 400, "not a valid HTTP request"),
        (b"GET /\r\n\r\n", 400, "not a valid HTTP request"),
        (b"GET /health HTTP/1.1\r\nHost: x\r\nX: a\0b\r\n\r\n", 400, "not a valid HTTP request"),
        (b"GET /" + b"a" * 60_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n", 404, "not found"),
        (b"GET /../../etc/passwd HTTP/1.1\r\nHost: x\r\n\r\n", 404, "not found"),
        (b"FOO /predict HTTP/1.1\r\nHost: x\r\n\r\n", 405, "method not allowed"),
        (b"DELETE /predict HTTP/1.1\r\nHost: x\r\n\r\n", 405, "method not allowed"),
        (POST + b"Content-Length: 3\r\n\r\nabc", 415, "got no Content-Type"),
        (POST + b"Content-Type: " + b"a" * 5000 + b"\r\nContent-Length: 3\r\n\r\nabc", 415, "send the image"),
        (TYPED + b"\r\n", 400, "is empty"),
        (TYPED + b"Content-Length: 0\r\n\r\n", 400, "is empty"),
        (TYPED + b"Content-Length: 1000000000\r\n\r\nabc", 413, "exceeds the limit"),
        (TYPED + b"Expect: 100-continue\r\nContent-Length: 1000000000\r\n\r\n", 413, "exceeds the limit"),
        (TYPED + b"Content-Length: 1000\r\n\r\nabc", 408, "too long to arrive"),
        (TYPED + b"Transfer-Encoding: chunked\r\n\r\nFFFFFFFFFFFFFFFFF\r\nabc", 408, "too long to arrive"),
    ],
)
def test_http(running: Running, request_bytes: bytes, status: int, reason: str) -> None:
    found, error = send(running, request_bytes)
    assert found == status and reason in error


@pytest.mark.parametrize("value", ["nan", "NaN", "-1", "2", "inf", "1e400", "0x1", "", "%00", "%ff%1b[31m", "a" * 9000])
def test_thresholds(running: Running, value: str) -> None:
    head = f"POST /predict?threshold={value} HTTP/1.1\r\nHost: x\r\nContent-Type: image/png\r\n".encode()
    status, error = send(running, head + b"Content-Length: %d\r\n\r\n" % len(IMAGE) + IMAGE)
    assert status == 422 and error.startswith("threshold must be a number from 0 to 1")
    assert error.isprintable()


def form(header: bytes, end: bytes = b"--b--\r\n", boundary: bytes = b"b") -> bytes:
    body = b"--b\r\n" + header + b"\r\n\r\n" + IMAGE + b"\r\n" + end
    kind = b"Content-Type: multipart/form-data; boundary=" + boundary
    return POST + kind + b"\r\nContent-Length: %d\r\n\r\n" % len(body) + body


@pytest.mark.parametrize(
    ("request_bytes", "reason"),
    [
        (form(b"X: y"), "it has 0"),
        (form(b"\xff\xfe"), "malformed"),
        (form(b'Content-Disposition: form-data; name="file"; filename="' + b"a" * 60_000 + b'"'), "malformed"),
        (form(b'Content-Disposition: form-data; name="file"', end=b""), "its end is missing"),
        (form(b"Content-Disposition: form-data; name*=bogus''%ff"), "it has 0"),
        (form(b'Content-Disposition: form-data; name="file"', boundary=b"a" * 5000), "malformed"),
        (form(b'Content-Disposition: form-data; name="file"', boundary=b"\xff"), "malformed"),
        (form(b'Content-Disposition: form-data; name="file"', boundary=b""), "no boundary"),
    ],
)
def test_forms(running: Running, request_bytes: bytes, reason: str) -> None:
    status, error = send(running, request_bytes)
    assert status == 400 and reason in error


@pytest.mark.parametrize("name", ["图片😀.png", "../../../etc/passwd", "C:\\x", "a\0b", "\x1b[31m.png", "a" * 2000, ""])
def test_the_name_of_the_file_does_not_matter(running: Running, name: str) -> None:
    disposition = f'Content-Disposition: form-data; name="file"; filename="{name}"'.encode()
    data = form(disposition)
    head, _, body = data.partition(b"\r\n\r\n")
    lines = [line.partition(b": ") for line in head.split(b"\r\n")[1:]]
    headers = {key.decode(): value.decode() for key, _, value in lines if key not in (b"Host", b"Content-Length")}
    assert running.client.ask("POST", "/predict", body, headers).status == 200


def test_connections_that_never_finish_their_headers(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "HEADER_SECONDS", 0.2)
    waiting = [socket.create_connection(("127.0.0.1", running.client.port), timeout=10) for _ in range(50)]
    for place, connection in enumerate(waiting):
        if place % 2:
            connection.sendall(b"POST /predict HTTP/1.1\r\nHost")
    begun = time.monotonic()
    assert running.client.predict(IMAGE).status == 200 and time.monotonic() - begun < 5  # other clients are not delayed
    assert [connection.recv(1) for connection in waiting] == [b""] * 50
    for connection in waiting:
        connection.close()
    slow = running.client.connect()
    slow.connect()
    slow.sock.sendall(TYPED + b"Content-Length: %d\r\n\r\n" % len(IMAGE))
    time.sleep(0.7)  # the headers are complete, and the body has its own limit
    slow.sock.sendall(IMAGE)
    assert slow.sock.recv(12) == b"HTTP/1.1 200"
    slow.close()


def test_a_thousand_requests_at_once(running: Running) -> None:
    with ThreadPoolExecutor(64) as pool:
        replies = list(pool.map(lambda _: running.client.predict(IMAGE), range(1000)))
    counts = Counter(reply.status for reply in replies)
    assert set(counts) <= {200, 503} and counts[200] > 0
    assert all("busy" in reply.error and reply.headers["retry-after"] for reply in replies if reply.status == 503)
    wait_until(lambda: running.client.predict(IMAGE).status == 200)


@pytest.mark.parametrize(
    ("upload", "name"), [(b"\0\0\0\x18ftypheic" + bytes(99), "HEI"), (b"%PDF-1.4", "PDF"), (b"<svg/>", "SVG")]
)
def test_files_that_have_to_be_converted(running: Running, upload: bytes, name: str) -> None:
    status, reason = send(running, TYPED + b"Content-Length: %d\r\n\r\n" % len(upload) + upload)
    assert status == 400 and name in reason and reason.endswith("convert it to JPEG or PNG"), reason
