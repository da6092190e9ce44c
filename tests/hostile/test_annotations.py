"""Annotation files that are wrong: refused with a line, or trained on with a warning that names what is odd."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from dataset.make_subset import make_subset
from ppdet.data.reader import TrainReader
from ppdet.data.semantic_maps import SemanticMapMaker, write_maps
from ppdet.metrics import COCOMetric
from ppdet.utils.errors import UserError
from tests.hostile import mutations
from tests.hostile.conftest import Bench
from tests.hostile.mutations import evaluation_set, replaced, runs, thing, training_set

BOXES = ("image", "gt_bbox", "gt_class")


def nested(depth: int) -> Any:
    value: list[Any] = []
    for _ in range(depth):
        value = [value]
    return value


HOSTILE: list[Any] = [
    None, True, "no", "", -1, 0, 0.5, 1e7, 1e308, float("nan"), float("inf"), 10**400, -(10**400), 2**53 + 1, 2**64,
    [], {}, [[]], [1, 1, 5, 1, 5, 5], [[[1, 1], [5, 1], [5, 5]]], [[10**400] * 6], [["a"] * 6], nested(400), "\ud800",
    "\x1b[31m", "../../x.png", "/etc/passwd", "a" * 10_000, {"size": [40, 60], "counts": [2400]},
    {"size": [10**9, 10**9], "counts": [10**18]}, {"size": [40, 60], "counts": "o" * 16},
    {"size": [40, 60], "counts": "\ud800"}, [[0, 0, 9e5, 9e5, 0, 8e5] * 50],
]  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    mutations.write_images(tmp_path / "images")
    return tmp_path


@pytest.fixture
def warnings() -> Iterator[list[str]]:
    """Messages of the level warning, as they are logged."""
    seen: list[str] = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: seen.append(record.getMessage())  # type: ignore[method-assign]
    logger = logging.getLogger("ppdet")
    logger.addHandler(handler)
    yield seen
    logger.removeHandler(handler)


def change(folder: Path, edit: Callable[[dict[str, Any]], Any]) -> None:
    content = mutations.valid_content()
    edit(content)
    mutations.write(folder, content)


def each(**values: Any) -> Callable[[dict[str, Any]], None]:
    """An edit of all annotations; a callable makes the value of the annotation."""

    def edit(content: dict[str, Any]) -> None:
        for annotation in content["annotations"]:
            made = {key: value(annotation) if callable(value) else value for key, value in values.items()}
            annotation.update(made)

    return edit


def test_the_valid_file_is_valid(folder: Path, warnings: list[str]) -> None:
    mutations.write(folder, mutations.valid_content())
    assert [len(sample.boxes) for sample in mutations.train_on(folder)] == [2, 2]
    assert set(mutations.evaluate_on(folder)) == {"bbox", "mask"}
    assert [labels.shape for labels in mutations.map_of(folder)] == [(40, 60)] * 2
    assert warnings == []


@pytest.mark.same_on_every_paddle
def test_any_value_may_be_hostile(folder: Path, warnings: list[str]) -> None:
    """Each value replaced by some of the hostile ones: refused in a line, or what is lost is named in a warning."""
    base, rng = mutations.valid_content(), np.random.default_rng(5)
    refused = accepted = 0
    for path in mutations.leaves(base):
        if len(path) > 5 and path[-1] not in (0, 3):
            continue  # of long lists of numbers two are enough
        for index in rng.permutation(len(HOSTILE))[:4]:
            mutations.write(folder, replaced(base, path, HOSTILE[index]))
            for use in (mutations.train_on, mutations.map_of, mutations.evaluate_on):
                warnings.clear()
                try:
                    with contextlib.redirect_stdout(io.StringIO()):
                        result = use(folder)
                except UserError as error:
                    refused += 1
                    assert "a.json" in str(error) or ".png" in str(error), (path, str(error))
                    assert "\n" not in str(error), str(error)
                    continue
                accepted += 1
                lost = use is mutations.train_on and sum(len(sample.boxes) for sample in result) < 4
                if lost and path[-1] not in ("iscrowd", "ignore"):
                    assert any("annotation" in line or "too small" in line for line in warnings), (path, HOSTILE[index])
    assert refused > 200 and accepted > 200


NOTHING_LEFT = {
    "normalised boxes": (
        each(bbox=[0.1, 0.2, 0.3, 0.4]),
        "5 under one pixel.*in pixels, not in fractions",
    ),
    "flat polygons": (each(segmentation=[1, 1, 9, 1, 9, 9], iscrowd=0), "5 without a valid outline.*list of polygons"),
    "paired polygons": (each(segmentation=[[[1, 1], [9, 1], [9, 9]]]), "without a valid outline.*list of polygons"),
    "garbage runs": (each(segmentation={"size": [40, 60], "counts": "zzz"}), "without a valid outline"),
    "huge polygons": (each(segmentation=[[0, 0, 9e5, 9e5, 0, 8e5]]), "without a valid outline"),
    "no outlines": (each(segmentation=[]), "5 without a valid outline.*does not need gt_poly"),
    "all crowds": (each(iscrowd=1), "5 crowd regions, such as annotation 1 of 1.png.*load_crowd"),
    "all ignored": (each(ignore=1), "5 marked ignore, such as annotation 1 of 1.png"),
    "no areas": (each(area=0), "5 without area.*leave it out"),
    "boxes elsewhere": (each(bbox=[500, 500, 10, 10]), "5 outside of the image"),
    "no annotations": (lambda content: content.update(annotations=[]), "no annotations: there is nothing to train on"),
}


@pytest.mark.parametrize("case", NOTHING_LEFT)
def test_no_training_without_objects(folder: Path, case: str) -> None:
    edit, words = NOTHING_LEFT[case]
    change(folder, edit)
    with pytest.raises(UserError, match=rf"a\.json .*{words}"):
        training_set(folder)


@pytest.mark.parametrize("flag", ["iscrowd", "ignore"])
@pytest.mark.parametrize("value", ["no", 2, [], 0.5])
def test_flags_are_0_or_1(folder: Path, flag: str, value: Any) -> None:
    change(folder, lambda content: content["annotations"][1].update({flag: value}))
    for training in (True, False):
        with pytest.raises(UserError, match=rf"annotation 2 in .*a\.json has {flag} .*expected 0 or 1"):
            training_set(folder) if training else evaluation_set(folder)


def test_ignored_objects_do_not_train(folder: Path, warnings: list[str]) -> None:
    change(folder, lambda content: content["annotations"][0].update(ignore=1))
    samples = mutations.train_on(folder)
    assert [sample.boxes.tolist() for sample in samples][0] == [[5, 6, 25, 16]]
    assert len(samples[1].boxes) == 2
    assert warnings == [], "what somebody wrote on purpose is no reason to warn"
    before = mutations.evaluate_on(folder)
    change(folder, lambda content: None)
    assert mutations.evaluate_on(folder) == before, "pycocotools measures what is marked ignore"


WARNED = {
    "xyxy boxes": (
        each(bbox=lambda a: [*a["bbox"][:2], a["bbox"][0] + a["bbox"][2], a["bbox"][1] + a["bbox"][3]]),
        r"do not match their outlines; they look like \[x1, y1, x2, y2\].*annotation 1 of 1\.png",
    ),
    "moved boxes": (each(bbox=[0, 30, 10, 9]), "do not match their outlines; a bbox is .*annotation 1 of 1.png"),
    "outlines in 0..1": (
        each(segmentation=[[0.1, 0.1, 0.5, 0.1, 0.5, 0.5]], iscrowd=0),
        r"the outlines look like fractions of the image .*annotation 1 of 1\.png",
    ),
    "a box beyond": (
        lambda content: content["annotations"][4].update(bbox=[50, 20, 30, 10]),
        r"boxes of 1 of 5 objects exceed their images.*annotation 5 of 2\.png \(bbox \[50, 20, 30, 10\]",
    ),
    "many dropped": (
        lambda content: content["annotations"][4].update(segmentation=[1, 2, 3, 4, 5, 6]),
        r"1 of 5 objects are without a valid outline and are not trained on.*list of polygons.*annotation 5 of 2\.png",
    ),
    "small images": (
        lambda content: content["images"][0].update(height=31, width=40),
        r"1 with a side under 32 pixels, .*too small: 1\.png",
    ),
}


@pytest.mark.parametrize("case", WARNED)
def test_what_looks_wrong_is_named(folder: Path, case: str, warnings: list[str]) -> None:
    edit, words = WARNED[case]
    change(folder, edit)
    training_set(folder)
    joined = "\n".join(warnings)
    assert re.search(words, joined), joined
    if "box" in case:
        warnings.clear()
        evaluation_set(folder)
        assert re.search(words, "\n".join(warnings)), "an evaluation says it, too"


def test_peculiarities_of_coco_do_not_warn(folder: Path, warnings: list[str]) -> None:
    """Boxes a little beyond the image, outlines beyond it, missing keys, flags as booleans, extra keys, any order."""

    def edit(content: dict[str, Any]) -> None:
        one, two, three, _, five = content["annotations"]
        one.update(bbox=[45, 10, 15.8, 15], segmentation=[[45, 10, 61.5, 10, 61.5, 25, 45, 25]], caption={"a": None})
        del two["area"], two["iscrowd"]
        three.update(iscrowd=False, area=None, ignore=None, id="three")
        five.update(bbox=[40.51, 10.24, 10.02, 12.01], attributes=nested(30))
        content["annotations"].reverse()
        content["images"].reverse()
        content["licenses"] = "\ud800"

    change(folder, edit)
    assert sorted(len(sample.boxes) for sample in mutations.train_on(folder)) == [2, 2]
    assert mutations.evaluate_on(folder)["bbox"][0] > -1
    assert warnings == []


FILES = {
    "deep nesting": ("[" * 100_000, "nested too deeply"),
    "many digits": ('{"images": [' + "9" * 100_000 + "]}", "digits|no list|without id"),
    "cut off": ('{"images": [{"id": 1', "not valid JSON, or it is truncated"),
    "not UTF-8": (b'{"images": "\xff"}', "not UTF-8"),
    "a NaN": ('{"images": [{"id": NaN, "file_name": "a"}], "categories": []}', "without id"),
}


@pytest.mark.parametrize("case", FILES)
def test_files_that_are_no_annotations(folder: Path, case: str) -> None:
    content, words = FILES[case]
    (folder / "a.json").write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UserError, match=words) as caught:
        training_set(folder)
    assert "a.json" in str(caught.value)


def test_a_byte_order_mark_is_no_mistake(folder: Path) -> None:
    (folder / "a.json").write_bytes(b"\xef\xbb\xbf" + json.dumps(mutations.valid_content()).encode())
    assert len(training_set(folder)) == 2


NAMES = ["/etc/passwd", "../1.png", "a/../../1.png", "..\\1.png", "C:\\1.png", "\\\\host\\1.png", "a\0b", "\ud800.png",
         "\x1b[2J.png", "", "n" * 5000]  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_file_names_stay_inside_the_image_folder(folder: Path, name: str) -> None:
    change(folder, lambda content: content["images"][1].update(file_name=name))
    uses: list[Callable[[], Any]] = [
        lambda: training_set(folder),
        lambda: evaluation_set(folder),
        lambda: SemanticMapMaker(str(folder / "a.json")),
        lambda: make_subset(folder / "a.json", folder / "images", [1], folder / "out"),
    ]
    for use in uses:
        with pytest.raises(UserError, match=r"^image 2 in .*a\.json has the file_name .*, which ") as caught:
            use()
        assert len(str(caught.value)) < 400 + len(str(folder)) and "\x1b" not in str(caught.value)
    assert not (folder / "out").exists()


@pytest.mark.parametrize("side", [-1, 0.5, "640", 1e300, 10**400, 2**21, [480]])
def test_sides_of_images_are_numbers_of_pixels(folder: Path, side: Any) -> None:
    change(folder, lambda content: content["images"][1].update(height=side))
    for training in (True, False):
        with pytest.raises(UserError, match=r"^image 2 in .*a\.json has"):
            training_set(folder) if training else evaluation_set(folder)


def test_long_edges_take_no_memory(folder: Path) -> None:
    """pycocotools would lay out every pixel of the edges: four gigabytes here."""
    zigzag = [value for number in range(500) for value in (number % 50, (-9e5, 9e5)[number % 2])]
    change(folder, lambda content: content["annotations"][0].update(segmentation=[zigzag]))
    assert [len(sample.boxes) for sample in mutations.train_on(folder)] == [1, 2]
    assert (mutations.map_of(folder)[0] == 0).sum() == 0, "category 2 is not drawn"
    assert mutations.evaluate_on(folder)["mask"][0] < mutations.evaluate_on(folder)["bbox"][0]


def test_long_edges_inside_the_budget_are_drawn(folder: Path) -> None:
    change(folder, lambda content: content["annotations"][0].update(segmentation=[[0, 0, 9000, 0, 9000, 30, 0, 30]]))
    assert mutations.train_on(folder)[0].masks[0].sum() == 60 * 30


@pytest.mark.same_on_every_paddle
def test_more_masks_than_memory_are_refused(folder: Path) -> None:
    big = {"size": [2**15, 2**15], "counts": [2**30]}
    change(folder, lambda content: content["images"][0].update(height=2**15, width=2**15))
    content = json.loads((folder / "a.json").read_text())
    content["annotations"] = [thing(n, 1, [0, 0, 99, 99], segmentation=big) for n in range(17)]
    mutations.write(folder, content)
    maker = SemanticMapMaker(str(folder / "a.json"))
    with pytest.raises(UserError, match=r"1\.png cannot be drawn: 17 objects of 32768 x 32768 .*more than 16 GB"):
        maker.make(maker.images[0])


def test_run_lengths_of_another_size_are_refused_at_the_start(folder: Path) -> None:
    turned = {"size": [60, 40], "counts": [0, 2400]}
    change(folder, lambda content: content["annotations"][2].update(segmentation=turned))
    words = r"annotation 3 in .*a\.json has run lengths of 40 x 60 .*2\.png has 60 x 40"
    for use in (mutations.train_on, mutations.map_of, mutations.evaluate_on):
        with pytest.raises(UserError, match=words):
            use(folder)
    assert len(training_set(folder, data_fields=BOXES, semantic=None)) == 2, "boxes alone need no run lengths"


@pytest.mark.parametrize(
    "number", [-5, 2**53 + 1, 2**63 - 1, -(2**63), pytest.param(2**63, id="too large"), pytest.param(2**64, id="more")]
)
def test_ids_up_to_64_bits(folder: Path, number: int) -> None:
    """Image and category ids as large as 64 bits hold are measured like any other; larger ones are refused."""
    change(folder, lambda content: None)
    expected = mutations.evaluate_on(folder)

    def edit(content: dict[str, Any]) -> None:
        for key, entries in (("image_id", content["images"]), ("category_id", content["categories"])):
            old, entries[0]["id"] = entries[0]["id"], number
            for annotation in content["annotations"]:
                if annotation[key] == old:
                    annotation[key] = number
        if number < 0:  # the order of the ids is that of the classes: 2 before 7, so the smaller one is now 7's
            content["categories"][1]["id"], content["categories"][0]["id"] = number, 2
            for annotation in content["annotations"]:
                annotation["category_id"] = 2 if annotation["category_id"] == number else number

    change(folder, edit)
    if number >= 2**63:
        for use in (mutations.train_on, mutations.evaluate_on):
            with pytest.raises(UserError, match=r"a\.json has an image without id \(an integer of 64 bits\)"):
                use(folder)
        return
    assert len(mutations.train_on(folder)) == 2
    assert mutations.evaluate_on(folder) == expected


def test_neighbouring_large_ids_are_two_images(folder: Path) -> None:
    """As floating point numbers 2**53 and 2**53 + 1 are the same."""
    change(folder, lambda content: None)
    expected = mutations.evaluate_on(folder)

    def edit(content: dict[str, Any]) -> None:
        for entry, key in [*((i, "id") for i in content["images"]), *((a, "image_id") for a in content["annotations"])]:
            entry[key] += 2**53 - 1

    change(folder, edit)
    assert mutations.evaluate_on(folder) == expected


def reference(path: Path, rows: list[dict[str, Any]], kind: str) -> list[float]:
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(path))
        evaluation = COCOeval(truth, truth.loadRes(rows), kind)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return [float(value) for value in evaluation.stats[:12]]


def test_odd_but_valid_files_are_measured_as_by_pycocotools(folder: Path) -> None:
    """Sub-folders, any order of ids, ignore flags, run lengths without crowds, empty outlines beside others."""
    names = {1: "a/1.png", 2: "a/b/2.png"}
    for name in names.values():
        (folder / "images" / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / "images" / name).write_bytes((folder / "images" / name.rsplit("/", 1)[1]).read_bytes())

    def edit(content: dict[str, Any]) -> None:
        for image in content["images"]:
            image["file_name"] = names[image["id"]]
            image["id"] = {1: 2**40, 2: 9}[image["id"]]
        for annotation in content["annotations"]:
            annotation["image_id"] = {1: 2**40, 2: 9}[annotation["image_id"]]
        content["annotations"][4].update(ignore=1, extra=[])

    change(folder, edit)
    mutations.evaluate_on(folder)
    for kind, coco_kind in (("bbox", "bbox"), ("mask", "segm")):
        rows = json.loads((folder / "out" / f"{kind}.json").read_text())
        metric = COCOMetric(evaluation_set(folder))
        metric.load_results({kind: rows})
        metric.accumulate()
        np.testing.assert_allclose(metric.get_results()[kind], reference(folder / "a.json", rows, coco_kind), atol=1e-9)


def test_images_without_sizes_beside_others(folder: Path) -> None:
    def edit(content: dict[str, Any]) -> None:
        del content["images"][1]["height"]

    change(folder, edit)
    with pytest.raises(UserError, match=r"image 2 .*2\.png.* has no width and height"):
        training_set(folder)
    with pytest.raises(UserError, match=r"image 2 \(2\.png\) .* has no width and height, which masks cannot"):
        mutations.evaluate_on(folder)
    change(folder, lambda content: (edit(content), each(segmentation=[])(content)))
    assert list(mutations.evaluate_on(folder)) == ["bbox"]


def test_evaluation_needs_annotations(bench: Bench) -> None:
    content = {**bench.annotations("val"), "annotations": []}
    empty = str(bench.write("empty.json", content))
    words = ("empty.json", "no annotations", "--save_prediction_only")
    bench.refused("eval", "-o", f"EvalDataset.anno_path={empty}", names=words)
    bench.refused("train", "--eval", "-o", f"EvalDataset.anno_path={empty}", names=words)
    bench.refused("eval", "--json_eval", "-o", f"EvalDataset.anno_path={empty}", names=words[:2])


RESULTS: list[tuple[str, Any, str]] = [
    ("a foreign image", {"image_id": 99}, "image 99"),
    ("a foreign category", {"category_id": 99}, "category_id 99"),
    ("a text for a score", {"score": "high"}, "score"),
    ("half a box", {"bbox": [1, 2]}, "bbox"),
    ("a number of 400 digits", {"bbox": [1, 2, 3, 10**400]}, "bbox"),
]


@pytest.mark.parametrize(("case", "change", "named"), RESULTS, ids=[case for case, _, _ in RESULTS])
def test_results_that_do_not_fit(bench: Bench, case: str, change: dict[str, Any], named: str) -> None:
    truth = bench.annotations("val")
    good = {"image_id": truth["images"][0]["id"], "category_id": truth["categories"][0]["id"], "score": 0.5}
    good["bbox"] = [1, 2, 3, 4]
    bench.write("found/bbox.json", [good, {**good, **change}])
    arguments = ("--json_eval", "--output_eval", str(bench.folder / "found"))
    bench.refused("eval", *arguments, names=("result 1 of bbox.json", named))
    bench.write("found/bbox.json", "[" * 100_000)
    bench.refused("eval", *arguments, names=("bbox.json", "nested too deeply"))


def test_training_refuses_through_the_tool(bench: Bench) -> None:
    content = bench.annotations()
    for annotation in content["annotations"]:
        annotation["bbox"] = [value / 112 for value in annotation["bbox"]]
    normalised = str(bench.write("normalised.json", content))
    bench.refused("train", "-o", f"TrainDataset.anno_path={normalised}", names=("no object", "annotation 1", "pixels"))
    bench.refused(
        "train", "-o", "TrainReader.batch_size=84", names=("84", "only 4 training images", "TrainReader.batch_size")
    )
    bench.refused("train", "-o", "num_classes=80", names=("6 categories", "is 80", "set num_classes to 6"))
    bench.refused("train", "-o", "TrainDataset=ImageFolder", names=("TrainDataset (ImageFolder)", "COCODataSet"))


@pytest.mark.parametrize(("images", "batch", "processes", "named"), [(2, 3, 1, "2 or less"), (3, 2, 2, "1 or less")])
def test_batches_hold_no_more_than_the_data_set(
    folder: Path, monkeypatch: pytest.MonkeyPatch, images: int, batch: int, processes: int, named: str
) -> None:
    class Images:
        def __len__(self) -> int:
            return images

        def is_landscape(self, index: int) -> bool:
            return index == 0

    monkeypatch.setattr("paddle.distributed.get_world_size", lambda: processes)
    with pytest.raises(
        UserError, match=f"batch size of TrainReader is {batch}.* only {images} training images.*{named}"
    ):
        TrainReader(batch_size=batch)._sampler(Images())
    sampler: Any = TrainReader(batch_size=images // processes)._sampler(Images())
    assert len(sampler) >= 1, "one image of another orientation is repeated, as by mmdetection's sampler"


def test_maps_keep_the_sub_folders_of_their_images(folder: Path) -> None:
    """Two images of one name in two folders have two maps."""
    for number, name in ((1, "a"), (2, "b")):
        (folder / "images" / name).mkdir()
        (folder / "images" / name / "same.png").write_bytes((folder / "images" / f"{number}.png").read_bytes())

    def edit(content: dict[str, Any]) -> None:
        for image, name in zip(content["images"], "ab"):
            image["file_name"] = f"{name}/same.png"

    change(folder, edit)
    write_maps(SemanticMapMaker(str(folder / "a.json")), folder / "maps", progress=False)
    assert sorted(path.relative_to(folder).as_posix() for path in (folder / "maps").rglob("*.png")) == [
        "maps/a/same.png",
        "maps/b/same.png",
    ]
    settings = {"kind": "png", "dir": "maps"}
    first, second = mutations.train_on_maps(folder, settings)
    assert not np.array_equal(first.semantic, second.semantic)
    np.testing.assert_array_equal(first.semantic, mutations.map_of(folder)[0])
    (folder / "maps" / "a" / "same.png").rename(folder / "maps" / "same.png")
    np.testing.assert_array_equal(mutations.train_on_maps(folder, settings)[0].semantic, first.semantic)
    (folder / "maps" / "b" / "same.png").unlink()
    with pytest.raises(
        UserError, match=r"a/same\.png and b/same\.png would share .*maps/same\.png: .*maps/b/same\.png"
    ):
        training_set(folder, semantic=settings)


def test_run_lengths_equal_pycocotools() -> None:
    """The helper of these tests is right."""
    from ppdet.data.transform.functional.masks import rasterize

    bitmap = rasterize(runs(5, 6, 20, 10), 40, 60)
    assert bitmap.sum() == 200 and bitmap[6:16, 5:25].all()
