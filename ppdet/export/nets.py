"""What a graph is traced from: a model as a function from a list of tensors to a tuple of tensors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from paddle import Tensor, nn
from paddle.static import InputSpec

from deploy.common.extra_inputs import BATCH
from ppdet.core.config.settings import ExportSettings
from ppdet.modeling.architectures.architecture import Architecture, InputField
from ppdet.modeling.ops.boxes import boxes_to_original
from ppdet.structures.batch import Batch
from ppdet.utils.errors import UserError

__all__ = ["CandidatesNet", "ExportNet", "Form", "RawNet", "choose_form", "input_specs"]


class ExportNet(nn.Layer):
    """The predictions of a model.

    Args:
        model: in eval mode.

    Attributes:
        fields: the inputs, in order.
        output_names: names of the outputs, in order.
    """

    def __init__(self, model: Architecture) -> None:
        super().__init__()
        self.model = model
        self.fields: tuple[InputField, ...] = model.input_fields
        self.output_names: tuple[str, ...] = model.output_names

    def forward(self, inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Return what :meth:`~ppdet.structures.predictions.Predictions.to_outputs` returns.

        Args:
            inputs: tensors in the order of ``fields``.
        """
        outputs = self.model(self._by_name(inputs)).to_outputs()
        return tuple([outputs[name] for name in self.output_names])

    def _by_name(self, inputs: Sequence[Tensor]) -> dict[str, Tensor]:
        return {field.name: tensor for field, tensor in zip(self.fields, inputs)}


class CandidatesNet(ExportNet):
    """The boxes of a model before suppression."""

    def __init__(self, model: Architecture) -> None:
        super().__init__(model)
        self.output_names = ("boxes", "scores")

    def forward(self, inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Return boxes [B, M, 4] (class by class [B, M, K, 4]) in original pixels, and probabilities [B, M, K]."""
        batch = Batch.from_inputs(self._by_name(inputs))
        candidates = self.model.candidates(batch)
        scores = candidates.probability[..., :-1] * candidates.valid.astype("float32").unsqueeze(-1)
        return boxes_to_original(candidates.boxes, batch.scale_factor), scores


class RawNet(ExportNet):
    """The boxes of a model without any post-processing; the scale of the image is no input."""

    def __init__(self, model: Architecture) -> None:
        super().__init__(model)
        self.fields = tuple(field for field in model.input_fields if field.name != "scale_factor")
        self.output_names = ("boxes", "scores")

    def forward(self, inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Return boxes in input pixels, and probabilities with the background, [B, M, K + 1]."""
        candidates = self.model.candidates(Batch.from_inputs(self._by_name(inputs)))
        return candidates.boxes, candidates.probability


class Form(NamedTuple):
    """What the graph of an export contains.

    Attributes:
        outputs: ``export.outputs`` of infer_cfg.yml: ``detections``, ``candidates`` or ``raw``.
        net: what is traced.
    """

    outputs: str
    net: type[ExportNet]


def choose_form(settings: ExportSettings, model: Architecture) -> Form:
    """Return the form of the graph that the ``export`` settings (PaddleDetection's keys) request.

    Raises:
        UserError: boxes before suppression of an architecture that has none.
    """
    requests = {
        "export.benchmark is true": settings.benchmark,
        "export.post_process is false": not settings.post_process,
        "export.nms is false": not settings.nms,
    }
    reason = next((text for text, holds in requests.items() if holds), None)
    if reason is None:
        return Form("detections", ExportNet)
    if not model.has_candidates:
        raise UserError(
            f"{reason}, but {type(model).__name__} has no candidate boxes before suppression to export: leave "
            f"{reason.split()[0]} out"
        )
    return Form("candidates", CandidatesNet) if reason.startswith("export.nms") else Form("raw", RawNet)


def input_specs(fields: Sequence[InputField], image_shape: Sequence[int | None]) -> list[InputSpec]:
    """Return Paddle's description of a graph's inputs; open sizes are None.

    Args:
        fields: the inputs.
        image_shape: channels, height and width of the image.
    """
    specs = []
    for field in fields:
        shape = [None if side == BATCH else side for side in field.shape]
        if field.name == "image":
            shape[1:] = image_shape
        specs.append(InputSpec(shape, field.dtype, field.name))
    return specs
