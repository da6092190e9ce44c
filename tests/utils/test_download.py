"""Downloads, against a local server that stands in for an https one."""

from __future__ import annotations

import base64
import hashlib
import http.server
import os
import shutil
import ssl
import subprocess
import threading
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ppdet.utils.download import _HttpsOnly, cached_path, is_url
from ppdet.utils.errors import UserError

pytestmark = pytest.mark.same_on_every_paddle

CONTENT = bytes(range(256)) * 40
URL = "https://example.org/models/r50.pdparams"


class _Handler(http.server.BaseHTTPRequestHandler):
    """Serves CONTENT, with ranges; ``server.cut`` bytes at most when that is set."""

    def do_GET(self) -> None:
        server: Any = self.server
        server.ranges.append(self.headers.get("Range"))
        if self.path != "/models/r50.pdparams":
            self.send_error(404)
            return
        start = 0
        if self.headers.get("Range") and (self.headers.get("If-Range") == server.etag or server.careless):
            start = int(self.headers["Range"][len("bytes=") : -1])
            if start >= len(CONTENT):
                self.send_error(416)
                return
            start += server.shift
        self.send_response(206 if start else 200)
        self.send_header("ETag", server.etag)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(CONTENT) - 1}/{len(CONTENT)}")
        self.send_header("Content-Length", str(len(CONTENT) - start))
        if server.md5:
            self.send_header("Content-MD5", server.md5)
        self.end_headers()
        self.wfile.write(CONTENT[start : server.cut])

    def log_message(self, *args: Any) -> None:
        """Say nothing."""


@pytest.fixture()
def server() -> Iterator[Any]:
    served: Any = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    served.ranges, served.etag, served.cut, served.md5, served.careless, served.shift = [], '"v1"', None, None, False, 0
    threading.Thread(target=served.serve_forever, daemon=True).start()
    yield served
    served.shutdown()
    served.server_close()


@pytest.fixture()
def opener(server: Any) -> Callable[[urllib.request.Request], Any]:
    """Send requests for https://example.org to the local server."""

    def open_locally(request: urllib.request.Request) -> Any:
        local = request.full_url.replace("https://example.org", f"http://127.0.0.1:{server.server_port}")
        return urllib.request.build_opener(urllib.request.ProxyHandler({})).open(
            urllib.request.Request(local, headers=dict(request.header_items())), timeout=5
        )

    return open_locally


def test_downloads_once(tmp_path: Path, server: Any, opener: Any) -> None:
    for _ in range(2):
        path = cached_path(URL, tmp_path, opener)
        assert path == tmp_path / "example.org" / "models" / "r50.pdparams" and path.read_bytes() == CONTENT
    assert server.ranges == [None]
    assert [name for name in os.listdir(path.parent) if not name.endswith(".lock")] == ["r50.pdparams"]


def test_cut_download_goes_on(tmp_path: Path, server: Any, opener: Any) -> None:
    server.cut = 1000
    with pytest.raises(UserError, match=r"example\.org.* ended early|cannot download"):
        cached_path(URL, tmp_path, opener)
    assert not (tmp_path / "example.org" / "models" / "r50.pdparams").exists()
    server.cut = None
    assert cached_path(URL, tmp_path, opener).read_bytes() == CONTENT
    assert server.ranges == [None, "bytes=1000-"]


def test_changed_file_begins_anew(tmp_path: Path, server: Any, opener: Any) -> None:
    server.cut = 1000
    with pytest.raises(UserError):
        cached_path(URL, tmp_path, opener)
    server.cut, server.etag = None, '"v2"'
    assert cached_path(URL, tmp_path, opener).read_bytes() == CONTENT


@pytest.mark.parametrize(("etag", "shift"), [('"v2"', 0), ('"v1"', 7)])
def test_careless_servers_get_a_second_request(tmp_path: Path, server: Any, opener: Any, etag: str, shift: int) -> None:
    """A part of the changed file, or another part than was asked for, is not put behind what is there."""
    server.cut = 1000
    with pytest.raises(UserError):
        cached_path(URL, tmp_path, opener)
    server.cut, server.careless, server.etag, server.shift = None, True, etag, shift
    assert cached_path(URL, tmp_path, opener).read_bytes() == CONTENT
    assert server.ranges == [None, "bytes=1000-", None]


def test_killed_after_the_last_byte(tmp_path: Path, server: Any, opener: Any) -> None:
    """All of the file is there, under its temporary name: no server has a rest of it."""
    folder = tmp_path / "example.org" / "models"
    folder.mkdir(parents=True)
    (folder / ".r50.pdparams.part").write_bytes(CONTENT)
    (folder / ".r50.pdparams.etag").write_text(server.etag)
    assert cached_path(URL, tmp_path, opener).read_bytes() == CONTENT
    assert server.ranges == [f"bytes={len(CONTENT)}-", None]


def test_lock_that_cannot_be_made(tmp_path: Path, opener: Any) -> None:
    (tmp_path / "example.org" / "models" / ".r50.pdparams.lock").mkdir(parents=True)
    with pytest.raises(UserError, match="cannot write into the folder"):
        cached_path(URL, tmp_path, opener)


def test_checksums(tmp_path: Path, server: Any, opener: Any) -> None:
    right = hashlib.sha256(CONTENT).hexdigest()
    with pytest.raises(UserError, match="the sha256 of the downloaded file is not the expected one"):
        cached_path(f"{URL}#sha256={'0' * 64}", tmp_path, opener)
    assert cached_path(f"{URL}#sha256={right}", tmp_path, opener).read_bytes() == CONTENT
    (tmp_path / "example.org" / "models" / "r50.pdparams").write_bytes(b"damaged")
    with pytest.raises(UserError, match="delete the file"):
        cached_path(f"{URL}#sha256={right}", tmp_path, opener)
    with pytest.raises(UserError, match="must be followed by md5= or sha256="):
        cached_path(f"{URL}#crc=1", tmp_path, opener)


def test_md5_of_the_server(tmp_path: Path, server: Any, opener: Any) -> None:
    server.md5 = base64.b64encode(hashlib.md5(b"something else").digest()).decode()
    with pytest.raises(UserError, match="the md5 of the downloaded file"):
        cached_path(URL, tmp_path, opener)
    server.md5 = base64.b64encode(hashlib.md5(CONTENT).digest()).decode()
    assert cached_path(URL, tmp_path, opener).read_bytes() == CONTENT


def test_offline_and_missing_say_what_to_do(tmp_path: Path, opener: Any) -> None:
    def refuse(request: Any) -> Any:
        raise urllib.error.URLError("Name or service not known")

    with pytest.raises(UserError, match=r"cannot download .*Name or service not known.*pretrain_weights= \(empty\)"):
        cached_path(URL, tmp_path, refuse)
    with pytest.raises(UserError, match="404"):
        cached_path("https://example.org/none.pdparams", tmp_path, opener)


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("http://example.org/a", "https only"),
        ("file:///etc/passwd", "https only"),
        ("https://example.org/", "does not name a file"),
        ("https://example.org/../../a", "leads out of the cache folder"),
        ("https://example.org/%2e%2e/a", "leads out of the cache folder"),
        ("https://example.org/a%2f..%2fb", "leads out of the cache folder"),
    ],
)
def test_addresses_refused(tmp_path: Path, url: str, message: str) -> None:
    assert is_url(url)
    with pytest.raises(UserError, match=message):
        cached_path(url, tmp_path)


class _Redirects(_Handler):
    """Sends ``/to?ADDRESS`` to ADDRESS."""

    def do_GET(self) -> None:
        if not self.path.startswith("/to?"):
            super().do_GET()
            return
        self.send_response(302)
        self.send_header("Location", self.path[len("/to?") :])
        self.send_header("Content-Length", "0")
        self.end_headers()


@pytest.fixture()
def https(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A server with a certificate of its own."""
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("no openssl to make a certificate with")
    names = ["-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1"]
    key, certificate = str(tmp_path / "key.pem"), str(tmp_path / "certificate.pem")
    command = [openssl, "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", *names]
    subprocess.run([*command, "-keyout", key, "-out", certificate], check=True, capture_output=True, timeout=60)
    served: Any = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Redirects)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    served.socket = context.wrap_socket(served.socket, server_side=True)
    served.ranges, served.etag, served.cut, served.md5, served.careless, served.shift = [], '"v1"', None, None, False, 0
    served.url, served.certificate = f"https://127.0.0.1:{served.server_port}", certificate
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    threading.Thread(target=served.serve_forever, daemon=True).start()
    yield served
    served.shutdown()
    served.server_close()


def test_over_https(tmp_path: Path, https: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    address = f"{https.url}/models/r50.pdparams"
    with pytest.raises(UserError, match=r"cannot download .*certificate"):
        cached_path(address, tmp_path)  # nobody knows this certificate
    monkeypatch.setenv("SSL_CERT_FILE", https.certificate)
    https.cut = 1000
    with pytest.raises(UserError, match="ended early"):
        cached_path(address, tmp_path)
    https.cut = None
    assert cached_path(address, tmp_path).read_bytes() == CONTENT
    assert https.ranges == [None, "bytes=1000-"]
    assert cached_path(f"{https.url}/to?/models/r50.pdparams", tmp_path).read_bytes() == CONTENT


def test_redirections_off_https(tmp_path: Path, https: Any, server: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", https.certificate)
    plain = f"http://127.0.0.1:{server.server_port}/models/r50.pdparams"
    for place in (plain, "ftp://127.0.0.1/a", "file:///etc/passwd"):
        with pytest.raises(UserError, match=r"not https; refused|not allowed"):
            cached_path(f"{https.url}/to?{place}", tmp_path)
    assert server.ranges == []  # it was not even asked


def test_no_redirection_to_http() -> None:
    request = urllib.request.Request("https://example.org/a")
    with pytest.raises(UserError, match="not https; refused"):
        _HttpsOnly().redirect_request(request, None, 302, "Found", {}, "http://example.org/a")
    assert not is_url("output/a/0") and not is_url("C:\\a")
