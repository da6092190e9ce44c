"""The loader: same batches whatever the workers, errors by name, deaths noticed."""

from __future__ import annotations

import errno
import gc
import multiprocessing
import multiprocessing.queues
import os
import signal
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import paddle
import pytest

from ppdet.core.workspace import Config, create
from ppdet.data import workers as worker_module
from ppdet.data.loader import Loader
from ppdet.data.source import COCODataSet, ImageFolder
from ppdet.engine.env import seed_step
from ppdet.structures.sample import Sample
from ppdet.utils.errors import UserError

Add = Callable[..., dict[str, Any]]

TRAIN = [
    "Decode",
    {"RandomResize": {"target_size": [[32, 200], [64, 200]], "random_range": True}},
    {"RandomFlip": {"prob": 0.5}},
    "NormalizeImage",
    "Permute",
]
TEST = ["Decode", {"Resize": {"target_size": [32, 64]}}, "NormalizeImage", "Permute"]


@pytest.fixture(autouse=True)
def no_configuration(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ppdet.core.workspace._current", Config())


@pytest.fixture
def data(coco: Any, add_thing: Add) -> COCODataSet:
    for number in range(9):
        height, width = ((40, 60), (60, 40))[number % 2]
        coco.image(number, height, width)
        coco.add(*(add_thing(10 * number + k, number, 2, [2 * k, 3, 9, 8]) for k in range(1 + number % 3)))
    return COCODataSet(**coco.arguments(), semantic={"kind": "instances"})


def train(data: Any, workers: int, **more: Any) -> Loader:
    loader = create("TrainReader", sample_transforms=TRAIN, batch_size=2, shuffle=True, **more)(data, workers)
    loader.set_seed(3)
    return loader


def numbers(batch: dict[str, Any]) -> dict[str, Any]:
    return {key: value.numpy() if isinstance(value, paddle.Tensor) else value for key, value in batch.items()}


def same(first: list[dict[str, Any]], second: list[dict[str, Any]]) -> bool:
    return len(first) == len(second) and all(
        a.keys() == b.keys() and all(np.array_equal(a[key], b[key]) for key in a) for a, b in zip(first, second)
    )


def test_any_number_of_workers_gives_the_same_batches(data: COCODataSet) -> None:
    alone = [numbers(batch) for batch in train(data, 0)]
    assert len(alone) == 5
    assert same(alone, [numbers(batch) for batch in train(data, 2)])
    assert same(alone, [numbers(batch) for batch in train(data, 3, use_shared_memory=False)])
    assert {path for batch in alone for path in batch["im_path"]} == {data[index].image_path for index in range(9)}


def test_any_number_of_workers_trains_to_the_same_bytes(data: COCODataSet) -> None:
    """Two epochs of a small network with noise of the framework's own in its loss."""

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


class Misbehaving:
    """Source whose sixth sample does something odd."""

    def __init__(self, act: Callable[[], Any]) -> None:
        self.act = act

    def __len__(self) -> int:
        return 10

    def __getitem__(self, index: int) -> Sample:
        if index == 5:
            self.act()
        return Sample(f"{index}.jpg", index, (8, 8), image=np.zeros((8, 8, 3), np.uint8), im_shape=(8, 8))


def evaluate(source: Any, workers: int) -> list[int]:
    reader = create("EvalReader", sample_transforms=["NormalizeImage", "Permute"], batch_size=1)
    return [int(batch["im_id"][0]) for batch in reader(source, workers)]


def broken() -> None:
    raise UserError("the image x.jpg is broken")


def defect() -> None:
    raise ZeroDivisionError("a slip of the pen")


def out_of_memory() -> None:
    raise MemoryError


@pytest.mark.parametrize("workers", [0, 2])
def test_errors_come_from_workers_as_they_are(workers: int) -> None:
    with pytest.raises(UserError, match=r"^the image x\.jpg is broken$"):
        evaluate(Misbehaving(broken), workers)
    with pytest.raises(UserError, match="not enough memory"):
        evaluate(Misbehaving(out_of_memory), workers)
    with pytest.raises(RuntimeError, match="(?s)in defect.*a slip of the pen"):
        evaluate(Misbehaving(defect), workers)
    assert evaluate(Misbehaving(lambda: None), workers) == list(range(10))


@pytest.mark.timeout(180)
@pytest.mark.parametrize(
    ("act", "cause"),
    [
        (lambda: os.kill(os.getpid(), signal.SIGKILL), "killed by SIGKILL"),
        (lambda: os.kill(os.getpid(), signal.SIGBUS), "killed by SIGBUS"),  # what a full /dev/shm ends in
        (lambda: os._exit(3), "exit status 3"),
    ],
)
def test_death_of_a_worker_is_an_error(act: Callable[[], Any], cause: str) -> None:
    before = signal.getsignal(signal.SIGCHLD)
    begun = time.monotonic()
    with pytest.raises(UserError, match=f"^a data loading process died .*{cause}.*worker_num.*shm") as caught:
        evaluate(Misbehaving(act), 2)
    assert time.monotonic() - begun < 20 and "\n" not in str(caught.value)
    assert signal.getsignal(signal.SIGCHLD) == before


def full(*_: Any, **__: Any) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def no_more_files() -> None:
    """From here on this worker cannot hand anything over."""
    multiprocessing.queues._ForkingPickler.dumps = full  # type: ignore[attr-defined]


@pytest.mark.timeout(180)
def test_no_room_to_hand_a_batch_over(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match=r"^a data loading process died .exit status 1.; .*docker run --shm-size=8g"):
        evaluate(Misbehaving(no_more_files), 2)
    monkeypatch.setattr(multiprocessing, "Lock", full)
    with pytest.raises(UserError, match=r"^cannot start 2 data loading processes .No space left .*worker_num=0$"):
        evaluate(Misbehaving(lambda: None), 2)


@pytest.mark.timeout(180)
def test_workers_follow_a_main_process_that_was_killed() -> None:
    reader, writer = os.pipe()
    main = os.fork()
    if main == 0:
        slow_reader = create("EvalReader", sample_transforms=["NormalizeImage", "Permute"], batch_size=1)
        batches = iter(slow_reader(Misbehaving(lambda: time.sleep(1)), 2))
        next(batches)
        os.write(writer, " ".join(str(process) for process in children()).encode())
        time.sleep(60)
    workers = [int(text) for text in os.read(reader, 100).split()]
    os.kill(main, signal.SIGKILL)
    os.waitpid(main, 0)
    assert len(workers) == 2
    deadline = time.monotonic() + 10
    while any(map(_lives, workers)) and time.monotonic() < deadline:
        time.sleep(0.2)
    left = [worker for worker in workers if _lives(worker)]
    for worker in left:
        os.kill(worker, signal.SIGKILL)
    assert not left, "workers outlive the main process"


def _lives(process: int) -> bool:
    try:
        with open(f"/proc/{process}/stat") as stream:
            return stream.read().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def children() -> set[int]:
    """Processes that this one has started and that are still there."""
    return {process.pid for process in multiprocessing.active_children() if process.pid is not None}


@pytest.mark.timeout(180)
def test_no_worker_outlives_its_epoch(data: COCODataSet) -> None:
    before = children()
    loader = train(data, 2)
    for _ in range(2):
        assert len(list(loader)) == 5
        assert children() == before
    epoch = iter(loader)
    next(epoch)
    assert len(children() - before) == 2
    epoch.close()  # type: ignore[attr-defined]
    assert children() == before
    for _ in loader:
        break
    gc.collect()
    assert children() == before
    with pytest.raises(UserError):
        evaluate(Misbehaving(broken), 2)
    gc.collect()
    assert children() == before


def test_small_shared_memory_is_avoided(data: COCODataSet, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = [numbers(batch) for batch in train(data, 2)]
    assert train(data, 2)._shared
    monkeypatch.setattr(worker_module, "_SMALL_SHM", 2**60)
    piped = train(data, 2)
    assert not piped._shared
    assert same(expected, [numbers(batch) for batch in piped])


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
    coco.image(1)  # nothing valid in it
    coco.image(2)  # 300 objects, one of them a pixel
    coco.image(3, 40, 4000)
    coco.image(4, 20, 4000)  # too flat to train on
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
    monkeypatch.setattr(paddle.distributed, "get_rank", lambda: 1)
    monkeypatch.setattr(paddle.distributed, "get_world_size", lambda: 2)
    theirs = [numbers(batch) for batch in train(data, 0)]
    monkeypatch.undo()
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
    for total in (16, 2, 0, -3):
        with pytest.raises(UserError, match=f"total_batch_size is {total}, which 3 processes cannot share equally"):
            create("TrainReader", total_batch_size=total)


def test_unfit_settings(data: COCODataSet) -> None:
    with pytest.raises(UserError, match="batch_size is 0"):
        create("TrainReader", batch_size=0)
    with pytest.raises(UserError, match="worker_num is -1"):
        create("TrainReader")(data, -1)
    with pytest.raises(UserError, match="PadBatch"):
        create("TrainReader", batch_transforms=["Permute"])
    with pytest.raises(UserError, match="begin with Decode"):
        list(create("TrainReader", sample_transforms=["Permute"])(data, 0))
