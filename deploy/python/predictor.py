"""Prediction with an exported model."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from deploy.common.detections import Detections
from deploy.common.errors import UserError
from deploy.common.image_io import read_image
from deploy.common.machine import available_cores
from deploy.common.model_outputs import check_outputs, split_outputs
from deploy.python.exported import CONFIG, LIBRARY, ExportedModel

__all__ = ["DEVICES", "RUN_MODES", "Predictor"]

DEVICES = ("CPU", "GPU")
RUN_MODES = ("paddle", "trt_fp32", "trt_fp16", "trt_int8")

_ONEDNN_SHAPES = 10
"""Number of input shapes for which oneDNN caches kernels; without a limit, each new image size takes memory."""
_GPU_POOL_MB = 200
"""Initial size of the GPU memory pool, which grows as needed."""
_PADDLE_ERRORS = (
    RuntimeError,
    ValueError,
    IndexError,
    TypeError,
    MemoryError,
    NotImplementedError,
    OSError,
    SystemError,
)
"""Python types of the exceptions that are raised by Paddle's C++ code."""


class Predictor:
    """Predicts with a folder written by ``tools/export_model.py``.

    Not thread-safe: only one thread may call it at a time.

    Args:
        model_dir: the exported folder.
        device: ``CPU`` or ``GPU``.
        run_mode: ``paddle``; PaddleDetection's TensorRT modes are not supported.
        cpu_threads: number of threads for computations on the CPU; by default, the number of cores.
        enable_mkldnn: use oneDNN on the CPU.

    Attributes:
        class_names: name of each label.
        category_ids: the data set's category id of each label.
        has_boxes: the model predicts boxes.
        has_masks: the model predicts masks.
        extra_inputs: inputs that the model requires besides the image; none for most models.
        mask_threshold: a pixel belongs to a mask if its probability is at least this value.
        draw_threshold: minimum score of objects that are shown.

    Raises:
        UserError: the folder is invalid, or the device or mode is not supported.
    """

    def __init__(
        self,
        model_dir: str | Path,
        device: str = "CPU",
        run_mode: str = "paddle",
        cpu_threads: int | None = None,
        enable_mkldnn: bool = True,
    ) -> None:
        _check_mode(device, run_mode)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="No ccache found")
            import paddle
        self.model = ExportedModel.read(model_dir, paddle.__version__)
        self.class_names = self.model.class_names
        self.category_ids = self.model.category_ids
        self.has_boxes = self.model.interface.has_boxes
        self.has_masks = self.model.has_masks
        self.extra_inputs = self.model.interface.extra_inputs
        self.mask_threshold = self.model.mask_threshold
        self.draw_threshold = self.model.draw_threshold
        self._engine = _create_engine(self.model, device.upper(), cpu_threads or available_cores(), enable_mkldnn)
        self._input_names: list[str] = self._engine.get_input_names()
        unknown = set(self._input_names) - set(self.model.interface.inputs)
        if unknown:
            raise UserError(
                f"{self.model.graph} requires the inputs {', '.join(sorted(unknown))}, which infer_cfg.yml does not "
                "describe: export the model again"
            )

    def __call__(
        self, image: np.ndarray | str | os.PathLike[str], extra: Mapping[str, Any] | None = None
    ) -> Detections:
        """Detect on one image.

        Args:
            image: uint8 [h, w, 3] RGB, or the path of a file.
            extra: values of the :attr:`extra_inputs` by name, without the batch axis.

        Raises:
            UserError: see :meth:`predict`; or a file that cannot be read.
        """
        pixels = image if isinstance(image, np.ndarray) else read_image(image)
        values = self.extra_inputs.stack([self.extra_inputs.of_image(extra, "extra")])
        return self.predict([pixels], values)[0]

    def predict(self, images: Sequence[np.ndarray], extra: Mapping[str, Any] | None = None) -> list[Detections]:
        """Detect on one batch of images.

        Args:
            images: uint8 [h, w, 3] RGB each; sizes may differ. No image gives no result.
            extra: arrays of the :attr:`extra_inputs` by name, in the shapes that the model requires.

        Raises:
            UserError: not an image, an extra input that is missing or does not fit, or the graph fails.
        """
        if not len(images):
            return []
        outputs = self.run(self.preprocess(images, extra))
        return self.postprocess(outputs, [(image.shape[0], image.shape[1]) for image in images])

    def preprocess(self, images: Sequence[np.ndarray], extra: Mapping[str, Any] | None = None) -> dict[str, np.ndarray]:
        """Make the inputs of the graph for one batch, see :class:`~deploy.python.preprocess.Preprocessing`.

        Args:
            images: see :meth:`predict`.
            extra: see :meth:`predict`.

        Raises:
            UserError: see :meth:`predict`.
        """
        for image in images:
            if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or not image.size:
                raise UserError(f"an image must be uint8 [h, w, 3] RGB, got {image.dtype} {list(image.shape)}")
        return {**self.model.preprocessing(images), **self.extra_inputs.of_batch(extra, len(images))}

    def run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Run the graph.

        Args:
            inputs: see :meth:`preprocess`.

        Returns:
            arrays by name, see :mod:`deploy.common.model_outputs`.

        Raises:
            UserError: Paddle fails, for example for lack of memory.
        """
        try:
            for name in self._input_names:
                handle = self._engine.get_input_handle(name)
                handle.reshape(list(inputs[name].shape))
                handle.copy_from_cpu(inputs[name])
            self._engine.run()
            names = self._engine.get_output_names()
            arrays = [np.asarray(self._engine.get_output_handle(name).copy_to_cpu()) for name in names]
        except _PADDLE_ERRORS as error:
            shape = " x ".join(str(side) for side in inputs["image"].shape)
            raise UserError(f"Paddle failed on an input of shape {shape}: {_reason(error)}") from error
        return self.model.interface.named_outputs(arrays, self.has_masks, self.model.graph)

    def postprocess(self, outputs: Mapping[str, np.ndarray], sizes: Sequence[tuple[int, int]]) -> list[Detections]:
        """Split the outputs of a batch into the detections of each image.

        Args:
            outputs: see :meth:`run`.
            sizes: (h, w) of each original image.

        Raises:
            UserError: outputs of another kind of model.
        """
        check_outputs(outputs, len(sizes), len(self.class_names), self.model.graph)
        return split_outputs(outputs, sizes, self.class_names, self.category_ids, self.mask_threshold)


def _check_mode(device: str, run_mode: str) -> None:
    if device.upper() not in DEVICES:
        raise UserError(f"the device {device} is not supported, expected {' or '.join(DEVICES)}")
    if run_mode not in RUN_MODES:
        raise UserError(f"the run mode {run_mode} is unknown, expected one of {', '.join(RUN_MODES)}")
    if run_mode != "paddle":
        raise UserError(f"the run mode {run_mode} needs TensorRT, which this project does not support: use paddle")


def _create_engine(model: ExportedModel, device: str, cpu_threads: int, enable_mkldnn: bool) -> Any:
    """Create Paddle's predictor."""
    import paddle
    from paddle import inference

    if model.extension:
        from deploy.common.ext_library import Build, register

        record, source = model.extension_build, str(model.folder / CONFIG)
        build = None if record is None else Build.from_config(record, source)
        register(cpu_threads, model.folder / LIBRARY, build)
    config = inference.Config(str(model.graph), str(model.parameters))
    config.disable_glog_info()
    if device == "GPU":
        if not paddle.is_compiled_with_cuda():
            raise UserError("this PaddlePaddle has no GPU support: use --device CPU, or install paddlepaddle-gpu")
        config.enable_use_gpu(_GPU_POOL_MB, 0)
    else:
        config.disable_gpu()
        config.set_cpu_math_library_num_threads(cpu_threads)
        if enable_mkldnn:
            config.enable_mkldnn()
            config.set_mkldnn_cache_capacity(_ONEDNN_SHAPES)
        elif hasattr(config, "disable_mkldnn"):  # enabled by default in Paddle 3
            config.disable_mkldnn()
    if model.graph.suffix == ".pdmodel":  # fails with graphs of Paddle 3
        config.enable_memory_optim()
    try:
        return inference.create_predictor(config)
    except _PADDLE_ERRORS as error:
        raise UserError(f"Paddle {paddle.__version__} cannot load {model.folder}: {_reason(error)}") from error


def _reason(error: BaseException) -> str:
    """Return the line of a Paddle error that describes the problem."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    messages = [line for line in lines if line.startswith("(") or "Error:" in line]
    return (messages or lines or [type(error).__name__])[0]
