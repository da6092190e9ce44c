"""What the rest of the project expects of a model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

from paddle import Tensor, nn

from deploy.common.extra_inputs import BATCH
from ppdet.modeling.architectures.contract import check_inputs, check_losses, check_predictions
from ppdet.structures.batch import Batch
from ppdet.structures.predictions import Candidates, MaskFrame, Predictions, output_names

__all__ = ["IMAGE_FIELDS", "Architecture", "InputField"]


class InputField(NamedTuple):
    """A tensor that a model takes at prediction time.

    Attributes:
        name: key in a reader's batch, and name of the input of an exported graph.
        shape: a size, ``"B"`` for the number of images, or None where the size is open.
        dtype: of the elements.
    """

    name: str
    shape: tuple[int | str | None, ...]
    dtype: str = "float32"

    def __str__(self) -> str:
        """Such as ``prompt (float32 [B, 2])``."""
        return f"{self.name} ({self.dtype} [{', '.join('any' if side is None else str(side) for side in self.shape)}])"


IMAGE_FIELDS = (
    InputField("image", (BATCH, 3, None, None)),
    InputField("im_shape", (BATCH, 2)),
    InputField("scale_factor", (BATCH, 2)),
)
"""What pre-processing makes of an image, see :class:`~ppdet.structures.batch.Batch`.

A model that does without the last two leaves them out of its ``input_fields``.
"""


class Architecture(nn.Layer):
    """Base class of whole models.

    A subclass implements :meth:`loss` and :meth:`predict` and overrides those attributes whose defaults do not fit. It
    is registered, and named by ``architecture`` of a configuration. Training, evaluation, export and deployment use
    what is declared here and nothing else of a model.

    Attributes:
        input_fields: what the model takes at prediction time, in the order of the exported graph's inputs. Fields
            beyond `IMAGE_FIELDS` are found in ``Batch.extra``.
        training_fields: ground truth that the model learns from (``boxes``, ``masks``, ``semantic``, or the key of a
            further field of the dataset such as ``gt_keypoint``), each with the constructor argument of the part that
            learns from it, which messages name; empty where it is the model as a whole.
        num_classes: number of object classes K; None if it does not apply.
        semantic_num_classes: number of classes of the semantic map, None without one.
        has_boxes: the model predicts boxes of its own.
        mask_frame: frame of the predicted masks, see :class:`~ppdet.structures.predictions.Predictions`; None for a
            model without masks.
        has_mask_scores: masks have scores of their own.
        mask_threshold: probability from which on a pixel belongs to a mask.
        has_candidates: :meth:`candidates` is implemented.
        export_arch: ``arch`` of infer_cfg.yml, the name of the family in PaddleDetection's deployment code; the name of
            the class where it is empty.
        min_subgraph_size: ``min_subgraph_size`` of infer_cfg.yml: the fewest operators that TensorRT takes over.
    """

    __category__ = "architecture"

    input_fields: tuple[InputField, ...] = IMAGE_FIELDS
    training_fields: Mapping[str, str] = {"boxes": ""}
    num_classes: int | None = None
    semantic_num_classes: int | None = None
    has_boxes: bool = True
    mask_frame: MaskFrame | None = None
    has_mask_scores: bool = False
    mask_threshold: float = 0.5
    has_candidates: bool = False
    export_arch: str = ""
    min_subgraph_size: int = 3

    @property
    def extra_inputs(self) -> tuple[InputField, ...]:
        """The inputs besides those of `IMAGE_FIELDS`."""
        known = {field.name for field in IMAGE_FIELDS}
        return tuple(field for field in self.input_fields if field.name not in known)

    @property
    def has_masks(self) -> bool:
        """Whether the model predicts masks."""
        return self.mask_frame is not None

    @property
    def output_names(self) -> tuple[str, ...]:
        """Names of the predicted tensors in order, see :meth:`Predictions.to_outputs`."""
        return output_names(self.has_boxes, self.mask_frame, self.has_mask_scores)

    def forward(self, inputs: Mapping[str, Tensor] | None = None, **kwargs: Tensor) -> dict[str, Tensor] | Predictions:
        """Run one batch.

        Args:
            inputs: the tensors of a reader's batch by name: ``input_fields``, and the ground truth in training; see
                :meth:`Batch.from_inputs`.
            **kwargs: the same as keywords.

        Returns:
            :meth:`loss` in training mode, :meth:`predict` in eval mode.

        Raises:
            UserError: the batch lacks an input that the model takes besides those of `IMAGE_FIELDS`, or has one of
                another shape or type; or the subclass returns something else than :meth:`loss` and :meth:`predict`
                promise.
        """
        tensors = {**(inputs or {}), **kwargs}
        check_inputs(self, tensors)
        batch = Batch.from_inputs(tensors, training=self.training)
        if self.training:
            losses = self.loss(batch)
            check_losses(self, losses)
            return losses
        predictions = self.predict(batch)
        check_predictions(self, predictions)
        return predictions

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Compute the losses of one training step.

        Args:
            batch: with targets.

        Returns:
            The weighted losses by name, 0-D each, and their sum as ``loss``. They stay on the device: an
            implementation must not read a tensor on the host.
        """
        raise NotImplementedError

    def predict(self, batch: Batch) -> Predictions:
        """Detect on one batch.

        Args:
            batch: without targets.
        """
        raise NotImplementedError

    def candidates(self, batch: Batch) -> Candidates:
        """Compute the boxes of one batch before suppression, for ``export.nms: false`` and ``export.benchmark``.

        Optional: an architecture that implements it sets ``has_candidates``.
        """
        raise NotImplementedError

    def parts(self) -> Mapping[str, Callable[[Batch], tuple[Tensor, ...]]]:
        """Return functions that run the model up to the end of each of its parts, in order, by the name of the part.

        ``benchmarks/inference.py`` measures the time of a part as the difference between two of them. The last function
        computes the complete prediction; an architecture that distinguishes no parts has no other.
        """
        return {"model": self._complete}

    def _complete(self, batch: Batch) -> tuple[Tensor, ...]:
        """Return all outputs of the prediction."""
        return tuple(self.predict(batch).to_outputs().values())
