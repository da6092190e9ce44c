"""Settings of a run: the top-level keys of a configuration that configure no class, with types, ranges and defaults."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from ppdet.core.annotations import evaluated
from ppdet.core.config.errors import ConfigError, located
from ppdet.core.config.faults import find_fault
from ppdet.core.config.node import ConfigDict
from ppdet.core.config.ranges import (
    DecayType,
    Entries,
    Fraction,
    FractionBelowOne,
    NonNegative,
    NonNegativeInt,
    OneOf,
    Positive,
    PositiveInt,
    WorkerCount,
)

__all__ = ["ExportSettings", "RuntimeSettings", "field_types"]


@dataclass(frozen=True)
class ExportSettings:
    """The mapping ``export``, with PaddleDetection's keys."""

    post_process: bool = True
    """Include decoding to the original image; without it the graph returns boxes in input pixels and probabilities."""
    nms: bool = True
    """Include the suppression; without it the graph returns all candidate boxes and no masks."""
    benchmark: bool = False
    """The same as ``post_process: false``, to time the network alone."""
    fuse_conv_bn: bool = True
    """Fold batch normalisations into the convolutions before them."""


@dataclass(frozen=True)
class RuntimeSettings:
    """Settings of a training, evaluation, prediction or export.

    Every field is a top-level key of a configuration. The annotation is checked when a file is loaded; a key that the
    configuration does not set has the default given here.
    """

    # ------------------------------------------------------------------------------------------- device and process
    use_gpu: bool = False
    """Run on a GPU; without a visible one, the CPU is used and a warning is logged."""
    use_xpu: bool = False
    """Run on a Kunlun XPU."""
    use_npu: bool = False
    """Run on an Ascend NPU."""
    use_mlu: bool = False
    """Run on a Cambricon MLU."""
    use_gcu: bool = False
    """Run on an Enflame GCU."""
    use_ext_op: bool = False
    """Use the compiled extension for predictions on a CPU (see :mod:`ppdet.ext_op`)."""
    seed: NonNegativeInt | None = None
    """Seed of all random draws; None draws one."""
    find_unused_parameters: bool = False
    """Passed to ``paddle.DataParallel``."""
    worker_num: WorkerCount = 2
    """Processes that load data, for readers that do not set ``worker_num`` themselves; 0 loads in the main process."""
    join_timeout: NonNegative = 600.0
    """Seconds to wait until all training processes have started; 0 leaves joining to Paddle."""
    heartbeat_timeout: NonNegative = 300.0
    """Seconds without a sign of life after which a training process counts as lost; 0 never."""
    progress_timeout: NonNegative = 3600.0
    """Seconds without a finished step after which the training ends; 0 never."""

    # --------------------------------------------------------------------------------------------- model and weights
    architecture: str = ""
    """Registered name of the model; empty if the configuration does not set it."""
    weights: str | None = None
    """Trained weights to evaluate, predict with or export: a path or a URL."""
    pretrain_weights: str | None = None
    """Weights that a training starts from: a path or a URL."""
    print_params: bool = False
    """Log the number of parameters."""
    print_flops: bool = False
    """Has no effect here; accepted for configurations written for PaddleDetection."""

    # --------------------------------------------------------------------------------------- schedule, logs and files
    epoch: PositiveInt = 0
    """Number of epochs; 0 if the configuration does not set it."""
    log_iter: PositiveInt = 20
    """Steps between two log lines."""
    snapshot_epoch: PositiveInt = 1
    """Epochs between two checkpoints."""
    snapshot_iter: NonNegativeInt = 1000
    """Steps between two checkpoints within an epoch; 0 writes none."""
    max_keep_checkpoints: PositiveInt | None = None
    """Number of epoch checkpoints kept; None keeps all."""
    save_safetensors: bool = True
    """Write a ``.safetensors`` file next to each ``.pdparams`` file."""
    max_nonfinite_steps: NonNegativeInt = 0
    """Number of steps with an infinite or NaN loss or gradient that are skipped before the training stops."""
    max_broken_share: FractionBelowOne = 0.0
    """Share of the training images that may be unreadable; others take their places."""
    save_dir: str = "output"
    """Folder that holds the folders of runs."""
    run_name: str | int | None = None
    """Name of the run's folder; None takes the name of the configuration file."""
    use_vdl: bool = False
    """Write scalars for VisualDL."""
    vdl_log_dir: str | None = None
    """Folder of VisualDL's records; None is ``vdl`` in the run's folder."""

    # ------------------------------------------------------------------------------------------------- training steps
    use_ema: bool = False
    """Keep an exponential moving average of the weights."""
    ema_decay: FractionBelowOne = 0.9998
    """Decay of the average."""
    ema_decay_type: DecayType = "threshold"
    """How the decay grows in the first steps."""
    amp: bool = False
    """Compute in mixed precision; the same as ``--amp``."""
    amp_level: Annotated[str, OneOf("O1", "O2")] = "O1"
    """O1: listed operators in half precision; O2: weights as well."""
    amp_dtype: Annotated[str, OneOf("auto", "float16", "bfloat16")] = "auto"
    """Half precision type; ``auto`` is float16."""
    init_loss_scaling: Positive = 65536.0
    """First factor of the loss scaling that float16 needs."""
    custom_white_list: Sequence[str] | None = None
    """Operators computed in half precision in addition to Paddle's list."""
    custom_black_list: Sequence[str] | None = None
    """Operators computed in float32 in addition to Paddle's list."""
    accumulate_steps: PositiveInt = 1
    """Batches whose gradients are added before an update."""
    auto_scale_lr: bool | PositiveInt = False
    """Scale ``base_lr`` to the total batch; a number is the batch that ``base_lr`` was set for, true stands for 16."""
    global_loss_norm: bool = False
    """Divide losses by counts over all processes instead of by those of each process."""

    # -------------------------------------------------------------------------------------------- evaluation and export
    metric: Annotated[str, OneOf("COCO")] = "COCO"
    """Metric of the evaluation."""
    output_eval: str | None = None
    """Folder in which an evaluation writes ``bbox.json`` and ``mask.json``."""
    save_prediction_only: bool = False
    """Write the predictions of an evaluation without computing the metric."""
    classwise: bool = False
    """Report the AP of every class."""
    draw_threshold: Fraction = 0.5
    """Lowest score of a drawn instance."""
    export: ExportSettings = ExportSettings()
    """What an exported graph contains."""

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> RuntimeSettings:
        """Read the settings of a configuration.

        Args:
            config: a configuration, or any mapping; keys that are no settings are ignored.

        Raises:
            ConfigError: a value of the wrong type or outside of its range.
        """
        values: dict[str, Any] = {}
        for key, annotation in field_types(cls).items():
            if key in config:
                values[key] = _checked(config, key, annotation)
        if "export" in values:
            values["export"] = ExportSettings(**values["export"])
        return cls(**values)


def field_types(settings: type) -> Mapping[str, Any]:
    """Return the annotation of every field of a settings class; a nested settings class becomes ``Entries``."""
    types = evaluated({field.name: field.type for field in dataclasses.fields(settings)}, settings.__module__)
    for name, annotation in types.items():
        if isinstance(annotation, type) and dataclasses.is_dataclass(annotation):
            types[name] = Annotated[dict, Entries(field_types(annotation))]
    return types


def _checked(config: Mapping[str, Any], key: str, annotation: Any) -> Any:
    value = config[key]
    fault = find_fault(value, annotation)
    if fault is None:
        return value
    origin = config.origin(key) if isinstance(config, ConfigDict) else None
    name = ".".join((key, *fault.keys))
    raise ConfigError(fault.template.format(f"'{name}'", what=fault.what) + located(origin))
