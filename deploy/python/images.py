"""Detection on image files."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from deploy.common.errors import UserError
from deploy.common.image_files import output_names
from deploy.common.image_io import read_image
from deploy.python.output import Output, summary, write_picture
from deploy.python.predictor import Predictor
from deploy.python.progress import Progress, say

__all__ = ["ImageBatch", "predict_images", "read_batches"]


class ImageBatch(NamedTuple):
    """Images that were read, and what could not be.

    Attributes:
        places: of the images in the list.
        images: uint8 [h, w, 3] RGB each.
        complaints: one line about each file that was skipped since the batch before.
    """

    places: list[int]
    images: list[np.ndarray]
    complaints: list[str]


def read_batches(paths: Sequence[str], batch_size: int) -> Iterator[ImageBatch]:
    """Read images in batches; a file that cannot be read is left out of its batch, which is filled up by the next.

    The last batch may be smaller, or without any image if the last files could not be read.
    """
    batch = ImageBatch([], [], [])
    for place, path in enumerate(paths):
        try:
            image = read_image(path)
        except UserError as error:
            batch.complaints.append(str(error))
            continue
        batch.places.append(place)
        batch.images.append(image)
        if len(batch.images) == batch_size:
            yield batch
            batch = ImageBatch([], [], [])
    if batch.images or batch.complaints:
        yield batch


def predict_images(
    predictor: Predictor, paths: Sequence[str], output: Output, threshold: float, batch_size: int, save_images: bool
) -> list[str]:
    """Detect on image files and write what ``output`` is made for.

    Args:
        predictor: the model.
        paths: the files; places in this list become image ids.
        output: receives the detections.
        threshold: lowest score to keep.
        batch_size: images at a time.
        save_images: write the drawn pictures.

    Returns:
        one line about each file that could not be read; the others' results are written.

    Raises:
        UserError: the model fails, or a file cannot be written.
    """
    complaints: list[str] = []
    names = output_names(paths)
    stems = _stems(names)
    with Progress(len(paths), "images") as progress:
        for batch in read_batches(paths, batch_size):
            complaints += batch.complaints
            for place, image, found in zip(batch.places, batch.images, predictor.predict(batch.images)):
                found = found.above(threshold)
                if save_images:
                    write_picture(output.folder / names[place], found.draw(image))
                output.add(found, place, Path(paths[place]).name, stems[place])
                say(f"{paths[place]}: {summary(found)}")
            progress.advance(len(batch.places) + len(batch.complaints))
        rate = progress.line()
    for line in [rate, *output.finish()]:
        say(line)
    return complaints


def _stems(names: Sequence[str]) -> list[str]:
    """File names without extension; where two images share one, with it (``a.jpg`` and ``a.png``)."""
    stems = [Path(name).stem for name in names]
    often = Counter(stem.lower() for stem in stems)
    return [name if often[stem.lower()] > 1 else stem for name, stem in zip(names, stems)]
