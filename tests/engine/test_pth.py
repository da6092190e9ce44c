"""PyTorch's formats read without PyTorch: right tensors, and nothing executed."""

from __future__ import annotations

import io
import pickle
import struct
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

from ppdet.engine.pth import read_pth
from ppdet.engine.weights import read_state
from ppdet.utils.errors import UserError

SAMPLES = Path(__file__).parent / "pth"


@pytest.mark.parametrize("name", ["legacy_stream", "zip_archive", "zip_bare_state_dict", "zip_with_foreign_objects"])
def test_tensors(name: str) -> None:
    with np.load(SAMPLES / "expected.npz") as expected:
        arrays = read_pth(SAMPLES / f"{name}.pth")
        assert set(arrays) == set(expected.files)
        for key in expected.files:
            assert arrays[key].dtype == expected[key].dtype
            np.testing.assert_array_equal(arrays[key], expected[key])


@pytest.mark.parametrize("name", ["canary.pth", "canary.pdparams"])
def test_canaries_are_silent(name: str, repo_root: Path) -> None:
    code = f"""
from ppdet.engine.weights import read_state
from ppdet.utils.errors import UserError
try:
    read_state({str(SAMPLES / name)!r})
except UserError as error:
    assert "print" in str(error), error
else:
    raise SystemExit("accepted")
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=repo_root, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""


@pytest.mark.parametrize("name", ["legacy_stream", "zip_archive"])
def test_every_truncation_is_one_clear_line(name: str, tmp_path: Path) -> None:
    whole = (SAMPLES / f"{name}.pth").read_bytes()
    file = tmp_path / "short.pth"
    for length in [0, 1, 3, 20, 200, *range(400, len(whole), 97), len(whole) - 1]:
        file.write_bytes(whole[:length])
        with pytest.raises(UserError, match=r"short\.pth"):
            read_pth(file)


def archive(path: Path, opcodes: bytes, storages: dict[str, bytes]) -> Path:
    """An archive with a pickle written by hand."""
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("a/data.pkl", opcodes)
        for key, data in storages.items():
            file.writestr(f"a/data/{key}", data)
    return path


def tensor(count: int, offset: int, size: int, stride: int, kind: bytes = b"FloatStorage") -> bytes:
    """A pickle of {'w': a tensor of one dimension}."""

    def integer(value: int) -> bytes:
        return b"J" + struct.pack("<i", value)

    def text(value: bytes) -> bytes:
        return b"X" + struct.pack("<I", len(value)) + value

    storage = b"(" + text(b"storage") + b"ctorch\n" + kind + b"\n" + text(b"0") + text(b"cpu") + integer(count) + b"tQ"
    rebuilt = b"(" + storage + integer(offset) + integer(size) + b"\x85" + integer(stride) + b"\x85\x89Nt"
    return b"\x80\x02}" + text(b"w") + b"ctorch._utils\n_rebuild_tensor_v2\n" + rebuilt + b"Rs."


def test_views_of_a_storage(tmp_path: Path) -> None:
    numbers = np.arange(6, dtype=np.float32)
    file = archive(tmp_path / "a.pth", tensor(6, 1, 3, 2), {"0": numbers.tobytes()})
    np.testing.assert_array_equal(read_pth(file)["w"], [1, 3, 5])
    half = (np.array([1.5, -2.0], np.float32).view(np.uint32) >> 16).astype(np.uint16)
    file = archive(tmp_path / "b.pth", tensor(2, 0, 2, 1, b"BFloat16Storage"), {"0": half.tobytes()})
    values = read_pth(file)["w"]
    assert values.dtype == np.float32 and values.tolist() == [1.5, -2.0]


@pytest.mark.parametrize(
    "arguments", [(6, 2, 3, 2), (7, 0, 3, 1), (6, -1, 2, 1), (6, 0, 2, -1), (6, 0, 1 << 30, 1 << 30), (-1, 0, 1, 1)]
)
def test_views_beyond_a_storage_are_refused(tmp_path: Path, arguments: tuple[int, int, int, int]) -> None:
    file = archive(tmp_path / "a.pth", tensor(*arguments), {"0": bytes(24)})
    with pytest.raises(UserError, match=r"a\.pth is no PyTorch checkpoint, or damaged"):
        read_pth(file)


def test_what_is_no_checkpoint(tmp_path: Path) -> None:
    plain = pickle.dumps({"a": 1})
    zipped = io.BytesIO()
    with zipfile.ZipFile(zipped, "w") as file:
        file.writestr("readme.txt", "hello")
    for content in (b"just text\n", plain, zipped.getvalue()):
        path = tmp_path / "x.pth"
        path.write_bytes(content)
        with pytest.raises(UserError, match=r"x\.pth is no PyTorch checkpoint"):
            read_pth(path)
    missing = archive(tmp_path / "m.pth", tensor(6, 0, 6, 1), {})
    with pytest.raises(UserError, match="storage '0' is missing"):
        read_pth(missing)
    with pytest.raises(UserError, match="do not exist"):
        read_state(tmp_path / "none.pth")
