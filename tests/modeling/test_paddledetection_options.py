"""The options by which PaddleDetection's two-stage models differ from the authors', each on small numbers."""

from __future__ import annotations

from typing import Any

import numpy as np
import paddle
import pytest
from paddle.nn import functional as F

from ppdet.core.workspace import create, load_config
from ppdet.modeling.assigners.bbox_assigner import BBoxAssigner
from ppdet.modeling.assigners.mask_assigner import MaskAssigner
from ppdet.modeling.assigners.rpn_assigner import RPNTargetAssign
from ppdet.modeling.heads.cascade_head import CascadeHead
from ppdet.modeling.heads.mask_feat import MaskFeat
from ppdet.modeling.heads.mask_head import MaskHead
from ppdet.modeling.heads.two_fc_head import CascadeTwoFCHead
from ppdet.modeling.proposal_generator.anchor_generator import AnchorGenerator
from ppdet.modeling.proposal_generator.proposal_generator import ProposalGenerator
from ppdet.modeling.proposal_generator.rpn_head import RPNHead
from ppdet.modeling.roi_heads.roi_align import RoIAlign
from ppdet.structures.batch import Targets
from ppdet.structures.features import Features
from ppdet.structures.proposals import Proposals, SampledRoIs

SHAPE = paddle.to_tensor([[128.0, 128.0]])


def features() -> Features:
    paddle.seed(11)
    return Features([paddle.randn([1, 4, 32 // 2**i, 32 // 2**i]) for i in range(5)])


def targets() -> Targets:
    """One object and an empty slot."""
    boxes = paddle.to_tensor([[[10.0, 10.0, 60.0, 70.0], [0.0, 0.0, 0.0, 0.0]]])
    masks = paddle.zeros([1, 2, 128, 128], dtype="uint8")
    masks[0, 0, 10:70, 10:60] = 1
    return Targets(boxes, paddle.to_tensor([[2, 0]]), paddle.to_tensor([[True, False]]), masks, None)


def proposals() -> Proposals:
    boxes = paddle.to_tensor([[[12.0, 10.0, 60.0, 72.0], [0.0, 0.0, 30.0, 30.0], [80.0, 80.0, 120.0, 110.0]]])
    return Proposals(boxes, paddle.ones([1, 3], dtype="bool"))


def cascade(**options: Any) -> CascadeHead:
    """A cascade whose stages say something different each."""
    paddle.seed(3)
    assigner = BBoxAssigner(
        batch_size_per_im=3,
        fg_fraction=0.7,
        allow_low_quality=False,
        add_gt=options.pop("add_gt", True),
        draw_later_stages=options.pop("draw_later_stages", True),
        num_classes=3,
    )
    head = CascadeHead(
        head=CascadeTwoFCHead(4, 16),
        roi_extractor=RoIAlign(resolution=7),
        bbox_assigner=assigner,
        num_classes=3,
        **options,
    )
    for stage in range(3):
        layer = getattr(head, f"bbox_score_stage{stage}")
        layer.weight.set_value(layer.weight * 100)
    return head


def losses_of(head: CascadeHead, mask_head: MaskHead | None = None) -> dict[str, paddle.Tensor]:
    return head.roi_heads_class(head, mask_head).loss(features().pyramid, proposals(), SHAPE, targets())


class Drawn:
    """The head's assigner, remembering what it drew."""

    def __init__(self, head: CascadeHead) -> None:
        self.inner = head.bbox_assigner
        self.rois: list[SampledRoIs] = []
        self.candidates: list[Proposals] = []
        head.bbox_assigner = self

    def __call__(self, candidates: Proposals, wanted: Targets, stage: int | None = None) -> SampledRoIs:
        self.candidates.append(candidates)
        self.rois.append(self.inner(candidates, wanted, stage))
        return self.rois[-1]


def test_scores_are_the_mean_of_the_softmaxes() -> None:
    found = {}
    for kind in ("logits", "probabilities"):
        head = cascade(score_average=kind)
        logits: list[paddle.Tensor] = []
        forward = head.forward
        head.forward = lambda x, stage, run=forward, keep=logits: keep.append(run(x, stage)) or keep[-1]
        with paddle.no_grad():
            found[kind] = head.roi_heads_class(head).predict(features(), proposals(), SHAPE)[1][0].numpy()
            means = [F.softmax(stage[0], axis=-1).numpy() for stage in logits]
    np.testing.assert_allclose(found["probabilities"], np.mean(means, axis=0), atol=1e-6)
    assert np.abs(found["probabilities"] - found["logits"]).max() > 1e-3


def test_box_loss_of_the_cascade_is_l1_on_request() -> None:
    losses = {}
    for beta in (1.0, 0.0):
        paddle.seed(5)
        losses[beta] = losses_of(cascade(smooth_l1_beta=beta))
    for stage in range(3):
        name = f"loss_bbox_reg_stage{stage}"
        assert float(losses[0.0][name]) > float(losses[1.0][name]) > 0


def test_ground_truth_and_drawing_as_in_paddledetection() -> None:
    head = cascade(add_gt=[True, False, False], draw_later_stages=False, keep_gt=True)
    drawn = Drawn(head)
    losses_of(head)
    assert [int(rois.valid.sum()) for rois in drawn.rois] == [3, 3, 3]  # three of four drawn, and all of these kept
    assert not any(bool(rois.is_gt.any()) for rois in drawn.rois[1:])

    head = cascade()
    drawn = Drawn(head)
    losses_of(head)
    for before, after in zip(drawn.rois, drawn.candidates[1:]):
        assert int(after.valid.sum()) == int(before.valid.sum()) - int(before.is_gt.sum())


def test_one_mask_network_trains_on_what_the_first_stage_drew(monkeypatch: pytest.MonkeyPatch) -> None:
    head = cascade()
    drawn = Drawn(head)
    mask_head = MaskHead(
        head=MaskFeat(4, 4, 1), roi_extractor=RoIAlign(resolution=14), mask_assigner=MaskAssigner(), num_classes=3
    )
    seen: list[SampledRoIs] = []
    run = mask_head.loss
    monkeypatch.setattr(mask_head, "loss", lambda x, rois, masks, stage: seen.append(rois) or run(x, rois, masks))
    losses = losses_of(head, mask_head)
    assert [name for name in losses if "mask" in name] == ["loss_mask"]
    count = int(drawn.rois[0].positive.sum())
    assert len(seen) == 1 and count == int(seen[0].valid.sum()) == 2
    np.testing.assert_array_equal(seen[0].boxes[0, :count].numpy(), drawn.rois[0].boxes[0, :count].numpy())


def rpn(**options: Any) -> RPNHead:
    paddle.seed(7)
    generator = AnchorGenerator(((16,), (32,), (64,), (96,), (128,)))
    return RPNHead(
        anchor_generator=generator,
        rpn_target_assign=RPNTargetAssign(batch_size_per_im=8, allowed_border=-1),
        train_proposal=ProposalGenerator(),
        test_proposal=ProposalGenerator(),
        in_channel=4,
        **options,
    )


def test_divisor_of_the_proposal_losses() -> None:
    pyramid, objects = features().pyramid, targets()
    losses = {}
    for kind in ("drawn", "quota"):
        head = rpn(loss_divisor=kind)
        head.rpn_target_assign.fg_fraction = 0.0  # one positive counts where there is none: 1 + 8 against 8
        paddle.seed(1)
        losses[kind] = float(head.loss(pyramid, head(pyramid), SHAPE, objects)["loss_rpn_cls"])
    assert losses["quota"] * 8 == pytest.approx(losses["drawn"] * 9, rel=1e-5)
    with pytest.raises(ValueError, match="loss_divisor"):
        rpn(loss_divisor="half")


@pytest.mark.parametrize("after", [True, False])
def test_order_of_the_cap_does_not_matter(tmp_path: Any, after: bool) -> None:
    path = tmp_path / "c.yml"
    path.write_text(f"ProposalGenerator: {{pre_nms_top_n: 20, post_nms_top_n: 5, topk_after_collect: {after}}}\n")
    config = load_config(str(path))
    generator, head, pyramid = create(config, "ProposalGenerator"), rpn(), features().pyramid
    head.test_proposal = generator
    head.eval()
    with paddle.no_grad():
        _, scores = head.propose(pyramid, head(pyramid), SHAPE)
        head.test_proposal = ProposalGenerator(20, 100)
        _, everything = head.propose(pyramid, head(pyramid), SHAPE)
    np.testing.assert_array_equal(scores.numpy(), everything.numpy()[:, :5])


@pytest.mark.parametrize(
    ("settings", "level", "size"),
    [
        ({}, 4, 224),
        ({"canonical_size": 112}, 4, 112),
        ({"canonical_level": 3}, 3, 224),
        ({"canconical_level": 5, "canonical_size": 200}, 5, 200),
        ({"start_level": 1}, 4, 224),
    ],
)
def test_level_of_a_roi_as_in_paddledetection(settings: dict[str, Any], level: int, size: int) -> None:
    """Against the operator by which PaddleDetection distributes RoIs."""
    side = 2.0 ** np.linspace(3.0, 10.5, 61, dtype=np.float32)
    boxes = paddle.to_tensor(np.stack([0 * side, 0 * side, side * 1.25, side / 1.25], axis=1))
    first = settings.get("start_level", 0)
    number = paddle.to_tensor([len(side)], dtype="int32")
    lists, back, _ = paddle.vision.ops.distribute_fpn_proposals(boxes, first + 2, 5, level, size, rois_num=number)
    counts = [len(rows) for rows in lists]
    wanted = np.repeat(np.arange(first, 4), counts)[back.numpy().flatten()]
    extract = RoIAlign(resolution=1, spatial_scale=(0.25, 0.125, 0.0625, 0.03125), **settings)
    maps = [paddle.full([1, 1, 1024 // 2**index, 1024 // 2**index], float(index)) for index in range(4)]
    found = extract(maps, boxes, number).flatten().round().astype("int64")
    assert found.tolist() == wanted.tolist() and len(set(wanted)) == 4 - first
