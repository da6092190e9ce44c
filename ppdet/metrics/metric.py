"""The interface of a metric, as an evaluation uses it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np

__all__ = ["Metric"]


class Metric(Protocol):
    """Collects the predictions of the batches of this process, and measures those of all processes."""

    def update(self, batch: Mapping[str, Any], outputs: Mapping[str, np.ndarray]) -> None:
        """Add the predictions of a batch.

        Args:
            batch: the facts about its images that are no inputs of the model, such as ``im_id`` and ``orig_size``.
            outputs: arrays by name, see :meth:`~ppdet.structures.predictions.Predictions.to_outputs`.
        """

    def state(self) -> Any:
        """Return what has been collected, as an object that can be pickled."""

    def load_state(self, states: Sequence[Any]) -> None:
        """Replace what has been collected with the states of all processes."""

    def accumulate(self) -> None:
        """Compute the results."""

    def log(self) -> None:
        """Log the results."""

    def get_results(self) -> Mapping[str, list[float]]:
        """Return the results by the kind of prediction; empty without ground truth."""
