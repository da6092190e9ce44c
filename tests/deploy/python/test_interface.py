"""What infer_cfg.yml says of the graph's inputs and outputs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from deploy.common.errors import UserError
from deploy.python.interface import Interface

FILE = Path("m/infer_cfg.yml")
PROMPT = {"name": "prompt", "shape": ["B", 2], "dtype": "float32"}
BOXED = ["bbox", "bbox_num", "mask"]


def read(has_masks: bool = True, **config: Any) -> Interface:
    return Interface.from_config(config, has_masks, FILE)


def test_a_file_without_the_keys() -> None:
    for has_masks in (True, False):
        interface = read(has_masks)
        assert interface.inputs == ("image", "im_shape", "scale_factor") and len(interface.extra_inputs) == 0
        assert interface.has_boxes and interface.frame == "box" and interface.outputs is None


@pytest.mark.parametrize(
    ("frame", "outputs", "has_boxes"),
    [
        ("box", BOXED, True),
        ("box", [*BOXED, "mask_score"], True),
        ("image", [*BOXED, "mask_extent", "mask_score"], True),
        ("affine", [*BOXED, "mask_matrix"], True),
        ("image", ["instances", "bbox_num", "mask", "mask_extent"], False),
        ("affine", ["instances", "bbox_num", "mask", "mask_matrix"], False),
    ],
)
def test_every_frame(frame: str, outputs: list[str], has_boxes: bool) -> None:
    interface = read(mask_frame=frame, outputs=outputs, inputs=["image", "prompt"], extra_inputs=[PROMPT])
    assert (interface.frame, interface.has_boxes, interface.outputs) == (frame, has_boxes, tuple(outputs))
    assert interface.inputs == ("image", "prompt")
    (prompt,) = interface.extra_inputs
    assert (prompt.name, prompt.shape, prompt.dtype) == ("prompt", ("B", 2), "float32")


def test_outputs_are_named_by_the_file_or_by_their_position() -> None:
    arrays = [np.full(1, place) for place in range(4)]
    named = read(outputs=["bbox_num", "mask", "bbox"]).named_outputs(arrays[:3], True, Path("g"))
    assert {name: int(array[0]) for name, array in named.items()} == {"bbox_num": 0, "mask": 1, "bbox": 2}
    by_position = read().named_outputs(arrays, True, Path("g"))
    assert {name: int(array[0]) for name, array in by_position.items()} == {"bbox": 0, "bbox_num": 1, "mask": 2}
    assert list(read(False).named_outputs(arrays, False, Path("g"))) == ["bbox", "bbox_num"]
    for interface, count in ((read(), 2), (read(outputs=BOXED), 4), (read(outputs=BOXED), 2)):
        with pytest.raises(UserError, match=rf"g returns {count} outputs instead of 3 \(bbox, bbox_num, mask\)"):
            interface.named_outputs(arrays[:count], True, Path("g"))


def extra(**changes: Any) -> dict[str, Any]:
    return {"extra_inputs": [{**PROMPT, **changes}]}


WRONG: list[tuple[dict[str, Any], str]] = [
    *(({"mask_frame": value}, "mask_frame is") for value in ("Box", "", False, 1, ["box"], {}, True)),
    *(({"inputs": value}, "inputs is") for value in ("image", [], {}, [1], [None], [""], ["x" * 101], ["image"] * 65)),
    ({"inputs": ["image", "image"]}, "inputs lists image twice"),
    ({"inputs": ["image", "prompt"]}, "inputs lists prompt, which extra_inputs does not describe"),
    ({"inputs": ["im_shape"]}, "inputs does not list image"),
    ({"inputs": ["image"], **extra()}, "inputs does not list prompt"),
    *(({"outputs": value}, "outputs is") for value in ("bbox", [], [1], {"bbox": 0}, 3, True)),
    ({"outputs": ["bbox", "bbox", "bbox_num", "mask"]}, "outputs lists bbox twice"),
    ({"outputs": ["boxes", "bbox_num", "mask"]}, "outputs lists boxes, expected some of bbox, instances"),
    ({"outputs": ["bbox_num", "mask"]}, "outputs must have either bbox or instances"),
    ({"outputs": ["bbox", "instances", "bbox_num", "mask"]}, "outputs must have either bbox or instances"),
    ({"outputs": ["bbox", "mask"]}, "outputs lacks bbox_num"),
    ({"outputs": ["bbox", "bbox_num"]}, "outputs lacks mask, but the key mask is true"),
    ({"mask": False, "outputs": BOXED}, "outputs has mask, but the key mask is false"),
    ({"mask": False, "outputs": ["instances", "bbox_num"]}, "but the key mask is false"),
    ({"mask": False, "outputs": ["bbox", "bbox_num", "mask_score"]}, "but the key mask is false"),
    ({"mask_frame": "image", "outputs": BOXED}, "in the frame box, but mask_frame is image"),
    ({"mask_frame": "image"}, "in the frame box, but mask_frame is image"),
    ({"outputs": [*BOXED, "mask_matrix"]}, "in the frame affine, but mask_frame is box"),
    ({"mask_frame": "image", "outputs": [*BOXED, "mask_extent", "mask_matrix"]}, "both mask_extent and mask_matrix"),
    ({"outputs": ["instances", "bbox_num", "mask"]}, "outputs has no bbox, which masks in the frame box need"),
    *(({"extra_inputs": value}, "extra_inputs") for value in ("prompt", {"prompt": [2]}, [1], [[]], [PROMPT] * 65)),
    ({"extra_inputs": [PROMPT, PROMPT]}, "describes prompt, which is described already"),
    (extra(name="image"), "describes image, which is described already"),
    *((extra(name=value), "extra_inputs has the name") for value in (None, 1, "", "x" * 101, ["a"])),
    *((extra(dtype=value), "has the dtype") for value in (None, "float16", "object", 32, ["float32"])),
    *(
        (extra(shape=value), "has the shape")
        for value in (None, "B", [], [2, "B"], ["b", 2], [0], [-1], [1.5], [True], [1 << 40], ["B"] + [1] * 8, {"B": 2})
    ),
    ({"extra_inputs": [{"name": "prompt"}]}, "prompt has the dtype None"),
    (extra(name="\x1b[31m", dtype="x"), "\\x1b[31m has the dtype"),
]


@pytest.mark.parametrize(("change", "culprit"), WRONG, ids=[str(change)[:60] for change, _ in WRONG])
def test_nonsense_is_named(change: dict[str, Any], culprit: str) -> None:
    with pytest.raises(UserError) as caught:
        Interface.from_config(change, change.get("mask", True), FILE)
    message = str(caught.value)
    assert culprit in message and message.startswith("m/infer_cfg.yml: ") and message.endswith("export the model again")
    assert len(message) < 400 and "\x1b" not in message and "\n" not in message
