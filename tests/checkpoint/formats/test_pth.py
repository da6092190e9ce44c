"""PyTorch's formats read without PyTorch: right tensors, and nothing executed."""

from __future__ import annotations

import io
import os
import pickle
import struct
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest

from ppdet.checkpoint.formats.pth import read_checkpoint, read_pth
from ppdet.checkpoint.weights import read_state, read_weights
from ppdet.utils.errors import UserError
from tests.checkpoint.formats.pth_files import (
    mapping,
    tensors,
    text,
    texts,
    view,
    write_archive,
    write_pth,
    write_stream,
)

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
from ppdet.checkpoint.weights import read_state
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


def test_views_of_a_storage(tmp_path: Path) -> None:
    numbers = {"0": np.arange(6, dtype=np.float32)}
    views = {
        "every second": view("0", 6, 1, [3], [2]),
        "transposed": view("0", 6, 0, [3, 2], [1, 3]),
        "repeated": view("0", 6, 2, [2, 2], [0, 1]),
        "number": view("0", 6, 4, [], []),
        "empty": view("0", 6, 6, [0, 4], [4, 1]),
    }
    blocks = {key: array.tobytes() for key, array in numbers.items()}
    for file in (
        write_archive(tmp_path / "zip.pth", mapping(views), blocks),
        write_archive(tmp_path / "packed.pth", mapping(views), blocks, zipfile.ZIP_DEFLATED),
        write_stream(tmp_path / "stream.pth", mapping(views), numbers),
    ):
        arrays = read_pth(file)
        assert arrays["every second"].tolist() == [1, 3, 5]
        assert arrays["transposed"].tolist() == [[0, 3], [1, 4], [2, 5]]
        assert arrays["repeated"].tolist() == [[2, 3], [2, 3]]
        assert arrays["number"].shape == () and arrays["number"] == 4
        assert arrays["empty"].shape == (0, 4)
        assert all(not array.flags.writeable for array in arrays.values() if array.size)


def test_bfloat16(tmp_path: Path) -> None:
    halves = (np.array([1.5, -2.0], np.float32).view(np.uint32) >> 16).astype(np.uint16)
    opcodes = mapping({"w": view("0", 2, 0, [2], [1], b"BFloat16Storage")})
    for file in (
        write_archive(tmp_path / "a.pth", opcodes, {"0": halves.tobytes()}),
        write_stream(tmp_path / "b.pth", opcodes, {"0": halves}),
    ):
        values = read_pth(file)["w"]
        assert values.dtype == np.float32 and values.tolist() == [1.5, -2.0]


@pytest.mark.parametrize("keys", [(), ("state_dict",), ("model",), ("ema",), ("ema", "module")])
def test_where_the_weights_are(keys: tuple[str, ...], tmp_path: Path) -> None:
    opcodes = tensors({"w": np.zeros(2, np.float32)})
    for key in reversed(keys):
        opcodes = mapping({"meta": mapping({}), key: opcodes})
    assert read_pth(write_archive(tmp_path / "a.pth", opcodes, {"0": bytes(8)}))["w"].tolist() == [0, 0]


def test_many_storages_keep_one_file_open(tmp_path: Path) -> None:
    arrays = {f"w{index}": np.full(3, index, np.float32) for index in range(300)}
    before = len(os.listdir("/proc/self/fd"))
    read = read_pth(write_pth(tmp_path / "a.pth", arrays))
    assert len(os.listdir("/proc/self/fd")) <= before + 2
    assert read["w299"].tolist() == [299.0] * 3


@pytest.mark.parametrize(
    ("count", "offset", "shape", "strides"),
    [
        (6, 2, [3], [2]),
        (7, 0, [3], [1]),
        (6, -1, [2], [1]),
        (6, 0, [2], [-1]),
        (6, 0, [-2], [1]),
        (6, 0, [1 << 30], [1 << 30]),
        (6, 0, [1 << 30, 1 << 30], [0, 0]),
        (-1, 0, [1], [1]),
        (6, 0, [2, 2], [1]),
    ],
)
def test_views_beyond_a_storage_are_refused(
    tmp_path: Path, count: int, offset: int, shape: list[int], strides: list[int]
) -> None:
    file = write_archive(tmp_path / "a.pth", mapping({"w": view("0", count, offset, shape, strides)}), {"0": bytes(24)})
    refused(file, "a tensor of shape|storage '0' is shorter")


def refused(path: Path, reason: str) -> None:
    """Check that a file is refused at once, in one line."""
    with pytest.raises(UserError, match=f"{path.name}.*({reason})") as caught:
        read_pth(path)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 500


def test_what_is_no_checkpoint(tmp_path: Path) -> None:
    zipped = io.BytesIO()
    with zipfile.ZipFile(zipped, "w") as file:
        file.writestr("readme.txt", "hello")
    path = tmp_path / "x.pth"
    for content in (b"", b"just text\n", pickle.dumps({"a": 1}), pickle.dumps([1], 0), zipped.getvalue()):
        path.write_bytes(content)
        refused(path, "not a PyTorch checkpoint")
    refused(write_archive(path, mapping({"w": view("0", 6, 0, [6], [1])}), {}), "storage '0' is missing")
    refused(write_archive(path, mapping({"state_dict": mapping({})}), {}), "no state_dict")
    refused(write_archive(path, b"cos\nsystem\n" + text("x") + b"\x85R", {}), "it holds os.system")
    with pytest.raises(UserError, match="do not exist"):
        read_state(tmp_path / "none.pth")
    with pytest.raises(UserError, match="cannot read the checkpoint .*: Is a directory"):
        read_pth(tmp_path)


def test_element_types(tmp_path: Path) -> None:
    strange = view("1", 1, 0, [1], [1], b"QUInt8Storage")
    known = mapping({"w": view("0", 1, 0, [1], [1])})
    file = write_archive(tmp_path / "a.pth", mapping({"optimizer": strange, "state_dict": known}), {"0": bytes(4)})
    assert list(read_pth(file)) == ["w"]
    refused(
        write_archive(file, mapping({"w": strange}), {"1": bytes(4)}), "element type QUInt8Storage is not supported"
    )


@pytest.mark.parametrize("name", ["/etc/passwd", "archive/../../x", "archive\\..\\x", "C:/x"])
def test_entries_that_lead_elsewhere(tmp_path: Path, name: str) -> None:
    file = write_pth(tmp_path / "a.pth", {"w": np.zeros(2, np.float32)})
    with zipfile.ZipFile(file, "a") as archive:
        archive.writestr(zipfile.ZipInfo(name), b"")
    refused(file, "leads out of the archive")


def test_archives_that_unpack_beyond_proportion(tmp_path: Path) -> None:
    many = np.zeros(5_000_000, np.float32)
    refused(write_pth(tmp_path / "a.pth", {"w": many}, compression=zipfile.ZIP_DEFLATED), "would unpack to 2")
    assert read_pth(write_pth(tmp_path / "b.pth", {"w": many}))["w"].shape == many.shape
    refused(write_pth(tmp_path / "c.pth", {"w": many[:9]}, compression=zipfile.ZIP_LZMA), "compressed in an unusual")


NESTED = b")" + b"2\x86" * 60  # a tuple of the same tuple twice, sixty deep


@pytest.mark.parametrize(
    "opcodes",
    [
        b"Nr\xff\xff\xff\x7f",  # a memo of two thousand million entries
        b"\x8e" + struct.pack("<Q", 1 << 50),  # bytes of a petabyte
        b"\x96" + struct.pack("<Q", 1 << 50),  # a byte array of a petabyte
        b"\x95" + struct.pack("<Q", 1 << 50),  # a frame of a petabyte
        b"\x8b" + struct.pack("<i", 1 << 30),  # an integer of a gigabyte
        b"}" + NESTED + b"Ns",  # a key that takes 2 ** 60 steps to hash
        b"\x8f(" + NESTED + b"\x90",
        b"ccollections\nOrderedDict\n](" + b"(" + NESTED + b"Nte\x85R",
        b"]" * 100_000 + b"a" * 99_999,
        b"ctorch._utils\n_rebuild_tensor_v2\n}" + text("_call") + b"Nsb",  # attributes of the reader's function
        b"(X\x01\x00\x00\x00xtQ",  # an object kept elsewhere that is no storage
    ],
)
def test_pickles_made_to_hurt(opcodes: bytes, tmp_path: Path) -> None:
    started = time.monotonic()
    refused(write_archive(tmp_path / "a.pth", opcodes, {}), "")
    refused(write_stream(tmp_path / "b.pth", opcodes, {}), "")
    assert time.monotonic() - started < 5


def test_attributes_cannot_replace_the_reader(tmp_path: Path) -> None:
    # an ordered dictionary whose items() is to be another object's
    fake = mapping({"items": b"cos\nsystem\n", "get": b"cos\nsystem\n"})
    opcodes = b"ccollections\nOrderedDict\n)R" + tensors({"w": np.zeros(1, np.float32)})[1:] + fake + b"b"
    assert list(read_pth(write_archive(tmp_path / "a.pth", opcodes, {"0": bytes(4)}))) == ["w"]


def test_random_damage_is_one_line(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    path = tmp_path / "damaged.pth"
    for name in ("legacy_stream", "zip_with_foreign_objects"):
        whole = np.frombuffer((SAMPLES / f"{name}.pth").read_bytes(), np.uint8)
        refusals = 0
        for _ in range(150):
            damaged = whole.copy()
            places = generator.integers(len(whole), size=3)
            damaged[places] = generator.integers(256, size=3)
            path.write_bytes(damaged.tobytes())
            try:
                read_pth(path)
            except UserError as error:
                refusals += 1
                assert "\n" not in str(error)
        assert refusals > 50


@pytest.mark.parametrize(
    ("meta", "names"),
    [
        (mapping({"CLASSES": texts("cat", "dog")}), ("cat", "dog")),
        (mapping({"dataset_meta": mapping({"classes": texts("cat", "dog")})}), ("cat", "dog")),
        (mapping({"dataset_meta": mapping({"CLASSES": texts("cat")}), "CLASSES": texts("old")}), ("cat",)),
        (mapping({"CLASSES": texts()}), None),
        (mapping({"CLASSES": text("person")}), None),
        (mapping({"CLASSES": mapping({"a": text("b")})}), None),
        (b"cposix\nsystem\n", None),
        (text("no mapping"), None),
    ],
)
def test_class_names_beside_the_weights(meta: bytes, names: tuple[str, ...] | None, tmp_path: Path) -> None:
    arrays = {"w": np.ones(2, np.float32)}
    opcodes = mapping({"meta": meta, "state_dict": tensors(arrays)})
    file = write_archive(tmp_path / "a.pth", opcodes, {"0": arrays["w"].tobytes()})
    assert read_checkpoint(file)[1] == names
    carried = read_weights(file).categories
    assert (None if carried is None else carried.names) == names
