"""The thing classes of the demo data set as polygons with random proportions.

Shapes are defined in a unit frame (x points right, y down, roughly [-1,1]^2). All classes are drawn with the same tones
from the same palette, so that they can only be distinguished by their shape and details, not by their colour.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from dataset.demo.geometry import curve, ellipse, fill_layers, mirrored, polygon, quantise, stroke

MAIN, SECOND, LIGHT, DARK, SHADE, OUTLINE = range(6)
"""Tones of a part: main colour, second colour, almost white, almost black, darkened main colour, contour."""


@dataclass(frozen=True)
class Shape:
    """A silhouette of polygons to add (True) or cut out (False) in order, and parts (tone, polygon) painted on it."""

    silhouette: list[tuple[bool, np.ndarray]]
    parts: list[tuple[int, np.ndarray]]

    def map(self, move: Callable[[np.ndarray], np.ndarray]) -> Shape:
        """Return the shape with `move` applied to every polygon [N,2]."""
        return Shape([(add, move(p)) for add, p in self.silhouette], [(tone, move(p)) for tone, p in self.parts])


def flip_x(poly: np.ndarray) -> np.ndarray:
    """Mirror a polygon about x = 0."""
    return poly * np.array([-1.0, 1.0])


def _between(rng: np.random.Generator, low: float, high: float) -> float:
    return low + (high - low) * float(rng.random())


def star(rng: np.random.Generator) -> Shape:
    """Five-pointed star with facets."""
    inner = _between(rng, 0.44, 0.54)
    angle = np.arange(10) * (np.pi / 5) - np.pi / 2
    radius = np.where(np.arange(10) % 2 == 0, 1.0, inner)
    body = np.stack([radius * np.cos(angle), radius * np.sin(angle)], 1)
    facets = [(SHADE, np.stack([np.zeros(2), body[i], body[i + 1]])) for i in range(0, 10, 2)]
    return Shape([(True, body)], [*facets, (SECOND, ellipse(0, 0, 0.22, 0.22))])


def fish(rng: np.random.Generator) -> Shape:
    """Fish swimming to the right: forked tail, fins, gill, eye."""
    fat, fork = _between(rng, 0.92, 1.3), _between(rng, 0.5, 0.72)
    body = curve(
        [(0.98, 0.02), (0.66, -0.34 * fat), (0.15, -0.5 * fat), (-0.35, -0.32 * fat), (-0.72, -0.1), (-0.72, 0.1),
         (-0.35, 0.32 * fat), (0.15, 0.48 * fat), (0.66, 0.32 * fat)], closed=True)  # fmt: skip
    tail = polygon((-0.55, -0.1), (-1.2, -fork), (-1.02, 0), (-1.2, fork), (-0.55, 0.1))
    top = polygon((0.4, -0.36 * fat), (0.0, -0.84 * fat), (-0.42, -0.66 * fat), (-0.3, -0.26 * fat))
    low = polygon((0.2, 0.36 * fat), (-0.1, 0.8 * fat), (-0.3, 0.62 * fat), (-0.18, 0.3 * fat))
    gill = stroke(curve([(0.46, -0.32 * fat), (0.36, 0.0), (0.46, 0.3 * fat)]), 0.06)
    side = polygon((0.22, 0.02), (-0.2, -0.08), (-0.12, 0.24))
    parts = [(SECOND, tail), (SECOND, top), (SECOND, low), (MAIN, body), (SECOND, side), (DARK, gill)]
    parts += [(LIGHT, ellipse(0.64, -0.1, 0.14, 0.14)), (DARK, ellipse(0.67, -0.1, 0.075, 0.075))]
    return Shape([(True, p) for p in (body, tail, top, low)], parts)


def mushroom(rng: np.random.Generator) -> Shape:
    """Spotted cap on a stem."""
    high, wide = _between(rng, 0.8, 1.05), _between(rng, 0.26, 0.36)
    cap = mirrored([(0, -0.95 * high), (0.48, -0.84 * high), (0.86, -0.44 * high), (1.0, 0.06), (0.6, 0.2), (0, 0.25)])
    stem = mirrored([(0, 0.05), (wide, 0.1), (wide * 1.05, 0.55), (wide * 1.5, 0.95), (wide, 1.07), (0, 1.1)])
    parts = [(SECOND, stem), (SHADE, ellipse(0, 0.16, 0.52, 0.12)), (MAIN, cap)]
    spots = [(-0.52, -0.28), (0.02, -0.62), (0.5, -0.3), (0.0, -0.1), (-0.8, 0.0), (0.82, 0.0)]
    for x, y in spots:
        size = _between(rng, 0.1, 0.19)
        parts.append((LIGHT, ellipse(x + _between(rng, -0.06, 0.06), y * high, size, size * 0.85)))
    return Shape([(True, stem), (True, cap)], parts)


def cup(rng: np.random.Generator) -> Shape:
    """Mug whose handle has a hole."""
    foot, loop = _between(rng, 0.46, 0.62), _between(rng, 0.36, 0.5)
    body = polygon((-0.72, -0.72), (0.72, -0.72), (foot + 0.06, 0.66), (foot - 0.1, 0.84), (0.1 - foot, 0.84),
                   (-foot - 0.06, 0.66))  # fmt: skip
    handle, hole = ellipse(0.72, -0.06, loop + 0.08, 0.52), ellipse(0.72, -0.06, loop - 0.14, 0.29)
    rim = ellipse(0, -0.72, 0.72, 0.2)
    edge = 0.72 - (0.72 - foot) * 0.6
    band = polygon((-edge - 0.08, 0.0), (edge + 0.08, 0.0), (edge + 0.04, 0.34), (-edge - 0.04, 0.34))
    parts = [(SECOND, handle), (MAIN, body), (SECOND, band), (LIGHT, rim), (DARK, ellipse(0, -0.7, 0.58, 0.13))]
    return Shape([(True, handle), (False, hole), (True, body), (True, rim)], parts)


def rocket(rng: np.random.Generator) -> Shape:
    """Rocket with fins, porthole and flame."""
    wide, reach = _between(rng, 0.36, 0.46), _between(rng, 0.74, 0.95)
    body = mirrored([(0, -1.3), (wide * 0.62, -0.85), (wide, -0.2), (wide * 0.92, 0.45), (wide * 0.6, 0.8)])
    fin = polygon((wide * 0.8, 0.1), (reach, 0.62), (reach * 0.96, 1.08), (wide * 0.6, 0.78))
    flame = mirrored([(0, 0.7), (wide * 0.5, 0.8), (wide * 0.42, 1.0), (0, _between(rng, 1.25, 1.5))])
    nose = polygon((-1, -1.4), (1, -1.4), (1, -0.72), (-1, -0.72))
    belt = polygon((-wide, 0.56), (wide, 0.56), (wide, 0.68), (-wide, 0.68))
    parts = [(LIGHT, flame), (SECOND, fin), (SECOND, flip_x(fin)), (MAIN, body), (DARK, belt)]
    parts += [(SECOND, nose), (DARK, ellipse(0, -0.3, 0.24, 0.24)), (LIGHT, ellipse(0, -0.3, 0.17, 0.17))]
    return Shape([(True, flame), (True, fin), (True, flip_x(fin)), (True, body)], parts)


def cat(rng: np.random.Generator) -> Shape:
    """Sitting cat, seen from the front."""
    ear, hip = _between(rng, 0.92, 1.1), _between(rng, 0.5, 0.62)
    head = ellipse(0, -0.52, 0.5, 0.42)
    ears = polygon((0.1, -0.82), (0.44, -1.18 * ear), (0.48, -0.5))
    inner = polygon((0.23, -0.84), (0.4, -1.04 * ear), (0.42, -0.7))
    body = mirrored([(0, -0.3), (0.3, -0.2), (0.42, 0.3), (hip, 0.75), (hip * 0.8, 1.0), (0, 1.02)])
    tail = stroke(curve([(hip * 0.7, 0.9), (0.86, 0.82), (1.0, 0.45), (0.84, 0.12), (0.98, -0.12)]), 0.24, 0.16)
    parts = [(SECOND, tail), (MAIN, body), (SECOND, ellipse(0, 0.42, 0.24, 0.42)), (MAIN, head), (MAIN, ears)]
    parts += [(MAIN, flip_x(ears)), (SECOND, inner), (SECOND, flip_x(inner))]
    for x in (-0.2, 0.2):
        parts += [(LIGHT, ellipse(x, -0.56, 0.13, 0.12)), (DARK, ellipse(x, -0.56, 0.06, 0.11))]
        parts.append((DARK, stroke(polygon((x * 0.6, 0.72), (x * 0.6, 1.0)), 0.05)))
        parts.append((DARK, stroke(polygon((x * 0.9, -0.34), (x * 2.3, -0.3)), 0.035)))
    parts.append((DARK, polygon((-0.07, -0.42), (0.07, -0.42), (0, -0.33))))
    return Shape([(True, p) for p in (tail, body, head, ears, flip_x(ears))], parts)


def house(rng: np.random.Generator) -> Shape:
    """House with a gable roof, chimney, door and windows."""
    top, eave = _between(rng, -1.1, -0.85), _between(rng, 0.92, 1.08)
    wall = polygon((-0.78, -0.15), (0.78, -0.15), (0.78, 0.92), (-0.78, 0.92))
    roof = polygon((-eave, -0.08), (0, top), (eave, -0.08))
    chimney = polygon((0.38, top), (0.64, top), (0.64, -0.2), (0.38, -0.2))
    door = polygon((-0.16, 0.36), (0.2, 0.36), (0.2, 0.92), (-0.16, 0.92))
    parts = [(SHADE, chimney), (MAIN, wall), (SECOND, roof), (DARK, door)]
    for x in (-0.62, 0.34):
        parts.append((LIGHT, polygon((x, 0.12), (x + 0.3, 0.12), (x + 0.3, 0.44), (x, 0.44))))
        parts.append((DARK, stroke(polygon((x + 0.15, 0.12), (x + 0.15, 0.44)), 0.04)))
    parts.append((LIGHT, ellipse(0, (top - 0.2) * 0.42, 0.14, 0.14)))
    return Shape([(True, chimney), (True, wall), (True, roof)], parts)


def leaf(rng: np.random.Generator) -> Shape:
    """Serrated leaf on a stalk, with veins."""
    wide, teeth = _between(rng, 0.55, 0.72), int(rng.integers(7, 10))
    t = np.linspace(0, 1, 8 * teeth + 1)
    profile = wide * np.sin(np.pi * t**1.25) ** 0.85 * (1 + 0.16 * ((t * teeth) % 1.0) - 0.08)
    right = np.stack([profile, -1.05 + 1.75 * t], 1)
    blade = np.concatenate([right, flip_x(right[::-1])])
    stalk = stroke(curve([(0, 0.5), (0.03, 0.85), (0.16, 1.2)]), 0.13)
    parts = [(SECOND, stalk), (MAIN, blade), (SHADE, np.concatenate([right, polygon((0, 0.7), (0, -1.05))]))]
    parts.append((SECOND, stroke(polygon((0, -0.95), (0, 0.7)), 0.05, 0.09)))
    for y in (-0.5, -0.15, 0.2, 0.5):
        rib = stroke(polygon((0, y), (0.5 * wide, y - 0.3)), 0.06, 0.03)
        parts += [(SECOND, rib), (SECOND, flip_x(rib))]
    return Shape([(True, stalk), (True, blade)], parts)


THINGS: dict[str, Callable[[np.random.Generator], Shape]] = {
    "star": star,
    "fish": fish,
    "mushroom": mushroom,
    "cup": cup,
    "rocket": rocket,
    "cat": cat,
    "house": house,
    "leaf": leaf,
}
"""Thing classes by name, in the order of their labels."""


def instance(name: str, side: float, rng: np.random.Generator) -> tuple[Shape, np.ndarray]:
    """Draw an object of a class: its shape in pixels of its own frame, and its mask there, bool [h,w].

    `side` is the intended square root of the area in pixels. The object is stretched, mirrored and rotated
    randomly. The mask has a margin of one pixel.
    """
    shape = THINGS[name](rng)
    probe = shape.map(lambda p: quantise((p + 2.0) * 20))
    unit = float(np.sqrt(fill_layers(probe.silhouette, 80, 80).sum())) / 20
    stretch, shear = _between(rng, 0.9, 1.11), _between(rng, -0.12, 0.12)
    mirror = 1.0 if rng.random() < 0.5 else -1.0
    angle = _between(rng, -0.6, 0.6)
    cos, sin, scale = float(np.cos(angle)), float(np.sin(angle)), side / unit

    def turn(p: np.ndarray) -> np.ndarray:
        x, y = p[:, 0] * mirror * stretch + p[:, 1] * shear, p[:, 1] / stretch
        return np.stack([(x * cos - y * sin) * scale, (x * sin + y * cos) * scale], 1)

    turned = shape.map(turn)
    points = np.concatenate([p for _, p in turned.silhouette])
    low = quantise(points.min(0)) - 1
    placed = turned.map(lambda p: quantise(p - low))
    width, height = (np.ceil(quantise(points.max(0)) - low) + 1).astype(int).tolist()
    return placed, fill_layers(placed.silhouette, height, width)
