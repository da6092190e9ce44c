"""A model built from a configuration on a device: what training, evaluation, prediction and export begin with."""

from __future__ import annotations

import paddle

from ppdet.checkpoint.fetch import local_weights
from ppdet.checkpoint.weights import load_weights
from ppdet.core.config.settings import RuntimeSettings
from ppdet.core.workspace import Config, validate_config
from ppdet.engine.data import EvalData
from ppdet.engine.distributed.peers import watched
from ppdet.engine.evaluator import evaluate
from ppdet.engine.known_classes import KnownClasses
from ppdet.engine.model_and_data import build_architecture
from ppdet.engine.precision import choose_precision
from ppdet.engine.random_streams import choose_seed, seed_step
from ppdet.engine.run_name import run_name
from ppdet.engine.runtime import Runtime
from ppdet.engine.sync_bn import replace_sync_bn
from ppdet.modeling.architectures.architecture import Architecture
from ppdet.structures.categories import Categories
from ppdet.utils.errors import UserError
from ppdet.utils.logger import setup_logger

__all__ = ["Session"]

logger = setup_logger(__name__)


class Session:
    """A model built from a configuration, on the device that the configuration selects.

    Args:
        config: as loaded; it may have been changed since, and is checked again.
        amp: compute in half precision if the device supports it.
        deterministic: use deterministic algorithms.

    Attributes:
        config: the configuration.
        settings: its settings of the run.
        runtime: makes the settings effective; the methods enter it, and a caller of the model does, too.
        name: of the runs and exports of the configuration.
        seed: of the random streams; the same on all processes.
        precision: how the model computes.
        model: the bare model, without a DataParallel wrapper.
        classes: the classes that the model knows.

    Raises:
        UserError: the configuration is invalid, or cannot be used on this machine.
    """

    def __init__(self, config: Config, amp: bool = False, deterministic: bool = False) -> None:
        self.config = config
        self.settings = RuntimeSettings.from_config(config)
        self.runtime = Runtime(self.settings, deterministic)
        with self.runtime, watched(self.settings):
            validate_config(config)
            self.name = run_name(config)
            self.seed = choose_seed(self.settings.seed)
            seed_step(self.seed, 0)
            self.precision = choose_precision(amp, self.settings)
            self.model = self._build_model()
        self.classes = KnownClasses()

    def _build_model(self) -> Architecture:
        model = build_architecture(self.config)
        if paddle.get_device().startswith("cpu") and replace_sync_bn(model):
            logger.warning("SyncBN does not exist on the CPU: every process normalises by its own batch")
        if self.settings.print_params:
            count = sum(int(parameter.size) for parameter in model.parameters())
            logger.info("the model has %.2f million parameters", count / 1e6)
        if self.settings.print_flops:
            logger.info("print_flops has no effect: the number of operations of a detector depends on the image")
        return model

    @property
    def categories(self) -> Categories | None:
        """The classes of the loaded weights, or of the training set; None if they are not known by name."""
        return self.classes.categories

    def load_weights(self, path: str | None = None) -> None:
        """Load trained weights.

        Args:
            path: file or URL; ``weights`` of the configuration by default.

        Raises:
            UserError: no weights are given, or they do not fit the model.
        """
        chosen = path or self.settings.weights
        if not chosen:
            raise UserError("no weights given: add -o weights=PATH")
        with self.runtime:
            loaded = load_weights(self.model, local_weights(str(chosen), "weights"))
        self.classes = KnownClasses(loaded.categories, str(loaded.path))

    def evaluate(self, data: EvalData | None = None) -> dict[str, list[float]]:
        """Evaluate the current weights.

        Args:
            data: dataset and loader; ``EvalDataset`` and ``EvalReader`` of the configuration by default.

        Returns:
            COCO's twelve numbers under ``bbox`` and ``mask``; empty on other ranks than 0.

        Raises:
            UserError: the dataset is empty, or has other classes than the model.
        """
        with self.runtime, watched(self.settings):
            data = data or EvalData.from_config(self.config)
            self.classes.check(self.model, data.dataset)
            return evaluate(self.model, data.loader, data.metric(self.model), self.settings.log_iter, self.precision)
