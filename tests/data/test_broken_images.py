"""Replacement of broken images up to a given share of the data set."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from ppdet.data.source import COCODataSet
from ppdet.utils.errors import UserError
from tests.data.test_loader import numbers, same, train

Add = Callable[..., dict[str, Any]]

BROKEN = ("002.png", "005.png")


@pytest.fixture
def data(coco: Any, add_thing: Add) -> COCODataSet:
    """Ten images, two of them broken."""
    for number in range(10):
        coco.image(number)
        coco.add(add_thing(number, number, 2, [2 * number, 3, 9, 8]))
    source = COCODataSet(**coco.arguments())
    for name in BROKEN:
        path = coco.folder / "images" / name
        path.write_bytes(path.read_bytes()[:300])
    return source


def _epoch(data: COCODataSet, workers: int, share: float, epoch: int = 0) -> tuple[list[dict[str, Any]], Any]:
    loader = train(data, workers)
    loader.allow_broken(share)
    loader.set_epoch(epoch)
    return [numbers(batch) for batch in loader], loader


def test_replaced_the_same_way_by_any_workers(data: COCODataSet, capsys: pytest.CaptureFixture[str]) -> None:
    alone, loader = _epoch(data, 0, 0.2)
    assert len(alone) == 5 and all("replaced" not in batch for batch in alone)
    names = [path.rsplit("/", 1)[1] for batch in alone for path in batch["im_path"]]
    assert len(names) == 10 and not set(BROKEN) & set(names)
    assert set(names) == {f"{number:03}.png" for number in range(10)} - set(BROKEN)
    assert all(batch["gt_valid"].all() and np.isfinite(batch["image"]).all() for batch in alone)
    for workers in (1, 3):
        assert same(alone, _epoch(data, workers, 0.2)[0])
    resumed = train(data, 2)
    resumed.allow_broken(0.2)
    resumed.set_epoch(0, start_iter=3)
    assert same(alone[3:], [numbers(batch) for batch in resumed])
    capsys.readouterr()
    list(loader)  # a second epoch does not change the result
    assert "broken one" not in capsys.readouterr().out
    assert sorted(reason.split(" is truncated")[0][-7:] for reason in loader.broken) == list(BROKEN)
    _epoch(data, 2, 0.2)
    printed = capsys.readouterr().out
    assert printed.count("a broken image is replaced by another one: the image") == 2
    assert all(printed.count(f"{name} is truncated") == 1 for name in BROKEN)


def test_another_epoch_another_replacement(data: COCODataSet) -> None:
    extra = set()
    for epoch in range(4):
        names = [path for batch in _epoch(data, 0, 0.2, epoch)[0] for path in batch["im_path"]]
        extra.add(tuple(sorted(path[-7:] for path in set(names) if names.count(path) > 1)))
    assert len(extra) > 1


@pytest.mark.parametrize("workers", [0, 2])
def test_more_than_the_share_is_an_error_with_the_list(data: COCODataSet, workers: int) -> None:
    with pytest.raises(
        UserError, match=r"^2 of 10 training images are broken, more than max_broken_share 0\.1"
    ) as caught:
        _epoch(data, workers, 0.1)
    assert all(name in str(caught.value) for name in BROKEN) and "\n" not in str(caught.value)
    with pytest.raises(UserError, match=r"^the image .*00[25]\.png is truncated"):
        _epoch(data, workers, 0.0)
    with pytest.raises(UserError, match="max_broken_share is 1.0, expected 0 or more and less than 1"):
        _epoch(data, workers, 1.0)


def test_nothing_but_broken_images_ends(data: COCODataSet, coco: Any) -> None:
    for path in (coco.folder / "images").iterdir():
        path.write_bytes(b"")
    with pytest.raises(UserError, match=r"\.png is an empty file"):
        _epoch(data, 0, 0.9)


def test_processes_count_the_broken_images_of_all(data: COCODataSet, capsys: pytest.CaptureFixture[str]) -> None:
    """Each process encounters one of the two; together, they are more than a tenth of the data set, counted once."""
    loaders = [train(data, 0) for _ in range(2)]
    for loader, name in zip(loaders, BROKEN):
        loader.allow_broken(0.1)
        loader._count_broken([f"the image {name} is truncated"])
    met = [list(loader.broken) for loader in loaders]
    for loader in loaders:
        with pytest.raises(UserError, match=r"^2 of 10 training images are broken, more than max_broken_share 0\.1"):
            loader.agree_on_broken(lambda own: met)
    assert capsys.readouterr().out.count("a broken image is replaced") == 2, "no image is logged twice"
    both = train(data, 0)
    both.allow_broken(0.1)
    both._count_broken(met[0])
    both.agree_on_broken(lambda own: [own, met[0]])
    assert list(both.broken) == met[0], "the same image on two processes is one"
    strict = train(data, 0)
    strict.agree_on_broken(lambda own: pytest.fail("nothing to agree on where no image may be broken"))
