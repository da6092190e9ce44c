"""Every block of HTC R-50 against the official implementation, on the same weights and scenes."""

from __future__ import annotations

import numpy as np
import paddle
import pytest
from pycocotools import mask as coco_mask

from ppdet.structures.features import Features
from ppdet.utils.paste import paste_mask
from tests.parity.conftest import Recording, sampled

TOLERANCE = 1e-4


def difference(value: paddle.Tensor, golden: np.ndarray, count: int = 1024) -> float:
    """Norm of the difference over the norm of the recording."""
    array = value.numpy()
    own = array if array.shape == golden.shape else sampled(array, count)
    return float(np.linalg.norm(own - golden) / np.linalg.norm(golden))


@pytest.fixture(scope="module")
def blocks(htc: Recording) -> dict[str, object]:
    """Outputs of the parts up to the RoI heads."""
    model = htc.model
    with paddle.no_grad():
        pyramid = model.neck(model.backbone(htc.inputs["image"]))
        rpn = model.rpn_head(pyramid)
        semantic = model.fused_semantic_head(pyramid)
        proposals, scores = model.rpn_head.propose(pyramid, rpn, htc.inputs["im_shape"])
    return {"pyramid": pyramid, "rpn": rpn, "semantic": semantic, "proposals": proposals, "scores": scores}


def test_input(htc: Recording) -> None:
    assert difference(htc.inputs["image"], htc.golden["input"]) < 1e-6


@pytest.mark.parametrize("level", range(5))
def test_pyramid_and_rpn(htc: Recording, blocks: dict, level: int) -> None:
    assert list(blocks["pyramid"][level].shape) == htc.golden[f"fpn{level}.shape"].tolist()
    assert difference(blocks["pyramid"][level], htc.golden[f"fpn{level}"]) < TOLERANCE
    assert difference(blocks["rpn"].logits[level], htc.golden[f"rpn_cls{level}"]) < TOLERANCE
    assert difference(blocks["rpn"].deltas[level], htc.golden[f"rpn_reg{level}"]) < TOLERANCE


def test_semantic(htc: Recording, blocks: dict) -> None:
    assert list(blocks["semantic"].logits.shape) == htc.golden["semantic_pred.shape"].tolist()
    assert difference(blocks["semantic"].logits, htc.golden["semantic_pred"]) < TOLERANCE
    assert difference(blocks["semantic"].feature, htc.golden["semantic_feat"]) < TOLERANCE


@pytest.mark.parametrize("image", [0, 1])
def test_proposals(htc: Recording, blocks: dict, image: int) -> None:
    golden = htc.golden[f"proposals{image}"]
    valid = blocks["proposals"].valid[image].numpy()
    assert valid.sum() == len(golden)
    np.testing.assert_allclose(blocks["scores"][image].numpy()[valid], htc.golden[f"proposal_scores{image}"], atol=1e-5)
    np.testing.assert_allclose(blocks["proposals"].boxes[image].numpy()[valid], golden, atol=0.01)


def test_heads_on_fixed_rois(htc: Recording, blocks: dict) -> None:
    model, rois = htc.model, htc.golden["rois"]
    features = Features(blocks["pyramid"], blocks["semantic"].feature)
    boxes = paddle.to_tensor(rois[:, 1:])
    number = paddle.to_tensor(np.bincount(rois[:, 0].astype(int), minlength=2).astype(np.int32))
    with paddle.no_grad():
        box_features = model.bbox_head.roi_features(features, boxes, number)
        mask_features = model.bbox_head.mask_features(model.mask_head)(features, boxes, number)
        for stage in range(3):
            logits, deltas = model.bbox_head(box_features, stage)
            assert difference(logits, htc.golden[f"cls_score_stage{stage}"]) < TOLERANCE
            assert difference(deltas, htc.golden[f"bbox_pred_stage{stage}"]) < TOLERANCE
            masks = model.mask_head(mask_features, stage)
            assert list(masks.shape) == htc.golden[f"mask_logits_stage{stage}.shape"].tolist()
            assert difference(masks, htc.golden[f"mask_logits_stage{stage}"], 16384) < TOLERANCE


def box_iou(a: np.ndarray, b: np.ndarray) -> float:
    size = np.clip(np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2]), 0, None)
    inter = size[0] * size[1]
    return float(inter / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - inter))


def test_detections(htc: Recording) -> None:
    with paddle.no_grad():
        outputs = htc.model(htc.inputs)
    begin = 0
    for image, count in enumerate(outputs["bbox_num"].tolist()):
        rows = outputs["bbox"].numpy()[begin : begin + count]
        masks = outputs["mask"].numpy()[begin : begin + count]
        begin += count
        golden = htc.golden
        height, width = (int(v) for v in golden[f"ori_shape{image}"])
        left, matched = set(range(count)), 0
        recorded = zip(
            golden[f"det_boxes{image}"],
            golden[f"det_scores{image}"],
            golden[f"det_labels{image}"],
            golden[f"det_mask_rles{image}"],
        )
        for box, score, label, counts in recorded:
            for place in sorted(left):
                same = rows[place, 0] == label and abs(rows[place, 1] - score) < 1e-3
                if same and box_iou(rows[place, 2:], box) > 0.99:
                    bitmap = coco_mask.encode(paste_mask(masks[place], rows[place, 2:], height, width))
                    rle = {"size": [height, width], "counts": str(counts).encode()}
                    if coco_mask.iou([bitmap], [rle], [0])[0, 0] > 0.98:
                        left.discard(place)
                        matched += 1
                        break
        assert matched >= 0.97 * len(golden[f"det_boxes{image}"])
