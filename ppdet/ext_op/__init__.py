"""An optional extension in C++: RoIAlign and 3x3 convolutions for predictions on a CPU, faster than Paddle's own.

Built on request (``python -m ppdet.ext_op``, which takes a C++ compiler and half a minute). ``use_ext_op: true`` in a
configuration, or ``-o use_ext_op=true``, makes evaluation, prediction and export use it. A graph exported with it needs
the built library wherever it runs; without it nothing changes.
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
from ppdet.utils.errors import UserError
from ppdet.utils.program import in_legacy_program

__all__ = ["build", "can_convolve", "channels_last", "conv3x3", "copy_library", "in_use", "pyramid_roi_align", "use"]

_FLAGS = ["-O3", "-march=native", "-fno-math-errno"]


def build() -> Path:
    """Compile the extension for this machine and this Paddle; return the library.

    Raises:
        UserError: there is no compiler, or it failed.
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
        raise UserError(f"the extension could not be built, which takes g++ and Python's headers: {error}") from error
    return library()


def copy_library(folder: Path) -> dict[str, Any]:
    """Copy the compiled extension into an exported folder; return what it was built for, for ``infer_cfg.yml``."""
    shutil.copyfile(library(), folder / FILE)
    return Build.current().to_config()


_in_use = False


def use(wanted: bool) -> None:
    """Let RoI features of predictions in this process be pooled by the extension, or (again) by Paddle.

    Raises:
        UserError: the extension was not built, or the device is no CPU.
    """
    global _in_use
    if wanted and not paddle.get_device().startswith("cpu"):
        raise UserError("use_ext_op is for the CPU; leave it out, or set use_gpu=false")
    if wanted:
        register()
    _in_use = wanted


@paddle.jit.not_to_static  # tracing rewrites functions with a copy of the globals of that moment
def in_use() -> bool:
    """Whether predictions use the extension."""
    return _in_use


def channels_last(feature: Tensor) -> Tensor:
    """[B, C, h, w] -> [B, h, w, C], float32."""
    return _run("htc_channels_last", {"Feature": _plain(feature)}, {})


def _plain(x: Tensor) -> Tensor:
    """[...] -> [1, ...] in the usual layout.

    oneDNN hands over what a convolution left in its own layout as if it were plain. To unsqueeze is none of its
    operators, so that Paddle brings the layout back before it.
    """
    return x.unsqueeze(0)


def pyramid_roi_align(
    features: Sequence[Tensor],
    boxes: Tensor,
    number: Tensor,
    scales: Sequence[float],
    resolution: int,
    sampling_ratio: int,
    aligned: bool,
    finest_scale: float,
    average: int = 1,
) -> Tensor:
    """RoIAlign of each RoI from the level that fits its size, then the mean of ``average`` x ``average`` bins.

    Args:
        features: one [B, h, w, C] per level, see :func:`channels_last`.
        boxes: [R, 4] xyxy in input pixels, image by image; a RoI without area gives zeros.
        number: [B] int32 RoIs per image.
        scales: feature pixels per input pixel, one per level.
        resolution: side of the result, after the averaging.
        sampling_ratio: samples per bin and axis; 0 adapts to the size of the bins before the averaging.
        aligned: half-pixel correction.
        finest_scale: see :func:`ppdet.modeling.ops.roi_align.roi_levels`.
        average: bins averaged along each axis.

    Returns:
        [R, C, resolution, resolution] float32.
    """
    inputs = {
        "Features@VECTOR": list(features),
        "Boxes": boxes.astype("float32"),
        "Number": number.astype("int32"),
    }
    attributes = {
        "scales": [float(scale) for scale in scales],
        "resolution": resolution,
        "sampling_ratio": sampling_ratio,
        "aligned": aligned,
        "canonical_size": float(finest_scale),  # the operator's own name for it, which exported graphs carry
        "average": average,
    }
    return _run("htc_roi_align", inputs, attributes)


def can_convolve(layer: nn.Conv2D) -> bool:
    """Whether `conv3x3` computes what a layer does, and is worth it beside Paddle's own (in a graph: oneDNN's)."""
    filters, channels, *kernel = layer.weight.shape
    plain = layer._groups == 1 and all(side == 1 for side in (*_pair(layer._stride), *_pair(layer._dilation)))
    fits = plain and kernel == [3, 3] and _pair(layer._padding) == [1, 1]
    least, most = (16, 512) if paddle.in_dynamic_mode() else (128, 256)
    return bool(fits and least <= min(filters, channels) and max(filters, channels) <= most)


def _pair(value: int | Sequence[int]) -> list[int]:
    return [value, value] if isinstance(value, int) else list(value)


def conv3x3(x: Tensor, weight: Tensor, bias: Tensor, relu: bool) -> Tensor:
    """Convolution of stride 1 with a zero on each side, with a quarter of the multiplications.

    Rounding errors are some times those of a direct convolution: 1e-5 of the largest value.

    Args:
        x: [B, C, h, w] float32.
        weight: [K, C, 3, 3].
        bias: [K].
        relu: take max(0, .) of the result.

    Returns:
        [B, K, h, w] float32.
    """
    transformed = _run("htc_winograd_weights", {"Weight": weight}, {})
    inputs = {"Picture": _plain(x), "Weights": transformed, "Bias": bias}
    return _run("htc_winograd_convolve", inputs, {"relu": relu})


def _run(operator: str, inputs: dict[str, Any], attributes: dict[str, Any]) -> Tensor:
    """Call an operator with one output: at once, or as a part of the graph that is being traced (Paddle 2 or 3)."""
    if not in_legacy_program():
        run = getattr(paddle._C_ops, "_run_custom_op", None) or paddle.base.core.eager._run_custom_op
        return run(operator, *inputs.values(), *attributes.values())[0]
    helper = LayerHelper(operator)
    output = helper.create_variable(dtype="float32")
    helper.append_op(type=operator, inputs=inputs, outputs={"Out": output}, attrs=attributes)
    return output
