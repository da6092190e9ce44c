"""Detection on image files."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from deploy.common.errors import UserError
from deploy.common.extra_inputs import predict_grouped
from deploy.common.image_files import Images
from deploy.common.image_io import read_image
from deploy.common.image_run import ImageRun
from deploy.common.output import Output
from deploy.python.predictor import Predictor

__all__ = ["ImageBatch", "predict_images", "read_batches"]


class ImageBatch(NamedTuple):
    """Images that were read, and what could not be.

    Attributes:
        places: of the images in the list.
        images: uint8 [h, w, 3] RGB each.
        complaints: place and one line about each file that was skipped since the batch before.
    """

    places: list[int]
    images: list[np.ndarray]
    complaints: list[tuple[int, str]]


def read_batches(paths: Sequence[str], batch_size: int) -> Iterator[ImageBatch]:
    """Read images in batches; a file that cannot be read is left out of its batch, which is filled up by the next.

    The last batch may be smaller, or without any image if the last files could not be read.
    """
    batch = ImageBatch([], [], [])
    for place, path in enumerate(paths):
        try:
            image = read_image(path)
        except UserError as error:
            batch.complaints.append((place, str(error)))
            continue
        batch.places.append(place)
        batch.images.append(image)
        if len(batch.images) == batch_size:
            yield batch
            batch = ImageBatch([], [], [])
    if batch.images or batch.complaints:
        yield batch


def predict_images(
    predictor: Predictor,
    images: Images,
    output: Output,
    threshold: float,
    batch_size: int,
    save_images: bool,
    values: Sequence[Mapping[str, np.ndarray]] | None = None,
) -> int:
    """Detect on image files and write what ``output`` is made for; see `ImageRun` for what is said.

    Args:
        predictor: the model.
        images: the files; places in this list become image ids.
        output: receives the detections.
        threshold: lowest score to keep.
        batch_size: images at a time.
        save_images: write the drawn pictures.
        values: extra inputs of each image, for a model that requires them.

    Returns:
        the exit status: 1 if a file could not be read; the others' results are written.

    Raises:
        UserError: the model fails, or a file cannot be written.
    """
    with ImageRun(
        images=images,
        output=output,
        draw_threshold=threshold,
        save_threshold=threshold,
        save_images=save_images,
    ) as run:
        for batch in read_batches(images.paths, batch_size):
            for place, complaint in batch.complaints:
                run.skip(place, complaint)
            extra = [{} if values is None else values[place] for place in batch.places]
            detections = predict_grouped(predictor, batch.images, extra)
            for place, image, found in zip(batch.places, batch.images, detections):
                run.add(place, found, lambda image=image: image)  # type: ignore[misc]
    return run.conclude()
