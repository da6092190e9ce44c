"""Statistics about the content of a demo data set."""

from __future__ import annotations

from typing import Any

import numpy as np

SMALL, LARGE = 32**2, 96**2
"""COCO's limits of the area of small and large objects in pixels."""


def statistics(
    images: list[dict[str, Any]], annotations: list[dict[str, Any]], names: list[str], stuff_pixels: dict[str, int]
) -> dict[str, Any]:
    """Compute counts and shares (0..1, four digits) of a split from its COCO records, based on visible areas."""
    area = np.array([a["area"] for a in annotations], np.float64)
    hidden = np.array([a["occlusion"] for a in annotations], np.float64)
    labels = np.array([a["category_id"] - 1 for a in annotations], np.int64)
    in_image = np.bincount([a["image_id"] - 1 for a in annotations], minlength=len(images))

    def share(condition: np.ndarray) -> float:
        return round(float(condition.mean()), 4)

    pixels = sum(i["width"] * i["height"] for i in images)
    return {
        "images": len(images),
        "landscape": sum(i["width"] > i["height"] for i in images),
        "sides": [min(min(i["width"], i["height"]) for i in images), max(max(i["width"], i["height"]) for i in images)],
        "objects": len(annotations),
        "objects_per_image": round(len(annotations) / len(images), 3),
        "objects_per_image_range": [int(in_image.min()), int(in_image.max())],
        "occluded_20": share(hidden >= 0.2),
        "occlusion_deciles": [share((hidden >= i / 10) & (hidden < (i + 1) / 10)) for i in range(6)],
        "small": share(area < SMALL),
        "medium": share((area >= SMALL) & (area <= LARGE)),
        "large": share(area > LARGE),
        "run_lengths": share(np.array([isinstance(a["segmentation"], dict) for a in annotations])),
        "things": {name: int((labels == i).sum()) for i, name in enumerate(names)},
        "stuff_pixel_share": {name: round(count / pixels, 4) for name, count in stuff_pixels.items()},
    }


def summary(result: dict[str, Any]) -> str:
    """Format the content of stats.json as a few lines for the terminal."""
    lines = []
    for split in ("train", "val"):
        s = result[split]
        lines.append(
            f"{split}: {s['images']} images, {s['objects']} objects ({s['objects_per_image']:.2f} per image), "
            f"{s['occluded_20']:.0%} at least 20% occluded, "
            f"small {s['small']:.0%}, medium {s['medium']:.0%}, large {s['large']:.0%}"
        )
    return "\n".join(lines)
