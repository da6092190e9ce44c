"""Losses and what they are divided by."""

from __future__ import annotations

from collections.abc import Iterator

import paddle
import paddle.distributed as dist
import pytest

from ppdet.core.switches import switched
from ppdet.modeling.losses.divisor import divisor_of
from ppdet.modeling.losses.functional import safe_ratio, semantic_cross_entropy


@pytest.fixture
def three_processes(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """This process has a count, two others have 4 and 6 more."""

    def all_reduce(tensor: paddle.Tensor) -> None:
        tensor.set_value(tensor + 10.0)

    monkeypatch.setattr(dist, "all_reduce", all_reduce)
    with switched(count_processes=3):
        yield


def test_own_counts() -> None:
    assert float(divisor_of(paddle.to_tensor(7.0))) == 7
    assert float(divisor_of(paddle.to_tensor(0.0))) == 1
    assert float(safe_ratio(paddle.to_tensor(6.0), paddle.to_tensor(4, "int32"))) == 1.5


def test_global_counts(three_processes: None) -> None:
    count = paddle.to_tensor(2.0)
    assert float(divisor_of(count)) == 12 / 3
    assert float(count) == 2, "the caller's count is left alone"
    assert float(divisor_of(paddle.to_tensor(0))) == pytest.approx(10 / 3), "none here, ten elsewhere"
    assert float(divisor_of(paddle.to_tensor(-10.0))) == pytest.approx(1 / 3), "none anywhere"


def test_semantic_divisors(three_processes: None) -> None:
    """Four pixels of log 2 each, one without a label: 3 labelled, 13 on all processes; 4 pixels, 14 on all."""
    logits = paddle.zeros([1, 2, 2, 2])
    labels = paddle.to_tensor([[[0, 1], [1, 255]]], dtype="uint8")
    log2 = 0.6931472
    assert float(semantic_cross_entropy(logits, labels, 1)) == pytest.approx(3 * log2 * 3 / 13, rel=1e-6)
    everything = semantic_cross_entropy(logits, labels, 1, over_all_pixels=True)
    assert float(everything) == pytest.approx(3 * log2 * 3 / 14, rel=1e-6)
    with switched(count_processes=1):
        assert float(semantic_cross_entropy(logits, labels, 1)) == pytest.approx(log2, rel=1e-6)
