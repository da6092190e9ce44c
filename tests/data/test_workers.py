"""Worker processes: error messages, detection of dead and stuck workers, and clean-up."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import paddle
import pytest

from ppdet.core.workspace import create
from ppdet.data import pool as pool_module
from ppdet.data import shared_memory
from ppdet.data.source import COCODataSet, ImageFolder
from ppdet.utils.errors import UserError
from tests.data.batches import TEST, numbers, same, train
from tests.data.misbehaving import Misbehaving


def reader(**more: Any) -> Any:
    return create("EvalReader", sample_transforms=["NormalizeImage", "Permute"], batch_size=1, **more)


def evaluate(source: Any, workers: int, **more: Any) -> list[int]:
    return [int(batch["im_id"][0]) for batch in reader(**more)(source, workers)]


@pytest.mark.parametrize("workers", [0, 2])
def test_errors_come_from_workers_as_they_are(workers: int) -> None:
    with pytest.raises(UserError, match=r"^the image x\.jpg is broken$"):
        evaluate(Misbehaving("broken"), workers)
    with pytest.raises(UserError, match="not enough memory"):
        evaluate(Misbehaving("out_of_memory"), workers)
    with pytest.raises(RuntimeError, match="(?s)in defect.*a slip of the pen"):
        evaluate(Misbehaving("defect"), workers)
    assert evaluate(Misbehaving("nothing"), workers) == list(range(10))


def test_what_a_worker_prints_is_no_batch() -> None:
    assert evaluate(Misbehaving("chatty"), 2) == list(range(10))


@pytest.mark.timeout(180)
@pytest.mark.parametrize(
    ("act", "cause"), [("killed", "killed by SIGKILL"), ("no_room", "killed by SIGBUS"), ("leaves", "exit status 3")]
)
def test_death_of_a_worker_is_an_error(act: str, cause: str) -> None:
    before = signal.getsignal(signal.SIGCHLD)
    begun = time.monotonic()
    with pytest.raises(UserError, match=f"^a data loading process died .{cause}. while loading 5.jpg; .*worker_num"):
        evaluate(Misbehaving(act), 2)
    assert time.monotonic() - begun < 20
    assert signal.getsignal(signal.SIGCHLD) == before


def test_death_between_two_epochs_is_an_error(data: COCODataSet) -> None:
    loader = train(data, 2)
    list(loader)
    assert loader._pool is not None
    os.kill(loader._pool.processes[0], signal.SIGKILL)
    with pytest.raises(UserError, match="a data loading process died .killed by SIGKILL.; the usual cause"):
        list(loader)
    assert len(list(loader)) == 5, "the next epoch starts new ones"


@pytest.mark.same_on_every_paddle
@pytest.mark.timeout(180)
def test_no_memory_to_hand_a_batch_over(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match=r"^there is no memory to pass on a batch .No space left on device.: lower"):
        evaluate(Misbehaving("full"), 2)

    def no_file() -> int:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(pool_module, "anonymous_file", no_file)
    with pytest.raises(UserError, match=r"^cannot start 2 data loading processes .Too many open files.*worker_num=0$"):
        evaluate(Misbehaving("nothing"), 2)


@pytest.mark.same_on_every_paddle
@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    ("act", "said"),
    [
        (
            "sleeps",
            r"is loading 5\.jpg in sleeps \(misbehaving.py:\d+\) < .* < __call__ \(.*; data loading process \d+ ",
        ),
        ("stopped", r"is stopped .SIGSTOP. and is loading 5\.jpg; data loading process"),
    ],
)
def test_the_watchdog_says_who_waits_where(act: str, said: str) -> None:
    begun, before = time.monotonic(), children()
    with pytest.raises(UserError, match=rf"^no batch arrived for 2 s: data loading process \d+ {said}.*worker_timeout"):
        evaluate(Misbehaving(act), 2, worker_timeout=2)
    assert time.monotonic() - begun < 20 and children() == before


@pytest.mark.same_on_every_paddle
def test_no_limit_to_patience() -> None:
    assert evaluate(Misbehaving("slow"), 1, worker_timeout=0) == list(range(10))
    with pytest.raises(UserError, match="worker_timeout' takes a number of at least 0"):
        reader(worker_timeout=-1)


OWN_SCRIPT = Path(__file__).parent / "own_script.py"


def own_script(mode: str) -> subprocess.Popen[str]:
    command = [sys.executable, str(OWN_SCRIPT), mode]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.mark.timeout(180)
@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGTERM])
def test_workers_follow_a_main_process_that_was_killed(end: signal.Signals) -> None:
    """Also if a fork of the process, which holds its ends of the pipes, is still alive."""
    main = own_script("waits")
    assert main.stdout is not None and main.stderr is not None
    workers = [int(text) for text in main.stdout.readline().split()]
    main.send_signal(end)
    assert main.wait() == -end
    main.stdout.close()
    main.stderr.close()
    assert len(workers) == 2
    deadline = time.monotonic() + 10
    while any(map(_lives, workers)) and time.monotonic() < deadline:
        time.sleep(0.2)
    left = [worker for worker in workers if _lives(worker)]
    for worker in left:
        os.kill(worker, signal.SIGKILL)
    assert not left, "workers outlive the main process"


@pytest.mark.timeout(180)
def test_a_script_with_a_data_set_of_its_own() -> None:
    printed, errors = own_script("guarded").communicate()
    assert printed == "total 45\n", errors
    printed, errors = own_script("unguarded").communicate()
    assert "UserError: a data loading process has started to load data itself" in errors and "__main__" in errors


class Local:
    """Transform with an attribute that cannot be pickled."""

    def __init__(self) -> None:
        self.lock = threading.Lock()


def test_what_cannot_be_sent_to_a_worker_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    loader = reader()(Misbehaving("nothing"), 2)
    loader._maker.transforms.append(Local())
    with pytest.raises(UserError, match=r"^Local cannot be sent to the data loading processes .*lock.*worker_num=0$"):
        list(loader)
    notebook = type("InANotebook", (Misbehaving,), {"__module__": "__main__"})
    main = sys.modules["__main__"]
    monkeypatch.setattr(main, "InANotebook", notebook, raising=False)
    monkeypatch.delattr(main, "__file__", raising=False)
    with pytest.raises(UserError, match=r"InANotebook is defined in a notebook .* in a module .*worker_num=0$"):
        evaluate(notebook("nothing"), 2)


def _lives(process: int) -> bool:
    try:
        with open(f"/proc/{process}/stat") as stream:
            return stream.read().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def children() -> set[int]:
    """Return the child processes that are still running."""
    found = set()
    for task in Path("/proc/self/task").iterdir():
        found.update(int(text) for text in (task / "children").read_text().split())
    return found


@pytest.mark.timeout(180)
def test_no_worker_outlives_its_loader(data: COCODataSet) -> None:
    gc.collect()  # removes loaders of earlier tests, which would otherwise be ended by the collections below
    before, files = children(), len(os.listdir("/proc/self/fd"))
    loader = train(data, 2)
    for _ in range(2):
        assert len(list(loader)) == 5
        workers = children() - before
        assert len(workers) == 2
    assert len(list(loader)) == 5
    assert children() - before == workers, "the same ones live through all epochs"
    epoch = iter(loader)
    next(epoch)
    epoch.close()  # type: ignore[attr-defined]
    assert children() == before, "nothing goes on for an epoch that was left"
    for _ in loader:
        break
    gc.collect()
    assert children() == before
    assert len(list(loader)) == 5
    loader.close()
    assert children() == before
    assert len(list(loader)) == 5
    del loader
    gc.collect()
    assert children() == before, "dropping the loader is enough"
    with pytest.raises(UserError):
        evaluate(Misbehaving("broken"), 2)
    assert len(list(create("EvalReader", sample_transforms=TEST)(data, 2))) == 9
    gc.collect()
    assert children() == before, "evaluations keep no workers"
    assert len(os.listdir("/proc/self/fd")) == files and not [t for t in threading.enumerate() if t.name == "batches"]


@pytest.mark.timeout(180)
def test_an_epoch_after_one_that_was_left_is_whole(data: COCODataSet) -> None:
    expected = [numbers(batch) for batch in train(data, 0)]
    loader = train(data, 2)
    for leave in (1, 4):
        for place, _ in enumerate(loader, start=1):
            if place == leave:
                break
        assert same(expected, [numbers(batch) for batch in loader])
    first, second = iter(loader), iter(loader)  # at the same time
    pairs = [(numbers(a), numbers(b)) for a, b in zip(first, second)]
    assert same(expected, [a for a, _ in pairs]) and same(expected, [b for _, b in pairs])
    taken = [numbers(batch) for batch, _ in zip(loader, range(5))]  # all batches, without requesting another one
    assert same(expected, taken) and loader._pool is not None


@pytest.mark.timeout(180)
def test_several_loaders_and_threads_at_a_time(data: COCODataSet) -> None:
    expected = [numbers(batch) for batch in train(data, 0)]
    found: dict[int, list[dict[str, Any]]] = {}

    def load(place: int) -> None:
        found[place] = [numbers(batch) for batch in train(data, 2)]

    threads = [threading.Thread(target=load, args=(place,)) for place in range(2)]
    for thread in threads:
        thread.start()
    training = iter(train(data, 1))
    mixed = [numbers(next(training))]
    evaluation = create("EvalReader", sample_transforms=TEST)(data, 2)
    assert [int(batch["im_id"][0]) for batch in evaluation] == list(range(9))
    mixed += [numbers(batch) for batch in training]
    for thread in threads:
        thread.join()
    assert same(expected, mixed) and all(same(expected, found[place]) for place in range(2))


def test_workers_see_what_became_of_the_data_set(coco: Any) -> None:
    folder = ImageFolder(num_classes=3)
    paths = [str(coco.folder / "images" / coco.image(number, 20 + number, 80)) for number in range(3)]
    folder.set_images(paths)
    loader = create("TrainReader", sample_transforms=TEST, batch_size=1, shuffle=False)(folder, 1)
    assert [batch["im_path"] for batch in loader] == [[path] for path in paths]
    folder.set_images(paths[::-1])
    assert [batch["im_path"] for batch in loader] == [[path] for path in paths[::-1]]


def test_ways_of_handing_over(data: COCODataSet, monkeypatch: pytest.MonkeyPatch) -> None:
    """Anonymous memory, pipes and a system without both yield the same batches and leave nothing in /dev/shm."""
    expected = [numbers(batch) for batch in train(data, 0)]
    before = set(os.listdir("/dev/shm"))
    loader = train(data, 2)
    assert same(expected, [numbers(batch) for batch in loader]) and loader._pool is not None and loader._pool._slots
    assert set(os.listdir("/dev/shm")) == before
    loader = train(data, 2, use_shared_memory=False)
    assert same(expected, [numbers(batch) for batch in loader]) and loader._pool is not None
    assert not loader._pool._slots
    with monkeypatch.context() as macos:
        macos.delattr(os, "memfd_create")
        loader = train(data, 2)
        assert same(expected, [numbers(batch) for batch in loader]) and loader._pool is not None
        assert not loader._pool._slots
        macos.setattr(shared_memory.os, "name", "nt")
        assert shared_memory.anonymous_file() is None
    monkeypatch.setattr(pool_module, "anonymous_file", lambda: None)
    monkeypatch.setattr(shared_memory, "anonymous_file", lambda: None)
    assert same(expected, [numbers(batch) for batch in train(data, 2)])


def test_large_buffers_are_shared_and_safe_to_write_to() -> None:
    """A parcel is unpacked twice, as in two processes."""
    block = np.arange(2**18)
    parcel = shared_memory.PickledOnce({"large": block, "small": [1, 2]})
    parcel.place()
    try:
        assert parcel.parcel()["blocks"] == [] and os.fstat(parcel.descriptor or 0).st_size > block.nbytes
        first, second = (shared_memory.PickledOnce.unpack(parcel.parcel()) for _ in range(2))
    finally:
        parcel.close()
    first["large"][0] = 7
    assert second["large"][0] == 0 and np.array_equal(second["large"], block) and second["small"] == [1, 2]


def test_workers_import_no_paddle() -> None:
    """Nor any other module that takes seconds to import."""
    code = "import sys, ppdet.data.worker; print([m for m in ('paddle', 'matplotlib', 'pytest') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=OWN_SCRIPT.parents[2])
    assert done.stdout == "[]\n", done.stderr


@pytest.mark.timeout(60)
def test_staged_batches_are_the_same(data: COCODataSet, monkeypatch: pytest.MonkeyPatch) -> None:
    """The path to a GPU through Paddle's reader thread, tested with a CPU as its target."""
    expected = [numbers(batch) for batch in train(data, 0)]
    before = children()
    monkeypatch.setattr(paddle, "get_device", lambda: "gpu:0")
    loader = train(data, 2)
    for _ in range(2):
        assert same(expected, [numbers(batch) for batch in loader])
    for _ in loader:
        break
    gc.collect()
    assert children() == before
    with pytest.raises(UserError, match=r"^the image x\.jpg is broken$"):
        evaluate(Misbehaving("broken"), 2)
    begun = time.monotonic()
    epoch = reader()(Misbehaving("sleeps"), 1)
    for _ in epoch:
        break
    assert time.monotonic() - begun < 15, "a thread that waits for a worker ends too"


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_two_hundred_epochs_under_load(data: COCODataSet) -> None:
    """Workers that are restarted in each epoch and workers that live through all epochs, next to busy processes."""
    busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(3)]
    try:
        expected = [numbers(batch) for batch in train(data, 0)]
        loader = train(data, 2)
        for epoch in range(200):
            assert same(expected, [numbers(batch) for batch in loader])
            if epoch % 2:
                loader.close()
            if epoch % 10 == 0:  # keeps the threads of Paddle's operators active
                paddle.matmul(paddle.rand([256, 256]), paddle.rand([256, 256]))
                for _ in loader:
                    break
    finally:
        for process in busy:
            process.kill()
            process.wait()
