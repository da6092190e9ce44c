"""Feature extractors."""

from ppdet.modeling.backbones.resnet import ResNet

__all__ = ["ResNet"]
