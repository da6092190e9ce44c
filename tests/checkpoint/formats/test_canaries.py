"""Checkpoints made to run code, to fill the memory or to hang: each is refused in one line, and nothing happens."""

from __future__ import annotations

import copyreg
import os
import pickle
import struct
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ppdet.checkpoint.formats.unpickle import load_pickle
from ppdet.checkpoint.weights import read_state
from ppdet.utils.errors import UserError

CANARY = "canary_was_run"


class Reduced:
    """Pickled as a call; what the call does at loading is the attack."""

    def __init__(self, *reduced: Any) -> None:
        self.reduced = reduced

    def __reduce__(self) -> tuple[Any, ...]:
        return self.reduced


class Dictionary(dict):
    """A class of one's own, which a loader would have to import."""


class Extended(dict):
    """Stands behind an extension code."""


def _evil() -> Reduced:
    return Reduced(os.system, (f"touch {CANARY}",))


def _chain() -> Reduced:
    """``getattr(__import__('os'), 'system')`` through calls alone, as far as the pickler goes along."""
    return Reduced(getattr, (Reduced(__import__, ("os",)), "system"))


PICKLED: dict[str, Callable[[], Any]] = {
    "os.system": _evil,
    "eval": lambda: Reduced(eval, (f"open('{CANARY}', 'w')",)),
    "exec": lambda: Reduced(exec, (f"open('{CANARY}', 'w')",)),
    "open": lambda: Reduced(open, (CANARY, "w")),
    "getattr chain": _chain,
    "import": lambda: Reduced(__import__, ("os",)),
    "numpy.load": lambda: Reduced(np.load, ("evil.npy", None, True)),
    "numpy.fromfile": lambda: Reduced(np.fromfile, ("/etc/hostname",)),
    "pickle in a pickle": lambda: Reduced(pickle.loads, (pickle.dumps(_evil()),)),
    "subclass of dict": lambda: Dictionary(w=1),
    "copyreg": lambda: Reduced(copyreg._reconstructor, (Dictionary, dict, {"w": 1})),  # type: ignore[attr-defined]
    "state": lambda: Reduced(Dictionary, (), {"items": 1}),
    "array of objects": lambda: np.array([_evil(), 1], dtype=object),
    "array in an array": lambda: np.array([np.array([_evil()], dtype=object), 1], dtype=object),
    "call as a list's items": lambda: Reduced(Dictionary, (), None, None, iter([("k", _evil())])),
    "key": lambda: {Reduced(os.path.basename, ("x",)): 1},
    "complex": lambda: Reduced(complex, (1, 2)),
    "slice": lambda: Reduced(slice, (1, 2)),
    "set": lambda: {1, 2},
    "zlib": lambda: Reduced(__import__("codecs").decode, (b"x", "zlib")),
}

DEEP = b"]" * 50_000 + b"a" * 49_999


def _short(text: str) -> bytes:
    return b"X" + struct.pack("<I", len(text)) + text.encode()


TOUCH = _short(f"touch {CANARY}")

STREAMS: dict[str, bytes] = {
    "INST": b"(" + TOUCH + b"ios\nsystem\n",
    "OBJ": b"(cos\nsystem\n" + TOUCH + b"o",
    "STACK_GLOBAL": _short("os") + _short("system") + b"\x93" + TOUCH + b"\x85R",
    "dotted name": _short("numpy") + _short("core.multiarray.load") + b"\x93" + TOUCH + b"\x85R",
    "dotted known name": _short("numpy") + _short("dtype.__class__") + b"\x93" + TOUCH + b"\x85R",
    "NEWOBJ": b"cos\nsystem\n" + TOUCH + b"\x85\x81",
    "NEWOBJ_EX": b"cos\nsystem\n" + TOUCH + b"\x85}\x92",
    "extension 1": b"\x82\xf0)R",
    "extension 2": b"\x83" + struct.pack("<H", 0xF0F0) + b")R",
    "extension 4": b"\x84" + struct.pack("<i", 0x7FFFFFFF) + b")R",
    "persistent id": b"Pevil\n",
    "persistent id of the stack": TOUCH + b"Q",
    "out of band": b"\x97",
    "attributes of tuple": b"cbuiltins\ntuple\n}" + _short("__new__") + b"K\x01sb",
    "attributes of dtype": b"cnumpy\ndtype\n}" + _short("__call__") + b"K\x01sb",
    "class of arrays": b"cnumpy.core.multiarray\n_reconstruct\n(cbuiltins\ntuple\nK\x00\x85c_codecs\nencode\ntR",
    "call of an array": b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\nK\x00\x85X\x01\0\0\0btR"
    + TOUCH
    + b"\x85R",
    "codec": b"c_codecs\nencode\n" + TOUCH + _short("zlib_codec") + b"\x86R",
    "bytes of a size": b"cbuiltins\nbytes\n\x8a\x05\xff\xff\xff\xff\x7f\x85R",
    "memo": b"Nr\xff\xff\xff\x7f",
    "long text": b"\x8d" + struct.pack("<Q", 1 << 60),
    "long bytes": b"\x8e" + struct.pack("<Q", 1 << 50),
    "long bytearray": b"\x96" + struct.pack("<Q", 1 << 50),
    "negative size": b"B\xff\xff\xff\xffxx",
    "frame": b"\x95" + struct.pack("<Q", 1 << 60),
    "deep list": DEEP,
    "deep tuple": b")" + b"\x85" * 50_000,
    "deep dictionary": b"}K\x01" * 30_000 + b"N" + b"s" * 30_000,
    "key of doubled tuples": b"})" + b"2\x86" * 60 + b"Ns",
    "element type of doubled tuples": b"cnumpy\ndtype\nK\x07" + b"2\x86" * 60 + b"\x85R",
    "codec of doubled tuples": b"c_codecs\nencode\n" + TOUCH + b"K\x07" + b"2\x86" * 60 + b"\x86R",
    "copies of a text": b"c_codecs\nencode\nq\x00X"
    + struct.pack("<I", 1 << 20)
    + b"a" * (1 << 20)
    + b"q\x01]"
    + b"h\x00h\x01\x85Ra" * 300,
    "copies of a list": b"cbuiltins\ntuple\nq\x00]q\x01(" + b"N" * (1 << 18) + b"e]" + b"h\x00h\x01\x85Ra" * 300,
    "number of a million digits": b"I" + b"9" * 1_000_000 + b"\n",
    "wrong stack": b"a",
    "mark of nothing": b"t",
    "unknown instruction": b"\xff",
}


def _array(shape: bytes, code: str = "f4", data: bytes = b"\0" * 16, order: str = "<") -> bytes:
    """A pickle of numpy's array, with a shape that the bytes need not have."""
    kind = (
        b"cnumpy\ndtype\n"
        + _short(code)
        + b"\x89\x88\x87R(K\x03"
        + _short(order)
        + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
    )
    start = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85C\x01b\x87R"
    return start + b"(K\x01" + shape + kind + b"\x89B" + struct.pack("<I", len(data)) + data + b"tb"


ARRAYS: dict[str, bytes] = {
    "terabytes": _array(b"\x8a\x06\0\0\0\0\0\x01\x85"),
    "more than an index": _array(b"(" + b"\x8a\x09\0\0\0\0\0\0\0\0\x01" * 2 + b"t"),
    "negative": _array(b"J\xff\xff\xff\xffJ\xfc\xff\xff\xff\x86"),
    "empty but huge": _array(b"K\x00\x8a\x08\0\0\0\0\0\0\0\x40\x86", data=b""),
    "many dimensions": _array(b"(" + b"K\x01" * 5000 + b"t", "f4", b"\0" * 4),
    "shape of doubled tuples": _array(b"K\x07" + b"2\x86" * 60),
    "list for a shape": _array(b"]"),
    "objects": _array(b"K\x02\x85", "O8"),
    "records": _array(b"K\x02\x85", "V8"),
    "text": _array(b"K\x04\x85", "U1"),
    "list of types": _array(b"K\x02\x85", "f4,f4"),
    "a terabyte an element": _array(b"K\x01\x85", "V999999999999"),
    "dates": _array(b"K\x02\x85", "M8"),
    "unknown order": _array(b"K\x04\x85", order="x"),
}


@pytest.fixture()
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder to be in; no canary may be in it afterwards."""
    monkeypatch.chdir(tmp_path)
    np.save("evil.npy", np.array([_evil()], dtype=object), allow_pickle=True)
    yield tmp_path
    assert not (tmp_path / CANARY).exists()


def _stream_of(name: str) -> bytes:
    stream = STREAMS[name] if name in STREAMS else ARRAYS[name]
    return b"\x80\x04}" + _short("w") + stream + b"s."


def _refused(read: Callable[[Path], Any], file: Path) -> str:
    with pytest.raises(UserError, match=file.name) as caught:
        read(file)
    assert str(caught.value).isprintable() and len(str(caught.value)) < 500
    return str(caught.value)


@pytest.mark.parametrize("name", [*STREAMS, *ARRAYS])
def test_paddle_files_of_instructions(folder: Path, name: str) -> None:
    file = folder / "x.pdparams"
    file.write_bytes(_stream_of(name))
    message = _refused(read_state, file)
    # A large memo index alone does no harm here. All others are stopped while reading, not for what they have read.
    assert ("not a tensor" in message) == (name == "memo"), message
    if "copies" in name:
        assert "many copies of one part" in message


@pytest.mark.parametrize("protocol", [0, 2, 4])
@pytest.mark.parametrize("name", PICKLED)
def test_paddle_files_of_objects(folder: Path, name: str, protocol: int) -> None:
    file = folder / "x.pdparams"
    file.write_bytes(pickle.dumps({"w": PICKLED[name]()}, protocol))
    _refused(load_pickle, file)
    _refused(read_state, file)


def test_registered_extensions_are_not_looked_up(folder: Path) -> None:
    copyreg.add_extension(Extended.__module__, "Extended", 0xF0)
    try:
        data = pickle.dumps({"w": Extended()}, 2)
        assert b"\x82\xf0" in data
        (folder / "x.pdparams").write_bytes(data)
        pickle.loads(data)  # now it is in the cache, too, which is asked before any name is
        _refused(load_pickle, folder / "x.pdparams")
    finally:
        copyreg.remove_extension(Extended.__module__, "Extended", 0xF0)


def _as_archive(file: Path, data: bytes) -> None:
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("x/data.pkl", data)
        archive.writestr("x/version", "3\n")


def _as_stream(file: Path, data: bytes) -> None:
    parts = [pickle.dumps(value, 2) for value in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True})]
    file.write_bytes(b"".join(parts) + data + pickle.dumps([], 2))


@pytest.mark.parametrize("write", [_as_archive, _as_stream])
@pytest.mark.parametrize("name", [*STREAMS, *ARRAYS, *PICKLED])
def test_pth_files(folder: Path, name: str, write: Callable[[Path, bytes], None]) -> None:
    """Objects of any library may be in a training log, so that not each is refused; no weights come of one."""
    file = folder / "x.pth"
    write(file, pickle.dumps({"w": PICKLED[name]()}, 2) if name in PICKLED else _stream_of(name))
    _refused(read_state, file)


def test_pth_with_ten_thousand_classes(folder: Path) -> None:
    names = b"".join(b"cm%d\nC\na" % number for number in range(10_000))
    _as_archive(folder / "x.pth", b"\x80\x02}" + _short("w") + b"]" + names + b"s.")
    with pytest.raises(UserError, match="thousands of classes"):
        read_state(folder / "x.pth")


def test_pth_converts_no_storage_over_and_over(folder: Path) -> None:
    count = 1 << 20
    storage = (
        b"("
        + _short("storage")
        + b"ctorch\nBFloat16Storage\n"
        + _short("0")
        + _short("cpu")
        + b"J"
        + struct.pack("<i", count)
        + b"tQ"
    )
    tensor = (
        b"ctorch._utils\n_rebuild_tensor_v2\n("
        + storage
        + b"K\x00J"
        + struct.pack("<i", count)
        + b"\x85K\x01\x85\x89}tR"
    )
    names = b"".join(_short(f"w{number}") + tensor + b"s" for number in range(40))
    with zipfile.ZipFile(folder / "x.pth", "w") as archive:
        archive.writestr("x/data.pkl", b"\x80\x02}" + names + b".")
        archive.writestr("x/data/0", b"\0" * 2 * count)
    with pytest.raises(UserError, match="many tensors made of one storage"):
        read_state(folder / "x.pth")


@pytest.mark.parametrize(
    "header",
    [
        b'{"w":{"dtype":"F32","shape":[1099511627776],"data_offsets":[0,4]}}',
        b'{"w":{"dtype":"F32","shape":[1],"data_offsets":[0,4398046511104]}}',
        b'{"w":{"dtype":"O","shape":[1],"data_offsets":[0,4]}}',
        b'{"w":{"dtype":"F32","shape":[1],"data_offsets":[-4,0]}}',
        b'{"w":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"v":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}',
        b"[" * 5000,
    ],
)
def test_safetensors(folder: Path, header: bytes) -> None:
    file = folder / "x.safetensors"
    file.write_bytes(struct.pack("<Q", len(header)) + header + b"\0" * 4)
    _refused(read_state, file)
    file.write_bytes(struct.pack("<Q", 1 << 60) + b"{}")
    _refused(read_state, file)


def test_what_is_refused_would_have_run(folder: Path) -> None:
    """The attacks are real: Python's own loader runs them."""
    for name in ("os.system", "eval", "exec", "open", "pickle in a pickle"):
        pickle.loads(pickle.dumps(PICKLED[name](), 4))
        os.remove(CANARY)
    for name in ("INST", "OBJ", "STACK_GLOBAL"):
        pickle.loads(b"\x80\x04" + STREAMS[name] + b".")
        os.remove(CANARY)
    np.load("evil.npy", allow_pickle=True)
    os.remove(CANARY)
