"""Information about the model of a service, and the network input size of an image."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from deploy.common.bounded_yaml import YamlError, read_plain
from deploy.common.errors import UserError
from deploy.common.pixels import keep_ratio_size, round_up

__all__ = ["ModelInfo"]


@dataclass(frozen=True)
class ModelInfo:
    """Properties of an exported model.

    Attributes:
        name: name of the model folder.
        target_size: size to which images are resized, (h, w) or, with ``keep_ratio``, (short side, long side); None if
            images are not resized.
        keep_ratio: whether the aspect ratio is kept.
        stride: height and width of the network input are padded to multiples of this value.
    """

    name: str
    target_size: tuple[int, int] | None = None
    keep_ratio: bool = True
    stride: int = 1

    @classmethod
    def read(cls, model_dir: str | Path) -> ModelInfo:
        """Read ``infer_cfg.yml`` of a model folder that has been loaded by the predictor.

        Raises:
            UserError: the file cannot be read.
        """
        folder = Path(model_dir)
        file = folder / "infer_cfg.yml"
        try:
            config = read_plain(file)
        except (OSError, YamlError) as error:
            raise UserError(f"cannot read {file}: {error}") from error
        steps: Mapping[str, Mapping] = {step["type"]: step for step in config["Preprocess"]}
        resize = steps.get("Resize", {})
        target = resize.get("target_size")
        if isinstance(target, int):
            target = (target, target)
        return cls(
            name=folder.resolve().name,
            target_size=None if target is None else (int(target[0]), int(target[1])),
            keep_ratio=bool(resize.get("keep_ratio", True)),
            stride=int(steps.get("PadStride", {}).get("stride", 1)),
        )

    def input_size(self, height: int, width: int) -> tuple[int, int]:
        """Return (h, w) of the network input for a single image."""
        size = height, width
        if self.target_size is not None:
            size = keep_ratio_size(height, width, self.target_size) if self.keep_ratio else self.target_size
        return round_up(size[0], self.stride), round_up(size[1], self.stride)
