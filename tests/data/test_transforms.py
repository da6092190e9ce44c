"""Transforms: agreement with the official numbers, and one random draw for all fields."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from deploy.common.pixels import keep_ratio_size, normalize, pad_to, round_up
from ppdet.core.workspace import ConfigError, build_op
from ppdet.data.collate import PadBatch, collate
from ppdet.data.source import COCODataSet
from ppdet.data.transform.functional.geometry import flip_boxes, resize_nearest, scale_boxes
from ppdet.structures.sample import Sample
from ppdet.utils.errors import UserError


class Draws(np.random.Generator):
    """Random generator whose ``random()`` returns a fixed value."""

    def __init__(self, value: float) -> None:
        super().__init__(np.random.PCG64(0))
        self.value = value

    def random(self, *args: Any, **kwargs: Any) -> Any:
        """Return the fixed value."""
        return self.value


def sample_of(height: int = 4, width: int = 6) -> Sample:
    """Create an image whose pixels encode their position, with one object in the upper left quarter."""
    y, x = np.mgrid[:height, :width]
    mask = np.zeros((1, height, width), np.uint8)
    mask[0, : height // 2, : width // 2] = 1
    return Sample(
        "a.jpg",
        1,
        (height, width),
        image=np.stack([x, y, x + y], 2).astype(np.uint8),
        boxes=np.array([[0, 0, width // 2, height // 2]], np.float32),
        labels=np.array([3]),
        is_crowd=np.zeros(1, np.uint8),
        masks=mask,
        semantic=(x + 10 * y).astype(np.uint8),
        im_shape=(height, width),
    )


@pytest.mark.parametrize(
    ("height", "width", "expected"),
    [(427, 640, (800, 1199)), (640, 427, (1199, 800)), (480, 640, (800, 1067)), (20, 4000, (7, 1333)),
     (1, 4000, (1, 1333)), (1, 1, (800, 800)), (800, 1333, (800, 1333))],
)  # fmt: skip
def test_keep_ratio_size(height: int, width: int, expected: tuple[int, int]) -> None:
    assert keep_ratio_size(height, width, [800, 1333]) == expected
    assert keep_ratio_size(height, width, [1333, 800]) == expected


def test_boxes() -> None:
    boxes = np.array([[1, 2, 11, 7], [-3, -4, 90, 80]], np.float32)
    assert scale_boxes(boxes, (2.0, 0.5), (16, 30)).tolist() == [[0.5, 4, 5.5, 14], [0, 0, 30, 16]]
    assert flip_boxes(boxes[:1], 20).tolist() == [[9, 2, 19, 7]]
    assert scale_boxes(np.zeros((0, 4), np.float32), (2.0, 0.5), (16, 30)).shape == (0, 4)


def test_nearest_takes_the_pixel_at_the_floor() -> None:
    assert resize_nearest(np.array([[0, 1, 2, 3]], np.uint8), (1, 3)).tolist() == [[0, 1, 2]]
    assert resize_nearest(np.array([[[1, 0]], [[0, 1]]], np.uint8), (2, 4)).tolist() == [
        [[1, 1, 0, 0], [1, 1, 0, 0]],
        [[0, 0, 1, 1], [0, 0, 1, 1]],
    ]
    assert resize_nearest(np.zeros((0, 4, 6), np.uint8), (2, 3)).shape == (0, 2, 3)


def test_normalize() -> None:
    image = np.array([[[0, 128, 255]]], np.uint8)
    expected = [(0 - 0.485) / 0.229, (128 / 255 - 0.456) / 0.224, (1 - 0.406) / 0.225]
    result = build_op({"NormalizeImage": {}})(Sample("a", 1, (1, 1), image=image), Draws(0)).image
    np.testing.assert_allclose(result[0, 0], expected, rtol=1e-5)
    assert result.dtype == np.float32
    np.testing.assert_allclose(normalize(image, [1, 2, 3], [2, 4, 8], False)[0, 0], [-0.5, 31.5, 31.5])
    plain = build_op({"NormalizeImage": {"norm_type": "none"}})(Sample("a", 1, (1, 1), image=image), Draws(0)).image
    np.testing.assert_allclose(plain[0, 0], [0, 128 / 255, 1], rtol=1e-6)


def test_pad() -> None:
    assert [round_up(size, 32) for size in (1, 32, 33)] == [32, 32, 64]
    assert pad_to(np.ones((1, 2), np.uint8), (2, 3), 9).tolist() == [[1, 1, 9], [9, 9, 9]]


def test_flip_moves_everything() -> None:
    before, after = sample_of(), build_op({"RandomFlip": {"prob": 0.5}})(sample_of(), Draws(0.49))
    assert after.boxes.tolist() == [[3, 0, 6, 2]]
    assert after.image is not None and after.masks is not None and after.semantic is not None
    np.testing.assert_array_equal(after.image, before.pixels()[:, ::-1])
    np.testing.assert_array_equal(after.semantic[0], [5, 4, 3, 2, 1, 0])
    assert after.masks[0, :2, 3:].all() and after.masks.sum() == 6
    kept = build_op({"RandomFlip": {"prob": 0.5}})(sample_of(), Draws(0.5))
    np.testing.assert_array_equal(kept.image, before.image)
    assert kept.boxes.tolist() == before.boxes.tolist()


def test_resize_moves_everything() -> None:
    after = build_op({"Resize": {"target_size": [8, 100]}})(sample_of(), Draws(0))
    assert after.pixels().shape == (8, 12, 3) and after.im_shape == (8, 12) and after.scale_factor == (2.0, 2.0)
    assert after.boxes.tolist() == [[0, 0, 6, 4]]
    assert after.masks is not None and after.semantic is not None
    assert after.masks[0, :4, :6].all() and after.masks.sum() == 24
    assert after.semantic[2, 5] == 12
    free = build_op({"Resize": {"target_size": [8, 3], "keep_ratio": False}})(sample_of(), Draws(0))
    assert free.pixels().shape == (8, 3, 3) and free.scale_factor == (2.0, 0.5)
    assert free.boxes.tolist() == [[0, 0, 1.5, 4]]


def test_random_resize_from_a_list() -> None:
    op = build_op({"RandomResize": {"target_size": [[4, 100], [8, 100], [12, 100]]}})
    rng = np.random.default_rng(0)
    heights = {op(sample_of(), rng).im_shape[0] for _ in range(40)}
    assert heights == {4, 8, 12}


def test_random_resize_from_a_range() -> None:
    op = build_op({"RandomResize": {"target_size": [[4, 1600], [9, 1600]], "random_range": True}})
    rng = np.random.default_rng(0)
    heights = {op(sample_of(), rng).im_shape[0] for _ in range(100)}
    assert heights == {4, 5, 6, 7, 8, 9}, "both ends are included"


def test_unfit_settings() -> None:
    with pytest.raises(UserError, match="target_size"):
        build_op({"Resize": {"target_size": [0, 5]}})
    with pytest.raises(UserError, match="random_range"):
        build_op({"RandomResize": {"target_size": [[4, 5]], "random_range": True}})
    with pytest.raises(UserError, match="norm_type' takes one of 'mean_std', 'none'"):
        build_op({"NormalizeImage": {"norm_type": "odd"}})
    with pytest.raises(ConfigError, match="did you mean 'RandomFlip'"):
        build_op({"RandomFlop": {}})
    with pytest.raises(UserError, match="begin with Decode"):
        build_op({"Resize": {"target_size": [4, 5]}})(Sample("a.jpg", 1, (4, 6)), Draws(0))


def test_outline_of_another_size_names_the_image(coco: Any, add_thing: Any) -> None:
    coco.image(1)
    coco.add(add_thing(1, 1, 2, [1, 1, 9, 9], segmentation={"size": [60, 40], "counts": [0, 2400]}))
    with pytest.raises(UserError, match=r"^annotation 1 in .* of 40 x 60 .* 001\.png has 60 x 40"):
        COCODataSet(**coco.arguments())
    sample = Sample(f"{coco.folder}/images/001.png", 1, (40, 60), segmentations=[{"size": [40, 60], "counts": [2]}])
    with pytest.raises(UserError, match=r"001\.png cannot be drawn: outline 1 of 1"):
        build_op("Decode")(sample, Draws(0))


@pytest.fixture(scope="module")
def recording(tiny_coco: Path) -> Any:
    path = tiny_coco.parents[1] / "oracle" / "golden" / "htc_r50_fpn.npz"
    if not path.is_file():
        pytest.skip(f"no recordings on photographs at {path}")
    return np.load(path)


def test_photographs_agree_with_the_official_pipeline(tiny_coco: Path, recording: Any) -> None:
    data = COCODataSet(
        dataset_dir=str(tiny_coco),
        image_dir="val2017",
        anno_path="annotations/instances_val2017.json",
        data_fields=["image", "gt_bbox", "gt_class", "gt_poly"],
        semantic={"kind": "instances", "labels": "category_id"},
    )
    ids = [image["id"] for image in data.images]
    samples = []
    for i in range(2):
        sample = data[ids.index(int(recording[f"image_id{i}"]))]
        for entry in ("Decode", {"Resize": {"target_size": [288, 448]}}):
            sample = build_op(entry)(sample, Draws(0))
        difference = sample.pixels().astype(int) - recording[f"resized_bgr{i}"][..., ::-1]
        assert np.abs(difference).max() <= 1 and (difference != 0).mean() < 0.01
        np.testing.assert_allclose(sample.boxes, recording[f"gt_boxes{i}"], atol=1e-3)
        np.testing.assert_array_equal(sample.labels, recording[f"gt_labels{i}"])
        np.testing.assert_allclose(sample.scale_factor, recording[f"scale_factor{i}"][::-1])
        shape = recording[f"gt_masks{i}.shape"]
        masks = np.unpackbits(recording[f"gt_masks{i}"])[: np.prod(shape)].reshape(shape)
        np.testing.assert_array_equal(sample.masks, masks)
        # The recorded substitute draws in the order of the annotations: only compare pixels with a single object.
        single = masks.sum(0) == 1
        assert sample.semantic is not None and single.sum() > 10_000
        np.testing.assert_array_equal(sample.semantic[single], recording[f"gt_semantic{i}"][single])
        for entry in ("NormalizeImage", "Permute"):
            sample = build_op(entry)(sample, Draws(0))
        samples.append(sample)
    image = collate(samples, PadBatch(32), training=True)["image"]
    assert list(image.shape) == recording["input.shape"].tolist()
    values = image.ravel()[np.linspace(0, image.size - 1, 4096).astype(int)]
    np.testing.assert_allclose(values, recording["input"], atol=0.02)
