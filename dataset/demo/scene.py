"""Composition of an image: stuff regions, objects and their occlusions, based on integers and exact masks only."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dataset.demo.geometry import fill, quantise
from dataset.demo.shapes import Shape, instance
from dataset.demo.textures import STUFF

REFERENCE = 224
"""Image size (square root of the area) that the object sizes below refer to."""
ASPECTS = ((4, 3), (3, 4), (5, 4), (4, 5), (3, 2), (2, 3))
MAX_HIDDEN = 0.55
"""Maximum share of the pixels of an object that may be occluded by others."""
MIN_INSIDE = 0.8
"""Minimum share of an object that lies inside of the image."""
LAYOUTS = (
    ("sky", "water", "sand"),
    ("sky", "grass"),
    ("brick", "grass"),
    ("brick", "wood"),
    ("sky", "water", "wood"),
    ("sky", "sand"),
    ("grass",),
    ("wood",),
)
PATCHES = {"grass": ("water", "sand"), "sand": ("water", "grass")}
"""Stuff classes of a pond or clearing in the lowest region."""


@dataclass
class Thing:
    """An object in an image.

    Attributes:
        label: class index.
        side: intended size (square root of the area) in pixels.
        shape: polygons in the frame of the object.
        local: mask in the frame of the object, bool [h,w].
        left: x coordinate of this frame in the image.
        top: y coordinate of this frame in the image.
        full: pixels of the object in the image, bool [H,W].
        visible: those pixels that are not covered by later objects, bool [H,W].
    """

    label: int
    side: float
    shape: Shape
    local: np.ndarray
    left: int
    top: int
    full: np.ndarray
    visible: np.ndarray

    @property
    def hidden(self) -> float:
        """Share of the pixels of the object that are covered by other objects."""
        return 1.0 - int(self.visible.sum()) / int(self.full.sum())


@dataclass
class Scene:
    """The content of an image: `stuff` and `semantic` are labels, uint8 [H,W]; `things` are sorted back to front."""

    height: int
    width: int
    stuff: np.ndarray
    semantic: np.ndarray
    things: list[Thing]


def picture_size(size: int, rng: np.random.Generator) -> tuple[int, int]:
    """Draw (height, width) of about size * size pixels; landscape and portrait are equally likely."""
    a, b = ASPECTS[int(rng.integers(len(ASPECTS)))]
    scale = size * (0.92 + 0.12 * float(rng.random()))
    ratio = float(np.sqrt(a / b))
    return int(scale / ratio), int(scale * ratio)


def stuff_map(height: int, width: int, first_label: int, rng: np.random.Generator) -> np.ndarray:
    """Draw stuff labels [H,W]: bands with wavy borders, sometimes with a pond or clearing in the lowest band."""
    label = {name: first_label + i for i, name in enumerate(STUFF)}
    bands = LAYOUTS[int(rng.integers(len(LAYOUTS)))]
    out = np.full((height, width), label[bands[0]], np.uint8)
    x, rows = np.arange(width) + 0.5, np.arange(height)[:, None] + 0.5
    low = 0.0
    for i, name in enumerate(bands[1:], 1):
        share = i / len(bands)
        low = max(share + (float(rng.random()) - 0.5) * 0.3, low + 0.15)
        wavy = 0.0 if name in ("wood", "water") else height * 0.03 * float(rng.random())
        period, phase = width * (0.4 + float(rng.random())), float(rng.random()) * 2 * np.pi
        tilt = 0.0 if name == "water" else (float(rng.random()) - 0.5) * 0.12
        edge = quantise(low * height + wavy * np.sin(2 * np.pi * x / period + phase) + tilt * (x - width / 2))
        out[rows > edge] = label[name]
    if bands[-1] in PATCHES and rng.random() < 0.5:
        choice = PATCHES[bands[-1]][int(rng.integers(2))]
        angle = np.arange(48) * (2 * np.pi / 48)
        phase, cx = float(rng.random()) * 6.0, float(rng.random()) * width
        cy = height * (low + (1 - low) * (0.4 + 0.5 * float(rng.random())))
        radius = width * (0.18 + 0.2 * float(rng.random())) * (1 + 0.12 * np.sin(3 * angle + phase))
        pond = quantise(np.stack([cx + radius * np.cos(angle), cy + 0.5 * radius * np.sin(angle)], 1))
        out[fill(pond, height, width) & (out == label[bands[-1]])] = label[choice]
    return out


def object_sides(size: int, rng: np.random.Generator) -> list[float]:
    """Draw the object sizes (square root of the area in pixels), sorted from large to small for placement."""
    unit = size / REFERENCE
    sides = []
    for _ in range(int(rng.integers(4, 8))):
        u = float(rng.random())
        small = rng.random() < 0.15
        sides.append(min((19 + 11 * u) * unit, 30.0) if small else (38 + 44 * u) * unit)
    # At most one large object, because two leave no room for others.
    if rng.random() < 0.55:
        sides[0] = (107 + 15 * float(rng.random())) * unit
    return sorted(sides, reverse=True)


def _crop(mask: np.ndarray, left: int, top: int, height: int, width: int) -> np.ndarray:
    """Place `mask` with its corner at (left, top) and crop it to the image: bool [height,width]."""
    out = np.zeros((height, width), bool)
    y0, x0 = max(top, 0), max(left, 0)
    y1, x1 = min(top + mask.shape[0], height), min(left + mask.shape[1], width)
    if y1 > y0 and x1 > x0:
        out[y0:y1, x0:x1] = mask[y0 - top : y1 - top, x0 - left : x1 - left]
    return out


def _spot(anchor: Thing | None, mask: np.ndarray, height: int, width: int, rng: np.random.Generator) -> tuple[int, int]:
    """Draw a corner (left, top) for a mask, either anywhere or such that it may occlude a part of `anchor`."""
    h, w = mask.shape
    if anchor is None:
        left = int(rng.integers(-w // 8, max(width - w * 7 // 8, 1)))
        return left, int(rng.integers(-h // 8, max(height - h * 7 // 8, 1)))
    # From touching to half covering: the distance of the centres as a fraction of the sum of both half sizes.
    angle, part = float(rng.random()) * 2 * np.pi, 0.35 + 0.5 * float(rng.random())
    ah, aw = anchor.local.shape
    x = anchor.left + aw / 2 + part * (aw + w) / 2 * float(np.cos(angle)) - w / 2
    y = anchor.top + ah / 2 + part * (ah + h) / 2 * float(np.sin(angle)) - h / 2
    return int(np.floor(x + 0.5)), int(np.floor(y + 0.5))


def _fits(new: np.ndarray, total: int, things: list[Thing], anchor: Thing | None) -> bool:
    """Whether a new object in the front leaves all objects sufficiently visible and occludes `anchor` enough."""
    if int(new.sum()) < MIN_INSIDE * total:
        return False
    for thing in things:
        visible, full = int((thing.visible & ~new).sum()), int(thing.full.sum())
        covered = int(thing.visible.sum()) - visible
        if full - visible > MAX_HIDDEN * full or (thing is anchor and full - visible < 0.22 * full):
            return False
        # Objects other than the anchor may only be occluded slightly.
        if thing is not anchor and covered > 0.08 * full:
            return False
    return True


def compose(size: int, classes: int, rng: np.random.Generator, names: list[str]) -> Scene:
    """Draw the content of an image with `classes` thing classes (`names`); all random numbers come from `rng`."""
    height, width = picture_size(size, rng)
    stuff = stuff_map(height, width, classes, rng)
    things: list[Thing] = []
    for side in object_sides(size, rng):
        label = int(rng.integers(classes))
        shape, local = instance(names[label], side, rng)
        if max(local.shape[0] / height, local.shape[1] / width) > 1.0:
            continue
        total = int(local.sum())
        # Occlude objects that are not occluded yet, to get pairs all over the image instead of a single pile.
        bare = [thing for thing in things if int(thing.visible.sum()) == int(thing.full.sum())]
        hide = bool(bare) and rng.random() < 0.52
        for attempt in range(30):
            anchor = bare[int(rng.integers(len(bare)))] if hide and attempt < 20 else None
            left, top = _spot(anchor, local, height, width, rng)
            full = _crop(local, left, top, height, width)
            if _fits(full, total, things, anchor):
                for thing in things:
                    thing.visible &= ~full
                things.append(Thing(label, side, shape, local, left, top, full, full.copy()))
                break
    semantic = stuff.copy()
    for thing in things:
        semantic[thing.visible] = thing.label
    return Scene(height, width, stuff, semantic, things)
