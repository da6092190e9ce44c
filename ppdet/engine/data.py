"""From the configuration to datasets, loaders and the metric, as the engine uses them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from ppdet.core.workspace import Config, create
from ppdet.modeling.architectures.architecture import Architecture
from ppdet.structures.categories import Categories
from ppdet.utils.errors import UserError

__all__ = ["EvalData", "Loader", "predict_loader", "test_dataset", "train_loader"]


class Loader(Protocol):
    """What the engine asks of a reader's loader.

    Attributes:
        dataset: what it draws from; has a length.
        batch_size: images in each of this process's batches.
        skipped: index and complaint of each image that was left out; emptied by its reader.
    """

    dataset: Any
    batch_size: int
    skipped: list[tuple[int, str]]

    def __len__(self) -> int:
        """Batches of this process in an epoch."""

    def __iter__(self) -> Iterator[Mapping[str, Any]]:
        """Yield the batches of the epoch."""

    def set_seed(self, seed: int) -> None:
        """Choose what all random draws derive from."""

    def set_epoch(self, epoch: int, start_iter: int = 0) -> None:
        """Choose the epoch, and the batch of it to begin with."""

    def skip_broken(self) -> None:
        """Leave broken images out from now on; ``skipped`` tells of them."""

    def agree_on_broken(self, gather: Callable[[list[str]], list[list[str]]]) -> None:
        """Count the broken images of all processes; ends the training where they are too many."""

    def set_share(self, rank: int, processes: int, batch_size: int) -> None:
        """Take the share of another process, to look at what it saw."""

    def close(self) -> None:
        """End the processes that load."""


def _dataset(config: Config, key: str, **kwargs: Any) -> Any:
    if not config.get(key):
        raise UserError(f"the configuration does not set '{key}' ({config.filename})")
    return create(config, config[key], **kwargs)


def _load(config: Config, reader: str, dataset: Any, seed: int = 0) -> Loader:
    loader = create(config, reader)(dataset, config.get("worker_num"))
    loader.set_seed(seed)
    if reader == "TrainReader":
        loader.allow_broken(float(config.get("max_broken_share") or 0.0))
    return loader


def train_loader(config: Config, seed: int) -> Loader:
    """Build this rank's loader of ``TrainDataset`` through ``TrainReader``."""
    return _load(config, "TrainReader", _dataset(config, "TrainDataset"), seed)


def test_dataset(config: Config, categories: Categories | None) -> Any:
    """Build ``TestDataset`` with the classes of the weights, where these are known.

    Raises:
        UserError: neither weights nor configuration say what the classes are.
    """
    dataset = _dataset(config, "TestDataset")
    if categories is not None:
        dataset.set_categories(categories)
    return dataset


def predict_loader(config: Config, images: Sequence[str], categories: Categories | None = None) -> Loader:
    """Build a loader of the given image files through ``TestDataset`` and ``TestReader``; broken ones are skipped.

    Args:
        config: sections ``TestDataset`` and ``TestReader``, and ``worker_num``.
        images: paths of the files.
        categories: the classes of the weights, where these are known.
    """
    dataset = test_dataset(config, categories)
    dataset.set_images(list(images))
    loader = _load(config, "TestReader", dataset)
    loader.skip_broken()
    return loader


@dataclass
class EvalData:
    """What an evaluation needs.

    Attributes:
        dataset: with annotations, or at least image sizes.
        loader: this rank's batches.
        options: arguments of the metric that a command line sets.
    """

    dataset: Any
    loader: Loader
    options: dict[str, Any]

    @classmethod
    def from_config(cls, config: Config) -> EvalData:
        """Build ``EvalDataset`` and ``EvalReader``.

        Raises:
            UserError: a metric other than COCO's, or no objects to measure predictions against.
        """
        if config.get("metric", "COCO") != "COCO":
            raise UserError(f"metric: {config['metric']} is not supported, only COCO")
        dataset = _dataset(config, "EvalDataset")
        keys = ("classwise", "output_eval", "save_prediction_only")
        options: dict[str, Any] = {key: config[key] for key in keys if config.get(key)}
        if not options.get("save_prediction_only") and getattr(dataset, "object_count", None) == 0:
            raise UserError(
                f"{dataset.anno_path} has no annotations: there is nothing to measure predictions against; check "
                "EvalDataset.anno_path, or add --save_prediction_only to have the predictions written alone"
            )
        return cls(dataset, _load(config, "EvalReader", dataset), options)

    def metric(self, model: Architecture | None = None) -> Any:
        """Return a new metric for this dataset.

        Args:
            model: the model whose masks will be pasted; None if the results are read from files.
        """
        from ppdet.metrics import COCOMetric

        threshold = 0.5 if model is None else model.mask_threshold
        return COCOMetric(dataset=self.dataset, threshold=threshold, **self.options)
