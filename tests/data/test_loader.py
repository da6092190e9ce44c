"""The data loader yields the same batches for any number of workers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import paddle
import pytest

from ppdet.core.workspace import create
from ppdet.data.source import COCODataSet, ImageFolder
from ppdet.engine.random_streams import seed_step
from ppdet.utils.errors import UserError
from tests.data.batches import TEST, TRAIN, numbers, same, train

Add = Callable[..., dict[str, Any]]


def test_any_number_of_workers_gives_the_same_batches(data: COCODataSet) -> None:
    alone = [numbers(batch) for batch in train(data, 0)]
    assert len(alone) == 5
    assert same(alone, [numbers(batch) for batch in train(data, 2)])
    assert same(alone, [numbers(batch) for batch in train(data, 3, use_shared_memory=False)])
    assert {path for batch in alone for path in batch["im_path"]} == {data[index].image_path for index in range(9)}


def test_any_number_of_workers_trains_to_the_same_bytes(data: COCODataSet) -> None:
    """Train a small network for two epochs with random numbers of the framework in its loss."""

    def trained(workers: int, seed: int = 3) -> bytes:
        seed_step(seed, 0)
        network = paddle.nn.Conv2D(3, 4, 3)
        optimizer = paddle.optimizer.Momentum(0.01, parameters=network.parameters())
        loader = train(data, workers)
        loader.set_seed(seed)
        step = 0
        for epoch in range(2):
            loader.set_epoch(epoch)
            for batch in loader:
                step += 1
                seed_step(seed, step)
                found = network(batch["image"])
                (found * paddle.rand(found.shape) * float(np.random.rand())).mean().backward()
                optimizer.step()
                optimizer.clear_grad()
        return b"".join(value.numpy().tobytes() for value in network.state_dict().values())

    alone = trained(0)
    assert all(trained(workers) == alone for workers in (0, 1, 2, 4))
    assert trained(0, seed=4) != alone


def test_types_of_a_batch(data: COCODataSet) -> None:
    expected = {"image": "float32", "im_shape": "float32", "scale_factor": "float32", "im_id": "int64",
                "orig_size": "int64", "gt_bbox": "float32", "gt_class": "int64", "gt_valid": "float32",
                "gt_segm": "uint8", "semantic": "uint8"}  # fmt: skip
    for workers in (0, 1):
        batch = next(iter(train(data, workers)))
        types = {key: str(value.dtype).split(".")[-1] for key, value in batch.items() if key != "im_path"}
        assert types == expected
        assert batch["image"].shape[2] % 32 == 0 and batch["image"].shape[3] % 32 == 0
        assert list(batch["semantic"].shape) == [2, *batch["image"].shape[2:]]


def test_epochs_differ_and_resume_continues(data: COCODataSet) -> None:
    loader = train(data, 0)
    loader.set_epoch(1)
    whole = [numbers(batch) for batch in loader]
    assert not same(whole, [numbers(batch) for batch in train(data, 0)])
    resumed = train(data, 2)
    resumed.set_epoch(1, start_iter=3)
    assert same(whole[3:], [numbers(batch) for batch in resumed])


def test_objects_stay_on_their_masks(data: COCODataSet) -> None:
    for batch in map(numbers, train(data, 0)):
        for image, objects in enumerate(batch["gt_valid"].sum(1).astype(int)):
            for k in range(objects):
                rows, columns = np.nonzero(batch["gt_segm"][image, k])
                outline = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
                np.testing.assert_allclose(outline, batch["gt_bbox"][image, k], atol=1.01)
            covered = batch["gt_segm"][image].max(0) == 1
            assert (batch["semantic"][image][covered] == 0).all() and (batch["semantic"][image][~covered] == 255).all()


def test_no_images_no_batches() -> None:
    reader = create("TestReader", sample_transforms=TEST)
    assert list(reader(ImageFolder(num_classes=3), 2)) == []


def test_images_to_predict(coco: Any) -> None:
    folder = ImageFolder(num_classes=3)
    folder.set_images([str(coco.folder / "images" / coco.image(number, 20 + number, 80)) for number in range(3)])
    batches = [numbers(batch) for batch in create("TestReader", sample_transforms=TEST)(folder, 1)]
    assert [batch["orig_size"].tolist() for batch in batches] == [[[20, 80]], [[21, 80]], [[22, 80]]]
    assert batches[0]["im_shape"].tolist() == [[16, 64]]
    np.testing.assert_allclose(batches[0]["scale_factor"], [[0.8, 0.8]])
    folder.set_images(["nowhere.jpg"])
    with pytest.raises(UserError, match=r"nowhere\.jpg does not exist"):
        list(create("TestReader", sample_transforms=TEST)(folder, 1))


def test_broken_image_of_a_data_set_is_named(data: COCODataSet, coco: Any) -> None:
    path = coco.folder / "images" / "004.png"
    path.write_bytes(path.read_bytes()[:500])
    for workers in (0, 2):
        with pytest.raises(UserError, match=r"004\.png is truncated"):
            list(train(data, workers))


def test_extremes(coco: Any, add_thing: Add) -> None:
    coco.image(1)  # without valid objects
    coco.image(2)  # 300 objects, one of which is a single pixel
    coco.image(3, 40, 4000)
    coco.image(4, 20, 4000)  # too flat for training
    coco.content["categories"] = coco.content["categories"][:1]
    coco.add(add_thing(1, 1, 7, [1, 1, 0.2, 5]))
    coco.add(*(add_thing(10 + k, 2, 7, [k % 50, k // 50, 5, 6]) for k in range(299)))
    coco.add(add_thing(999, 2, 7, [59, 39, 1, 1]))
    coco.add(add_thing(1000, 3, 7, [100, 5, 3000, 9]), add_thing(1001, 4, 7, [100, 5, 3000, 9]))
    data = COCODataSet(**coco.arguments(), semantic={"kind": "instances", "background": "class"}, num_classes=1,
                       semantic_num_classes=2)  # fmt: skip
    reader = create("TrainReader", sample_transforms=TEST, batch_size=1, shuffle=False)
    batches = [numbers(batch) for batch in reader(data, 0)]
    assert [int(batch["im_id"][0]) for batch in batches] == [1, 2, 3]
    assert [batch["gt_valid"].sum() for batch in batches] == [0, 300, 1]
    assert batches[1]["gt_segm"].shape == (1, 300, 32, 64) and set(np.unique(batches[1]["gt_class"])) == {0}
    assert batches[2]["im_shape"].tolist() == [[1, 64]] and np.isfinite(batches[2]["image"]).all()
    assert all(set(np.unique(batch["semantic"])) <= {0, 1, 255} for batch in batches)


def test_share_of_another_process(data: COCODataSet, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as two:
        two.setattr(paddle.distributed, "get_rank", lambda: 1)
        two.setattr(paddle.distributed, "get_world_size", lambda: 2)
        theirs = [numbers(batch) for batch in train(data, 0)]
    alone = create("TrainReader", sample_transforms=TRAIN, batch_size=1, shuffle=True)(data, 0)
    alone.set_seed(3)
    assert not same([numbers(batch) for batch in alone], theirs)
    alone.set_share(1, 2, 2)
    assert same([numbers(batch) for batch in alone], theirs)


def test_batch_over_all_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    assert create("TrainReader", batch_size=5, total_batch_size=12).batch_size == 12
    monkeypatch.setattr(paddle.distributed, "get_world_size", lambda: 3)
    assert create("TrainReader", batch_size=5, total_batch_size=12).batch_size == 4
    assert create("TrainReader", batch_size=5).batch_size == 5
    for total in (16, 2):
        with pytest.raises(UserError, match=f"total_batch_size is {total}, which 3 processes cannot share equally"):
            create("TrainReader", total_batch_size=total)


def test_unfit_settings(data: COCODataSet) -> None:
    with pytest.raises(UserError, match=r"TrainReader\.batch_size' takes an integer between 1"):
        create("TrainReader", batch_size=0)
    with pytest.raises(UserError, match="worker_num is -1"):
        create("TrainReader")(data, -1)
    with pytest.raises(UserError, match="PadBatch"):
        create("TrainReader", batch_transforms=["Permute"])
    with pytest.raises(UserError, match="begin with Decode"):
        list(create("TrainReader", sample_transforms=["Permute"])(data, 0))
