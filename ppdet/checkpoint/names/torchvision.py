"""ResNets and ResNeXts trained on ImageNet, as torchvision (and with nearly the same names paddle.vision) has them."""

from __future__ import annotations

from collections.abc import Callable, Collection

from ppdet.checkpoint.resnet_names import add_first_projection, residual_blocks, resnet_name
from ppdet.checkpoint.source import Conversion, Source, register_source

__all__ = ["Torchvision"]


@register_source
class Torchvision(Source):
    """Backbones."""

    description = "torchvision's ResNets"
    notice = "has PyTorch's names: converted in memory (tools/convert_weights.py keeps the result)"
    signature = (r"(layer1\.0\.)?conv1\.weight$",)
    hosts = ("download.pytorch.org",)
    canaries = {
        "conv1.weight": "backbone.conv1.conv1.conv.weight",
        "bn1._mean": "backbone.conv1.conv1.norm._mean",
        "layer1.0.conv1.weight": "backbone.res2.res2a.branch2a.conv.weight",
        "layer1.0.downsample.0.weight": "backbone.res2.res2a.short.conv.weight",
        "layer3.5.bn3.running_var": "backbone.res4.res4f.branch2c.norm._variance",
        "layer4.2.bn2.bias": "backbone.res5.res5c.branch2b.norm.bias",
    }

    def renamer(self, names: Collection[str]) -> Callable[[str], str | None]:
        """Map the names as those of a detector's backbone."""
        blocks = residual_blocks(f"backbone.{name}" for name in names)
        return lambda name: resnet_name(f"backbone.{name}", blocks)

    def complete(self, result: Conversion) -> None:
        """Add the projection that the first block of torchvision's ResNet-18 and ResNet-34 lacks."""
        add_first_projection(result.arrays)
