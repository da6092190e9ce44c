"""The restricted unpickler reads Paddle's layouts and nothing else."""

from __future__ import annotations

import io
import os
import pickle
import struct
from collections import OrderedDict
from pathlib import Path

import numpy as np
import paddle
import pytest

from ppdet.checkpoint.formats.unpickle import load_pickle, restricted_load
from ppdet.checkpoint.weight_files import read_state
from ppdet.utils.errors import UserError


def _round_trip(value: object, protocol: int = 4) -> object:
    return restricted_load(io.BytesIO(pickle.dumps(value, protocol)))


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_arrays_of_every_kind(protocol: int) -> None:
    arrays = [
        np.arange(6, dtype=np.float32).reshape(2, 3),
        np.asfortranarray(np.arange(6, dtype=np.float64).reshape(2, 3)),
        np.array([1, -2], dtype=">i4"),
        np.array([True, False]),
        np.zeros((0, 4), np.float16),
        np.array([1, 2], np.uint16),
    ]
    for array, back in zip(arrays, _round_trip(arrays, protocol)):
        assert back.shape == array.shape and back.dtype == array.dtype.newbyteorder("=")
        np.testing.assert_array_equal(back, array)


@pytest.mark.parametrize("protocol", [2, 4])
def test_plain_values_and_numpy_numbers(protocol: int) -> None:
    value = {"a": [1, 2.5, None, True], "b": ("x", b"\x00\xff"), 3: OrderedDict(c=np.float32(0.5)), "d": np.array(7)}
    assert _round_trip(value, protocol) == {"a": [1, 2.5, None, True], "b": ("x", b"\x00\xff"), 3: {"c": 0.5}, "d": 7}


@pytest.mark.parametrize("protocol", [2, 4])
def test_file_of_paddle_save(tmp_path: Path, protocol: int) -> None:
    layer = paddle.nn.Linear(2, 3)
    paddle.save(layer.state_dict(), str(tmp_path / "x.pdparams"), protocol=protocol)
    content = load_pickle(tmp_path / "x.pdparams")
    np.testing.assert_array_equal(content["weight"], layer.weight.numpy())


@pytest.mark.parametrize("protocol", [2, 4])
def test_names_of_numpy_1_and_2(protocol: int) -> None:
    """The modules of NumPy moved between versions; files of either are read with either."""
    value = {"w": np.arange(3, dtype=np.float32), "s": np.float64(2.0)}
    data = pickle.dumps(value, protocol)
    old, new = b"numpy.core.multiarray", b"numpy._core.multiarray"
    own, other = (new, old) if new in data else (old, new)
    assert own in data
    if protocol == 4:  # texts with their length in front
        moved = pickle.PROTO + b"\x04" + data[11:].replace(bytes([len(own)]) + own, bytes([len(other)]) + other)
    else:
        moved = data.replace(own, other)
    assert other in moved and own not in moved
    for content in (data, moved):
        back = restricted_load(io.BytesIO(content))
        np.testing.assert_array_equal(back["w"], value["w"])
        assert back["s"] == 2.0


class _Reduces:
    def __init__(self, *reduced: object) -> None:
        self._reduced = reduced

    def __reduce__(self) -> tuple:
        return self._reduced


@pytest.mark.parametrize(
    "evil",
    [
        _Reduces(print, ("CANARY",)),
        _Reduces(os.system, ("echo CANARY",)),
        _Reduces(eval, ("print('CANARY')",)),
        _Reduces(np.load, ("x.npy",)),
        np.array([_Reduces(print, ("CANARY",))], dtype=object),
        np.array([(1, 2)], dtype=[("a", "i4"), ("b", "i4")]),
        np.array(["text"]),
        {1, 2},
        {("a", "b"): 1},
    ],
)
@pytest.mark.parametrize("protocol", [2, 4])
def test_refuses(evil: object, protocol: int, capfd: pytest.CaptureFixture[str]) -> None:
    data = pickle.dumps({"w": evil}, protocol)
    with pytest.raises(pickle.UnpicklingError):
        restricted_load(io.BytesIO(data))
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    "opcodes",
    [
        b"Nr\xff\xff\xff\x7f",  # a memo of two thousand million entries
        b"\x8e" + struct.pack("<Q", 1 << 50),  # bytes of a petabyte
        b"})" + b"2\x86" * 60 + b"Ns",  # a key that takes 2 ** 60 steps to hash
        b"]" * 100_000 + b"a" * 99_999,
        b"cnumpy\nfoo\tbar\n",
    ],
)
def test_pickles_made_to_hurt(opcodes: bytes, tmp_path: Path) -> None:
    file = tmp_path / "x.pdparams"
    file.write_bytes(b"\x80\x02" + opcodes + b".")
    with pytest.raises(UserError, match=r"x\.pdparams") as caught:
        read_state(file)
    assert str(caught.value).isprintable() and len(str(caught.value)) < 400


def test_shared_lists_are_looked_at_once() -> None:
    # sixty lists, each twice in the next: 2 ** 60 values to somebody who follows every reference
    content = restricted_load(io.BytesIO(b"\x80\x02K\x07" + b"2\x86" * 60 + b"."))
    for _ in range(60):
        content = content[1]
    assert content == 7


def test_canary_prints_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    file = Path(__file__).parent / "pth" / "canary.pdparams"
    with pytest.raises(UserError, match=r"canary.pdparams .*__builtin__\.print.* nothing in it was executed"):
        load_pickle(file)
    assert capfd.readouterr() == ("", "")


def test_build_cannot_change_the_reader() -> None:
    # numpy.dtype as an object, then BUILD with attributes to set on it: would change our function for later files
    payload = b"\x80\x02cnumpy\ndtype\n}U\x05_callK\x01sb."
    with pytest.raises(pickle.UnpicklingError):
        restricted_load(io.BytesIO(payload))
    assert _round_trip(np.float32(1)) == 1.0


def test_sizes_that_do_not_fit_are_refused() -> None:
    data = pickle.dumps(np.zeros(4, np.float32), 2)
    assert data.count(b"K\x04\x85") == 1
    with pytest.raises(pickle.UnpicklingError, match="16 bytes"):
        restricted_load(io.BytesIO(data.replace(b"K\x04\x85", b"K\x09\x85")))


@pytest.mark.parametrize("cut", [0, 1, 7, 40, -1])
def test_damaged_file_is_named(tmp_path: Path, cut: int) -> None:
    file = tmp_path / "cut.pdparams"
    file.write_bytes(pickle.dumps({"w": np.ones(3)}, 4)[:cut])
    with pytest.raises(UserError, match=r"cut\.pdparams is not a checkpoint, or it is damaged"):
        load_pickle(file)


def test_text_and_missing_file_are_named(tmp_path: Path) -> None:
    (tmp_path / "t.pdparams").write_text("hello, I am no pickle")
    with pytest.raises(UserError, match=r"t\.pdparams"):
        load_pickle(tmp_path / "t.pdparams")
    with pytest.raises(UserError, match=r"cannot read .*none\.pdparams: No such file"):
        load_pickle(tmp_path / "none.pdparams")
