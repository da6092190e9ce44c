"""Weight files that claim more than they have, that were damaged, or whose names are meant for a terminal."""

from __future__ import annotations

import io
import json
import pickle
import random
import struct
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy

from ppdet.checkpoint.weight_files import read_state, read_weights, write_state
from ppdet.structures.categories import Categories
from ppdet.utils.errors import UserError
from tests.checkpoint.formats.pth_files import (
    integer,
    mapping,
    pickled,
    tensors,
    text,
    view,
    write_archive,
    write_pth,
    write_stream,
)
from tests.hostile.conftest import LONGEST_MESSAGE, Bench

MOST_SECONDS = 2.0
"""Of a processor, so that the test does not depend on what else a machine is doing."""
MOST_MEGABYTES = 200

WEIGHTS = {
    "conv.weight": np.arange(24, dtype=np.float32).reshape(2, 3, 2, 2),
    "conv.bias": np.array([1.5, -2.0], np.float32),
    "norm.steps": np.array(7, np.int64),
}


def _legacy(opcodes: bytes) -> bytes:
    magic = b"\x8a\x0a" + (0x1950A86A20F9469CFC6C).to_bytes(10, "little")
    parts = [pickled(magic), pickled(b"M\xe9\x03"), pickled(mapping({"little_endian": b"\x88"})), pickled(opcodes)]
    return b"".join([*parts, pickled(b"]")])


def _zipped(opcodes: bytes) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x/data.pkl", pickled(opcodes))
    return stream.getvalue()


def _long(value: int) -> bytes:
    data = value.to_bytes(16, "little", signed=True)
    return b"\x8a\x10" + data


def _same_hash(count: int) -> bytes:
    """A dictionary of integers that are equal modulo Python's modulus for hashes."""
    return b"}(" + b"".join(_long(number * ((1 << 61) - 1)) + b"N" for number in range(count)) + b"u"


def _same_hash_pairs(count: int) -> bytes:
    """A set of tuples whose number alone makes them slow, should their hashes agree."""
    return b"\x8f(" + b"".join(integer(number) + integer(number) + b"\x86" for number in range(count)) + b"\x90"


OPCODES: dict[str, bytes] = {
    "bytearray of 3 GB": b"\x96" + struct.pack("<Q", 3 << 30),
    "bytearray of 3 GB in a frame": b"\x95"
    + struct.pack("<Q", 16)
    + b"\x96"
    + struct.pack("<Q", 3 << 30)
    + b"1234567.",
    "bytes of 3 GB": b"\x8e" + struct.pack("<Q", 3 << 30),
    "empty sets": b"\x8f" * (16 << 20),
    "empty dictionaries": b"]" + b"}a" * (4 << 20),
    "memo": b"N" + b"\x94" * (8 << 20),
    "keys of one hash": _same_hash(60_000),
    "set of pairs": _same_hash_pairs(60_000),
    "integer of a megabyte": b"\x8b" + struct.pack("<i", 1 << 20) + b"\x7f" * (1 << 20),
    "integer of 100,000 digits": b"I" + b"9" * 100_000 + b"\n",
    "long of 100,000 digits": b"L" + b"9" * 100_000 + b"L\n",
    "tuples 100,000 deep": b")" + b"\x85" * 100_000,
    "dictionaries 100,000 deep": b"}K\x01" * 100_000 + b"N" + b"s" * 100_000,
    "list in itself": b"]q\x00h\x00a",
    "dictionary in itself": b"}q\x00" + text("w") + b"h\x00s",
    "key that is a list": b"}]Ns",
    "key that is an array": b"}}Ns",
}


def _array(shape: bytes, data: bytes) -> bytes:
    kind = b"cnumpy\ndtype\n" + text("f4") + b"\x89\x88\x87R(K\x03" + text("<") + b"NNN" + integer(-1) * 2 + b"K\x00tb"
    start = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85C\x01b\x87R"
    return start + b"(K\x01" + shape + kind + b"\x89B" + struct.pack("<I", len(data)) + data + b"tb"


def _paddle(opcodes: bytes) -> bytes:
    return b"\x80\x04}" + text("w") + opcodes + b"s."


def _many_names() -> bytes:
    """One megabyte under a hundred names."""
    array = _array(integer(1 << 18) + b"\x85", b"\0" * (1 << 20))
    names = b"".join(text(f"w{number}") + b"h\x00s" for number in range(100))
    return b"\x80\x04" + array + b"q\x000}" + names + b"."


def _safetensors(header: Any, blocks: bytes = b"") -> bytes:
    content = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(content)) + content + blocks


def _entry(kind: str = "F32", shape: Any = (1,), offsets: Any = (0, 4)) -> dict[str, Any]:
    return {"dtype": kind, "shape": list(shape), "data_offsets": list(offsets)}


SAFETENSORS: dict[str, bytes] = {
    "header beyond the end": struct.pack("<Q", 1 << 62) + b"{}",
    "header of 8 MB": _safetensors(b'{"w":1' + b" " * (8 << 20) + b"}"),
    "header 100,000 deep": _safetensors(b"[" * 100_000),
    "header of a number": _safetensors(b"7"),
    "header of 100,000 digits": _safetensors(b'{"w":' + b"9" * 100_000 + b"}"),
    "header in Latin-1": _safetensors(b'{"\xe9":1}'),
    "a name twice": _safetensors(b'{"w":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"w":1}', b"\0" * 4),
    "overlap": _safetensors({"v": _entry(), "w": _entry()}, b"\0" * 4),
    "hole": _safetensors({"w": _entry(offsets=(4, 8))}, b"\0" * 8),
    "longer than its tensors": _safetensors({"w": _entry()}, b"\0" * 8),
    "shorter than its tensors": _safetensors({"w": _entry(shape=[2], offsets=(0, 8))}, b"\0" * 4),
    "overflowing shape": _safetensors({"w": _entry(shape=[1 << 32, 1 << 32], offsets=(0, 0))}),
    "negative shape": _safetensors({"w": _entry(shape=[-1, -1])}, b"\0" * 4),
    "shape of truth": _safetensors({"w": _entry(shape=[True])}, b"\0" * 4),
    "shape of texts": _safetensors({"w": {**_entry(), "shape": "1"}}, b"\0" * 4),
    "three offsets": _safetensors({"w": _entry(offsets=(0, 4, 4))}, b"\0" * 4),
    "empty and huge": _safetensors({"w": _entry(shape=[0, 1 << 62], offsets=(0, 0))}),
    "many dimensions": _safetensors({"w": _entry(shape=[1] * 100)}, b"\0" * 4),
    "no entry": _safetensors({"w": [1]}),
    "float8": _safetensors({"w": _entry("F8_E4M3", [4])}, b"\0" * 4),
    "unknown type": _safetensors({"w": _entry("Q7", [4])}, b"\0" * 4),
    "type of a list": _safetensors({"w": {**_entry(), "dtype": [1]}}, b"\0" * 4),
    "no tensors": _safetensors({"__metadata__": {"format": "np"}}),
    "empty file": b"",
}

ARCHIVES: dict[str, Callable[[Path], Any]] = {
    "shape of terabytes": lambda file: write_archive(
        file, mapping({"w": view("0", 4, 0, [1 << 20, 1 << 20], [0, 0])}), {"0": b"\0" * 16}
    ),
    "negative stride": lambda file: write_archive(file, mapping({"w": view("0", 4, 3, [4], [-1])}), {"0": b"\0" * 16}),
    "offset beyond": lambda file: write_archive(file, mapping({"w": view("0", 4, 4, [1], [1])}), {"0": b"\0" * 16}),
    "strides beyond": lambda file: write_archive(
        file, mapping({"w": view("0", 4, 0, [2, 2], [2, 3])}), {"0": b"\0" * 16}
    ),
    "one storage in many": lambda file: write_archive(
        file, mapping({f"w{n}": view("0", 4, 0, [1 << 20], [0]) for n in range(20)}), {"0": b"\0" * 16}
    ),
    "storage of 16 MB packed into 16 KB": lambda file: write_archive(
        file, mapping({"w": view("0", 1 << 23, 0, [1 << 23], [1])}), {"0": b"\0" * (1 << 25)}, zipfile.ZIP_DEFLATED
    ),
    "persistent text": lambda file: write_archive(file, mapping({"w": b"P1\n"}), {}),
    "persistent number": lambda file: write_archive(file, mapping({"w": b"K\x01Q"}), {}),
    "storage in a view of text": lambda file: write_archive(
        file, mapping({"w": view("0", 4, 0, [4], [1]).replace(b"tQ", text("x") + b"tQ")}), {"0": b"\0" * 16}
    ),
}


@pytest.fixture(scope="module")
def bombs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Every crafted file by what it is."""
    folder = tmp_path_factory.mktemp("bombs")
    contents: dict[str, bytes] = {}
    for name, opcodes in OPCODES.items():
        contents[f"{name}.pdparams"] = _paddle(opcodes)
        contents[f"{name}, zip.pth"] = _zipped(b"}" + text("w") + opcodes + b"s")
        contents[f"{name}, stream.pth"] = _legacy(b"}" + text("w") + opcodes + b"s")
    contents["one array under many names.pdparams"] = _many_names()
    contents.update({f"{name}.safetensors": content for name, content in SAFETENSORS.items()})
    files = {}
    for name, content in contents.items():
        files[name] = folder / name
        files[name].write_bytes(content)
    for name, write in ARCHIVES.items():
        files[f"{name}.pth"] = folder / f"{name}.pth"
        write(files[f"{name}.pth"])
    return files


MEASURED = """
import json, resource, sys, time
from ppdet.checkpoint.weight_files import read_state
from ppdet.utils.errors import UserError

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

for name in json.load(sys.stdin):
    before, begun = peak(), time.process_time()
    try:
        read_state(name)
        message = ""
    except UserError as error:
        message = str(error)
    print(json.dumps([name, message, time.process_time() - begun, peak() - before]))
"""


@pytest.mark.same_on_every_paddle
def test_no_file_takes_memory_or_time_beyond_its_size(bombs: dict[str, Path], repo_root: Path) -> None:
    names = json.dumps([str(file) for file in bombs.values()])
    done = subprocess.run(
        [sys.executable, "-c", MEASURED], input=names, cwd=repo_root, capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0, done.stderr[-2000:]
    results = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(results) == len(bombs)
    for name, message, seconds, megabytes in results:
        assert Path(name).name in message, name
        assert len(message.replace(name, "")) < 400, message
        assert seconds < MOST_SECONDS, (name, seconds)
        assert megabytes < MOST_MEGABYTES, (name, megabytes)


def test_an_honest_optimizer_state_is_read(tmp_path: Path) -> None:
    """Thousands of parameters by number, and the integers of a random generator."""
    state = b"}(" + b"".join(integer(number) + b"}" for number in range(5000)) + b"u"
    opcodes = mapping({"state_dict": tensors(WEIGHTS), "optimizer": mapping({"state": state, "rng": _long(1 << 120)})})
    blocks = {str(key): array.tobytes() for key, array in enumerate(WEIGHTS.values())}
    arrays = read_state(write_archive(tmp_path / "x.pth", opcodes, blocks))
    assert list(arrays) == list(WEIGHTS)


def test_a_flipped_bit_in_an_archive_is_found(tmp_path: Path) -> None:
    """The archive's checksum tells; PyTorch may leave it out, and then the tensor is read as it is."""
    file = write_pth(tmp_path / "x.pth", WEIGHTS)
    content = file.read_bytes()
    place = content.index(WEIGHTS["conv.weight"].tobytes()) + 50
    file.write_bytes(content[:place] + bytes([content[place] ^ 4]) + content[place + 1 :])
    with pytest.raises(UserError, match=r"x\.pth .*the checksum of storage '0' differs.*download it again"):
        read_state(file)
    with zipfile.ZipFile(tmp_path / "x.pth") as archive:
        checksum = struct.pack("<I", archive.getinfo("archive/data/0").CRC)
    file.write_bytes(content.replace(checksum, b"\0" * 4))
    np.testing.assert_array_equal(read_state(file)["conv.weight"], WEIGHTS["conv.weight"])


def test_bfloat16_becomes_float32(tmp_path: Path) -> None:
    numbers = np.array([1.0, -2.5, 0.0, 3.140625], np.float32)
    halves = (numbers.view(np.uint32) >> 16).astype("<u2").tobytes()
    file = tmp_path / "x.safetensors"
    file.write_bytes(_safetensors({"w": _entry("BF16", [2, 2], (0, 8))}, halves))
    array = read_state(file)["w"]
    assert array.dtype == np.float32
    np.testing.assert_array_equal(array, numbers.reshape(2, 2))


def test_safetensors_of_and_for_the_format_s_own_library(tmp_path: Path) -> None:
    kinds = ("f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "?")
    arrays = {f"{kind} é": (np.arange(6).reshape(2, 3) % 2).astype(kind) for kind in kinds}
    arrays.update(empty=np.zeros((0, 3), np.float32), number=np.array(2.5, np.float32))
    safetensors.numpy.save_file(arrays, tmp_path / "theirs.safetensors", {"format": "np"})
    write_state(arrays, tmp_path / "ours")
    theirs_here = read_state(tmp_path / "theirs.safetensors")
    ours_there = safetensors.numpy.load_file(tmp_path / "ours.safetensors")
    for back in (theirs_here, ours_there):
        assert set(back) == set(arrays)
        for name, array in arrays.items():
            assert back[name].dtype == array.dtype
            np.testing.assert_array_equal(back[name], array)


LAYOUTS: dict[str, Any] = {
    "complex": {"w": np.zeros(2, np.complex64)},
    "text": {"w": "text"},
    "array of texts": {"w": np.array(["a"])},
    "objects": {"w": np.array([None, 1], dtype=object)},
    "records": {"w": np.zeros(2, [("a", "f4"), ("b", "i4")])},
    "dates": {"w": np.zeros(2, "M8[s]")},
    "list": {"w": [1.0, 2.0]},
    "number": {"w": 1.0},
    "nested": {"model": {"w": np.zeros(2, np.float32)}},
    "numbered": {1: np.zeros(2, np.float32)},
    "empty": {},
    "a list of arrays": [np.zeros(2, np.float32)],
    "nothing": None,
    "terminal code": {"\x1b[31mw": np.zeros(2, np.float32)},
    "half a letter": {"w\ud800": np.zeros(2, np.float32)},
    "ten megabytes": {"w" * (10 << 20): np.zeros(2, np.float32)},
    "ten megabytes of a list": {"w" * (10 << 20): [1]},
    "parts of nothing": {"UnpackBigParamInfor@@": {"w": {"OriginShape": (2,), "slices": ["w@@.0"]}}},
    "parts that grow": {
        "w@@.0": np.zeros(2, np.float32),
        "UnpackBigParamInfor@@": {"w": {"OriginShape": (-1, 1 << 40), "slices": ["w@@.0"]}},
    },
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_what_is_no_tensor_is_refused(tmp_path: Path, name: str) -> None:
    file = tmp_path / "x.pdparams"
    file.write_bytes(pickle.dumps(LAYOUTS[name], 4))
    with pytest.raises(UserError, match=r"x\.pdparams") as caught:
        read_state(file)
    message = str(caught.value).replace(str(tmp_path), "")
    assert len(message) < 300 and message.isprintable(), message


RECORDS = {
    "half a character": '[{"id": 1, "name": "\\ud800"}]',
    "terminal code": '[{"id": 1, "name": "\\u001b[31m"}]',
    "a megabyte": json.dumps([{"id": 1, "name": "x" * (1 << 20)}]),
    "an id beyond 64 bits": '[{"id": 18446744073709551616, "name": "a"}]',
    "100,000 deep": "[" * 100_000,
    "100,000 digits": '[{"id": ' + "9" * 100_000 + ', "name": "a"}]',
    "200,000 classes": json.dumps([{"id": number, "name": str(number)} for number in range(200_000)]),
}


@pytest.mark.parametrize("name", RECORDS)
def test_records_of_class_names(tmp_path: Path, name: str) -> None:
    record = RECORDS[name].encode()
    content = {"w": np.zeros(1, np.float32), "Categories@@": np.frombuffer(record, np.uint8)}
    (tmp_path / "x.pdparams").write_bytes(pickle.dumps(content, 4))
    header = {"__metadata__": {"categories": record.decode()}, "w": _entry()}
    (tmp_path / "x.safetensors").write_bytes(_safetensors(header, b"\0" * 4))
    for file in ("x.pdparams", "x.safetensors"):
        begun = time.process_time()
        with pytest.raises(UserError, match=rf"{file} (has a damaged record of its class names|is damaged)"):
            read_state(tmp_path / file)
        assert time.process_time() - begun < MOST_SECONDS


def test_class_names_of_any_language_are_kept(tmp_path: Path) -> None:
    names = ("汽车\u3000行人", "👩\u200d🚀", "می\u200cخواهم", "naïve\u00a0Größe")
    write_state({"w": np.zeros(1, np.float32)}, tmp_path / "x", Categories(names, (1, 2, 3, 4)))
    for file in ("x.pdparams", "x.safetensors"):
        categories = read_weights(tmp_path / file).categories
        assert categories is not None and categories.names == names


def test_layouts_of_memory_do_not_matter(tmp_path: Path) -> None:
    base = np.arange(24, dtype=np.float32).reshape(4, 6)
    arrays = {"cut": base[::2, 1::3], "turned": base.T, "fortran": np.asfortranarray(base), "big": base.astype(">f4")}
    arrays.update(number=np.array(1.5, np.float32), empty=np.zeros((3, 0), np.float32))
    (tmp_path / "x.pdparams").write_bytes(pickle.dumps({**arrays, "scalar": np.float32(2.5)}, 4))
    back = read_state(tmp_path / "x.pdparams")
    for name, array in arrays.items():
        np.testing.assert_array_equal(back[name], array)
    assert back["scalar"] == 2.5 and back["number"].shape == ()


CODES = [bytes([code]) for code in sorted(pickle._Unpickler.dispatch)]  # type: ignore[attr-defined]
"""Instructions of a pickle."""


def _valid(folder: Path) -> dict[str, bytes]:
    """Small files of every format with the same tensors."""
    write_state(WEIGHTS, folder / "valid")
    write_pth(folder / "zip.pth", WEIGHTS)
    write_pth(folder / "packed.pth", WEIGHTS, compression=zipfile.ZIP_DEFLATED)
    storages = {str(key): array for key, array in enumerate(WEIGHTS.values())}
    write_stream(folder / "stream.pth", tensors(WEIGHTS), storages)
    (folder / "protocol2.pdparams").write_bytes(pickle.dumps(WEIGHTS, 2))
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def mutated(content: bytes, draw: random.Random) -> bytes:
    """Damage a file in one of a few ways."""
    place = draw.randrange(len(content))
    kind = draw.randrange(6)
    if kind == 0:
        return content[:place] + bytes([content[place] ^ (1 << draw.randrange(8))]) + content[place + 1 :]
    if kind == 1:
        return content[:place]
    if kind == 2:
        return content[:place] + draw.randbytes(draw.randint(1, 8)) + content[place:]
    if kind == 3:
        return content[:place] + content[place + draw.randint(1, 16) :]
    if kind == 4:  # another instruction
        return content[:place] + draw.choice(CODES) + content[place + 1 :]
    other = draw.randrange(len(content))
    return content[:place] + content[other : other + draw.randint(1, 64)] + content[place:]


def test_damaged_files_end_in_one_line(tmp_path: Path) -> None:
    """Whatever is read in spite of damage has real numbers under printable names."""
    draw = random.Random(7)
    (tmp_path / "valid").mkdir()
    for name, content in _valid(tmp_path / "valid").items():
        file = tmp_path / f"x{Path(name).suffix}"
        for _ in range(150):
            file.write_bytes(mutated(content, draw))
            begun = time.process_time()
            try:
                arrays = read_state(file)
            except UserError as error:
                assert file.name in str(error) and len(str(error)) < LONGEST_MESSAGE
            else:
                assert all(array.dtype.kind in "biuf" for array in arrays.values())
            assert time.process_time() - begun < MOST_SECONDS


@pytest.mark.parametrize("tool", ["eval", "infer", "train"])
def test_tools_name_a_crafted_file(bench: Bench, tool: str) -> None:
    file = bench.write("\x1b[31mred.pdparams", _paddle(OPCODES["bytearray of 3 GB"]))
    key = "pretrain_weights" if tool == "train" else "weights"
    more = ["--infer_dir", str(bench.data / "val")] if tool == "infer" else []
    message = bench.refused(tool, *more, "-o", f'{key}="{str(file)}"'.replace("\x1b", "\\x1b"), names="red.pdparams")
    assert "\\x1b[31m" in message and "ends too early" in message


@pytest.mark.parametrize(("content", "code"), [(b"<!DOCTYPE html>", 60), (b"{}", 123), (b"\xff\xd8\xff", 255)])
def test_other_files_are_no_checkpoints(tmp_path: Path, content: bytes, code: int) -> None:
    file = tmp_path / "a.pdparams"
    file.write_bytes(content)
    with pytest.raises(
        UserError, match=rf"a\.pdparams is not a checkpoint, .*\(no pickle has the instruction {code}\)"
    ):
        read_state(file)
