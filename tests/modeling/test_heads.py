"""What the heads average, flow and lose, on small numbers."""

from __future__ import annotations

import numpy as np
import paddle
import pytest
from paddle.nn import functional as F

from ppdet.modeling.assigners.bbox_assigner import BBoxAssigner
from ppdet.modeling.assigners.mask_assigner import MaskAssigner
from ppdet.modeling.heads.bbox_outputs import bbox_losses
from ppdet.modeling.heads.hybrid_task_cascade_head import HybridTaskCascadeHead
from ppdet.modeling.heads.hybrid_task_mask_feat import HybridTaskMaskFeat
from ppdet.modeling.heads.hybrid_task_mask_head import HybridTaskMaskHead
from ppdet.modeling.heads.two_fc_head import HybridTaskCascadeTwoFCHead
from ppdet.modeling.losses.functional import semantic_cross_entropy
from ppdet.modeling.post_process import BBoxPostProcess, MultiClassNMS
from ppdet.modeling.roi_heads.roi_align import RoIAlign
from ppdet.structures.batch import Targets
from ppdet.structures.features import Features
from ppdet.structures.proposals import Proposals, SampledRoIs


def mask_head(flow: bool = True) -> HybridTaskMaskHead:
    paddle.seed(5)
    feats = [HybridTaskMaskFeat(8, 8, 1, 3, with_conv_res=flow and stage > 0) for stage in range(3)]
    return HybridTaskMaskHead(
        head=feats, roi_extractor=RoIAlign(), mask_assigner=MaskAssigner(), num_classes=3, mask_info_flow=flow
    )


def test_masks_are_the_mean_of_three_probabilities() -> None:
    head, x = mask_head(), paddle.randn([2, 8, 14, 14])
    labels = paddle.to_tensor([2, 0])
    with paddle.no_grad():
        stages = [F.sigmoid(head(x, stage)).numpy() for stage in range(3)]
        found = head.predict(x, labels).numpy()
    expected = np.stack([np.mean([s[0, 2] for s in stages], axis=0), np.mean([s[1, 0] for s in stages], axis=0)])
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_later_losses_train_earlier_heads_through_the_flow() -> None:
    for flow in (True, False):
        head = mask_head(flow)
        head(paddle.randn([2, 8, 14, 14]), 2).sum().backward()
        gradient = head.head[0].convs[0].conv.weight.grad
        assert (gradient is not None and float(gradient.abs().sum()) > 0) == flow


def test_flow_by_hand() -> None:
    head, x = mask_head(), paddle.randn([1, 8, 14, 14])
    first, second = head.head[0], head.head[1]
    with paddle.no_grad():
        one = F.relu(first.convs[0].conv(x))
        two = F.relu(second.convs[0].conv(x + F.relu(second.conv_res.conv(one))))
        np.testing.assert_allclose(head.stage_features(x, 2)[1].numpy(), two.numpy(), atol=1e-5)


def cascade() -> HybridTaskCascadeHead:
    paddle.seed(3)
    head = HybridTaskCascadeHead(
        head=HybridTaskCascadeTwoFCHead(4, 16),
        roi_extractor=RoIAlign(resolution=7),
        semantic_roi_extractor=RoIAlign(resolution=14, spatial_scale=(0.125,), end_level=0),
        bbox_assigner=BBoxAssigner(),
        num_classes=3,
    )
    for stage in range(3):  # large enough to tell the stages apart
        layer = getattr(head, f"bbox_score_stage{stage}")
        layer.weight.set_value(layer.weight * 100)
    return head


def test_scores_are_the_softmax_of_the_mean_logits() -> None:
    head = cascade()
    pyramid = [paddle.randn([1, 4, 32 // 2**i, 32 // 2**i]) for i in range(5)]
    features, im_shape = Features(pyramid), paddle.to_tensor([[128.0, 128.0]])
    boxes = paddle.to_tensor([[[10.0, 10.0, 60.0, 70.0], [0.0, 0.0, 30.0, 30.0]]])
    number = paddle.to_tensor([2], dtype="int32")
    with paddle.no_grad():
        heads = head.roi_heads_class(head)
        final, probability = heads.predict(features, Proposals(boxes, paddle.ones([1, 2], dtype="bool")), im_shape)
        rois, logits = boxes, []
        for stage in range(3):
            found, deltas = head(heads.box_features(features, rois.reshape([-1, 4]), number), stage)
            logits.append(found.numpy())
            yes = paddle.ones([1, 2], dtype="bool")
            sampled = SampledRoIs(rois, yes.astype("int64"), yes.astype("int64"), yes, yes, ~yes, 2)
            rois = head.refine(sampled, found, deltas, im_shape, stage).boxes
    mean = np.mean(logits, axis=0)
    expected = np.exp(mean) / np.exp(mean).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(probability[0].numpy(), expected, atol=1e-5)
    np.testing.assert_allclose(final.numpy(), rois.numpy(), atol=1e-3)
    softmaxes = np.mean([np.exp(x) / np.exp(x).sum(axis=1, keepdims=True) for x in logits], axis=0)
    assert np.abs(softmaxes - expected).max() > 1e-3  # the other reading would be noticed


def test_ground_truth_does_not_go_on_to_the_next_stage() -> None:
    head = cascade()
    targets = Targets(
        paddle.to_tensor([[[0.0, 0.0, 40.0, 40.0]]]), paddle.to_tensor([[1]]), paddle.ones([1, 1], dtype="bool")
    )
    candidates = Proposals(
        paddle.to_tensor([[[0.0, 0.0, 40.0, 38.0], [60.0, 60.0, 90.0, 90.0]]]), paddle.ones([1, 2], dtype="bool")
    )
    rois = head.bbox_assigner(candidates, targets, 0)
    assert rois.positive.tolist() == [[True, True, False]]
    refined = head.refine(rois, paddle.zeros([3, 4]), paddle.zeros([3, 4]), paddle.to_tensor([[100.0, 100.0]]), 0)
    assert refined.valid.tolist() == [[False, True, True]]
    assert refined.boxes.stop_gradient


def test_box_losses_by_hand() -> None:
    yes = paddle.to_tensor([[True, True, False]])
    positive = paddle.to_tensor([[True, False, False]])
    rois = SampledRoIs(
        paddle.to_tensor([[[0.0, 0.0, 10.0, 10.0], [20.0, 20.0, 30.0, 30.0], [0.0, 0.0, 0.0, 0.0]]]),
        paddle.to_tensor([[1, 2, 2]]),
        paddle.zeros([1, 3], dtype="int64"),
        positive,
        yes,
        ~yes,
        1,
    )
    targets = Targets(
        paddle.to_tensor([[[1.0, 0.0, 11.0, 10.0]]]), paddle.to_tensor([[1]]), paddle.ones([1, 1], dtype="bool")
    )
    logits = paddle.zeros([3, 3])
    classification, regression = bbox_losses(logits, paddle.zeros([3, 4]), rois, targets, (0.1, 0.1, 0.2, 0.2), 2)
    assert float(classification) == pytest.approx(np.log(3), rel=1e-6)
    # dx = 1 / 10 / 0.1 = 1: smooth L1 0.5, over two drawn RoIs
    assert float(regression) == pytest.approx(0.25, rel=1e-5)


@pytest.mark.parametrize("over_all", [True, False])
def test_semantic_loss_without_labels_is_zero(over_all: bool) -> None:
    logits = paddle.randn([1, 4, 2, 2])
    logits.stop_gradient = False
    loss = semantic_cross_entropy(logits, paddle.full([1, 16, 16], 255, "uint8"), 8, 255, over_all)
    loss.backward()
    assert float(loss) == 0 and float(logits.grad.abs().sum()) == 0


def test_detections_go_back_with_their_own_images_factor() -> None:
    process = BBoxPostProcess(MultiClassNMS(0.1, 0.5, 10))
    boxes = paddle.to_tensor([[[10.0, 20.0, 30.0, 40.0], [60.0, 60.0, 80.0, 80.0]]] * 2)
    probability = paddle.to_tensor([[[0.2, 0.8], [0.7, 0.3]], [[0.9, 0.1], [0.05, 0.95]]])
    rows, number = process(boxes, probability, paddle.ones([2, 2], dtype="bool"))
    assert number.tolist() == [2, 1]
    original = process.to_original(rows, number, paddle.to_tensor([[2.0, 1.0], [0.5, 10.0]]))[:-1].numpy()
    np.testing.assert_allclose(original[:, 1], [0.7, 0.2, 0.9], atol=1e-6)
    np.testing.assert_allclose(original[:, 2:], [[60, 30, 80, 40], [10, 10, 30, 20], [1, 40, 3, 80]], atol=1e-5)
