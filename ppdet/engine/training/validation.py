"""Evaluation in the middle of a training."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext

import paddle
import paddle.distributed as dist

from ppdet.engine.data import EvalData
from ppdet.engine.distributed.env import world_size
from ppdet.engine.session import Session
from ppdet.engine.training.callbacks import Callback
from ppdet.engine.training.run import ApTable, Run

__all__ = ["Validation"]


class Validation:
    """Callable that evaluates the weights as a checkpoint holds them, and reports the result to the callbacks.

    Args:
        session: with the model; ``EvalDataset`` and ``EvalReader`` of its configuration are built at once.
        run: the training.
        observers: receive the results.

    Raises:
        UserError: the dataset cannot be evaluated, or has other classes than the training set.
    """

    def __init__(self, session: Session, run: Run, observers: Sequence[Callback]) -> None:
        self._session, self._run, self._observers = session, run, observers
        self._data = EvalData.from_config(session.config)
        session.classes.check(session.model, self._data.dataset)

    def __call__(self) -> ApTable:
        """Evaluate the averaged weights, if the training averages them, or else the trained ones.

        Returns:
            COCO's twelve numbers under ``bbox`` and ``mask``; empty on other ranks than 0.
        """
        ema = self._run.parts.ema
        with nullcontext() if ema is None else ema.applied():
            self._share_weights()
            results = self._session.evaluate(self._data)
        for observer in self._observers:
            observer.on_evaluation(self._run, results)
        return results

    @paddle.no_grad()
    def _share_weights(self) -> None:
        """Give all processes the weights that rank 0 saves: batch statistics, and averages of them, differ."""
        if world_size() > 1:
            for value in self._session.model.state_dict().values():
                dist.broadcast(value, src=0)
