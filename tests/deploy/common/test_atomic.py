"""Atomic output: files are either complete or not written at all."""

from __future__ import annotations

import errno
import os
from contextlib import nullcontext
from pathlib import Path

import pytest

from deploy.common import atomic
from deploy.common.atomic import atomic_path, atomic_writer
from ppdet.utils.errors import UserError

pytestmark = pytest.mark.same_on_every_paddle


def test_content_and_no_leftovers(tmp_path: Path) -> None:
    with atomic_writer(tmp_path / "new" / "a.txt", "w") as stream:
        stream.write("ä")
        assert not (tmp_path / "new" / "a.txt").exists()
    assert (tmp_path / "new" / "a.txt").read_bytes() == "ä".encode()
    assert os.listdir(tmp_path / "new") == ["a.txt"]


def test_exception_keeps_the_old_file(tmp_path: Path) -> None:
    target = tmp_path / "a.bin"
    target.write_bytes(b"old")
    with pytest.raises(RuntimeError), atomic_writer(target) as stream:
        stream.write(b"half")
        raise RuntimeError
    assert target.read_bytes() == b"old" and os.listdir(tmp_path) == ["a.bin"]


@pytest.mark.parametrize("number", [errno.EINVAL, errno.EIO])
def test_folders_that_cannot_be_flushed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    plain = atomic._to_disk

    def flush(path: Path) -> None:
        if path.is_dir():
            raise OSError(number, os.strerror(number))
        plain(path)

    monkeypatch.setattr(atomic, "_to_disk", flush)
    with pytest.raises(UserError, match="Input/output error") if number == errno.EIO else nullcontext():
        with atomic_writer(tmp_path / "a.bin") as stream:
            stream.write(b"whole")
    assert (tmp_path / "a.bin").read_bytes() == b"whole"


def test_full_disk_is_a_plain_message(tmp_path: Path) -> None:
    target = tmp_path / "a.bin"
    target.write_bytes(b"old")
    with pytest.raises(UserError, match=r"a\.bin: the disk is full; the existing file is kept"):
        with atomic_path(target) as temporary:
            temporary.write_bytes(b"half")
            raise OSError(errno.ENOSPC, "No space left on device")
    assert target.read_bytes() == b"old" and os.listdir(tmp_path) == ["a.bin"]


def test_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot create the folder .*file/sub"):
        with atomic_writer(tmp_path / "file" / "sub" / "a"):
            pass
