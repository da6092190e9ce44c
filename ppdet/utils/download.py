"""Downloads of weight files over https into the user's cache, with resumption and checksums.

A file gets its final name only when it is complete.
"""

from __future__ import annotations

import base64
import fcntl
import hashlib
import http
import http.client
import os
import re
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from deploy.common.atomic import make_dir
from ppdet.utils.archive import is_archive, unpack
from ppdet.utils.errors import UserError
from ppdet.utils.logger import setup_logger

__all__ = [
    "Opener",
    "cache_dir",
    "cache_target",
    "cached_path",
    "fetch",
    "is_url",
    "locked",
    "open_url",
    "weights_of",
]

logger = setup_logger(__name__)

CHUNK = 1 << 20
TIMEOUT = 30.0
_WEIGHTS = (".safetensors", ".pdparams", ".pth")
"""Extensions of weight files in order of preference."""
Opener = Callable[[urllib.request.Request], Any]


def is_url(text: str) -> bool:
    """Return whether ``text`` is a URL rather than a path."""
    return re.match(r"^[A-Za-z][A-Za-z0-9+.-]*://", text) is not None


def cache_dir() -> Path:
    """Return the folder of downloaded weights: ``$XDG_CACHE_HOME/ppdet/weights``, by default in ``~/.cache``."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base).expanduser() / "ppdet" / "weights"


class _HttpsOnly(urllib.request.HTTPRedirectHandler):
    """Follows redirections to https addresses only."""

    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:
        """Return the request for the new address.

        Raises:
            UserError: the new address is not https.
        """
        if urllib.parse.urlsplit(newurl).scheme != "https":
            raise UserError(f"{req.full_url} redirects to {newurl}, which is not https; refused")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def open_url(request: urllib.request.Request) -> Any:
    """Open a request, following redirections to https addresses only."""
    return urllib.request.build_opener(_HttpsOnly).open(request, timeout=TIMEOUT)


def _split_checksum(url: str) -> tuple[str, str | None, str | None]:
    """Split ``https://…#sha256=HEX`` (at least 8 digits; or ``#md5=HEX``) into address, algorithm, digest."""
    address, _, fragment = url.partition("#")
    if not fragment:
        return address, None, None
    algorithm, _, digest = fragment.partition("=")
    lengths = {"md5": "32", "sha256": "8,64"}
    if algorithm not in lengths or not re.fullmatch(rf"[0-9a-fA-F]{{{lengths[algorithm]}}}", digest):
        raise UserError(f"{url}: # must be followed by md5= or sha256= and the hexadecimal checksum")
    return address, algorithm, digest.lower()


def cache_target(url: str, folder: Path | None = None) -> Path:
    """Return the path in the cache that belongs to an address, whether or not the file exists.

    Raises:
        UserError: the address is not https, its path leads out of the cache, or its checksum is malformed.
    """
    return _target(_split_checksum(url)[0], cache_dir() if folder is None else folder)


def _target(address: str, folder: Path) -> Path:
    """Return where an address is cached: ``<folder>/<host>/<path>``.

    Raises:
        UserError: the address is not https, or its path leads out of the cache.
    """
    parts = urllib.parse.urlsplit(address)
    if parts.scheme != "https":
        raise UserError(f"{address}: weights are downloaded over https only")
    names = [urllib.parse.unquote(name) for name in parts.path.split("/") if name]
    if not parts.hostname or not names:
        raise UserError(f"{address} does not name a file")
    if any(name in (".", "..") or "/" in name or "\\" in name or "\0" in name for name in names):
        raise UserError(f"{address} has a path that leads out of the cache folder; refused")
    return folder.joinpath(parts.hostname, *names)


@contextmanager
def locked(target: Path) -> Iterator[None]:
    """Keep other processes (ranks of one training) from writing the same file at the same time.

    Raises:
        UserError: the folder cannot be written to.
    """
    try:
        lock = open(target.with_name(f".{target.name}.lock"), "w", encoding="ascii")
    except OSError as error:
        raise UserError(f"cannot write into the folder {target.parent}: {error.strerror or error}") from error
    with lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def cached_path(url: str, folder: Path | None = None, opener: Opener = open_url, key: str = "pretrain_weights") -> Path:
    """Return the local file of ``url``, and download it unless it is in the cache.

    Args:
        url: https address, with ``#sha256=HEX`` (or its first digits) or ``#md5=HEX`` appended if known.
        folder: cache folder; the user's by default.
        opener: opens a request; replaced in tests only.
        key: configuration key that names the file, for messages.

    Raises:
        UserError: the address is not https or not reachable, or the checksum differs.
    """
    address, algorithm, digest = _split_checksum(url)
    target = _target(address, cache_dir() if folder is None else folder)
    make_dir(target.parent)
    with locked(target):
        if not target.is_file():
            fetch(address, target, algorithm, digest, opener, key)
        elif algorithm is not None and digest is not None and not _digest(target, algorithm).startswith(digest):
            raise UserError(f"{target} does not have the {algorithm} in {url}; delete the file to download it again")
    return target


def weights_of(path: Path) -> Path:
    """Return ``path``, or, if it is an archive, the weight file in it, unpacked next to it.

    Raises:
        UserError: the archive is refused, or does not contain exactly one weight file.
    """
    if not is_archive(path):
        return path
    folder = unpack(path, path.with_name(f"{path.name}.unpacked"))
    files = sorted(file for file in folder.rglob("*") if file.suffix in _WEIGHTS and file.is_file())
    stems = {file.with_suffix("") for file in files}
    if len(stems) != 1:
        names = ", ".join(str(stem.relative_to(folder)) for stem in sorted(stems)[:3]) or "none"
        raise UserError(f"{path} must contain the weights of one model ({', '.join(_WEIGHTS)}), but contains: {names}")
    return min(files, key=lambda file: _WEIGHTS.index(file.suffix))


def _digest(path: Path, algorithm: str) -> str:
    value = hashlib.new(algorithm)
    with open(path, "rb") as stream:
        while chunk := stream.read(CHUNK):
            value.update(chunk)
    return value.hexdigest()


def _request(address: str, partial: Path, tag_file: Path) -> urllib.request.Request:
    """Request the rest of a partial file if the file on the server is still the same, or else the whole file."""
    request = urllib.request.Request(address, headers={"User-Agent": "ppdet", "Accept-Encoding": "identity"})
    if partial.is_file() and partial.stat().st_size and tag_file.is_file():
        request.add_header("Range", f"bytes={partial.stat().st_size}-")
        request.add_header("If-Range", tag_file.read_text(encoding="utf-8"))
    return request


class _Received(NamedTuple):
    """Size and MD5 of the whole file according to the server, if it sent them."""

    size: int | None
    md5: str | None


def _receive(address: str, partial: Path, tag_file: Path, opener: Opener) -> _Received | None:
    """Write the server's answer to the partial file, or append it.

    Returns:
        None if the partial file cannot be continued because the file on the server has changed.
    """
    request = _request(address, partial, tag_file)
    partial_requested = request.has_header("Range")
    try:
        response = opener(request)
    except urllib.error.HTTPError as error:
        if partial_requested and error.code == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            return None
        raise
    with response:
        resumed = response.status == http.HTTPStatus.PARTIAL_CONTENT
        tag = response.headers.get("ETag")
        if resumed:
            begun = partial.stat().st_size if partial_requested else -1
            place = re.match(r"bytes (\d+)-", response.headers.get("Content-Range") or "")
            if place is None or int(place[1]) != begun or (tag and tag != tag_file.read_text(encoding="utf-8")):
                return None
        else:
            begun = 0
            tag_file.unlink(missing_ok=True)
        if tag and not tag.startswith("W/"):
            tag_file.write_text(tag, encoding="utf-8")
        with open(partial, "ab" if resumed else "wb") as stream:
            while chunk := response.read(CHUNK):
                stream.write(chunk)
            stream.flush()
            os.fsync(stream.fileno())
        length = response.headers.get("Content-Length")
        md5 = None if resumed else response.headers.get("Content-MD5")
        return _Received(None if length is None else begun + int(length), md5)


def fetch(
    address: str,
    target: Path,
    algorithm: str | None,
    digest: str | None,
    opener: Opener = open_url,
    key: str = "pretrain_weights",
) -> None:
    """Download ``address`` to ``target``, resuming an earlier attempt that was interrupted.

    The file gets its final name after its length and checksums (the given one, and the server's ``Content-MD5``) have
    been verified.

    Raises:
        UserError: no connection, an error of the server, or a wrong length or checksum.
    """
    partial = target.with_name(f".{target.name}.part")
    tag_file = target.with_name(f".{target.name}.etag")
    logger.info("downloading %s to %s", address, target)
    try:
        received = _receive(address, partial, tag_file, opener)
        if received is None:
            partial.unlink(missing_ok=True)
            tag_file.unlink(missing_ok=True)
            received = _receive(address, partial, tag_file, opener)
    except (OSError, http.client.HTTPException, ValueError) as error:
        # HTTPError and URLError are OSErrors; the text of a URLError is that of a tuple
        reason = error.reason if type(error) is urllib.error.URLError else error
        without = ", or set pretrain_weights= (empty) to start without them" if key == "pretrain_weights" else ""
        raise UserError(
            f"cannot download {address} ({reason}); download it on a machine with access and set {key} to the file "
            f"(or put it at {target}){without}"
        ) from error
    if received is None:
        raise UserError(
            f"cannot download {address}: the server sent a part of the file although the whole file was requested"
        )
    if received.size is not None and partial.stat().st_size != received.size:
        raise UserError(f"the download of {address} ended early; run the same command again to resume it")
    _check(address, partial, algorithm, digest, received.md5)
    os.replace(partial, target)
    tag_file.unlink(missing_ok=True)


def _check(address: str, partial: Path, algorithm: str | None, digest: str | None, served_md5: str | None) -> None:
    """Verify checksums; a file with a wrong checksum is deleted, because resuming it would be of no use.

    Raises:
        UserError: a checksum differs.
    """
    expected = [(algorithm, digest)] if algorithm and digest else []
    if served_md5:
        expected.append(("md5", base64.b64decode(served_md5).hex()))
    for kind, value in expected:
        if not _digest(partial, str(kind)).startswith(value):
            partial.unlink()
            raise UserError(
                f"{address}: the {kind} of the downloaded file is not the expected one; the file was deleted, "
                "run the command again"
            )
