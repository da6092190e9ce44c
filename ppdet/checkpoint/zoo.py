"""Published checkpoints of other projects for the configurations of this project."""

from __future__ import annotations

import difflib
from typing import NamedTuple

__all__ = ["SCHEME", "ZOO", "Published", "close_names", "published_name"]

SCHEME = "zoo://"
"""``zoo://NAME`` always refers to the published checkpoint, even if there is a file of that name."""


class Published(NamedTuple):
    """A checkpoint on COCO, 80 classes.

    Attributes:
        url: address of the file. Names of mmdetection's files end with the first eight digits of the SHA-256.
        box_ap: box AP on val2017 in percent, as published.
        mask_ap: mask AP on val2017 in percent, as published.
    """

    url: str
    box_ap: float
    mask_ap: float


def _mmdetection(path: str, box_ap: float, mask_ap: float) -> Published:
    return Published(f"https://download.openmmlab.com/mmdetection/v2.0/{path}.pth", box_ap, mask_ap)


def _paddledetection(name: str, box_ap: float, mask_ap: float) -> Published:
    return Published(f"https://paddledet.bj.bcebos.com/models/{name}.pdparams", box_ap, mask_ap)


ZOO: dict[str, Published] = {
    "htc_r50_fpn_1x_coco": _mmdetection("htc/htc_r50_fpn_1x_coco/htc_r50_fpn_1x_coco_20200317-7332cf16", 42.3, 37.4),
    "htc_r50_fpn_20e_coco": _mmdetection("htc/htc_r50_fpn_20e_coco/htc_r50_fpn_20e_coco_20200319-fe28c577", 43.3, 38.3),
    "htc_r101_fpn_20e_coco": _mmdetection(
        "htc/htc_r101_fpn_20e_coco/htc_r101_fpn_20e_coco_20200317-9b41b48f", 44.8, 39.6
    ),
    "htc_x101_32x4d_fpn_20e_coco": _mmdetection(
        "htc/htc_x101_32x4d_fpn_16x1_20e_coco/htc_x101_32x4d_fpn_16x1_20e_coco_20200318-de97ae01", 46.1, 40.5
    ),
    "htc_x101_64x4d_fpn_20e_coco": _mmdetection(
        "htc/htc_x101_64x4d_fpn_16x1_20e_coco/htc_x101_64x4d_fpn_16x1_20e_coco_20200318-b181fd7a", 47.0, 41.4
    ),
    "htc_x101_64x4d_fpn_dcn_c3_c5_mstrain_400_1400_20e_coco": _mmdetection(
        "htc/htc_x101_64x4d_fpn_dconv_c3-c5_mstrain_400_1400_16x1_20e_coco/"
        "htc_x101_64x4d_fpn_dconv_c3-c5_mstrain_400_1400_16x1_20e_coco_20200312-946fd751",
        50.4,
        43.8,
    ),
    "cascade_mask_rcnn_r50_fpn_1x_coco": _mmdetection(
        "cascade_rcnn/cascade_mask_rcnn_r50_fpn_1x_coco/cascade_mask_rcnn_r50_fpn_1x_coco_20200203-9d4dcb24", 41.2, 35.9
    ),
    "cascade_mask_rcnn_r50_fpn_20e_coco": _mmdetection(
        "cascade_rcnn/cascade_mask_rcnn_r50_fpn_20e_coco/"
        "cascade_mask_rcnn_r50_fpn_20e_coco_bbox_mAP-0.419__segm_mAP-0.365_20200504_174711-4af8e66e",
        41.9,
        36.5,
    ),
    "cascade_mask_rcnn_r101_fpn_1x_coco": _mmdetection(
        "cascade_rcnn/cascade_mask_rcnn_r101_fpn_1x_coco/cascade_mask_rcnn_r101_fpn_1x_coco_20200203-befdf6ee",
        42.9,
        37.3,
    ),
    "cascade_mask_rcnn_r101_fpn_20e_coco": _mmdetection(
        "cascade_rcnn/cascade_mask_rcnn_r101_fpn_20e_coco/"
        "cascade_mask_rcnn_r101_fpn_20e_coco_bbox_mAP-0.434__segm_mAP-0.378_20200504_174836-005947da",
        43.4,
        37.8,
    ),
    "paddledet_cascade_mask_rcnn_r50_fpn_1x_coco": _paddledetection("cascade_mask_rcnn_r50_fpn_1x_coco", 41.8, 36.3),
    "mask_rcnn_r50_fpn_1x_coco": _mmdetection(
        "mask_rcnn/mask_rcnn_r50_fpn_1x_coco/mask_rcnn_r50_fpn_1x_coco_20200205-d4b0c5d6", 38.2, 34.7
    ),
    "mask_rcnn_r50_fpn_2x_coco": _mmdetection(
        "mask_rcnn/mask_rcnn_r50_fpn_2x_coco/"
        "mask_rcnn_r50_fpn_2x_coco_bbox_mAP-0.392__segm_mAP-0.354_20200505_003907-3e542a40",
        39.2,
        35.4,
    ),
    "mask_rcnn_r101_fpn_1x_coco": _mmdetection(
        "mask_rcnn/mask_rcnn_r101_fpn_1x_coco/mask_rcnn_r101_fpn_1x_coco_20200204-1efe0ed5", 40.0, 36.1
    ),
    "mask_rcnn_r101_fpn_2x_coco": _mmdetection(
        "mask_rcnn/mask_rcnn_r101_fpn_2x_coco/"
        "mask_rcnn_r101_fpn_2x_coco_bbox_mAP-0.408__segm_mAP-0.366_20200505_071027-14b391c7",
        40.8,
        36.6,
    ),
    "paddledet_mask_rcnn_r50_fpn_1x_coco": _paddledetection("mask_rcnn_r50_fpn_1x_coco", 39.2, 35.6),
}
"""By the name of the configuration."""


def published_name(url: str) -> str | None:
    """Return the name of an address in the zoo, None if the zoo does not contain it."""
    return next((name for name, entry in ZOO.items() if entry.url == url.partition("#")[0]), None)


def close_names(name: str) -> list[str]:
    """Return names of the zoo that are similar to the given one, the closest first."""
    return difflib.get_close_matches(name[:100], ZOO, n=2, cutoff=0.6)
