"""Configs written for PaddleDetection: every key of its published ones is known, and means what it means there."""

from __future__ import annotations

from pathlib import Path

import pytest

from ppdet.core.workspace import create, load_config, merge_config
from tests.configs.test_zoo import shapes

PARTS = """
metric: COCO
num_classes: 80
use_gpu: false
use_xpu: false
log_iter: 20
save_dir: output
snapshot_epoch: 1
print_flops: false
export: {post_process: true, nms: true, benchmark: false, fuse_conv_bn: false}
worker_num: 2
epoch: 12

LearningRate:
  base_lr: 0.01
  schedulers:
  - !PiecewiseDecay {gamma: 0.1, milestones: [8, 11]}
  - !LinearWarmup {start_factor: 0.001, steps: 1000}

OptimizerBuilder:
  clip_grad_by_norm: 35.0
  optimizer: {momentum: 0.9, type: Momentum}
  regularizer: {factor: 0.0001, type: L2}

ResNet: {depth: 50, norm_type: bn, freeze_at: 0, return_idx: [0, 1, 2, 3], num_stages: 4}
FPN: {out_channel: 256}

RPNHead:
  anchor_generator:
    aspect_ratios: [0.5, 1.0, 2.0]
    anchor_sizes: [[32], [64], [128], [256], [512]]
    strides: [4, 8, 16, 32, 64]
  rpn_target_assign:
    {batch_size_per_im: 256, fg_fraction: 0.5, negative_overlap: 0.3, positive_overlap: 0.7, use_random: true}
  train_proposal:
    {min_size: 0.0, nms_thresh: 0.7, pre_nms_top_n: 2000, post_nms_top_n: 2000, topk_after_collect: true}
  test_proposal: {min_size: 0.0, nms_thresh: 0.7, pre_nms_top_n: 1000, post_nms_top_n: 1000}

MaskHead:
  head: MaskFeat
  roi_extractor: {resolution: 14, sampling_ratio: 0, aligned: true}
  mask_assigner: MaskAssigner
  share_bbox_feat: false

MaskFeat: {num_convs: 4, out_channel: 256}
MaskAssigner: {mask_resolution: 28}
MaskPostProcess: {binary_thresh: 0.5}

TrainReader:
  sample_transforms:
  - Decode: {}
  - RandomResize: {target_size: [[640, 1333], [800, 1333]], interp: 2, keep_ratio: true}
  - RandomFlip: {prob: 0.5}
  - NormalizeImage: {is_scale: true, mean: [0.485, 0.456, 0.406], std: [0.229, 0.224, 0.225]}
  - Permute: {}
  batch_transforms:
  - PadBatch: {pad_to_stride: 32}
  batch_size: 1
  shuffle: true
  drop_last: true
  collate_batch: false
  use_shared_memory: true

EvalReader:
  sample_transforms:
  - Decode: {}
  - Resize: {interp: 2, target_size: [800, 1333], keep_ratio: true}
  - NormalizeImage: {is_scale: true, mean: [0.485, 0.456, 0.406], std: [0.229, 0.224, 0.225]}
  - Permute: {}
  batch_size: 1
  shuffle: false
  drop_last: false
  drop_empty: false
"""
MASK_RCNN = """
architecture: MaskRCNN
MaskRCNN:
  backbone: ResNet
  neck: FPN
  rpn_head: RPNHead
  bbox_head: BBoxHead
  mask_head: MaskHead
  bbox_post_process: BBoxPostProcess
  mask_post_process: MaskPostProcess

BBoxHead:
  head: TwoFCHead
  roi_extractor: {resolution: 7, sampling_ratio: 0, aligned: true}
  bbox_assigner: BBoxAssigner

BBoxAssigner: {batch_size_per_im: 512, bg_thresh: 0.5, fg_thresh: 0.5, fg_fraction: 0.25, use_random: true}
TwoFCHead: {out_channel: 1024}

BBoxPostProcess:
  decode: RCNNBox
  nms: {name: MultiClassNMS, keep_top_k: 100, score_threshold: 0.05, nms_threshold: 0.5}
"""
CASCADE = """
architecture: CascadeRCNN
CascadeRCNN:
  backbone: ResNet
  neck: FPN
  rpn_head: RPNHead
  bbox_head: CascadeHead
  mask_head: MaskHead
  bbox_post_process: BBoxPostProcess
  mask_post_process: MaskPostProcess

CascadeHead:
  head: CascadeTwoFCHead
  roi_extractor: {resolution: 7, sampling_ratio: 0, aligned: true}
  bbox_assigner: BBoxAssigner

BBoxAssigner:
  batch_size_per_im: 512
  bg_thresh: 0.5
  fg_thresh: 0.5
  fg_fraction: 0.25
  cascade_iou: [0.5, 0.6, 0.7]
  use_random: true

CascadeTwoFCHead: {out_channel: 1024}

BBoxPostProcess:
  decode: {name: RCNNBox, prior_box_var: [30.0, 30.0, 15.0, 15.0]}
  nms: {name: MultiClassNMS, keep_top_k: 100, score_threshold: 0.05, nms_threshold: 0.5}
"""


@pytest.mark.parametrize(
    "text, last, table",
    [
        (MASK_RCNN, (0.1, 0.1, 0.2, 0.2), "paddledet_mask_rcnn_r50_fpn_1x_coco"),
        (CASCADE, (1 / 30, 1 / 30, 1 / 15, 1 / 15), "paddledet_cascade_mask_rcnn_r50_fpn_1x_coco"),
    ],
    ids=["mask_rcnn", "cascade"],
)
def test_published_keys(tmp_path: Path, text: str, last: tuple[float, ...], table: str) -> None:
    (tmp_path / "config.yml").write_text(PARTS + text)
    config = load_config(str(tmp_path / "config.yml"))
    model = create(config, config.architecture)
    names = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    assert names == shapes(Path(__file__).parent / f"{table}.tsv")
    assert model.bbox_head.bbox_stds[-1] == pytest.approx(last)
    assert create(config, "LearningRate")(10).get_lr() == pytest.approx(0.01 * 0.001)
    assert [create(config, name).batch_size for name in ("TrainReader", "EvalReader")] == [1, 1]


def test_settings_of_the_configs_for_paddledetections_checkpoints() -> None:
    root = Path(__file__).resolve().parents[2] / "configs"
    for name in ("mask_rcnn/paddledet_mask_rcnn", "cascade_mask_rcnn/paddledet_cascade_mask_rcnn"):
        config = load_config(str(root / f"{name}_r50_fpn_1x_coco.yml"))
        merge_config({"use_gpu": False, "ResNet": {"depth": 50, "ch_in": 8}, "FPN": {"out_channel": 8}}, config)
        model = create(config, config.architecture)
        rpn, head = model.rpn_head, model.bbox_head
        assert (rpn.rpn_target_assign.allowed_border, rpn.smooth_l1_beta, rpn.loss_divisor) == (-1, 0, "quota")
        assert (rpn.train_proposal.min_size, rpn.test_proposal.min_size) == (1, 1)
        assert head.smooth_l1_beta == 0 and not head.bbox_assigner.allow_low_quality
        assert not any(parameter.trainable for name, parameter in model.backbone.named_parameters() if "norm" in name)
        readers = [create(config, reader) for reader in ("EvalReader", "TestReader")]
        assert [reader.transforms[1].interp for reader in readers] == [2, 2]
    assert (head.score_average, head.keep_gt) == ("probabilities", True)
    assert (head.bbox_assigner.add_gt, head.bbox_assigner.draw_later_stages) == ([True, False, False], False)
    assert sum(head.stage_loss_weights) == pytest.approx(1, abs=1e-5)
