"""Textures of the stuff classes and noise, float32 in 0..1 (NumPy and OpenCV)."""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np


def noise(
    rng: np.random.Generator, height: int, width: int, cells: float, octaves: int = 3, squash: float = 1.0
) -> np.ndarray:
    """Return smooth noise [height,width] in about -1..1; bumps are `cells` pixels wide, `squash` times their height."""
    out = np.zeros((height, width), np.float32)
    weight = 1.0
    for _ in range(octaves):
        rows, columns = max(2, int(height / cells * squash) + 2), max(2, int(width / cells) + 2)
        grid = rng.random((rows, columns), dtype=np.float32) * 2 - 1
        out += weight * cv2.resize(grid, (width, height), interpolation=cv2.INTER_CUBIC)
        weight, cells = weight / 2, cells / 2
    return out


def _mix(first: np.ndarray, second: np.ndarray, amount: np.ndarray) -> np.ndarray:
    """Blend two colours [3] by `amount` [H,W] (0: first, 1: second) to [H,W,3]."""
    return first + (second - first) * np.clip(amount, 0, 1)[..., None]


def _colour(rng: np.random.Generator, rgb: tuple[float, float, float], spread: float = 0.06) -> np.ndarray:
    """Return a random RGB colour [3] close to the given one."""
    return np.clip(np.array(rgb) + (rng.random(3) * 2 - 1) * spread, 0, 1).astype(np.float32)


def sky(rng: np.random.Generator, h: int, w: int) -> np.ndarray:
    """Gradient with clouds."""
    down = np.linspace(0, 1, h, dtype=np.float32)[:, None]
    base = _mix(_colour(rng, (0.42, 0.6, 0.84)), _colour(rng, (0.74, 0.84, 0.93)), down + np.zeros((1, w), np.float32))
    cloud = np.clip(noise(rng, h, w, w / 2.5, 4, 2.0) * 0.9 + rng.random() * 0.5 - 0.2, 0, 1)[..., None]
    return base + (np.float32(0.96) - base) * cloud * 0.8


def water(rng: np.random.Generator, h: int, w: int) -> np.ndarray:
    """Flat and wide ripples."""
    ripple = noise(rng, h, w, 40, 3, 6.0)
    y = np.arange(h, dtype=np.float32)[:, None]
    wave = np.sin(y / (2.0 + y / h * 3) + ripple * 2.5) * 0.5 + 0.5
    return _mix(_colour(rng, (0.16, 0.38, 0.5)), _colour(rng, (0.42, 0.64, 0.7)), wave * 0.75 + ripple * 0.2)


def sand(rng: np.random.Generator, h: int, w: int) -> np.ndarray:
    """Low dunes and grain."""
    dune = np.sin(np.arange(h, dtype=np.float32)[:, None] / 5 + noise(rng, h, w, 60, 2) * 3) * 0.2
    grain = (rng.random((h, w), dtype=np.float32) - 0.5) * 0.7
    return _mix(_colour(rng, (0.7, 0.59, 0.42)), _colour(rng, (0.88, 0.8, 0.62)), 0.5 + dune + grain)


def grass(rng: np.random.Generator, h: int, w: int) -> np.ndarray:
    """Upright blades."""
    blades = cv2.GaussianBlur(rng.random((h, w), dtype=np.float32), (0, 0), sigmaX=0.6, sigmaY=2.6)
    blades = (blades - 0.5) * 5
    return _mix(_colour(rng, (0.18, 0.34, 0.13)), _colour(rng, (0.47, 0.62, 0.26)), 0.5 + blades * 0.5
                + noise(rng, h, w, 50, 2) * 0.15)  # fmt: skip


def brick(rng: np.random.Generator, h: int, w: int) -> np.ndarray:
    """Brick wall with mortar joints, in which every brick has a different shade."""
    row_h = float(rng.integers(11, 17))
    col_w = row_h * 2.2
    y, x = np.mgrid[0:h, 0:w].astype(np.float32)
    row = np.floor(y / row_h)
    along = x / col_w + (row % 2) * 0.5
    joint = np.minimum(np.minimum(y % row_h, row_h - y % row_h), np.minimum(along % 1, 1 - along % 1) * col_w)
    shades = rng.random((64, 64), dtype=np.float32)
    tone = shades[row.astype(int) % 64, np.floor(along).astype(int) % 64]
    face = _mix(_colour(rng, (0.46, 0.24, 0.19)), _colour(rng, (0.68, 0.4, 0.31)), tone * 0.8
                + noise(rng, h, w, 8, 2) * 0.15)  # fmt: skip
    mortar = _colour(rng, (0.7, 0.67, 0.63))
    return mortar + (face - mortar) * np.clip(joint - 0.6, 0, 1)[..., None]


def wood(rng: np.random.Generator, h: int, w: int) -> np.ndarray:
    """Planks with wood grain."""
    plank = float(rng.integers(20, 34))
    y, x = np.mgrid[0:h, 0:w].astype(np.float32)
    row = np.floor(y / plank).astype(int)
    bend = noise(rng, h, w, 70, 2, 2.0)
    grain = np.sin(y * 1.1 + bend * 7 + row * 2.1) * 0.22 + noise(rng, h, w, 24, 2, 8.0) * 0.18
    tone = rng.random(64, dtype=np.float32)[row % 64] * 0.5 + 0.2
    face = _mix(_colour(rng, (0.38, 0.25, 0.15)), _colour(rng, (0.68, 0.5, 0.33)), tone + grain)
    shift = rng.random(64, dtype=np.float32)[row % 64] * 90
    gap = np.minimum(y % plank, (x + shift) % 90)
    return face * (0.45 + 0.55 * np.clip(gap, 0, 1))[..., None]


STUFF: dict[str, Callable[[np.random.Generator, int, int], np.ndarray]] = {
    "sky": sky,
    "water": water,
    "sand": sand,
    "grass": grass,
    "brick": brick,
    "wood": wood,
}
"""Functions (rng, height, width) -> RGB [H,W,3] by stuff class; the labels follow those of the thing classes."""


def pattern(kind: str, rng: np.random.Generator, h: int, w: int, step: float) -> np.ndarray:
    """Return the opacity [h,w] in 0..1 of a decorative pattern with a period of `step` pixels."""
    y, x = np.mgrid[0:h, 0:w].astype(np.float32)
    angle = rng.random() * np.pi
    u = (x * np.cos(angle) + y * np.sin(angle)) / step
    v = (y * np.cos(angle) - x * np.sin(angle)) / step
    sharp = max(step / 2.5, 1.0)
    if kind == "stripes":
        return np.clip(np.sin(u * 2 * np.pi) * sharp + 0.5, 0, 1)
    if kind == "dots":
        return np.clip((0.3 - np.hypot(u % 1 - 0.5, v % 1 - 0.5)) * step + 0.5, 0, 1)
    if kind == "checks":
        return np.clip(np.sin(u * np.pi) * np.sin(v * np.pi) * sharp * 1.5 + 0.5, 0, 1)
    if kind == "marble":
        return np.clip(np.sin(u * 3 + noise(rng, h, w, step * 2, 3) * 3) * 0.5 + 0.4, 0, 1)
    if kind == "fade":
        ramp = u - u.min()
        return ramp / max(float(ramp.max()), 1e-6)
    return np.zeros((h, w), np.float32)


PATTERNS = ("plain", "stripes", "dots", "checks", "marble", "fade")
