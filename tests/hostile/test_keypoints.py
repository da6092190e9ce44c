"""Keypoints in annotation files that are not as COCO has them."""

from __future__ import annotations

from typing import Any

from tests.hostile.conftest import Bench

FIELDS = "TrainDataset.data_fields=[image,gt_bbox,gt_class,gt_poly,gt_keypoint]"


def refused(bench: Bench, content: Any, *names: str) -> None:
    path = bench.write("keypoints.json", content)
    bench.refused("train", "-o", FIELDS, f"TrainDataset.anno_path={path}", names=(str(path), *names))


def test_a_file_without_keypoints(bench: Bench) -> None:
    refused(bench, bench.annotations(), "no category", "'gt_keypoint' in data_fields", "leave 'gt_keypoint' out")


def test_keypoints_that_cannot_be_read(bench: Bench) -> None:
    content = bench.annotations()
    for category in content["categories"]:
        category["keypoints"] = ["head", "left_hand", "right_hand"]
    entry = content["annotations"][0]
    where = f"annotation {entry['id']} in"
    for keypoints, names in (
        ([1, 2, 2, 3], ("keypoints of 4 numbers", "expected 9", "x, y and visibility")),
        ([1, "2", 2] * 3, ("has '2' among its keypoints", "finite numbers")),
        ([1e400, 2, 2] * 3, ("has inf among its keypoints",)),
        ([1, 2, -1] * 3, ("visibility -1", "2 (visible)")),
        ("\u001b[31m", ("has keypoints of '\\x1b[31m'", "expected 9")),
    ):
        entry["keypoints"] = keypoints
        refused(bench, content, where, *names)
    content["categories"][0]["keypoints"] = ["\u001b[31m"]
    refused(bench, content, f"category {content['categories'][0]['id']} in", "list of different names")
    content["categories"][0]["keypoints"] = ["head", "left_hand"]
    refused(bench, content, "have different keypoints", "split the file by category")


def test_keypoints_train_nothing_and_harm_nothing(bench: Bench) -> None:
    content = bench.annotations()
    for category in content["categories"]:
        category["keypoints"] = ["head", "left_hand", "right_hand"]
    for number, entry in enumerate(content["annotations"]):
        entry["keypoints"] = [number % 2 * 5.0, 7, 2, 3, 4, 1, 0, 0, 0] if number % 3 else None
    path = bench.write("keypoints.json", content)
    outcome = bench.accepted("train", "-o", FIELDS, f"TrainDataset.anno_path={path}", "epoch=1", "worker_num=0")
    assert "loss" in outcome.out + outcome.err
