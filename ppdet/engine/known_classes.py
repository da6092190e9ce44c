"""The classes that a model was trained on, compared with those of a dataset that it is evaluated on."""

from __future__ import annotations

from typing import Any

from ppdet.engine.model_and_data import check_eval_data
from ppdet.modeling.architectures.architecture import Architecture
from ppdet.structures.categories import Categories, categories_of, require_same_classes
from ppdet.utils.logger import setup_logger

__all__ = ["KnownClasses"]

logger = setup_logger(__name__)


class KnownClasses:
    """The classes that a model was trained on, as far as its weights or its training set name them.

    Args:
        categories: the classes; None if their source does not name them.
        source: the file they come from, for messages; empty for a model with random weights.
    """

    def __init__(self, categories: Categories | None = None, source: str = "") -> None:
        self.categories = categories
        self._source = source
        self._warned = False

    def check(self, model: Architecture, dataset: Any) -> None:
        """Check that a dataset has the classes of the model.

        Args:
            model: to be evaluated on it.
            dataset: ``EvalDataset``.

        Raises:
            UserError: the number of classes or their names differ.
        """
        check_eval_data(model, dataset)
        theirs, file = categories_of(dataset), getattr(dataset, "anno_path", "the validation set")
        if self.categories is None and self._source and theirs is not None and theirs != Categories.coco():
            if not self._warned:
                logger.warning(
                    "%s does not name its classes: only the number of classes is compared with %s", self._source, file
                )
            self._warned = True
        require_same_classes(self.categories, self._source, theirs, file)
