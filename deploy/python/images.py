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
    """Images of a batch, and files that could not be read.

    Attributes:
        places: indices of the images in the list.
        images: uint8 [h, w, 3] RGB each.
        complaints: index and error message of each file that was skipped since the previous batch.
    """

    places: list[int]
    images: list[np.ndarray]
    complaints: list[tuple[int, str]]


def read_batches(paths: Sequence[str], batch_size: int) -> Iterator[ImageBatch]:
    """Read images in batches.

    Files that cannot be read are skipped; each batch is filled with the following images. The last batch may be
    smaller, or empty if the last files could not be read.
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
    """Predict on image files and write the results. `ImageRun` describes what is printed.

    Args:
        predictor: the model.
        images: the files; their indices become image ids.
        output: writes the detections.
        threshold: minimum score.
        batch_size: number of images per batch.
        save_images: write annotated images.
        values: extra inputs of each image, for a model that requires them.

    Returns:
        The exit status: 1 if a file could not be read, else 0. The results of the other files are written in any case.

    Raises:
        UserError: the inference fails, or a file cannot be written.
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
            results = predict_grouped(predictor, batch.images, extra)
            for place, image, detections in zip(batch.places, batch.images, results):
                run.add(place, detections, lambda image=image: image)  # type: ignore[misc]
    return run.conclude()
