"""A model, a dataset and a reader small enough to train in milliseconds, under the interfaces of the real ones."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import paddle
from paddle import nn

from ppdet.core.workspace import Config, load_config, register, serializable
from ppdet.engine.trainer import Trainer
from ppdet.modeling.architectures.architecture import Architecture
from ppdet.structures.predictions import Predictions

YAML = """
architecture: FakeNet
epoch: 2
log_iter: 2
use_gpu: false
snapshot_epoch: 1
num_classes: 3
seed: 5
LearningRate:
  base_lr: 0.1
  schedulers:
  - !PiecewiseDecay {gamma: 0.1, milestones: [1]}
  - !LinearWarmup {start_factor: 0.1, steps: 3}
OptimizerBuilder:
  optimizer: {momentum: 0.9, type: Momentum}
  regularizer: {factor: 0.0001, type: L2}
TrainDataset: !FakeDataset {count: 8}
EvalDataset: !FakeDataset {count: 5}
TrainReader: {batch_size: 2}
EvalReader: {batch_size: 2}
"""


@register
class FakeNet(Architecture):
    """A linear model of a 4-vector with noise from Paddle's and NumPy's generators in its loss."""

    __shared__ = ["num_classes"]

    def __init__(self, num_classes: int = 3, blow_up_at: int = -1, plain: bool = False) -> None:
        super().__init__()
        self.backbone = nn.Sequential(nn.Linear(4, 4), nn.Identity() if plain else nn.BatchNorm1D(4))
        self.head = nn.Linear(4, num_classes + 1)
        self.blow_up_at = blow_up_at
        self.calls = 0

    def forward(self, batch: dict[str, Any]) -> dict[str, paddle.Tensor] | Predictions:  # type: ignore[override]
        """Return losses in training, two detections an image in evaluation."""
        logits = self.head(self.backbone(batch["image"]))
        if not self.training:
            count = len(batch["im_id"])
            return Predictions(
                scores=paddle.zeros([2 * count]),
                labels=paddle.zeros([2 * count], "int64"),
                counts=paddle.full([count], 2, "int32"),
                boxes=paddle.zeros([2 * count, 4]),
            )
        self.calls += 1
        noise = paddle.rand(logits.shape) + float(np.random.rand())
        loss = ((logits - batch["target"] + 0.1 * noise) ** 2).mean()
        if self.calls == self.blow_up_at:
            loss = loss * float("nan")
        return {"loss_fit": loss, "loss_twice": 2 * loss, "loss": 3 * loss}


@register
@serializable
class FakeDataset:
    """``count`` seeded vectors."""

    has_annotations = True

    def __init__(self, count: int = 8) -> None:
        self.count = count

    def __len__(self) -> int:
        return self.count


class FakeLoader:
    """Batches in an order that depends on seed and epoch."""

    def __init__(self, dataset: FakeDataset, batch_size: int) -> None:
        self.dataset, self.batch_size = dataset, batch_size
        self.seed = self.epoch = self.start = 0

    def set_seed(self, seed: int) -> None:
        """See `ppdet.engine.data.Loader`."""
        self.seed = seed

    def set_epoch(self, epoch: int, start_iter: int = 0) -> None:
        """See `ppdet.engine.data.Loader`."""
        self.epoch, self.start = epoch, start_iter

    def agree_on_broken(self, gather: Any) -> None:
        """See `ppdet.engine.data.Loader`; no image is broken here."""

    def set_share(self, rank: int, processes: int, batch_size: int) -> None:
        """See `ppdet.engine.data.Loader`; all processes have the same batches here."""
        self.batch_size = batch_size

    def close(self) -> None:
        """See `ppdet.engine.data.Loader`."""

    def __len__(self) -> int:
        return len(self.dataset) // self.batch_size

    def __iter__(self) -> Iterator[dict[str, Any]]:
        order = np.random.default_rng((self.seed, self.epoch)).permutation(len(self.dataset))
        for index in range(self.start, len(self.dataset) // self.batch_size):
            chosen = order[index * self.batch_size : (index + 1) * self.batch_size]
            values = np.stack([np.random.default_rng(item).normal(size=4) for item in chosen]).astype("float32")
            yield {
                "image": paddle.to_tensor(values),
                "target": paddle.to_tensor(values[:, :1] * 2 + 1),
                "im_id": paddle.to_tensor(chosen),
                "im_path": [f"image_{item}.jpg" for item in chosen],
            }


def load(config: Config, reader: str, dataset: FakeDataset, seed: int = 0) -> FakeLoader:
    """Stand in for `ppdet.engine.data._load`."""
    loader = FakeLoader(dataset, config[reader]["batch_size"])
    loader.set_seed(seed)
    return loader


def make_config(folder: Path, name: str = "fake", **overrides: Any) -> Config:
    """Load the configuration of the fake model, its runs under ``folder``."""
    path = folder / f"{name}.yml"
    path.write_text(YAML, encoding="utf-8")
    config = load_config(str(path))
    config["save_dir"] = str(folder / "output")
    config.update(overrides)
    return config


def make_trainer(folder: Path, **overrides: Any) -> Trainer:
    """Build a trainer of the fake model in a folder, which is made."""
    folder.mkdir(exist_ok=True)
    return Trainer(make_config(folder, **overrides))
