"""Downloads, against a local server that stands in for an https one."""

from __future__ import annotations

import base64
import hashlib
import http.server
import os
import threading
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ppdet.utils.download import _HttpsOnly, cached_path, is_url
from ppdet.utils.errors import UserError

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
        if self.headers.get("Range") and self.headers.get("If-Range") == server.etag:
            start = int(self.headers["Range"][len("bytes=") : -1])
        self.send_response(206 if start else 200)
        self.send_header("ETag", server.etag)
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
    served.ranges, served.etag, served.cut, served.md5 = [], '"v1"', None, None
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


def test_checksums(tmp_path: Path, server: Any, opener: Any) -> None:
    right = hashlib.sha256(CONTENT).hexdigest()
    with pytest.raises(UserError, match="another sha256 than announced"):
        cached_path(f"{URL}#sha256={'0' * 64}", tmp_path, opener)
    assert cached_path(f"{URL}#sha256={right}", tmp_path, opener).read_bytes() == CONTENT
    (tmp_path / "example.org" / "models" / "r50.pdparams").write_bytes(b"damaged")
    with pytest.raises(UserError, match="delete the file"):
        cached_path(f"{URL}#sha256={right}", tmp_path, opener)
    with pytest.raises(UserError, match="must be md5= or sha256="):
        cached_path(f"{URL}#crc=1", tmp_path, opener)


def test_md5_of_the_server(tmp_path: Path, server: Any, opener: Any) -> None:
    server.md5 = base64.b64encode(hashlib.md5(b"something else").digest()).decode()
    with pytest.raises(UserError, match="another md5"):
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
        ("https://example.org/", "names no file"),
        ("https://example.org/../../a", "leads out of the cache folder"),
        ("https://example.org/%2e%2e/a", "leads out of the cache folder"),
        ("https://example.org/a%2f..%2fb", "leads out of the cache folder"),
    ],
)
def test_addresses_refused(tmp_path: Path, url: str, message: str) -> None:
    assert is_url(url)
    with pytest.raises(UserError, match=message):
        cached_path(url, tmp_path)


def test_no_redirection_to_http() -> None:
    request = urllib.request.Request("https://example.org/a")
    with pytest.raises(UserError, match="not https; refused"):
        _HttpsOnly().redirect_request(request, None, 302, "Found", {}, "http://example.org/a")
    assert not is_url("output/a/0") and not is_url("C:\\a")
