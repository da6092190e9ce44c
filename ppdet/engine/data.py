"""Datasets, loaders and the metric, built from a configuration."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from ppdet.core.config.settings import RuntimeSettings
from ppdet.core.workspace import Config, create
from ppdet.modeling.architectures.architecture import Architecture
from ppdet.structures.categories import Categories
from ppdet.utils.errors import UserError

if TYPE_CHECKING:
    from ppdet.metrics.coco import COCOMetric

__all__ = ["EvalData", "Loader", "predict_loader", "test_dataset", "train_loader"]


class Loader(Protocol):
    """The interface of the loaders that readers build.

    Attributes:
        dataset: the dataset, which has a length.
        batch_size: number of images in each batch of this process.
        skipped: index and reason of each image that was left out since the list was last cleared.
    """

    dataset: Any
    batch_size: int
    skipped: list[tuple[int, str]]

    def __len__(self) -> int:
        """Number of batches of this process in an epoch."""

    def __iter__(self) -> Iterator[Mapping[str, Any]]:
        """Iterate over the batches of the epoch."""

    def set_seed(self, seed: int) -> None:
        """Set the seed that all random draws derive from."""

    def set_epoch(self, epoch: int, start_iter: int = 0) -> None:
        """Set the epoch, and its batch to start with."""

    def skip_broken(self) -> None:
        """Leave broken images out from now on, and list them in ``skipped``."""

    def agree_on_broken(self, gather: Callable[[list[str]], list[list[str]]]) -> None:
        """Count the broken images of all processes, and end the training if there are too many."""

    def set_share(self, rank: int, processes: int, batch_size: int) -> None:
        """Load the share of another process, to reproduce its batches."""

    def close(self) -> None:
        """Stop the worker processes."""


def _dataset(config: Config, key: str, **kwargs: Any) -> Any:
    if not config.get(key):
        raise UserError(f"the configuration does not set '{key}' ({config.filename})")
    return create(config, config[key], **kwargs)


def _load(config: Config, reader: str, dataset: Any, seed: int = 0) -> Loader:
    settings = RuntimeSettings.from_config(config)
    loader: Any = create(config, reader)(dataset, settings.worker_num)
    loader.set_seed(seed)
    if reader == "TrainReader":
        loader.allow_broken(settings.max_broken_share)
    return loader


def train_loader(config: Config, seed: int) -> Loader:
    """Build the loader of this rank from ``TrainDataset`` and ``TrainReader``."""
    return _load(config, "TrainReader", _dataset(config, "TrainDataset"), seed)


def test_dataset(config: Config, categories: Categories | None) -> Any:
    """Build ``TestDataset``.

    Args:
        config: of the model.
        categories: the classes of the weights; None if they do not contain them.

    Raises:
        UserError: the configuration does not set ``TestDataset``.
    """
    dataset = _dataset(config, "TestDataset")
    if categories is not None:
        dataset.set_categories(categories)
    return dataset


def predict_loader(config: Config, images: Sequence[str], categories: Categories | None = None) -> Loader:
    """Build a loader of image files from ``TestDataset`` and ``TestReader``. It skips broken images.

    Args:
        config: of the model.
        images: paths of the files.
        categories: the classes of the weights; None if they do not contain them.
    """
    dataset = test_dataset(config, categories)
    dataset.set_images(list(images))
    loader = _load(config, "TestReader", dataset)
    loader.skip_broken()
    return loader


@dataclass
class EvalData:
    """The data of an evaluation.

    Attributes:
        dataset: has annotations, or at least the sizes of the images.
        loader: the batches of this rank.
        options: arguments of the metric.
    """

    dataset: Any
    loader: Loader
    options: dict[str, Any]

    @classmethod
    def from_config(cls, config: Config) -> EvalData:
        """Build ``EvalDataset`` and ``EvalReader``.

        Raises:
            UserError: a metric other than COCO, or a dataset without objects.
        """
        settings = RuntimeSettings.from_config(config)
        dataset = _dataset(config, "EvalDataset")
        options = {
            "classwise": settings.classwise,
            "output_eval": settings.output_eval or None,
            "save_prediction_only": settings.save_prediction_only,
        }
        if not settings.save_prediction_only and getattr(dataset, "object_count", None) == 0:
            raise UserError(
                f"{dataset.anno_path} has no annotations: there is nothing to measure predictions against; check "
                "EvalDataset.anno_path, or add --save_prediction_only to write the predictions without measuring them"
            )
        return cls(dataset, _load(config, "EvalReader", dataset), options)

    def metric(self, model: Architecture | None = None) -> COCOMetric:
        """Return a new metric for this dataset.

        Args:
            model: the model whose masks will be pasted; None if the results are read from files, which are then not
                written again.
        """
        from ppdet.metrics import COCOMetric

        if model is None:
            return COCOMetric(self.dataset, **{**self.options, "output_eval": None})
        return COCOMetric(self.dataset, threshold=model.mask_threshold, **self.options)
