"""ResNet and ResNeXt (1512.03385, 1611.05431), optionally with deformable convolutions.

Parameters have the names of PaddleDetection (``res2.res2a.branch2a.conv.weight``), so that PaddlePaddle's ImageNet
weights load by name.

Symbols: B images, C channels, h x w the size of a map; H x W is the padded network input.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, NamedTuple

import paddle
from paddle import Tensor, nn
from paddle.nn import functional as F

from ppdet.core.config.ranges import Ascending, Channels, Interval, Length, NonNegative, OneOf
from ppdet.core.workspace import ParameterError, register, serializable
from ppdet.modeling.layers import ConvNormLayer
from ppdet.modeling.recompute import recomputed
from ppdet.modeling.shape_spec import ShapeSpec

__all__ = ["ResNet"]

_WIDEST = 8192
"""Limit of the channels in the convolutions of the first stage."""
_Stage = Annotated[int, Interval(0, 3)]
_Stages = Annotated[Sequence[_Stage], Length(0, 4), Ascending()]
_DeformableStages = Annotated[Sequence[Annotated[int, Interval(-1, 3)]], Length(0, 4), Ascending()]
"""[-1] stands for none in PaddleDetection's configurations."""
_BLOCKS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}


def _conv(channels_in: int, channels_out: int, kernel: int, **options: Any) -> ConvNormLayer:
    return ConvNormLayer(channels_in=channels_in, channels_out=channels_out, kernel=kernel, **options)


def _shortcut(channels_in: int, channels_out: int, stride: int, variant: str, norm: dict[str, Any]) -> nn.Layer:
    """Return the projection shortcut of a block; variant d averages before it instead of skipping pixels."""
    if variant == "d" and stride > 1:
        return nn.Sequential(
            ("pool", nn.AvgPool2D(2, 2, 0, ceil_mode=True)),
            ("conv", _conv(channels_in, channels_out, 1, **norm)),
        )
    return _conv(channels_in, channels_out, 1, stride=stride, **norm)


class _BlockOptions(NamedTuple):
    """What all blocks of a stage have in common, see :class:`ResNet`."""

    variant: str
    groups: int
    base_width: int
    dcn: str | None
    norm: dict[str, Any]


class _BasicBlock(nn.Layer):
    """Two 3x3 convolutions; ResNet-18 and 34."""

    expansion = 1

    def __init__(self, channels_in: int, width: int, stride: int, project: bool, options: _BlockOptions) -> None:
        super().__init__()
        self.short = _shortcut(channels_in, width, stride, options.variant, options.norm) if project else None
        self.branch2a = _conv(channels_in, width, 3, stride=stride, act=True, **options.norm)
        self.branch2b = _conv(width, width, 3, dcn=options.dcn, **options.norm)

    def forward(self, x: Tensor) -> Tensor:
        """Map [B, C, h, w] to [B, width, h / stride, w / stride]."""
        short = x if self.short is None else self.short(x)
        return F.relu(self.branch2b(self.branch2a(x)) + short)


class _BottleNeck(nn.Layer):
    """1x1, 3x3 and 1x1 convolution; the 3x3 convolution has the stride, except in variant a."""

    expansion = 4

    def __init__(self, channels_in: int, width: int, stride: int, project: bool, options: _BlockOptions) -> None:
        super().__init__()
        inner = int(width * (options.base_width / 64.0)) * options.groups
        first, second = (stride, 1) if options.variant == "a" else (1, stride)
        out = width * self.expansion
        self.short = _shortcut(channels_in, out, stride, options.variant, options.norm) if project else None
        self.branch2a = _conv(channels_in, inner, 1, stride=first, act=True, **options.norm)
        self.branch2b = _conv(
            inner, inner, 3, stride=second, groups=options.groups, act=True, dcn=options.dcn, **options.norm
        )
        self.branch2c = _conv(inner, out, 1, **options.norm)

    def forward(self, x: Tensor) -> Tensor:
        """Map [B, C, h, w] to [B, 4 * width, h / stride, w / stride]."""
        short = x if self.short is None else self.short(x)
        return F.relu(self.branch2c(self.branch2b(self.branch2a(x))) + short)


def _block_name(stage: int, index: int, count: int) -> str:
    """Return res4a, res4b, ... or, in the long fourth stage of deep networks, res4a, res4b1, res4b2, ..."""
    if stage == 4 and count > 10:
        return f"res{stage}a" if index == 0 else f"res{stage}b{index}"
    return f"res{stage}{chr(ord('a') + index)}"


def _check_stages(num_stages: int, **chosen: Sequence[int]) -> None:
    """Check that all chosen stages are built and that none has both kinds of deformable convolutions."""
    for name, stages in chosen.items():
        if any(stage >= num_stages for stage in stages):
            raise ParameterError(
                "{0} names stage {stage}, but {1} is {count}: the last stage is {last}",
                name,
                "num_stages",
                stage=max(stages),
                count=num_stages,
                last=num_stages - 1,
            )
    both = sorted((set(chosen["dcn_v1_stages"]) & set(chosen["dcn_v2_stages"])) - {-1})
    if both:
        raise ParameterError(
            "{0} and {1} both name stage {stage}: leave it out of one", "dcn_v1_stages", "dcn_v2_stages", stage=both[0]
        )


def _check_widths(depth: int, ch_in: int, variant: str, groups: int, base_width: int) -> None:
    """Check that every convolution has at least one channel, and not too many."""
    if depth < 50 and groups != 1:
        raise ParameterError(
            "{0} is {groups}, but ResNet-{depth} has no grouped convolutions: set {1} to 50 or more",
            "groups",
            "depth",
            groups=groups,
            depth=depth,
        )
    if depth < 50 and base_width != 64:
        raise ParameterError(
            "{0} is {width}, but ResNet-{depth} has no grouped convolutions: leave it at 64, or set {1} to 50 or more",
            "base_width",
            "depth",
            width=base_width,
            depth=depth,
        )
    if int(ch_in * (base_width / 64.0)) < 1:
        raise ParameterError(
            "{0} is {width}, which leaves no channel per group with {1} = {stem}: raise one of them",
            "base_width",
            "ch_in",
            width=base_width,
            stem=ch_in,
        )
    if int(ch_in * (base_width / 64.0)) * groups > _WIDEST:
        raise ParameterError(
            "{0} is {groups}: with {1} = {width} the first stage alone would be wider than {limit} channels",
            "groups",
            "base_width",
            groups=groups,
            width=base_width,
            limit=_WIDEST,
        )
    if variant == "d" and ch_in < 2:
        raise ParameterError("{0} is 1, but {1} d halves it in the stem: set at least 2", "ch_in", "variant")


@register
@serializable
class ResNet(nn.Layer):
    """Residual network.

    Args:
        depth: 18, 34, 50, 101 or 152.
        ch_in: width of the stem and of the first stage.
        variant: a (stride in the first 1x1 convolution), b (stride in the 3x3 convolution, as in HTC), d (b with a
            stem of three 3x3 convolutions and average pooling in the shortcuts).
        groups: groups of the 3x3 convolutions; 32 or 64 in ResNeXt.
        base_width: channels per group in the first stage; 4 in ResNeXt, 64 otherwise.
        norm_type: bn, sync_bn or gn.
        norm_decay: weight decay of scales and shifts; None for that of the optimizer.
        norm_eval: use the stored statistics of batch normalisation in training, too, as HTC does with pretrained
            weights.
        freeze_norm: train neither scales and shifts nor statistics of batch normalisation; overrides ``norm_eval``.
        freeze_at: index of the last frozen stage, 0 = stem and res2; -1 to train all stages (from scratch). Nothing in
            a frozen stage changes in training, including the statistics of batch normalisation.
        return_idx: stages to return, 0 = res2.
        num_stages: stages to build.
        dcn_v1_stages: stages with deformable 3x3 convolutions, 1 = res3.
        dcn_v2_stages: stages with modulated deformable 3x3 convolutions.
        lr_mult_list: learning rate multiplier of each stage.
        recompute: in training store only the input of each residual block and compute the rest again in the backward
            pass, which takes less memory and more time. True for all stages that train, or a list of stages, 0 = res2.

    Raises:
        ParameterError: a chosen stage is not built, or the widths do not fit the depth.
    """

    __shared__ = ["norm_type"]

    def __init__(
        self,
        *,
        depth: Annotated[int, OneOf(*_BLOCKS)] = 50,
        ch_in: Channels = 64,
        variant: Annotated[str, OneOf("a", "b", "d")] = "b",
        lr_mult_list: Annotated[Sequence[NonNegative], Length(1, 4)] = (1.0, 1.0, 1.0, 1.0),
        groups: Annotated[int, Interval(1, 1024)] = 1,
        base_width: Annotated[int, Interval(1, 1024)] = 64,
        norm_type: Annotated[str, OneOf("bn", "sync_bn", "gn")] = "bn",
        norm_decay: NonNegative | None = None,
        norm_eval: bool = True,
        freeze_norm: bool = False,
        freeze_at: Annotated[int, Interval(-1, 3)] = 0,
        return_idx: Annotated[Sequence[_Stage], Length(1, 4), Ascending()] = (0, 1, 2, 3),
        dcn_v1_stages: _DeformableStages = (),
        dcn_v2_stages: _DeformableStages = (),
        num_stages: Annotated[int, Interval(1, 4)] = 4,
        recompute: bool | _Stages = False,
    ) -> None:
        super().__init__()
        chosen = range(num_stages if recompute else 0) if isinstance(recompute, bool) else recompute
        _check_stages(
            num_stages,
            return_idx=return_idx,
            freeze_at=[freeze_at],
            dcn_v1_stages=dcn_v1_stages,
            dcn_v2_stages=dcn_v2_stages,
            recompute=chosen,
        )
        if len(lr_mult_list) < num_stages:
            raise ParameterError(
                "{0} has {count} entries, but {1} is {stages}: give one for each stage",
                "lr_mult_list",
                "num_stages",
                count=len(lr_mult_list),
                stages=num_stages,
            )
        _check_widths(depth, ch_in, variant, groups, base_width)
        self.recompute = frozenset(index for index in chosen if index > freeze_at)
        self.return_idx = tuple(return_idx)
        norm: dict[str, Any] = dict(
            norm_type=norm_type, norm_decay=norm_decay, norm_eval=norm_eval, freeze_norm=freeze_norm
        )
        block: type[_BasicBlock] | type[_BottleNeck] = _BottleNeck if depth >= 50 else _BasicBlock
        # Decided when the stage is built: Paddle's Layer.train() only sets a flag and gives no stage a chance to react.
        frozen_norm = {**norm, "norm_eval": True}
        self.conv1 = self._stem(ch_in, variant, frozen_norm if freeze_at >= 0 else norm)
        self.stages: list[nn.Layer] = []
        self._out: list[ShapeSpec] = []
        channels = ch_in
        for index, count in enumerate(_BLOCKS[depth][:num_stages]):
            dcn = "v2" if index in dcn_v2_stages else "v1" if index in dcn_v1_stages else None
            stage, width = nn.Sequential(), ch_in * 2**index
            stage_norm = frozen_norm if index <= freeze_at else norm
            options = _BlockOptions(variant, groups, base_width, dcn, stage_norm)
            for i in range(count):
                stride = 2 if i == 0 and index > 0 else 1
                layer = block(channels, width, stride, i == 0, options)
                stage.add_sublayer(_block_name(index + 2, i, count), layer)
                channels = width * block.expansion
            self.add_sublayer(f"res{index + 2}", stage)
            self.stages.append(stage)
            self._out.append(ShapeSpec(channels, 4 * 2**index))
        self._set_learning_rates(lr_mult_list)
        self._freeze(freeze_at)

    @staticmethod
    def _stem(width: int, variant: str, norm: dict[str, Any]) -> nn.Sequential:
        if variant != "d":
            return nn.Sequential(("conv1", _conv(3, width, 7, stride=2, act=True, **norm)))
        return nn.Sequential(
            ("conv1_1", _conv(3, width // 2, 3, stride=2, act=True, **norm)),
            ("conv1_2", _conv(width // 2, width // 2, 3, act=True, **norm)),
            ("conv1_3", _conv(width // 2, width, 3, act=True, **norm)),
        )

    def _set_learning_rates(self, multipliers: Sequence[float]) -> None:
        for stage, multiplier in zip(self.stages, multipliers):
            for parameter in stage.parameters():
                parameter.optimize_attr["learning_rate"] *= float(multiplier)

    def _freeze(self, last: int) -> None:
        """Exclude the parameters of the stem and of the stages up to ``last`` from training."""
        for part in [self.conv1, *self.stages[: last + 1]] if last >= 0 else []:
            for parameter in part.parameters():
                parameter.trainable = False
                parameter.stop_gradient = True

    @property
    def out_shape(self) -> list[ShapeSpec]:
        """Channels and stride of each returned map."""
        return [self._out[i] for i in self.return_idx]

    def forward(self, image: Tensor) -> list[Tensor]:
        """Map images [B, 3, H, W] to the maps of ``return_idx``, the finest first; C2 is [B, C, H / 4, W / 4]."""
        x = F.max_pool2d(self.conv1(image), 3, 2, 1)
        outputs = []
        for index, stage in enumerate(self.stages):
            x = self._recomputed(stage, x) if self._recomputes(index) else stage(x)
            if index in self.return_idx:
                outputs.append(x)
        return outputs

    def _recomputes(self, index: int) -> bool:
        return index in self.recompute and self.training and paddle.in_dynamic_mode() and paddle.is_grad_enabled()

    @staticmethod
    def _recomputed(stage: nn.Layer, x: Tensor) -> Tensor:
        for block in stage.children():
            x = recomputed(block, x)
        return x
