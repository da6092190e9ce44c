"""A user script with a custom data set. Its arguments select what it does."""

from __future__ import annotations

import gc
import os
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from ppdet.core.workspace import create  # noqa: E402
from ppdet.data.pool import WorkerPool  # noqa: E402
from tests.data.misbehaving import Misbehaving  # noqa: E402

MODE = sys.argv[1]


class Own(Misbehaving):
    """A class that is only defined in this script."""


def main() -> None:
    """Load all batches."""
    source = Misbehaving("sleeps") if MODE == "waits" else Own("nothing")
    loader = create("EvalReader", sample_transforms=["NormalizeImage", "Permute"], batch_size=1)(source, 2)
    total = 0
    for batch in loader:
        total += int(batch["im_id"][0])
        if MODE == "waits":
            pools = [thing for thing in gc.get_objects() if isinstance(thing, WorkerPool)]
            if os.fork() == 0:  # holds copies of the pipe ends of the main process
                os.close(1)
                time.sleep(15)
                os._exit(0)
            print(*pools[0].processes, flush=True)
            time.sleep(60)
    print("total", total)


if __name__ == "__main__" or MODE == "unguarded":
    main()
