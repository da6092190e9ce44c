"""Batches have one orientation, and all ranks have as many batches and together the same ones as a single process."""

from __future__ import annotations

import pytest

from ppdet.data.sampler import EvalBatchSampler, GroupedBatchSampler

LANDSCAPE = [index % 3 != 0 for index in range(22)]  # 14 landscape, 8 portrait


def sampler(batch: int = 4, epoch: int = 0, seed: int = 0, **more: object) -> GroupedBatchSampler:
    made = GroupedBatchSampler(landscape=LANDSCAPE, batch_size=batch, **more)  # type: ignore[arg-type]
    made.epoch, made.seed = epoch, seed
    return made


@pytest.mark.parametrize("epoch", range(4))
def test_one_orientation_a_batch_and_nobody_lost(epoch: int) -> None:
    batches = sampler(epoch=epoch, drop_last=False).batches()
    assert all(len({LANDSCAPE[index] for index in batch}) == 1 and len(batch) == 4 for batch in batches)
    assert len(batches) == 4 + 2
    assert {index for batch in batches for index in batch} == set(range(22))


def test_drop_last_takes_as_many_as_the_images_fill() -> None:
    made = sampler(drop_last=True)
    assert len(made) == 22 // 4
    assert all(len({LANDSCAPE[index] for index in batch}) == 1 for batch in made.batches())
    assert len(GroupedBatchSampler(landscape=[True, False, True], batch_size=8, drop_last=True)) == 1, (
        "never an epoch without a batch"
    )


def test_order_depends_on_seed_and_epoch_alone() -> None:
    assert sampler().batches() == sampler().batches()
    assert sampler().batches() != sampler(epoch=1).batches()
    assert sampler().batches() != sampler(seed=1).batches()
    unshuffled = sampler(shuffle=False, drop_last=False)
    assert unshuffled.batches()[:2] == [[1, 2, 4, 5], [7, 8, 10, 11]]
    unshuffled.epoch = 1
    assert unshuffled.batches() == sampler(shuffle=False, drop_last=False).batches()


@pytest.mark.parametrize("drop_last", [True, False])
def test_ranks_share_what_one_process_would_take(drop_last: bool) -> None:
    alone = sampler(4, drop_last=drop_last).batches()
    ranks = [sampler(2, drop_last=drop_last, rank=rank, world_size=2).batches() for rank in range(2)]
    assert len(ranks[0]) == len(ranks[1]) == len(alone)
    assert [first + second for first, second in zip(*ranks)] == alone


def test_resume_inside_an_epoch() -> None:
    whole, rest = sampler(epoch=3), sampler(epoch=3)
    rest.start = 2
    assert list(rest) == list(whole)[2:]
    assert len(rest) == len(whole)
    assert all(key[0] == 3 for batch in whole for key in batch)


@pytest.mark.parametrize("world", [1, 2, 3])
@pytest.mark.parametrize("batch", [1, 2, 4])
@pytest.mark.parametrize("length", range(8))
def test_evaluation_splits_the_batches_of_one_process(length: int, batch: int, world: int) -> None:
    """Each image occurs once, in the same batch as in a single process, because predictions depend on the padding."""
    alone = [list(range(first, min(first + batch, length))) for first in range(0, length, batch)]
    ranks = [EvalBatchSampler(length, batch, rank, world) for rank in range(world)]
    split = [[[index for _, index in group] for group in made] for made in ranks]
    assert [len(made) for made in ranks] == [len(groups) for groups in split]
    assert sorted(group for groups in split for group in groups) == alone
    assert max(map(len, split)) - min(map(len, split)) <= 1, "the work is shared"
