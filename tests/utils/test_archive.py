"""Archives unpack into their folder and nowhere else."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import stat
import tarfile
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from ppdet.utils.archive import is_archive, unpack
from ppdet.utils.download import weights_of
from ppdet.utils.errors import UserError

pytestmark = pytest.mark.same_on_every_paddle

Members = list[tuple[str, bytes]]


def _zip(path: Path, members: Members) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members:
            info = zipfile.ZipInfo(name)
            info.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(info, data)
    return path


def _tar(path: Path, members: Members, *special: tarfile.TarInfo) -> Path:
    with tarfile.open(path, "w:gz" if path.name.endswith("gz") else "w") as archive:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size, info.mode = len(data), 0o6777
            archive.addfile(info, io.BytesIO(data))
        for info in special:
            archive.addfile(info)
    return path


MAKERS: dict[str, Callable[[Path, Members], Path]] = {"a.zip": _zip, "a.tar": _tar, "a.tar.gz": _tar, "a.tgz": _tar}


@pytest.mark.parametrize("name", MAKERS)
def test_files_and_folders(tmp_path: Path, name: str) -> None:
    archive = MAKERS[name](tmp_path / name, [("x/y/one", b"1"), ("./two", b"22"), ("x/empty", b"")])
    assert is_archive(archive) and not is_archive("a.pdparams")
    folder = unpack(archive, tmp_path / "out")
    found = {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}
    assert found == {"x/y/one": b"1", "two": b"22", "x/empty": b""}
    assert not (folder / "two").stat().st_mode & (stat.S_ISUID | stat.S_IXUSR | stat.S_IWOTH)
    assert sorted(os.listdir(tmp_path)) == sorted([name, "out"])
    archive.unlink()
    assert unpack(archive, folder) == folder  # there already


@pytest.mark.parametrize("maker", MAKERS)
@pytest.mark.parametrize(
    "name",
    ["../evil", "x/../../evil", "/tmp/evil", "x/..", "..\\evil", "x\\..\\..\\evil", "C:\\evil", "a\nb", "good"],
)
def test_members_that_lead_elsewhere(tmp_path: Path, maker: str, name: str) -> None:
    (tmp_path / "in").mkdir()
    archive = MAKERS[maker](tmp_path / "in" / maker, [("good", b"1"), (name, b"2")])
    with pytest.raises(UserError, match=r"its member .*(leads out|unprintable|twice).*nothing was unpacked"):
        unpack(archive, tmp_path / "in" / "out")
    assert os.listdir(tmp_path) == ["in"] and os.listdir(tmp_path / "in") == [maker]


def _special(kind: bytes, target: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo("special")
    info.type, info.linkname = kind, target
    return info


@pytest.mark.parametrize(
    ("info", "what"),
    [
        (_special(tarfile.SYMTYPE, "/etc/passwd"), "is a link"),
        (_special(tarfile.SYMTYPE, "good"), "is a link"),
        (_special(tarfile.LNKTYPE, "../../secret"), "is a link"),
        (_special(tarfile.CHRTYPE), "is a device"),
        (_special(tarfile.BLKTYPE), "is a device"),
        (_special(tarfile.FIFOTYPE), "is a device"),
    ],
)
def test_links_and_devices_in_a_tar(tmp_path: Path, info: tarfile.TarInfo, what: str) -> None:
    archive = _tar(tmp_path / "a.tar", [("good", b"1")], info)
    with pytest.raises(UserError, match=f"'special' {what}; refused"):
        unpack(archive, tmp_path / "out")
    assert os.listdir(tmp_path) == ["a.tar"]


def test_link_in_a_zip(tmp_path: Path) -> None:
    info = zipfile.ZipInfo("link")
    info.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr(info, "/etc/passwd")
    with pytest.raises(UserError, match="'link' is a link or device"):
        unpack(tmp_path / "a.zip", tmp_path / "out")


@pytest.mark.parametrize("maker", ["a.zip", "a.tar.gz"])
def test_bombs(tmp_path: Path, maker: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ppdet.utils.archive._SMALL", 1 << 20)
    archive = MAKERS[maker](tmp_path / maker, [("zeros", bytes(1 << 22))])
    assert archive.stat().st_size < 1 << 17
    with pytest.raises(UserError, match="'zeros' makes the archive unreasonably large"):
        unpack(archive, tmp_path / "out")
    assert os.listdir(tmp_path) == [maker]


@pytest.mark.parametrize("maker", MAKERS)
def test_damage(tmp_path: Path, maker: str) -> None:
    archive = MAKERS[maker](tmp_path / maker, [("random", os.urandom(100_000))])
    whole = archive.read_bytes()
    for data in (whole[: len(whole) // 2], b"no archive at all"):
        archive.write_bytes(data)
        with pytest.raises(UserError, match="is damaged"):
            unpack(archive, tmp_path / "out")
        assert os.listdir(tmp_path) == [maker]


def test_file_that_is_a_folder_too(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="'x' is a file and a folder"):
        unpack(_zip(tmp_path / "a.zip", [("x", b"1"), ("x/y", b"2")]), tmp_path / "out")


def test_weights_in_an_archive(tmp_path: Path) -> None:
    members = [("m/r50.pdparams", b"1"), ("m/r50.safetensors", b"2"), ("m/README", b"3")]
    assert weights_of(_zip(tmp_path / "a.zip", members)).read_bytes() == b"2"
    assert weights_of(tmp_path / "r50.pdparams") == tmp_path / "r50.pdparams"
    with pytest.raises(UserError, match=r"b\.tar must contain the weights of one model .*contains: none"):
        weights_of(_tar(tmp_path / "b.tar", members[2:]))
    with pytest.raises(UserError, match="contains: m/r101, m/r50"):
        weights_of(_tar(tmp_path / "c.tar", [*members, ("m/r101.pth", b"4")]))


@pytest.mark.parametrize("packing", ["gz", "bz2", "xz"])
def test_headers_of_a_packed_archive_are_bounded(tmp_path: Path, packing: str) -> None:
    """A header of 256 MB takes a file of 256 KB, and would be read into memory as a whole."""
    header = tarfile.TarInfo("pax")
    header.type, header.size = tarfile.XHDTYPE, 256 << 20
    opener = {"gz": gzip.open, "bz2": bz2.open, "xz": lzma.open}[packing]
    file = tmp_path / f"x.tar.{packing}"
    with opener(file, "wb") as stream:  # type: ignore[operator]
        stream.write(header.tobuf(tarfile.USTAR_FORMAT))
        for _ in range(16):
            stream.write(b"\0" * (1 << 20))
    tracemalloc.start()
    with pytest.raises(UserError, match=r"x\.tar\.\w+ is damaged \(its headers are unreasonably large.*download"):
        unpack(file, tmp_path / "out")
    assert tracemalloc.get_traced_memory()[1] < 32 << 20
    tracemalloc.stop()
    assert not (tmp_path / "out").exists()


def test_many_headers_are_bounded(tmp_path: Path) -> None:
    header = tarfile.TarInfo("pax")
    header.type, header.size = tarfile.XHDTYPE, 1 << 20
    file = tmp_path / "x.tar.gz"
    with gzip.open(file, "wb") as stream:
        for number in range(300):
            stream.write(header.tobuf(tarfile.USTAR_FORMAT) + b"\0" * (1 << 20))
            stream.write(tarfile.TarInfo(str(number)).tobuf(tarfile.USTAR_FORMAT))
    with pytest.raises(UserError, match=r"x\.tar\.gz"):
        unpack(file, tmp_path / "out")
