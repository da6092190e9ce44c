"""Input images of a command line, and the names of their outputs."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from deploy.common.errors import UserError
from deploy.common.image_files import Images, find_images
from deploy.common.picture_names import picture_names, stem_names

pytestmark = pytest.mark.same_on_every_paddle


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def make(*names: str) -> None:
    for name in names:
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_bytes(b"")


def test_images_named_in_each_way() -> None:
    make("x/b.JPG", "x/a.png", "x/c.txt")
    both = ["x/a.png", "x/b.JPG"]
    assert find_images("x/b.JPG", None, None).paths == both[1:]
    assert find_images(None, "x", None).paths == find_images("x", None, None).paths == both
    Path("list").write_text("b.JPG\n\na.png\n")
    assert find_images(None, "x", "list").paths == both[::-1]
    Path("list").write_text("a.png\nnone.png\n")
    with pytest.raises(UserError, match=r"x/none\.png in list does not exist \(1 of 2 files are missing\)"):
        find_images(None, "x", "list")
    with pytest.raises(UserError, match="must be relative to a single existing folder, not y"):
        find_images(None, "y", "list")
    with pytest.raises(UserError, match="add --infer_img FILE, --infer_dir FOLDER or --infer_list FILE"):
        find_images(None, None, None)


@pytest.mark.parametrize(
    ("sources", "paths", "base"),
    [
        ({"folder": "p/*.jpg"}, ["p/a.jpg", "p/b.jpg"], "p"),
        ({"image": "p/*.jpg"}, ["p/a.jpg", "p/b.jpg"], "p"),
        ({"folder": "p/**/c*.png"}, ["p/one/c.png", "p/one/two/c.png"], "p"),
        ({"folder": "p/**/two/**"}, ["p/one/two/c.png"], "p"),
        ({"folder": "p/on?"}, ["p/one/a.jpg", "p/one/c.png", "p/one/two/c.png"], "p"),
        ({"folder": "p/*/[ac].*"}, ["p/one/a.jpg", "p/one/c.png"], "p"),
        ({"image": ["p/b.jpg", "p/one/a.jpg"]}, ["p/b.jpg", "p/one/a.jpg"], None),
        ({"image": ["p/one/a.jpg", "p/a.jpg"]}, ["p/one/a.jpg", "p/a.jpg"], "p"),
        ({"folder": ["p/own", "p/a*.jpg"]}, ["p/own/d[1].jpg", "p/a.jpg"], None),
        ({"image": "p/own/d[1].jpg"}, ["p/own/d[1].jpg"], None),
    ],
)
def test_patterns_and_several_sources(sources: dict[str, Any], paths: list[str], base: str | None) -> None:
    """Results are named after the paths relative to ``base`` or, without it, after the file names."""
    make(
        "p/a.jpg", "p/b.jpg", "p/one/a.jpg", "p/one/c.png", "p/one/two/c.png", "p/own/d[1].jpg", "p/.h/a.jpg", "p/n.txt"
    )
    os.symlink("..", "p/one/two/up")
    found = find_images(**{"image": None, "folder": None, "listing": None, **sources})
    assert found.paths == paths
    assert found.names == [os.path.relpath(path, base) if base else os.path.basename(path) for path in paths]


def test_many_links_in_circles_end() -> None:
    make("p/a/1.jpg", "p/b/2.jpg")
    for place in ("p", "p/a", "p/b"):
        for number in range(8):
            os.symlink(os.path.abspath("p/a"), f"{place}/to_a{number}")
            os.symlink(os.path.abspath("p"), f"{place}/up{number}")
    assert sorted(Path(path).name for path in find_images(None, "p", None).paths) == ["1.jpg", "2.jpg"]
    assert len(find_images(None, "p/**/*.jpg", None)) == 2


def test_deep_folders() -> None:
    deep = "/".join(["d"] * 300)
    os.makedirs(deep)
    make("d/d/a.jpg", f"{deep}/b.jpg")
    assert find_images(None, ".", None).names == ["d/d/a.jpg", f"{deep}/b.jpg"]
    assert find_images(None, "**/a.jpg", None).names == ["d/d/a.jpg"]


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="permissions do not bind the superuser")
def test_a_locked_folder_is_told() -> None:
    make("p/a.jpg", "p/locked/b.jpg")
    os.chmod("p/locked", 0)
    try:
        found = find_images(None, "p", None)
        assert found.paths == ["p/a.jpg"]
        assert found.unreadable == ["the folder p/locked cannot be read: Permission denied"]
    finally:
        os.chmod("p/locked", 0o700)


def test_the_output_folder_is_left_out_and_told() -> None:
    make("p/a.jpg", "p/out/a.jpg", "p/out/sub/b.jpg")
    for folder in ("p", "p/**/*.jpg"):
        found = find_images(None, folder, None, output="p/out")
        assert found.paths == ["p/a.jpg"]
        assert found.notes == ["p/out is skipped because it is the output folder"]
    assert find_images(None, "p/out", None, output="p/out").names == ["a.jpg", "sub/b.jpg"]
    assert len(find_images(None, "p/out/sub", None, output="p/out")) == 1
    assert find_images("p/out/a.jpg", None, None, output="p/out").paths == ["p/out/a.jpg"]


def test_originals_are_spared() -> None:
    make("p/a.jpg", "p/b.tif", "p/b.png")
    os.symlink("p", "q")
    for folder in ("p", "q", "p/../p"):
        with pytest.raises(
            UserError, match=r"p/a\.jpg would overwrite the image itself; choose an --output_dir other than"
        ):
            find_images(None, "p", None).check_not_overwritten(folder)
    find_images("p/b.tif", None, None).check_not_overwritten("elsewhere")
    with pytest.raises(UserError, match=r"p/b\.png"):
        find_images(None, "p/b*", None).check_not_overwritten("p")


@pytest.mark.parametrize(
    "content", ["\ufeffa.jpg\r\n\r\n# b.jpg is bad\r\none/a.jpg", "\ufeff  a.jpg\n\none/a.jpg  \n"]
)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16-le"])
@pytest.mark.parametrize("place", [".", "photos"])
def test_lists(content: str, encoding: str, place: str) -> None:
    """Paths are relative to the working directory or to the list; byte order marks of Windows are accepted."""
    make(f"{place}/a.jpg", f"{place}/one/a.jpg")
    Path(place, "list.txt").write_bytes(content.encode(encoding))
    found = find_images(None, None, f"{place}/list.txt")
    assert found.names == ["a.jpg", "one/a.jpg"]
    assert [os.path.normpath(path) for path in found.paths] == [os.path.normpath(f"{place}/{n}") for n in found.names]


def test_a_file_whose_name_looks_like_a_comment() -> None:
    make("#1.jpg", "a.jpg")
    Path("list").write_text("#1.jpg\n#2.jpg\na.jpg")
    assert find_images(None, None, "list").paths == ["#1.jpg", "a.jpg"]


def test_a_list_from_a_pipe() -> None:
    make("a.jpg")
    reading, writing = os.pipe()
    os.write(writing, b"a.jpg\n")
    os.close(writing)
    assert find_images(None, None, f"/dev/fd/{reading}").paths == ["a.jpg"]
    os.close(reading)


@pytest.mark.parametrize(
    ("names", "pictures"),
    [
        (["x/a.jpg", "y/a.jpg"], ["x/a.jpg", "y/a.jpg"]),
        (["a.jpg", "a.jpg", "A.JPG", "b.tif"], ["a.jpg", "a_2.jpg", "A_3.JPG", "b.png"]),
        (["a.tif", "a.png", "a_2.png"], ["a.png", "a_2.png", "a_2_2.png"]),
        (["b.tif", "b.png/a.jpg"], ["b_2.png", "b.png/a.jpg"]),
        (
            ["masks/a.png", "Polygons/x/a.png", "masks.png"],
            ["masks_images/a.png", "Polygons_images/x/a.png", "masks.png"],
        ),
        (["/etc/a.png", "../a.png", "x/../../a.png"], ["a.png", "a_2.png", "a_3.png"]),
        (["n" * 250 + ".jpg", "n" * 249 + "m.jpg"], ["n" * 200 + ".jpg", "n" * 200 + "_2.jpg"]),
        (["图" * 80 + ".png"], ["图" * 66 + ".png"]),
        (["\udcff.jpg"], ["\udcff.jpg"]),
    ],
)
def test_names_of_pictures(names: list[str], pictures: list[str]) -> None:
    assert picture_names(names) == pictures
    assert Images(names, names).pictures() == pictures


def test_names_without_extension() -> None:
    assert stem_names(["a.png", "x/a.png", "b.jpg", "B.png", "c.d.png"]) == ["a", "x/a", "b.jpg", "B.png", "c.d"]
