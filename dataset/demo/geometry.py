"""Curves, exact rasterisation and COCO encodings of the demo data set, implemented in NumPy.

The annotations must be identical on every machine, so OpenCV is not used: polygons are filled by testing pixel centres,
and their vertices lie on a grid of 1/16 pixel that hides rounding differences between mathematical libraries.

Symbols: a polygon is float64 [N,2] of (x, y); pixel (row j, column i) covers [i,i+1] x [j,j+1].
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

Points = Sequence[tuple[float, float]]
GRID = 16


def quantise(polygon: np.ndarray) -> np.ndarray:
    """Round vertices [N,2] to multiples of 1/16 pixel."""
    return np.round(polygon * GRID) / GRID


def ellipse(cx: float, cy: float, rx: float, ry: float, count: int = 32) -> np.ndarray:
    """Return the polygon [count,2] of an axis-aligned ellipse."""
    angle = np.arange(count) * (2 * np.pi / count)
    return np.stack([cx + rx * np.cos(angle), cy + ry * np.sin(angle)], 1)


def polygon(*points: tuple[float, float]) -> np.ndarray:
    """Return the polygon [N,2] with the given corners."""
    return np.array(points, np.float64)


def curve(points: Points, closed: bool = False, per: int = 8) -> np.ndarray:
    """Return a Catmull-Rom curve through `points`, `per` samples per segment; an open one includes both end points."""
    p = np.array(points, np.float64)
    if closed:
        a, b, c, d = np.roll(p, 1, 0), p, np.roll(p, -1, 0), np.roll(p, -2, 0)
    else:
        ext = np.concatenate([2 * p[:1] - p[1:2], p, 2 * p[-1:] - p[-2:-1]])
        a, b, c, d = ext[:-3], ext[1:-2], ext[2:-1], ext[3:]
    t = (np.arange(per) / per)[None, :, None]
    a, b, c, d = (v[:, None] for v in (a, b, c, d))
    out = 0.5 * (2 * b + (c - a) * t + (2 * a - 5 * b + 4 * c - d) * t**2 + (3 * b - 3 * c + d - a) * t**3)
    out = out.reshape(-1, 2)
    return out if closed else np.concatenate([out, p[-1:]])


def mirrored(points: Points, per: int = 8) -> np.ndarray:
    """Return a polygon that is symmetric about x = 0, given points on its right half from top to bottom."""
    right = curve(points, per=per)
    left = right[::-1].copy()
    left[:, 0] *= -1
    return np.concatenate([right, left])


def stroke(line: np.ndarray, width: float, end_width: float | None = None) -> np.ndarray:
    """Return the polygon around a line [N,2] that is `width` wide at its start and `end_width` wide at its end."""
    direction = np.gradient(line, axis=0)
    normal = np.stack([-direction[:, 1], direction[:, 0]], 1)
    normal /= np.maximum(np.sqrt((normal**2).sum(1, keepdims=True)), 1e-9)
    half = np.linspace(width, width if end_width is None else end_width, len(line))[:, None] / 2
    return np.concatenate([line + normal * half, (line - normal * half)[::-1]])


def fill(poly: np.ndarray, height: int, width: int) -> np.ndarray:
    """Rasterise a polygon with the even-odd rule: bool [height,width], True where the centre of the pixel is inside."""
    x0, y0 = poly[:, 0], poly[:, 1]
    x1, y1 = np.roll(x0, -1), np.roll(y0, -1)
    centres = np.arange(height)[:, None] + 0.5
    rows, edges = np.nonzero((y0 <= centres) != (y1 <= centres))
    slope = (x1[edges] - x0[edges]) / (y1[edges] - y0[edges])
    x = x0[edges] + (rows + 0.5 - y0[edges]) * slope
    columns = np.clip(np.ceil(x - 0.5), 0, width).astype(np.int64)
    flips = np.bincount(rows * (width + 1) + columns, minlength=height * (width + 1)).reshape(height, width + 1)
    return (np.cumsum(flips[:, :width], axis=1) & 1).astype(bool)


def fill_layers(layers: Iterable[tuple[bool, np.ndarray]], height: int, width: int) -> np.ndarray:
    """Rasterise polygons that are added (True) or cut out (False) one after the other: bool [height,width]."""
    mask = np.zeros((height, width), bool)
    for add, poly in layers:
        inside = fill(poly, height, width)
        mask = mask | inside if add else mask & ~inside
    return mask


def tight_box(mask: np.ndarray) -> tuple[int, int, int, int]:
    """Return the COCO box (x, y, w, h) of a non-empty mask, bool [H,W]."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    x, y = int(columns[0]), int(rows[0])
    return x, y, int(columns[-1]) + 1 - x, int(rows[-1]) + 1 - y


# Unit steps along pixel borders, with the object on the right-hand side (y points down): right, down, left, up.
STEPS = ((1, 0), (0, 1), (-1, 0), (0, -1))


def _border_steps(mask: np.ndarray) -> dict[tuple[int, int], list[int]]:
    """Return all border steps of a non-empty mask as {corner (x, y): directions of its steps}, in raster order."""
    left, top, width, height = tight_box(mask)
    pad = np.pad(mask[top : top + height, left : left + width], 1)
    inside = pad[1:-1, 1:-1]
    steps: dict[tuple[int, int], list[int]] = {}
    sides = ((pad[:-2, 1:-1], 0, 0), (pad[1:-1, 2:], 1, 0), (pad[2:, 1:-1], 1, 1), (pad[1:-1, :-2], 0, 1))
    for direction, (neighbour, dx, dy) in enumerate(sides):
        for y, x in np.argwhere(inside & ~neighbour).tolist():
            steps.setdefault((left + x + dx, top + y + dy), []).append(direction)
    return steps


def outlines(mask: np.ndarray) -> tuple[list[list[int]], bool]:
    """Return the outlines of a mask, bool [H,W], along pixel edges, and whether the mask has holes.

    Each outline is a flat COCO list x1, y1, x2, y2, ... of integer corners. Without holes, pycocotools rasterises the
    outlines to exactly the same mask. Pixels that only touch at a corner have separate outlines.
    """
    steps = _border_steps(mask)
    rings: list[list[int]] = []
    holes = False
    for start in sorted(steps, key=lambda corner: (corner[1], corner[0])):
        while steps[start]:
            position, direction = start, steps[start].pop(0)
            ring: list[int] = []
            doubled_area = 0
            first = direction
            while True:
                nxt = (position[0] + STEPS[direction][0], position[1] + STEPS[direction][1])
                doubled_area += position[0] * nxt[1] - nxt[0] * position[1]
                position = nxt
                if position == start and (not steps[start] or first == (direction + 1) % 4):
                    if first != direction:
                        ring += position
                    break
                # At a corner shared by two diagonal pixels, turn right to stay with the same pixel.
                leaving = steps[position]
                turn = next(d for d in ((direction + 1) % 4, direction, (direction - 1) % 4) if d in leaving)
                leaving.remove(turn)
                if turn != direction:
                    ring += position
                direction = turn
            if doubled_area > 0:
                rings.append(ring)
            else:
                holes = True
    return rings, holes


def run_lengths(mask: np.ndarray) -> list[int]:
    """Return COCO's uncompressed run lengths of a mask, bool [H,W]: column by column, starting with background."""
    flat = mask.T.reshape(-1)
    changes = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    runs = np.diff(np.concatenate([[0], changes, [flat.size]])).tolist()
    return [0, *runs] if flat[0] else runs


def compress(runs: Sequence[int]) -> str:
    """Compress run lengths as COCO does: differences to the second to last run, 5 bits per character."""
    out = []
    for i, run in enumerate(runs):
        value = run - runs[i - 2] if i > 2 else run
        more = True
        while more:
            char = value & 0x1F
            value >>= 5
            more = value != -1 if char & 0x10 else value != 0
            out.append(chr((char | 0x20 if more else char) + 48))
    return "".join(out)
