"""Prediction on videos and cameras."""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np

from deploy.common.atomic import atomic_path
from deploy.common.errors import UserError
from deploy.common.extra_inputs import predict_grouped
from deploy.common.output import Output
from deploy.common.progress import Progress, print_lines
from deploy.python.predictor import Predictor

__all__ = ["Stream", "open_camera", "open_video", "predict_stream"]

_CODECS = ((".mp4", "mp4v"), (".avi", "MJPG"))
"""File extensions and codecs, in the order in which they are tried."""
_USUAL_RATE = 25.0
"""Frames per second if the file or camera does not provide a rate."""
_WHOLE = 0.9
"""A video is considered broken if fewer than this fraction of the announced frames can be read; the announced number
is an estimate."""
_QUIT = ord("q")


class Stream(NamedTuple):
    """An open video or camera.

    Attributes:
        capture: OpenCV's ``VideoCapture``.
        name: used in messages and results.
        stem: base name of output files, without extension.
        rate: frames per second.
        total: number of frames according to the file; None if unknown, and for cameras.
        live: whether this is a camera.
    """

    capture: Any
    name: str
    stem: str
    rate: float
    total: int | None
    live: bool


def open_video(path: str) -> Stream:
    """Open a video file.

    Raises:
        UserError: the file is missing or cannot be read.
    """
    if Path(path).is_dir():
        raise UserError(f"{path} is a folder, not a video file: use --image_dir for folders of images")
    if not Path(path).is_file():
        raise UserError(f"the video {path} does not exist")
    _check_name(path)
    _quiet()
    capture = cv2.VideoCapture(path)
    if not capture.isOpened():
        raise UserError(f"the video {path} is broken, or OpenCV does not support its format")
    count = capture.get(cv2.CAP_PROP_FRAME_COUNT)
    total = int(count) if np.isfinite(count) and count >= 1 else None
    return Stream(capture, path, Path(path).stem, _rate(capture), total, live=False)


def open_camera(camera_id: int) -> Stream:
    """Open a camera.

    Raises:
        UserError: the camera does not exist or is in use.
    """
    _quiet()
    capture = cv2.VideoCapture(camera_id)
    if not capture.isOpened():
        raise UserError(f"the camera {camera_id} does not exist or is in use")
    return Stream(capture, f"camera {camera_id}", f"camera_{camera_id}", _rate(capture), None, live=True)


def predict_stream(
    predictor: Predictor,
    stream: Stream,
    output: Output,
    threshold: float,
    batch_size: int,
    save_video: bool,
    values: Mapping[str, np.ndarray] | None = None,
) -> int:
    """Predict on every frame and write an annotated video with the rate and size of the source.

    Ctrl-C, or ``q`` in the window of a camera, ends the run; the results up to this frame are written. The video of a
    camera gets the frame rate that the model reaches, so that it plays in real time.

    Args:
        predictor: the model.
        stream: from `open_video` or `open_camera`; it is closed at the end.
        output: writes the detections; the image ids are frame numbers.
        threshold: minimum score.
        batch_size: number of frames per batch.
        save_video: write the annotated video.
        values: extra inputs of every frame, for a model that requires them.

    Returns:
        0, 1 if the video ended prematurely, or 130 if Ctrl-C ended it.

    Raises:
        UserError: there is no frame, or a file cannot be written.
    """
    first = _read(stream)
    if first is None:
        stream.capture.release()
        raise UserError(f"the {stream.name if stream.live else f'video {stream.name}'} has no frame that can be read")
    status = 0
    extra = values or {}
    rate = _reached_rate(predictor, first, stream.rate, extra) if stream.live else stream.rate
    with contextlib.ExitStack() as stack:
        stack.callback(stream.capture.release)
        progress = stack.enter_context(Progress(stream.total, "frames"))
        writer = stack.enter_context(_writer(output.folder, stream.stem, rate, first)) if save_video else None
        window = stack.enter_context(_window(stream.name)) if stream.live else None
        try:
            for frames in _batches(stream, first, batch_size):
                for frame, detections in zip(frames, predict_grouped(predictor, frames, [extra] * len(frames))):
                    detections = detections.above(threshold)
                    picture = detections.draw(frame) if writer or window else frame
                    if writer:
                        writer.add(picture)
                    output.add(detections, progress.done, Path(stream.name).name, f"{stream.stem}_{progress.done:06d}")
                    progress.advance()
                    if window and not window.show(picture):
                        raise _Quit
        except KeyboardInterrupt:
            status = 0 if stream.live else 130
            print_lines(f"interrupted after {progress.done} frames")
        except _Quit:
            print_lines(f"ended after {progress.done} frames")
        summary = progress.line()
        if not progress.done:
            raise KeyboardInterrupt
    for line in [summary, *([f"wrote {writer.target}"] if writer else []), *output.finish()]:
        print_lines(line)
    if stream.total is not None and status == 0 and progress.done < _WHOLE * stream.total:
        print_lines(f"only {progress.done} of the {stream.total} frames of the video {stream.name} could be read")
        status = 1
    return status


class _Quit(Exception):
    """Raised when the user presses q."""


class _Writer:
    """Writes a video file; frames of another size than the first one are resized."""

    def __init__(self, target: Path, video: Any, size: tuple[int, int]) -> None:
        self.target, self._video, self._size = target, video, size

    def add(self, picture: np.ndarray) -> None:
        """Append uint8 [h, w, 3] RGB."""
        if picture.shape[:2] != self._size:
            picture = cv2.resize(picture, (self._size[1], self._size[0]))
        self._video.write(cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))


@contextlib.contextmanager
def _writer(folder: Path, stem: str, rate: float, first: np.ndarray) -> Iterator[_Writer]:
    """Open a video file for writing; it gets its final name when the block ends.

    Raises:
        UserError: OpenCV has no codec, or the written video cannot be read.
    """
    size = first.shape[:2]
    _check_name(f"{folder}/{stem}")
    suffix, code = _codec(folder, rate, size)
    target = folder / f"{stem}{suffix}"
    with atomic_path(target) as temporary:
        video = cv2.VideoWriter(str(temporary), cv2.VideoWriter.fourcc(*code), rate, (size[1], size[0]))
        try:
            yield _Writer(target, video, size)
        finally:
            video.release()
        check = cv2.VideoCapture(str(temporary))
        readable = check.isOpened() and check.read()[0]
        check.release()
        if not readable:
            raise UserError(f"cannot write the video {target}: the disk may be full")


def _codec(folder: Path, rate: float, size: tuple[int, int]) -> tuple[str, str]:
    """Return the extension and the code of the first codec that the installed OpenCV can write."""
    with tempfile.TemporaryDirectory(prefix=".tmp-", dir=folder) as scratch:
        for suffix, code in _CODECS:
            probe = cv2.VideoWriter(f"{scratch}/probe{suffix}", cv2.VideoWriter.fourcc(*code), rate, (size[1], size[0]))
            opened = probe.isOpened()
            probe.release()
            if opened:
                return suffix, code
    names = ", ".join(code for _, code in _CODECS)
    raise UserError(
        f"the installed OpenCV cannot write videos ({names}): use --save_images False --save_results to write the "
        "detections only"
    )


class _Window:
    """A window that shows the latest frame."""

    def __init__(self, name: str) -> None:
        self.name = name

    def show(self, picture: np.ndarray) -> bool:
        """Show uint8 [h, w, 3] RGB; return False if the user pressed q."""
        cv2.imshow(self.name, cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))
        return cv2.waitKey(1) & 0xFF != _QUIT


@contextlib.contextmanager
def _window(name: str) -> Iterator[_Window | None]:
    """Open a window; yield None without a display or if OpenCV was built without windows."""
    screen = not sys.platform.startswith("linux") or os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
    try:
        if not screen:
            raise cv2.error("no screen")
        cv2.namedWindow(name, cv2.WINDOW_NORMAL)
    except cv2.error:
        print_lines("no window can be opened; press Ctrl-C to end the run")
        yield None
        return
    try:
        yield _Window(name)
    finally:
        cv2.destroyWindow(name)


def _batches(stream: Stream, first: np.ndarray, batch_size: int) -> Iterator[list[np.ndarray]]:
    """Yield batches of frames, beginning with the one that has been read already."""
    frames = [first]
    while True:
        while len(frames) < batch_size and (frame := _read(stream)) is not None:
            frames.append(frame)
        if not frames:
            return
        yield frames
        following = _read(stream)
        frames = [] if following is None else [following]


def _check_name(path: str) -> None:
    """Refuse file names that would crash OpenCV."""
    try:
        path.encode("utf-8")
    except UnicodeEncodeError as error:
        raise UserError(f"OpenCV cannot open {path}: its name is not valid UTF-8; rename it") from error


def _read(stream: Stream) -> np.ndarray | None:
    """Return the next frame, uint8 [h, w, 3] RGB; None at the end."""
    success, frame = stream.capture.read()
    return np.asarray(cv2.cvtColor(frame, cv2.COLOR_BGR2RGB)) if success else None


def _rate(capture: Any) -> float:
    rate = float(capture.get(cv2.CAP_PROP_FPS))
    return rate if np.isfinite(rate) and 0 < rate <= 1000 else _USUAL_RATE


def _reached_rate(predictor: Predictor, frame: np.ndarray, limit: float, values: Mapping[str, np.ndarray]) -> float:
    """Return the frames per second that the model reaches, at most the rate of the camera."""
    predict_grouped(predictor, [frame], [values])
    begun = time.perf_counter()
    predict_grouped(predictor, [frame], [values]).pop().draw(frame)
    return float(np.clip(1 / max(time.perf_counter() - begun, 1e-6), 1.0, max(1.0, limit)))


def _quiet() -> None:
    """Suppress the messages of OpenCV and FFmpeg about files; this module reports errors itself."""
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
    logging = getattr(cv2.utils, "logging", None)
    if logging is not None:
        logging.setLogLevel(logging.LOG_LEVEL_SILENT)
