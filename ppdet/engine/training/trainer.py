"""A model built from a configuration, and what is needed around it to train, evaluate or predict with it."""

from __future__ import annotations

import zlib
from contextlib import nullcontext

import paddle
import paddle.distributed as dist
from paddle.nn import BatchNorm2D, Layer, SyncBatchNorm

from deploy.common.atomic import atomic_writer, remove_leftovers, writable_dir
from ppdet import ext_op
from ppdet.checkpoint.fetch import local_weights
from ppdet.checkpoint.weights import load_pretrained, load_weights
from ppdet.core.config.settings import RuntimeSettings
from ppdet.core.workspace import Config, create, dump_config, validate_config
from ppdet.engine.data import EvalData, Loader, train_loader
from ppdet.engine.distributed.env import (
    choose_seed,
    describe_run,
    init_parallel,
    is_main,
    require_same,
    revision,
    seed_step,
    select_device,
    world_size,
)
from ppdet.engine.distributed.peers import watched
from ppdet.engine.evaluator import evaluate
from ppdet.engine.model_and_data import check_eval_data, check_train_data
from ppdet.engine.precision import choose_precision
from ppdet.engine.training.callbacks import ApTable, Callback, LogPrinter, Run
from ppdet.engine.training.checkpoint import RunState, TrainParts, checkpoint_stem, find_resumable, resume
from ppdet.engine.training.checkpointer import Checkpointer
from ppdet.engine.training.loop import TrainLoop
from ppdet.engine.training.nonfinite import BadStep, StepGuard, replay_step
from ppdet.engine.training.run_folder import AUTO, LOG, check_start, clear, has_checkpoint, run_folder, run_name
from ppdet.engine.training.run_lock import run_lock
from ppdet.engine.training.scalars import ScalarWriter
from ppdet.engine.training.start import NothingLeft, begin, build_parts
from ppdet.engine.training.train_step import TrainStep
from ppdet.modeling.losses.divisor import use_global_counts
from ppdet.structures.categories import Categories, categories_of, require_same_classes
from ppdet.utils.errors import UserError
from ppdet.utils.logger import add_log_file, cut_log_file, setup_logger

__all__ = ["Trainer"]

logger = setup_logger(__name__)


class Trainer:
    """A model built from a configuration, ready to train, to be evaluated, or to predict.

    Args:
        config: as loaded; it may have been changed since, and is checked again.
        amp: compute in half precision where the device can.

    Attributes:
        categories: the classes of the loaded weights, or of the training set; None where they do not say.

    Raises:
        UserError: the configuration cannot be built here.
    """

    def __init__(self, config: Config, amp: bool = False) -> None:
        self.config = config
        self.settings = RuntimeSettings.from_config(config)
        select_device(self.settings)
        init_parallel(self.settings)
        with watched(self.settings):
            self._build(config, amp)
        self.categories: Categories | None = None
        self._classes_of = ""

    def _build(self, config: Config, amp: bool) -> None:
        validate_config(config)  # a program may have changed it since it was loaded
        if not config.get("architecture"):
            raise UserError(f"the configuration names no architecture ({config.filename})")
        ext_op.use(bool(config.get("use_ext_op")))
        self.seed = choose_seed(config.get("seed"))
        use_global_counts(bool(config.get("global_loss_norm")))
        seed_step(self.seed, 0)
        self.precision = choose_precision(amp, config)
        self.log_iter = int(config.get("log_iter", 20))
        self.model: Layer = create(config, config.architecture)
        if paddle.get_device().startswith("cpu") and _replace_sync_bn(self.model):
            logger.warning("SyncBN does not exist on the CPU: every process normalises by its own batch")
        self.folder = run_folder(config)
        if config.get("print_params"):
            count = sum(int(parameter.size) for parameter in self.model.parameters())
            logger.info("the model has %.2f million parameters", count / 1e6)
        if config.get("print_flops"):
            logger.info("print_flops has no effect: operations of a detector depend on what is in the image")

    def load_weights(self, path: str | None = None) -> None:
        """Load trained weights: ``path``, or the configuration's ``weights``.

        Raises:
            UserError: none are named, or they do not fit the model.
        """
        chosen = path or self.config.get("weights")
        if not chosen:
            raise UserError("no weights given: add -o weights=PATH")
        loaded = load_weights(self.model, local_weights(str(chosen), "weights"))
        self.categories, self._classes_of = loaded.categories, str(loaded.path)

    # ------------------------------------------------------------------------------------------------ evaluation
    def evaluate(self, data: EvalData | None = None) -> ApTable:
        """Evaluate the present weights.

        Args:
            data: dataset and loader; ``EvalDataset`` and ``EvalReader`` of the configuration by default.

        Returns:
            COCO's twelve numbers by ``bbox`` and ``mask``, on rank 0.
        """
        with watched(self.settings):
            data = data or EvalData.from_config(self.config)
            self._compare_classes(data)
            return evaluate(self.model, data.loader, data.metric(self.model), self.log_iter, self.precision)

    def _compare_classes(self, data: EvalData) -> None:
        """Refuse a validation set of other classes than those of the model, its weights or the training set.

        Raises:
            UserError: their number or the names differ.
        """
        check_eval_data(self.model, data.dataset)
        theirs, file = categories_of(data.dataset), getattr(data.dataset, "anno_path", "the validation set")
        if self.categories is None and self._classes_of and theirs is not None and theirs != Categories.coco():
            logger.warning("%s does not name its classes: %s is compared by their number only", self._classes_of, file)
            self._classes_of = ""  # once
        require_same_classes(self.categories, self._classes_of, theirs, file)

    # -------------------------------------------------------------------------------------------------- training
    def train(
        self,
        validate: bool = False,
        resume_from: str | None = None,
        callbacks: tuple[Callback, ...] = (),
        overwrite: bool = False,
    ) -> RunState:
        """Train to the configured number of epochs.

        Args:
            validate: evaluate each saved epoch and keep the best weights.
            resume_from: checkpoint to go on from; an empty text stands for the newest whole one of this run, ``auto``
                for the same, or a fresh start where there is none.
            callbacks: in addition to log, scalar files and checkpoints.
            overwrite: remove the run that the folder holds; without it, a fresh start there is refused.

        Raises:
            UserError: data, weights or settings do not fit, or a loss became infinite or NaN.
            KeyboardInterrupt: after Ctrl-C, a checkpoint to continue from having been written.
        """
        with watched(self.settings), run_lock(self.folder):
            return self._train(validate, resume_from, callbacks, overwrite)

    def _train(
        self, validate: bool, resume_from: str | None, callbacks: tuple[Callback, ...], overwrite: bool
    ) -> RunState:
        require_same(
            {
                "configurations": f"checksum {zlib.crc32(dump_config(self.config).encode()):08x}",
                "options": f"eval {validate}, resume {resume_from}, overwrite {overwrite}, "
                f"precision {self.precision.level or 'float32'}",
                "revisions of the code": revision(),
                "versions of Paddle": paddle.__version__,
            }
        )
        earlier_log = self._open_folder(resume_from, overwrite)
        automatic = resume_from == AUTO
        if automatic and not has_checkpoint(self.folder):
            resume_from = None
        elif automatic or resume_from == "":
            resume_from = str(find_resumable(self.folder))
        loader = train_loader(self.config, self.seed)
        check_train_data(self.model, loader.dataset)
        self.categories = categories_of(loader.dataset)
        self._classes_of = getattr(loader.dataset, "anno_path", "the training set")
        if resume_from is None and self.config.get("pretrain_weights"):  # after the data: a download takes long
            start = local_weights(str(self.config.pretrain_weights), "pretrain_weights")
            load_pretrained(self.model, start, self.categories)
        accumulate = int(self.config.get("accumulate_steps", 1))
        steps = len(loader) // accumulate
        if steps == 0:
            raise UserError("the training set has fewer images than one step takes; lower TrainReader.batch_size")
        parts = self._parts(loader, steps, accumulate)
        try:
            state = begin(self.config, parts, steps, self.seed, resume_from, validate)
        except NothingLeft as complete:
            if not automatic:
                raise
            logger.info("%s has all %d epochs: nothing to do", resume_from, complete.state.epoch)
            return complete.state
        require_same({"numbers of images": len(loader.dataset), "checkpoints": f"after {state.step} steps"})
        loader.set_seed(state.seed)
        run = Run(self.folder, parts, state, self.config.epoch, int(self.config.get("snapshot_epoch", 1)))
        run.snapshot_iter = int(self.config.get("snapshot_iter", 1000))
        run.max_nonfinite_steps = int(self.config.get("max_nonfinite_steps", 0))
        if resume_from is not None and checkpoint_stem(resume_from).parent.resolve() == self.folder.resolve():
            run.resumed = self.folder / checkpoint_stem(resume_from).name
        run.max_keep_checkpoints = self.config.get("max_keep_checkpoints")
        run.save_safetensors = bool(self.config.get("save_safetensors", True))
        checkpointer = Checkpointer()
        observers = (LogPrinter(), checkpointer, ScalarWriter(), *callbacks)
        if validate:
            data = EvalData.from_config(self.config)
            self._compare_classes(data)
            run.evaluate = lambda: self._validate(run, observers, data)
        if overwrite and is_main():  # not before everything else is in order: a mistake shall not cost the earlier run
            clear(self.folder)
            cut_log_file(self.folder / LOG, earlier_log)
        self._write_facts(state)
        guard = StepGuard(parts) if run.max_nonfinite_steps else None
        step = TrainStep(self._network(), parts, self.precision, guard)
        TrainLoop(run, loader, step, observers, self.log_iter, accumulate)()
        checkpointer.farewell(run)
        return state

    def _open_folder(self, resume_from: str | None, overwrite: bool) -> int:
        """Make the run's folder ready to be written to, and return the size that its log had.

        Raises:
            UserError: it cannot be written to, or holds another run.
        """
        if not is_main():
            return 0
        writable_dir(self.folder)
        check_start(self.folder, resume_from, overwrite)
        file = self.folder / LOG
        size = file.stat().st_size if file.is_file() else 0
        add_log_file(file)
        for leftover in remove_leftovers(self.folder):
            logger.info("removed %s, which a killed process left half written", leftover)
        return size

    def replay(self, file: str, resume_from: str | None = None) -> None:
        """Repeat a step whose loss was not finite, with the weights of a checkpoint, and log what is not finite in it.

        A step of one of several processes is repeated in a single one, with losses divided by its own counts.

        Args:
            file: ``nonfinite_<step>.json`` of a run.
            resume_from: checkpoint; without one, or empty, the newest whole one of this run.

        Raises:
            UserError: file, checkpoint or data do not fit, or there are several processes.
        """
        if world_size() > 1:
            raise UserError("--replay repeats the step of one process: start it without paddle.distributed.launch")
        bad = BadStep.read(file)
        loader = train_loader(self.config, bad.seed)
        accumulate = int(self.config.get("accumulate_steps", 1))
        steps = max(1, len(loader) // accumulate)
        parts = self._parts(loader, steps, accumulate)
        resume(resume_from or find_resumable(self.folder), parts)
        replay_step(parts, TrainStep(self.model, parts, self.precision).backward, loader, bad, accumulate)

    def _parts(self, loader: Loader, steps: int, accumulate: int) -> TrainParts:
        total_batch = loader.batch_size * accumulate * world_size()
        parts = build_parts(self.config, self.model, self.precision, steps, len(loader.dataset), total_batch)
        self.model = parts.model
        parts.categories = categories_of(loader.dataset)
        return parts

    def _network(self) -> Layer:
        """Return what the forward is called on: the model, or its wrapper which exchanges gradients."""
        if world_size() == 1:
            return self.model
        return paddle.DataParallel(
            self.model, find_unused_parameters=bool(self.config.get("find_unused_parameters", False))
        )

    def _validate(self, run: Run, observers: tuple[Callback, ...], data: EvalData) -> ApTable:
        """Evaluate in the middle of training, the averaged weights where there are any."""
        with nullcontext() if run.parts.ema is None else run.parts.ema.applied():
            self._share_weights()
            results = self.evaluate(data)
        for observer in observers:
            observer.on_evaluation(run, results)
        return results

    @paddle.no_grad()
    def _share_weights(self) -> None:
        """All evaluate what rank 0 saves: batch statistics, and averages of them, differ between processes."""
        if world_size() > 1:
            for value in self.model.state_dict().values():
                dist.broadcast(value, src=0)

    def _write_facts(self, state: RunState) -> None:
        """Write the configuration, and what this start of the run was; a resumed run keeps what earlier ones were."""
        if not is_main():
            return
        with atomic_writer(self.folder / "config.yml", "w") as stream:
            named = self.config.copy()
            named["run_name"] = run_name(self.config)  # -c of this file goes on with this run
            stream.write(dump_config(named))
        if self.categories is not None:
            with atomic_writer(self.folder / "categories.json", "w") as stream:
                stream.write(self.categories.to_json() + "\n")
        file = self.folder / "run.txt"
        earlier = file.read_text(encoding="utf-8") + "\n" if state.step and file.is_file() else ""
        with atomic_writer(file, "w") as stream:
            stream.write(f"{earlier}start: after {state.step} steps\n{describe_run(state.seed)}")


def _replace_sync_bn(layer: Layer) -> int:
    """Put ordinary batch normalisation, with the same tensors, where a model has SyncBN; return how many there were."""
    count = 0
    for name, child in list(layer.named_children()):
        if isinstance(child, SyncBatchNorm):
            plain = BatchNorm2D(child._num_features, momentum=child._momentum, epsilon=child._epsilon)
            plain.weight, plain.bias = child.weight, child.bias
            plain._mean.set_value(child._mean)
            plain._variance.set_value(child._variance)
            setattr(layer, name, plain)
            count += 1
        else:
            count += _replace_sync_bn(child)
    return count
