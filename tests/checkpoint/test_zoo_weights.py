"""Weights by the zoo's names and by addresses: the table, the download, the conversion that is kept."""

from __future__ import annotations

import hashlib
import io
import re
import urllib.error
import urllib.request
from email.message import Message
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ppdet.checkpoint.fetch import local_weights
from ppdet.checkpoint.weight_files import read_weights
from ppdet.checkpoint.zoo import ZOO, Published, close_names
from ppdet.structures.categories import Categories
from ppdet.utils.errors import UserError
from tests.checkpoint.formats.pth_files import write_pth

pytestmark = pytest.mark.same_on_every_paddle

FOLDERS = ("htc", "cascade_mask_rcnn", "mask_rcnn")
OFFICIAL = {
    "backbone.conv1.weight": np.ones((2, 3, 7, 7), np.float32),
    "roi_head.bbox_head.fc_cls.weight": np.arange(162, dtype=np.float32).reshape(81, 2),
    "backbone.bn1.num_batches_tracked": np.zeros(1, np.int64),
}


def test_every_published_checkpoint_has_an_entry(repo_root: Path) -> None:
    configs = {path.stem for folder in FOLDERS for path in (repo_root / "configs" / folder).glob("*_coco.yml")}
    assert set(ZOO) == configs - {"htc_without_semantic_r50_fpn_1x_coco"}  # of which none is published


def test_the_readmes_link_what_the_table_has(repo_root: Path) -> None:
    rows: dict[str, tuple[str, float, float]] = {}
    for folder in FOLDERS:
        text = (repo_root / "configs" / folder / "README.md").read_text(encoding="utf-8")
        for name, boxes, masks, file, url in re.findall(
            r"^\| `(\w+)` \|(?:.*?\|)? ([\d.]+) \| ([\d.]+) \| \[(\S+)\]\((https\S+)\) \|$", text, re.M
        ):
            assert url.endswith(f"/{file}")
            rows[name] = (url, float(boxes), float(masks))
    assert rows == {name: tuple(entry) for name, entry in ZOO.items()}


@pytest.mark.parametrize("name", ZOO)
def test_addresses(name: str) -> None:
    url = ZOO[name].url
    if name.startswith("paddledet_"):
        assert url == f"https://paddledet.bj.bcebos.com/models/{name[len('paddledet_') :]}.pdparams"
    else:
        assert re.fullmatch(r"https://download\.openmmlab\.com/mmdetection/v2\.0/\w+/\S+/\S+-[0-9a-f]{8}\.pth", url)
        folder, file = url.rsplit("/", 2)[-2:]
        assert file.startswith(folder)


class Server:
    """Answers requests with one file; counts them."""

    def __init__(self, content: bytes) -> None:
        self.content, self.requests = content, 0

    def __call__(self, request: urllib.request.Request) -> Any:
        self.requests += 1
        response: Any = io.BytesIO(self.content)
        response.status, response.headers = 200, Message()
        return response


@pytest.fixture
def published(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Server:
    """A small checkpoint in the zoo, as ``small_coco``."""
    server = Server(write_pth(tmp_path / "x.pth", OFFICIAL).read_bytes())
    digest = hashlib.sha256(server.content).hexdigest()[:8]
    entry = Published(f"https://download.openmmlab.com/mmdetection/v2.0/small/small-{digest}.pth", 1.0, 1.0)
    monkeypatch.setitem(ZOO, "small_coco", entry)
    monkeypatch.chdir(tmp_path)
    return server


@pytest.mark.parametrize("text", ["small_coco", "zoo://small_coco", "URL"])
def test_downloaded_once_and_converted_once(published: Server, text: str, tmp_path: Path) -> None:
    text = ZOO["small_coco"].url if text == "URL" else text
    file = local_weights(text, "weights", tmp_path / "cache", published)
    content = read_weights(file)
    assert set(content.arrays) == {"backbone.conv1.conv1.conv.weight", "bbox_head.bbox_score.weight"}
    np.testing.assert_array_equal(content.arrays["bbox_head.bbox_score.weight"], np.arange(162).reshape(81, 2).T)
    assert content.categories == Categories.coco()
    written = file.stat().st_mtime_ns
    for again in (text, "zoo://small_coco"):
        assert local_weights(again, "weights", tmp_path / "cache", published) == file
    assert published.requests == 1 and file.stat().st_mtime_ns == written


def test_another_file_than_the_published_one_is_refused(published: Server, tmp_path: Path) -> None:
    published.content += b"\0"
    with pytest.raises(UserError, match=r"small-\w+\.pth: the sha256 of the downloaded file is not the expected one"):
        local_weights("small_coco", "weights", tmp_path / "cache", published)
    assert not [path for path in (tmp_path / "cache").rglob("*.pth*") if not path.name.startswith(".")]


def test_a_file_of_that_name_comes_first(published: Server, tmp_path: Path) -> None:
    (tmp_path / "small_coco.pdparams").write_bytes(b"")
    assert local_weights("small_coco", "weights", tmp_path / "cache", published) == Path("small_coco.pdparams")
    assert published.requests == 0
    assert local_weights("zoo://small_coco", "weights", tmp_path / "cache", published).suffix == ".safetensors"


def test_offline_says_address_place_and_setting(published: Server, tmp_path: Path) -> None:
    def refuse(request: urllib.request.Request) -> Any:
        raise urllib.error.URLError("Name or service not known")

    url = ZOO["small_coco"].url
    place = tmp_path / "cache" / "download.openmmlab.com" / "mmdetection" / "v2.0" / "small" / url.rsplit("/", 1)[1]
    for key, ending in (("weights", ")"), ("pretrain_weights", "set pretrain_weights= (empty) to start without them")):
        with pytest.raises(UserError, match=re.escape(url)) as caught:
            local_weights("small_coco", key, tmp_path / "cache", refuse)
        assert str(place) in str(caught.value) and f"set {key} to the file" in str(caught.value)
        assert str(caught.value).endswith(ending)
    # put there by hand it is taken without a request
    place.write_bytes(published.content)
    assert read_weights(local_weights("small_coco", "weights", tmp_path / "cache", refuse)).categories is not None


def test_addresses_of_others(tmp_path: Path) -> None:
    server = Server(write_pth(tmp_path / "x.pth", OFFICIAL).read_bytes())
    file = local_weights("https://example.org/models/mine-12345678.pth", "weights", tmp_path / "cache", server)
    content = read_weights(file)
    assert "bbox_head.bbox_score.weight" in content.arrays and content.categories is None


def test_names_that_are_not_in_the_zoo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert close_names("htc_r50_fpn_1x")[0] == "htc_r50_fpn_1x_coco" and close_names("x" * 10_000_000) == []
    with pytest.raises(UserError, match=r"zoo has no such name; did you mean htc_r50_fpn_1x_coco"):
        local_weights("zoo://htc_r50_fpn_1x", "weights")
    with pytest.raises(UserError, match=r"do not exist; .* name of the zoo: weights=htc_r50_fpn_1x_coco"):
        local_weights("htc_r50_fpn_1x", "weights")
    with pytest.raises(UserError, match=r"such as -o weights=output/NAME/best_model$"):
        local_weights("output/htc_r50_fpn_1x", "weights")
