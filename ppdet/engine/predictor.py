"""Prediction on image files: pictures with the detections drawn, and COCO results as JSON."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from deploy.common.image_files import Images
from deploy.common.image_io import read_image
from deploy.common.image_run import ImageRun
from deploy.common.model_outputs import split_outputs
from deploy.common.output import Output
from ppdet.engine.data import Loader
from ppdet.engine.distributed.env import gather_objects, is_main, world_size
from ppdet.engine.evaluator import predict_batch, to_host
from ppdet.engine.precision import Precision
from ppdet.modeling.architectures.architecture import Architecture

__all__ = ["PredictOptions", "predict_images"]


@dataclass(frozen=True)
class PredictOptions:
    """What a prediction writes.

    Attributes:
        output_dir: folder of the pictures and the JSON files.
        draw_threshold: lowest score of drawn detections.
        save_threshold: lowest score of detections in the JSON files.
        save_results: whether to write ``bbox.json`` and ``mask.json``.
        visualize: whether to write pictures.
    """

    output_dir: str = "output"
    draw_threshold: float = 0.5
    save_threshold: float = 0.5
    save_results: bool = False
    visualize: bool = True


def predict_images(
    model: Architecture,
    loader: Loader,
    images: Images,
    options: PredictOptions,
    precision: Precision | None = None,
) -> int:
    """Predict on the images of this rank and write the results; rank 0 writes the JSON files.

    Args:
        model: with trained weights.
        loader: loads the images from an `ImageFolder`; image ids are indices into ``images``.
        images: the image files.
        options: what to write.
        precision: how to compute; float32 by default.

    Returns:
        The exit status: 1 if an image could not be read, although the results of all others are written.

    Raises:
        UserError: a file cannot be written.
    """
    names, ids = loader.dataset.class_names, loader.dataset.category_ids
    output = Output(
        folder=options.output_dir,
        has_masks=model.has_masks,
        has_boxes=model.has_boxes,
        save_results=options.save_results,
    )
    share = len(images) if world_size() == 1 else len(loader) * loader.batch_size
    model.eval()
    with ImageRun(
        images=images,
        output=output,
        draw_threshold=options.draw_threshold,
        save_threshold=options.save_threshold,
        save_images=options.visualize,
        verbose=is_main(),
        share=share,
    ) as run:
        for batch in loader:
            outputs = predict_batch(model, batch, precision)
            facts = to_host({name: batch[name] for name in ("im_id", "orig_size")})
            _report_skipped(loader, run)
            results = split_outputs(outputs, facts["orig_size"], names, ids, model.mask_threshold)
            for index, detections in zip(facts["im_id"], results):
                run.add(int(index), detections, _reader(images.paths[int(index)]))
        _report_skipped(loader, run)
    shares = gather_objects((output.results, run.skipped))
    output.take([results for results, _ in shares])
    skipped = [entry for _, entries in shares for entry in entries]
    return run.conclude(skipped) if is_main() else int(bool(skipped))


def _report_skipped(loader: Loader, run: ImageRun) -> None:
    for index, complaint in loader.skipped:
        run.skip(index, complaint)
    loader.skipped.clear()


def _reader(path: str) -> Callable[[], np.ndarray]:
    return lambda: read_image(path)
