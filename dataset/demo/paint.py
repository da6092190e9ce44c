"""Rendering of a scene: textures, shaded objects, soft shadows, light and noise (OpenCV and NumPy).

Colours are RGB, float32 in 0..1. Objects are drawn at three times the resolution and then averaged.
"""

from __future__ import annotations

import cv2
import numpy as np

from dataset.demo.scene import Scene, Thing
from dataset.demo.shapes import DARK, LIGHT, MAIN, OUTLINE, SECOND, SHADE, Shape
from dataset.demo.textures import PATTERNS, STUFF, noise, pattern

SS = 3
"""Supersampling factor of objects."""
SHIFT = 4
"""Number of fractional bits of the vertex coordinates passed to OpenCV."""


def _hsv(hue: float, saturation: float, value: float) -> np.ndarray:
    """Convert a hue (in turns), saturation and value in 0..1 to RGB [3]."""
    channel = (np.array([5.0, 3.0, 1.0]) + hue * 6) % 6
    return (value - value * saturation * np.clip(np.minimum(channel, 4 - channel), 0, 1)).astype(np.float32)


def palette(behind: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return the colours [6,3] of the tones; the main colour is the one of four that differs most from `behind` [3]."""
    draws = [(rng.random(), 0.4 + 0.45 * rng.random(), 0.6 + 0.38 * rng.random()) for _ in range(4)]
    hue, saturation, value = max(draws, key=lambda d: float(np.abs(_hsv(*d) - behind).sum()))
    main = _hsv(hue, saturation, value)
    second = _hsv(hue + 0.2 + 0.6 * rng.random(), 0.2 + 0.55 * rng.random(), 0.5 + 0.48 * rng.random())
    colours = np.zeros((6, 3), np.float32)
    colours[MAIN], colours[SECOND], colours[SHADE] = main, second, main * 0.74
    colours[LIGHT] = 0.9 + 0.1 * main
    colours[DARK] = 0.07 + 0.1 * second
    colours[OUTLINE] = main * 0.18
    return colours


def _fill(image: np.ndarray, polygon: np.ndarray, value: int) -> None:
    """Fill a polygon (in local pixels) in an image with SS times the resolution."""
    points = np.round((polygon * SS - 0.5) * (1 << SHIFT)).astype(np.int32)
    cv2.fillPoly(image, [points.reshape(-1, 1, 2)], int(value), lineType=cv2.LINE_8, shift=SHIFT)


def tones(shape: Shape, height: int, width: int, line: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return silhouette (uint8), tone (uint8) and distance to the border (float32, pixels), all [height*SS,width*SS].

    `line` is the width of the contour in pixels. The tone outside of the silhouette is OUTLINE.
    """
    silhouette = np.zeros((height * SS, width * SS), np.uint8)
    for add, poly in shape.silhouette:
        _fill(silhouette, poly, 255 if add else 0)
    tone = np.full(silhouette.shape, MAIN, np.uint8)
    for value, poly in shape.parts:
        _fill(tone, poly, value)
    distance = cv2.distanceTransform(silhouette, cv2.DIST_L2, 3) / SS
    tone[distance < line] = OUTLINE
    return silhouette, tone, distance


def _down(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """Average blocks of SS * SS pixels."""
    return np.asarray(cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA))


def draw_thing(
    thing: Thing, behind: np.ndarray, light: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Return RGB [h,w,3] and coverage [h,w] of an object in its own frame; `light` [2] points to the light source."""
    height, width = thing.local.shape
    colours = palette(behind, rng)
    silhouette, tone, distance = tones(thing.shape, height, width, min(max(thing.side * 0.022, 0.7), 2.2))
    rgb = _down((colours * 255).astype(np.uint8)[tone], height, width).astype(np.float32) / 255
    alpha = _down(silhouette, height, width).astype(np.float32) / 255

    kind = PATTERNS[int(rng.integers(len(PATTERNS)))]
    step = max(thing.side * (0.2 + 0.14 * rng.random()), 5.0)
    on_main = _down(((tone == MAIN) | (tone == SHADE)).astype(np.uint8) * 255, height, width).astype(np.float32) / 255
    tint = 0.55 if rng.random() < 0.5 else 1.4
    other = colours[SECOND] if rng.random() < 0.3 else np.clip(colours[MAIN] * tint, 0, 1)
    amount = pattern(kind, rng, height, width, step) * on_main * (0.45 + 0.35 * rng.random())
    rgb += (other - rgb) * amount[..., None]

    # A dome over the silhouette that is lit from one side makes the flat shape look solid.
    reach = max(thing.side * 0.28, 3.0)
    rise = 1 - np.clip(_down(distance, height, width) / reach, 0, 1)
    dome = cv2.GaussianBlur(np.sqrt(np.maximum(1 - rise**2, 0)), (0, 0), max(thing.side * 0.035, 0.8)) * reach
    across, down = (cv2.Sobel(dome, cv2.CV_32F, dx, 1 - dx, scale=1 / 8) for dx in (1, 0))
    lit = np.clip(-across * light[0] - down * light[1], -1, 1)
    rgb *= (0.97 + 0.38 * lit)[..., None]
    rgb += (0.5 * rng.random() * np.clip(lit - 0.35, 0, 1) ** 2)[..., None]
    return np.clip(rgb, 0, 1), alpha


def _window(left: int, top: int, shape: tuple[int, ...], height: int, width: int) -> tuple[tuple[slice, slice], ...]:
    """Return the slices of the image and of a patch [h,w] at (left, top) where the two overlap."""
    y0, x0 = max(top, 0), max(left, 0)
    y1, x1 = max(min(top + shape[0], height), y0), max(min(left + shape[1], width), x0)
    return (slice(y0, y1), slice(x0, x1)), (slice(y0 - top, y1 - top), slice(x0 - left, x1 - left))


def background(scene: Scene, first_label: int, rng: np.random.Generator) -> np.ndarray:
    """Draw the stuff regions as RGB [H,W,3] with borders that are smoothed by half a pixel."""
    canvas = np.zeros((scene.height, scene.width, 3), np.float32)
    weight = np.zeros((scene.height, scene.width), np.float32)
    for i, painter in enumerate(STUFF.values()):
        region = scene.stuff == first_label + i
        if region.any():
            soft = cv2.GaussianBlur(region.astype(np.float32), (0, 0), 0.6)
            canvas += painter(rng, scene.height, scene.width) * soft[..., None]
            weight += soft
    return canvas / weight[..., None]


def add_thing(canvas: np.ndarray, thing: Thing, light: np.ndarray, rng: np.random.Generator) -> None:
    """Draw an object with its shadow into an RGB image [H,W,3]."""
    height, width = canvas.shape[:2]
    picture, patch = _window(thing.left, thing.top, thing.local.shape, height, width)
    behind = canvas[picture].mean((0, 1))
    rgb, alpha = draw_thing(thing, behind, light, rng)

    blur = max(thing.side * 0.05, 1.0)
    margin = int(blur * 3) + 1
    shadow = cv2.GaussianBlur(np.pad(alpha, margin), (0, 0), blur)
    drop = np.round(-light * max(thing.side * 0.08, 2.0)).astype(int)
    area, part = _window(thing.left - margin + drop[0], thing.top - margin + drop[1], shadow.shape, height, width)
    canvas[area] *= (1 - 0.5 * shadow[part])[..., None]

    cover = alpha[patch][..., None]
    canvas[picture] += (rgb[patch] - canvas[picture]) * cover


def paint(scene: Scene, first_label: int, rng: np.random.Generator) -> np.ndarray:
    """Render a scene as an RGB image, uint8 [H,W,3]. Stuff labels start at `first_label`."""
    height, width = scene.height, scene.width
    canvas = background(scene, first_label, rng)
    angle = -np.pi / 2 + (rng.random() - 0.5) * 1.8
    light = np.array([np.cos(angle), np.sin(angle)], np.float32)
    for thing in scene.things:
        add_thing(canvas, thing, light, rng)
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    u, v = x / width * 2 - 1, y / height * 2 - 1
    lamp = 1 + 0.12 * (u * light[0] + v * light[1]) - 0.07 * (u * u + v * v)
    lamp += 0.05 * noise(rng, height, width, width / 2, 2)
    tint = 1 + (rng.random(3) - 0.5) * 0.08
    canvas *= lamp[..., None] * tint.astype(np.float32) * np.float32(0.92 + 0.16 * rng.random())
    grain = rng.standard_normal((height, width, 3), dtype=np.float32)
    canvas += grain * np.float32(0.008 + 0.012 * rng.random())
    return np.clip(canvas * 255 + 0.5, 0, 255).astype(np.uint8)
