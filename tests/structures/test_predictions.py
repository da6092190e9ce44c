"""Predictions: which tensors belong together, and the names under which they leave a model."""

from __future__ import annotations

from typing import Any

import numpy as np
import paddle
import pytest

from ppdet.structures.predictions import Predictions, output_names

FRAMES: dict[str, dict[str, Any]] = {
    "box": {"boxes": [[0.0, 1.0, 2.0, 3.0], [4.0, 5.0, 6.0, 7.0]]},
    "image": {"mask_extent": [[10.0, 20.0]], "mask_scores": [0.5, 0.25]},
    "affine": {"mask_matrices": np.zeros([2, 2, 3])},
}


def predictions(**fields: Any) -> Predictions:
    """Two detections on one image."""
    tensors = {name: paddle.to_tensor(value, "float32") for name, value in fields.items() if name != "mask_frame"}
    frame = fields.get("mask_frame", "box")
    return Predictions(
        scores=paddle.to_tensor([0.75, 0.5]),
        labels=paddle.to_tensor([3, 1]),
        counts=paddle.to_tensor([2], "int32"),
        mask_frame=frame,
        **tensors,
    )


@pytest.mark.parametrize(
    ("frame", "names"),
    [
        ("box", ["bbox", "bbox_num", "mask"]),
        ("image", ["instances", "bbox_num", "mask", "mask_extent", "mask_score"]),
        ("affine", ["instances", "bbox_num", "mask", "mask_matrix"]),
    ],
)
def test_outputs_by_name(frame: Any, names: list[str]) -> None:
    fields = FRAMES[frame]
    made = predictions(masks=np.ones([2, 5, 4]), mask_frame=frame, **fields)
    arrays = made.to_host()
    assert list(arrays) == names == list(output_names("boxes" in fields, frame, "mask_scores" in fields))
    rows = arrays[names[0]]
    assert rows.dtype == np.float32 and rows[:, :2].tolist() == [[3, 0.75], [1, 0.5]]
    assert rows[:, 2:].tolist() == fields.get("boxes", [[], []])
    assert made.has_masks and made.has_boxes == ("boxes" in fields)
    for name, value in zip(names[3:], list(fields.values())):
        np.testing.assert_array_equal(arrays[name], value)


def test_without_masks_and_without_detections() -> None:
    empty = Predictions(
        paddle.zeros([0]), paddle.zeros([0], "int64"), paddle.to_tensor([0, 0], "int32"), boxes=paddle.zeros([0, 4])
    )
    arrays = empty.to_host()
    assert not empty.has_masks and list(arrays) == ["bbox", "bbox_num"] == list(output_names(has_boxes=True))
    assert arrays["bbox"].shape == (0, 6) and arrays["bbox_num"].tolist() == [0, 0]


def test_half_precision_reaches_the_host_as_float32() -> None:
    made = predictions(boxes=FRAMES["box"]["boxes"], masks=np.ones([2, 3, 3]))
    half = Predictions(made.scores, made.labels, made.counts, made.boxes, made.masks.astype("float16"))  # type: ignore
    assert half.to_outputs()["mask"].dtype == paddle.float16 and half.to_host()["mask"].dtype == np.float32


MASKS = np.ones([2, 3, 3])


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"masks": MASKS}, "masks in the frame 'box' need boxes"),
        ({"masks": MASKS, "mask_frame": "image"}, "masks in the frame 'image' need mask_extent"),
        ({"masks": MASKS, "mask_frame": "affine"}, "masks in the frame 'affine' need mask_matrices"),
        ({"masks": MASKS, **FRAMES["box"], **FRAMES["affine"]}, "mask_matrices does not belong to .* 'box'"),
        ({**FRAMES["box"], "mask_scores": [1, 1]}, "mask_scores does not belong to"),
        ({"masks": MASKS, "mask_frame": "polar"}, "mask_frame is 'polar', expected one of box, image, affine"),
    ],
)
def test_what_does_not_belong_together(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        predictions(**fields)
