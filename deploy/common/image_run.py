"""Processing of a list of images: output of results and messages, also if the run ends early."""

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
from deploy.common.progress import Progress, print_lines

__all__ = ["ImageRun"]

_NAMED = 5
"""Maximum number of skipped images in the last line of the output."""


class ImageRun:
    """Context manager that receives the detections of one image after the other.

    The results of all completed images are written when the block ends, also after Ctrl-C or a failure.

    Args:
        images: input images; their indices are used as image ids.
        output: output of the detections.
        draw_threshold: minimum score for visualizations and for the message about an image.
        save_threshold: minimum score for saved results.
        save_images: write visualizations.
        verbose: print messages and the progress; only one of several processes does this.
        share: number of images processed by this process; by default, all.

    Attributes:
        skipped: name and error message of each image that could not be read.
        done: number of images with results.

    Raises:
        UserError: a visualization would overwrite its input image.
    """

    def __init__(
        self,
        *,
        images: Images,
        output: Output,
        draw_threshold: float,
        save_threshold: float,
        save_images: bool,
        verbose: bool = True,
        share: int | None = None,
    ) -> None:
        if save_images:
            images.check_not_overwritten(output.folder)
        self.skipped: list[tuple[str, str]] = []
        self.done = 0
        self._images, self._output = images, output
        self._thresholds = draw_threshold, save_threshold
        self._save_images, self._verbose = save_images, verbose
        self._pictures = images.pictures()
        self._stems = stem_names(self._pictures)
        self._share = len(images) if share is None else share
        self._progress = Progress(self._share, "images", visible=verbose)

    def __enter__(self) -> ImageRun:
        """Print the notes about the input images."""
        for note in self._images.notes:
            self._print(note)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Print the duration; if the run ends early, write the available results."""
        self._progress.close()
        if kind is None:
            self._print(self._progress.line())
            return
        why = "interrupted" if kind is KeyboardInterrupt else "stopped by an error"
        lines = [f"{why} after {self.done} of {self._share} images; their results are kept"]
        try:
            lines += self._output.finish() if self.done else []
        except UserError as failure:  # a full disk may be the reason why the run ends
            lines.append(f"the results of these images are lost: {failure}")
        for line in lines:
            self._print(line)

    def add(self, index: int, detections: Detections, read: Callable[[], np.ndarray]) -> None:
        """Write the results of an image and print a summary.

        Args:
            index: index of the image.
            detections: all detections of the image.
            read: returns the image, uint8 [h, w, 3] RGB; only called if a visualization is written.

        Raises:
            UserError: a file cannot be written.
        """
        drawn, saved = (detections.above(threshold) for threshold in self._thresholds)
        if self._save_images:
            try:
                image = read()
            except UserError as error:  # the file has been removed since it was read for prediction
                self.skip(index, str(error))
                return
            write_picture(self._output.folder / self._pictures[index], drawn.draw(image))
        self._output.add(saved, index, self._images.names[index], self._stems[index])
        self._print(f"{self._images.paths[index]}: {summary(drawn)}")
        self.done += 1
        self._progress.advance()

    def skip(self, index: int, error: str) -> None:
        """Skip an image and print the reason."""
        self.skipped.append((self._images.names[index], error))
        print_lines(f"skipped: {one_line(error)}", sys.stderr)
        self._progress.advance()

    def conclude(self, skipped: list[tuple[str, str]] | None = None) -> int:
        """Write the results, print a summary of written files and skipped images, and return the exit status.

        Args:
            skipped: skipped images of all processes; by default, those of this process.

        Raises:
            UserError: a file cannot be written.
        """
        skipped = self.skipped if skipped is None else skipped
        for line in self._output.finish():
            self._print(line)
        if self._save_images and len(skipped) < len(self._images):
            self._print(f"the visualizations are in {self._output.folder}")
        for error in self._images.unreadable:
            print_lines(f"skipped: {one_line(error)}", sys.stderr)
        return _conclusion(len(self._images), [name for name, _ in skipped], len(self._images.unreadable))

    def _print(self, line: str) -> None:
        if self._verbose:
            print_lines(line)


def _conclusion(total: int, skipped: list[str], folders: int) -> int:
    """Print a line about skipped images and folders, if there are any, and return the exit status."""
    parts = []
    if skipped:
        named = ", ".join(skipped[:_NAMED]) + (f" and {len(skipped) - _NAMED} more" if len(skipped) > _NAMED else "")
        parts.append(f"{len(skipped)} of {total} images {'was' if len(skipped) == 1 else 'were'} skipped ({named})")
    if folders:
        parts.append(f"{folders} folder{' was' if folders == 1 else 's were'} skipped")
    if not parts:
        return 0
    message = f"{' and '.join(parts)}, see the lines starting with 'skipped:'"
    print_lines(f"error: {one_line(message)}", sys.stderr)
    return 1
