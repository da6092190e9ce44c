"""Annotated videos have the same length, frame rate and size as their input."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from deploy.common.errors import UserError
from deploy.common.output import Output
from deploy.python import Predictor, video
from deploy.python.video import open_camera, open_video, predict_stream
from tests.deploy.python.conftest import Exported

FRAMES, RATE = 7, 12.5


def _frames(exported: Exported, size: tuple[int, int] = (96, 128)) -> list[np.ndarray]:
    """Create BGR frames [h, w, 3] of different brightness."""
    picture = cv2.resize(cv2.imread(exported.pictures[0]), size[::-1], interpolation=cv2.INTER_CUBIC)
    return [np.asarray(cv2.convertScaleAbs(picture, alpha=0.4 + 0.08 * number)) for number in range(FRAMES)]


def _write(path: Path, frames: list[np.ndarray], code: str) -> Path:
    height, width = frames[0].shape[:2]
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*code), RATE, (width, height))
    if not writer.isOpened():
        pytest.skip(f"this OpenCV writes no {path.suffix} ({code})")
    for frame in frames:
        writer.write(frame)
    writer.release()
    return path


def _read(path: Path) -> tuple[list[np.ndarray], float]:
    capture = cv2.VideoCapture(str(path))
    rate = capture.get(cv2.CAP_PROP_FPS)
    frames = []
    while True:
        there, frame = capture.read()
        if not there:
            return frames, rate
        frames.append(frame)


@pytest.fixture
def film(exported: Exported, tmp_path: Path) -> Path:
    return _write(tmp_path / "film.avi", _frames(exported), "MJPG")


@pytest.mark.parametrize("batch_size", [1, 3])
def test_round_trip(predictor: Predictor, film: Path, tmp_path: Path, batch_size: int) -> None:
    output = Output(folder=tmp_path / "out", has_masks=True, save_results=True)
    assert predict_stream(predictor, open_video(str(film)), output, 0.5, batch_size, True) == 0
    (written,) = [path for path in (tmp_path / "out").iterdir() if path.suffix in (".mp4", ".avi")]
    assert written.stem == "film"
    drawn, rate = _read(written)
    original, _ = _read(film)
    assert len(drawn) == FRAMES and rate == pytest.approx(RATE) and drawn[0].shape == original[0].shape
    rows = json.loads((tmp_path / "out" / "bbox.json").read_text())
    by_frame = [[row["bbox"] for row in rows if row["image_id"] == number] for number in range(FRAMES)]
    for number, frame in enumerate(original):
        found = predictor(np.ascontiguousarray(frame[..., ::-1])).above(0.5)
        expected = found.boxes.astype(float)
        assert len(by_frame[number]) == len(expected)
        np.testing.assert_allclose(np.reshape(by_frame[number], (-1, 4))[:, :2], expected[:, :2], atol=1e-2)
        # The video is lossy, but the frame is closer to the annotated frame than to the original one.
        picture = found.draw(np.ascontiguousarray(frame[..., ::-1]))[..., ::-1]
        near, far = (float(np.abs(drawn[number] - other.astype(float)).mean()) for other in (picture, frame))
        assert near < (far if len(found) else 6.0)
    assert {row["file_name"] for row in rows} == {"film.avi"} and sum(map(len, by_frame)) > 0
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["bbox.json", written.name, "mask.json"]


def test_avi_where_mp4_cannot_be_written(
    predictor: Predictor, film: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(video, "_CODECS", ((".mp4", "none"), (".avi", "MJPG")))
    predict_stream(predictor, open_video(str(film)), Output(folder=tmp_path / "out", has_masks=True), 0.5, 2, True)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["film.avi"]
    assert len(_read(tmp_path / "out" / "film.avi")[0]) == FRAMES
    monkeypatch.setattr(video, "_CODECS", ((".mp4", "none"),))
    with pytest.raises(UserError, match=r"cannot write videos \(none\)"):
        predict_stream(predictor, open_video(str(film)), Output(folder=tmp_path / "none", has_masks=True), 0.5, 2, True)
    assert not list((tmp_path / "none").iterdir())


def test_odd_sizes_stay(predictor: Predictor, exported: Exported, tmp_path: Path) -> None:
    film = _write(tmp_path / "odd.avi", _frames(exported, (65, 97)), "MJPG")
    size = _read(film)[0][0].shape
    predict_stream(predictor, open_video(str(film)), Output(folder=tmp_path / "out", has_masks=True), 0.5, 4, True)
    (written,) = (tmp_path / "out").iterdir()
    assert _read(written)[0][0].shape == size


def test_no_video_is_written_unless_wanted(predictor: Predictor, film: Path, tmp_path: Path) -> None:
    output = Output(folder=tmp_path / "out", has_masks=True, save_polygons=True)
    assert predict_stream(predictor, open_video(str(film)), output, 0.5, 4, False) == 0
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["polygons"]
    names = sorted(path.name for path in (tmp_path / "out" / "polygons").iterdir())
    assert names == [f"film_{number:06d}.json" for number in range(FRAMES)]


def test_a_cut_video(predictor: Predictor, film: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    whole = film.read_bytes()
    film.write_bytes(whole[: len(whole) // 2])
    assert (
        predict_stream(predictor, open_video(str(film)), Output(folder=tmp_path / "out", has_masks=True), 0.5, 2, True)
        == 1
    )
    assert f"of the {FRAMES} frames of the video " in capsys.readouterr().out
    film.write_bytes(whole[:600])
    with pytest.raises(UserError, match=r"film\.avi (is broken|has no frame that can be read)"):
        predict_stream(predictor, open_video(str(film)), Output(folder=tmp_path / "out", has_masks=True), 0.5, 2, True)


class _Camera:
    """Returns frames and fails or is interrupted after the last one."""

    def __init__(self, frames: list[np.ndarray], end: Callable[[], tuple[bool, Any]]) -> None:
        self.frames, self.end, self.released = list(frames), end, False

    def isOpened(self) -> bool:  # noqa: N802  OpenCV's name
        return True

    def get(self, _: int) -> float:
        return 0.0

    def read(self) -> tuple[bool, Any]:
        return (True, self.frames.pop(0)) if self.frames else self.end()

    def release(self) -> None:
        self.released = True


def _interrupt() -> tuple[bool, Any]:
    raise KeyboardInterrupt


def _camera(monkeypatch: pytest.MonkeyPatch, camera: _Camera) -> None:
    """Use this camera for the first capture; later captures are those of OpenCV."""
    original = cv2.VideoCapture
    monkeypatch.setattr(cv2, "VideoCapture", lambda what: camera if isinstance(what, int) else original(what))


@pytest.mark.parametrize("end", [_interrupt, lambda: (False, None)])
def test_a_camera_until_ctrl_c(
    predictor: Predictor,
    exported: Exported,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    end: Callable[[], tuple[bool, Any]],
) -> None:
    monkeypatch.setattr(sys, "platform", "linux")
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    camera = _Camera(_frames(exported), end)
    _camera(monkeypatch, camera)
    output = Output(folder=tmp_path / "out", has_masks=True)
    assert predict_stream(predictor, open_camera(3), output, 0.5, 1, True) == 0
    (written,) = (tmp_path / "out").iterdir()
    frames, rate = _read(written)
    assert written.stem == "camera_3" and len(frames) == FRAMES and 1 <= rate <= 25
    assert camera.released


def test_q_in_the_window_ends_the_camera(
    predictor: Predictor, exported: Exported, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _camera(monkeypatch, _Camera(_frames(exported), _interrupt))
    shown: list[np.ndarray] = []
    monkeypatch.setenv("DISPLAY", ":0")
    for name in ("namedWindow", "destroyWindow"):
        monkeypatch.setattr(cv2, name, lambda *_: None)
    monkeypatch.setattr(cv2, "imshow", lambda _, picture: shown.append(picture))
    monkeypatch.setattr(cv2, "waitKey", lambda _: ord("q") if len(shown) == 3 else -1)
    output = Output(folder=tmp_path / "out", has_masks=True)
    assert predict_stream(predictor, open_camera(0), output, 0.5, 2, False) == 0
    assert len(shown) == 3 and shown[0].shape == (96, 128, 3)
    assert not list((tmp_path / "out").iterdir())


def test_an_interrupted_video_keeps_what_was_done(
    predictor: Predictor, exported: Exported, film: Path, tmp_path: Path
) -> None:
    stream = open_video(str(film))._replace(capture=_Camera(_frames(exported)[:4], _interrupt))
    assert predict_stream(predictor, stream, Output(folder=tmp_path / "out", has_masks=True), 0.5, 2, True) == 130
    (written,) = (tmp_path / "out").iterdir()
    assert len(_read(written)[0]) in (2, 3, 4)


def test_no_camera() -> None:
    with pytest.raises(UserError, match="the camera 93 does not exist or is in use"):
        open_camera(93)
