"""An optional C++ extension: RoIAlign and 3x3 convolutions for prediction on a CPU, faster than Paddle's operators.

The extension is compiled with ``python -m ppdet.ext_op``, which requires a C++ compiler and takes half a minute.
``use_ext_op: true`` in a configuration, or ``-o use_ext_op=true``, enables it for evaluation, prediction and export. An
exported graph that uses it requires the compiled library, of which the exported folder contains a copy.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import paddle
from paddle import Tensor, nn
from paddle.base.layer_helper import LayerHelper

from deploy.common.ext_library import FILE, NAME, Build, library, register, sources
from ppdet.core.switches import switches
from ppdet.utils.errors import UserError
from ppdet.utils.program import in_legacy_program

__all__ = [
    "build",
    "can_convolve",
    "channels_last",
    "conv3x3",
    "copy_library",
    "in_use",
    "pyramid_roi_align",
    "require",
]

_FLAGS = ["-O3", "-march=native", "-fno-math-errno"]


def build() -> Path:
    """Compile the extension for this machine and the installed Paddle.

    Returns:
        The compiled library.

    Raises:
        UserError: there is no compiler, or the compilation failed.
    """
    from paddle.utils.cpp_extension import load

    folder = library().parents[1]
    folder.mkdir(parents=True, exist_ok=True)
    try:
        load(
            name=NAME,
            sources=[str(path) for path in sources() if path.suffix == ".cc"],
            extra_include_paths=[str(Path(__file__).parent)],
            extra_cxx_cflags=_FLAGS,
            extra_ldflags=["-pthread"],
            build_directory=str(folder),
        )
    except (RuntimeError, OSError, SystemExit) as error:
        raise UserError(f"cannot build the extension, which requires g++ and the headers of Python: {error}") from error
    return library()


def copy_library(folder: Path) -> dict[str, Any]:
    """Copy the compiled extension into an exported folder; return its entry for ``infer_cfg.yml``."""
    shutil.copyfile(library(), folder / FILE)
    return Build.current().to_config()


def require() -> None:
    """Check that the extension can be used, and load it.

    Raises:
        UserError: the extension has not been built, or the device is not a CPU.
    """
    if not paddle.get_device().startswith("cpu"):
        raise UserError("use_ext_op is only available on the CPU; remove it, or set use_gpu=false")
    register()


@paddle.jit.not_to_static  # a traced function keeps a copy of the global variables at the time of tracing
def in_use() -> bool:
    """Return whether predictions use the extension; switched by :class:`ppdet.engine.runtime.Runtime`."""
    return switches().extension


def channels_last(feature: Tensor) -> Tensor:
    """Move the channels of a feature map to the end: [B, C, h, w] -> [B, h, w, C], float32."""
    return _run("htc_channels_last", {"Feature": _plain(feature)}, {})


def _plain(x: Tensor) -> Tensor:
    """Return a tensor as [1, ...] in the plain memory layout.

    A custom operator would receive the output of a oneDNN convolution in oneDNN's blocked layout as if it were plain.
    oneDNN has no unsqueeze operator, so Paddle restores the plain layout before it.
    """
    return x.unsqueeze(0)


def pyramid_roi_align(
    features: Sequence[Tensor],
    boxes: Tensor,
    rois_num: Tensor,
    scales: Sequence[float],
    resolution: int,
    sampling_ratio: int,
    aligned: bool,
    finest_scale: float,
    average: int = 1,
) -> Tensor:
    """Apply RoIAlign to each RoI on the level that fits its size, then average ``average`` x ``average`` bins.

    Args:
        features: feature map of each level [B, h, w, C], see `channels_last`.
        boxes: [R, 4] xyxy in pixels of the network input, ordered by image; the result of an empty RoI is zero.
        rois_num: [B] int32, number of RoIs per image.
        scales: feature pixels per input pixel, for each level.
        resolution: height and width of the result, after averaging.
        sampling_ratio: samples per bin along each axis; 0 adapts to the size of the bins before averaging.
        aligned: whether to shift the boxes by half a pixel.
        finest_scale: see :func:`ppdet.modeling.ops.roi_align.roi_levels`.
        average: number of bins that are averaged along each axis.

    Returns:
        [R, C, resolution, resolution] float32.
    """
    inputs = {
        "Features@VECTOR": list(features),
        "Boxes": boxes.astype("float32"),
        "Number": rois_num.astype("int32"),
    }
    attributes = {
        "scales": [float(scale) for scale in scales],
        "resolution": resolution,
        "sampling_ratio": sampling_ratio,
        "aligned": aligned,
        "canonical_size": float(finest_scale),  # the name of the attribute in exported graphs
        "average": average,
    }
    return _run("htc_roi_align", inputs, attributes)


def can_convolve(layer: nn.Conv2D) -> bool:
    """Whether `conv3x3` can replace a layer and is faster than Paddle's convolution (in a graph: than oneDNN's)."""
    filters, channels, *kernel = layer.weight.shape
    plain = layer._groups == 1 and all(side == 1 for side in (*_pair(layer._stride), *_pair(layer._dilation)))
    fits = plain and kernel == [3, 3] and _pair(layer._padding) == [1, 1]
    lower, upper = (16, 512) if paddle.in_dynamic_mode() else (128, 256)
    return bool(fits and lower <= min(filters, channels) and max(filters, channels) <= upper)


def _pair(value: int | Sequence[int]) -> list[int]:
    return [value, value] if isinstance(value, int) else list(value)


def conv3x3(x: Tensor, weight: Tensor, bias: Tensor, relu: bool) -> Tensor:
    """Apply a 3x3 convolution with stride 1 and padding 1 that takes a quarter of the multiplications (Winograd).

    The rounding errors are several times larger than those of a direct convolution, 1e-5 of the largest value.

    Args:
        x: [B, C, h, w] float32.
        weight: [K, C, 3, 3].
        bias: [K].
        relu: whether to apply ReLU to the result.

    Returns:
        [B, K, h, w] float32.
    """
    transformed = _run("htc_winograd_weights", {"Weight": weight}, {})
    inputs = {"Picture": _plain(x), "Weights": transformed, "Bias": bias}
    return _run("htc_winograd_convolve", inputs, {"relu": relu})


def _run(operator: str, inputs: dict[str, Any], attributes: dict[str, Any]) -> Tensor:
    """Call an operator with one output, eagerly or as a part of the graph that is being traced (Paddle 2 and 3)."""
    if not in_legacy_program():
        run = getattr(paddle._C_ops, "_run_custom_op", None) or paddle.base.core.eager._run_custom_op
        return run(operator, *inputs.values(), *attributes.values())[0]
    helper = LayerHelper(operator)
    output = helper.create_variable(dtype="float32")
    helper.append_op(type=operator, inputs=inputs, outputs={"Out": output}, attrs=attributes)
    return output
