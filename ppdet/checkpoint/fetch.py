"""Resolving a path, an address or a name of the model zoo to a weight file on this machine."""

from __future__ import annotations

import re
import urllib.parse
from pathlib import Path

from deploy.common.atomic import atomic_path
from ppdet.checkpoint.convert import with_own_names
from ppdet.checkpoint.source import published_hosts
from ppdet.checkpoint.weight_files import find_weights, read_weights, write_safetensors
from ppdet.checkpoint.zoo import SCHEME, ZOO, close_names, published_name
from ppdet.structures.categories import Categories
from ppdet.utils.download import Opener, cache_target, cached_path, is_url, locked, open_url, weights_of
from ppdet.utils.errors import UserError
from ppdet.utils.logger import setup_logger

__all__ = ["local_weights"]

logger = setup_logger(__name__)

_LAYOUT = 1
"""Version of the names and layouts of converted files; files of other versions are converted again."""


def local_weights(text: str, key: str, folder: Path | None = None, opener: Opener = open_url) -> Path:
    """Return the weight file that a setting refers to, downloading it if necessary.

    Downloads are kept in the user's cache; a PyTorch checkpoint is stored together with its conversion.

    Args:
        text: a path with or without extension, an https address, ``zoo://NAME``, or NAME if there is no such file.
        key: name of the setting, for messages.
        folder: cache folder; by default that of the user.
        opener: opens a request; replaced in tests only.

    Raises:
        UserError: the file or name does not exist, the address is unreachable, or the download is not the published
            file.
    """
    if text.startswith(SCHEME):
        name = text[len(SCHEME) :]
        if name not in ZOO:
            near = " or ".join(close_names(name))
            hint = f"did you mean {near}?" if near else "configs/*/README.md list its names"
            raise UserError(f"{key}={text}: the zoo has no such name; {hint}")
        return _download(ZOO[name].url, name, key, folder, opener)
    if is_url(text):
        return _download(text, published_name(text), key, folder, opener)
    if text in ZOO:
        try:
            return find_weights(text)
        except UserError:
            if Path(text).exists():
                raise
            logger.info("%s=%s: this file does not exist, using the published checkpoint of that name", key, text)
            return _download(ZOO[text].url, text, key, folder, opener)
    return find_weights(text)


def _download(url: str, name: str | None, key: str, folder: Path | None, opener: Opener) -> Path:
    """Download a file; convert it if it is a PyTorch checkpoint or belongs to the zoo."""
    url = _with_checksum(url)
    target = cache_target(url, folder)
    converted = target.with_name(f"{target.name}.ppdet{_LAYOUT}.safetensors")
    if converted.is_file():
        return converted
    file = weights_of(cached_path(url, folder, opener, key))
    if name is None and file.suffix not in (".pth", ".pt"):
        return file
    with locked(converted):
        if not converted.is_file():
            _convert(file, converted, None if name is None else Categories.coco())
    return converted


def _convert(file: Path, target: Path, categories: Categories | None) -> None:
    """Convert a file to this project's names.

    Args:
        file: the downloaded file.
        target: the ``.safetensors`` file to write.
        categories: the classes of the weights, if the file does not contain them.

    Raises:
        UserError: the file cannot be read, or the result cannot be written.
    """
    content = read_weights(file)
    try:
        arrays = with_own_names(content.arrays)
    except UserError as error:
        raise UserError(f"{file}: {error}") from error
    with atomic_path(target) as temporary, open(temporary, "wb") as stream:
        write_safetensors(arrays, stream, content.categories or categories)
    logger.info("converted %s to %s", file, target)


def _with_checksum(url: str) -> str:
    """Append the part of the SHA-256 that the name of a published file ends with."""
    address, _, fragment = url.partition("#")
    parts = urllib.parse.urlsplit(address)
    match = re.search(r"-([0-9a-f]{8})\.pth$", parts.path)
    if fragment or match is None or parts.hostname not in published_hosts():
        return url
    return f"{address}#sha256={match.group(1)}"
