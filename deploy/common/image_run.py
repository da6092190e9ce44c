"""A run over image files: what is written and said of each, and what is left of it when it ends too soon."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import TracebackType

import numpy as np

from deploy.common.detections import Detections
from deploy.common.errors import UserError
from deploy.common.image_files import Images
from deploy.common.output import Output, summary, write_picture
from deploy.common.picture_names import stem_names
from deploy.common.printable import one_line
from deploy.common.progress import Progress, say

__all__ = ["ImageRun"]

_NAMED = 5
"""Skipped images that the last line names."""


class ImageRun:
    """Receives the detections of image after image; a context manager.

    However the block ends, the results of the images that were done are written: after Ctrl-C or a failure, too.

    Args:
        images: what is predicted; places in it become image ids.
        output: receives the detections.
        draw_threshold: lowest score on pictures and in the line about an image.
        save_threshold: lowest score in the results.
        save_images: write the pictures.
        speaks: print lines and progress; of several processes one does.
        share: number of images that this process predicts; all by default.

    Attributes:
        skipped: name and complaint of each image that could not be read.
        done: number of images with results.

    Raises:
        UserError: a picture would replace the image that it is made of.
    """

    def __init__(
        self,
        images: Images,
        output: Output,
        draw_threshold: float,
        save_threshold: float,
        save_images: bool,
        speaks: bool = True,
        share: int | None = None,
    ) -> None:
        if save_images:
            images.spare_from(output.folder)
        self.skipped: list[tuple[str, str]] = []
        self.done = 0
        self._images, self._output = images, output
        self._thresholds = draw_threshold, save_threshold
        self._save_images, self._speaks = save_images, speaks
        self._pictures = images.pictures()
        self._stems = stem_names(self._pictures)
        self._share = len(images) if share is None else share
        self._progress = Progress(self._share, "images", visible=speaks)

    def __enter__(self) -> ImageRun:
        """Begin."""
        for note in self._images.notes:
            self._say(note)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop the clock; if the run ends too soon, write what there is."""
        self._progress.close()
        if kind is None:
            self._say(self._progress.line())
            return
        why = "interrupted" if kind is KeyboardInterrupt else "stopped by an error"
        lines = [f"{why} after {self.done} of {self._share} images; what is done stays written"]
        try:
            lines += self._output.finish() if self.done else []
        except UserError as failure:  # the disk that is full may be why the run ends
            lines.append(f"the results of these images are lost: {failure}")
        for line in lines:
            self._say(line)

    def add(self, place: int, found: Detections, picture: Callable[[], np.ndarray]) -> None:
        """Write what is wanted of an image, and say what is on it.

        Args:
            place: of the image in the list.
            found: all of its detections.
            picture: gives the image, uint8 [h, w, 3] RGB; called where a picture is written.

        Raises:
            UserError: something cannot be written.
        """
        drawn, saved = (found.above(threshold) for threshold in self._thresholds)
        if self._save_images:
            try:
                image = picture()
            except UserError as error:  # it vanished since it was predicted
                self.skip(place, str(error))
                return
            write_picture(self._output.folder / self._pictures[place], drawn.draw(image))
        self._output.add(saved, place, self._images.names[place], self._stems[place])
        self._say(f"{self._images.paths[place]}: {summary(drawn)}")
        self.done += 1
        self._progress.advance()

    def skip(self, place: int, complaint: str) -> None:
        """Leave an image out, and say so."""
        self.skipped.append((self._images.names[place], complaint))
        say(f"skipped: {one_line(complaint)}", sys.stderr)
        self._progress.advance()

    def conclude(self, skipped: list[tuple[str, str]] | None = None) -> int:
        """Write the results, say what was written and what was skipped, and return the exit status.

        Args:
            skipped: of all processes, where there are several; this one's by default.

        Raises:
            UserError: a file cannot be written.
        """
        skipped = self.skipped if skipped is None else skipped
        for line in self._output.finish():
            self._say(line)
        if self._save_images and len(skipped) < len(self._images):
            self._say(f"pictures are in {self._output.folder}")
        for complaint in self._images.unreadable:
            say(f"skipped: {one_line(complaint)}", sys.stderr)
        return _conclusion(len(self._images), [name for name, _ in skipped], len(self._images.unreadable))

    def _say(self, line: str) -> None:
        if self._speaks:
            say(line)


def _conclusion(total: int, skipped: list[str], folders: int) -> int:
    """Print the last line about what was skipped, if anything was; return the exit status."""
    parts = []
    if skipped:
        named = ", ".join(skipped[:_NAMED]) + (f" and {len(skipped) - _NAMED} more" if len(skipped) > _NAMED else "")
        parts.append(f"{len(skipped)} of {total} images {'was' if len(skipped) == 1 else 'were'} skipped ({named})")
    if folders:
        parts.append(f"{folders} folder{' was' if folders == 1 else 's were'} skipped")
    if not parts:
        return 0
    message = f"{' and '.join(parts)}, see the lines that begin with 'skipped:'"
    say(f"error: {one_line(message)}", sys.stderr)
    return 1
