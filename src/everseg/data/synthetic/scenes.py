"""Painters of synthetic domains: each draws an image and the mask of its object from a generator.

A painter takes a generator and a side S and gives the image, (S, S, 3) float in 0..255, and the mask, (S, S)
bool. Positions and lengths are fractions of S, so that a scene looks the same at any size. Domains differ in
colour, texture, contrast, scale and noise, as the real ones they are named after do.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

Field = NDArray[np.floating[Any]]
Mask = NDArray[np.bool_]
Scene = tuple[Field, Mask]
Colour = tuple[float, float, float]


# ---------------------------------------------------------------- what scenes are made of


def grid(size: int) -> tuple[Field, Field]:
    """x and y of the pixels' centres, (S, S) each, in 0..1."""
    steps = (np.arange(size, dtype=np.float32) + 0.5) / size
    return np.broadcast_to(steps[None], (size, size)), np.broadcast_to(steps[:, None], (size, size))


def turned(size: int, x: float, y: float, angle: float) -> tuple[Field, Field]:
    """Coordinates (S, S) along and across a direction, from the point x, y."""
    across, down = grid(size)
    cos, sin = math.cos(angle), math.sin(angle)
    dx, dy = across - np.float32(x), down - np.float32(y)
    return dx * cos + dy * sin, dy * cos - dx * sin


def grain(rng: np.random.Generator, size: int, strength: float) -> Field:
    """(S, S, 1) the camera's noise, in grey values."""
    return rng.standard_normal((size, size, 1), dtype=np.float32) * strength


def noise(rng: np.random.Generator, size: int, cells: int) -> Field:
    """(S, S) smooth noise with about `cells` bumps a side, mean 0 and deviation about 1."""
    cells = min(cells, size)
    coarse = rng.standard_normal((cells + 1, cells + 1), dtype=np.float32)
    if cells == size:
        return coarse[:size, :size]
    fine = Image.fromarray(coarse).resize((size, size), Image.Resampling.BICUBIC)
    return np.asarray(np.asarray(fine) * 1.3, np.float32)


def cloud(rng: np.random.Generator, size: int, cells: int, octaves: int = 4) -> Field:
    """(S, S) noise of several scales, each twice as fine and half as strong: the texture of most surfaces."""
    total = sum(
        (noise(rng, size, cells << k) * 0.5**k for k in range(octaves)), np.zeros((size, size), np.float32)
    )
    return (total / 1.15).astype(np.float32)


def blob(rng: np.random.Generator, size: int, x: float, y: float, radius: float, rough: float) -> Field:
    """(S, S) signed depth inside a wobbly disc, in fractions of S: positive inside, 0 on its edge."""
    squeeze = rng.uniform(0.72, 1.0)
    u, v = turned(size, x, y, rng.uniform(0, np.pi))
    v = v / squeeze
    angles = np.linspace(-np.pi, np.pi, 721, dtype=np.float32)
    edge = np.ones_like(angles)
    for k in range(2, 7):
        edge += rough / k * rng.normal() * np.cos(k * angles + rng.uniform(0, 2 * np.pi))
    reach = radius * np.maximum(edge, 0.3)
    at = ((np.arctan2(v, u) + np.float32(np.pi)) * np.float32(720 / (2 * np.pi)) + 0.5).astype(np.int16)
    return np.asarray(reach[at] - np.sqrt(u * u + v * v), np.float32)


def soft(depth: Field, width: float) -> Field:
    """0 outside, 1 inside, with a ramp of `width` (fraction of S) centred on the edge."""
    return np.asarray(np.clip(depth / width + 0.5, 0, 1), np.float32)


def paint(image: Field, colour: Colour | Field, cover: Field) -> Field:
    """`image` with a colour, or another image, laid over it as far as `cover` (0..1) says."""
    return np.asarray(image + cover[..., None] * (np.asarray(colour, np.float32) - image), np.float32)


def flat(size: int, colour: Colour) -> Field:
    return np.broadcast_to(np.asarray(colour, np.float32), (size, size, 3)).copy()


def strokes(size: int, lines: list[tuple[NDArray[np.float64], float]]) -> Field:
    """(S, S) cover of polylines [(corners (n, 2) in 0..1, width as a fraction of S)]."""
    canvas = Image.new("L", (2 * size, 2 * size))  # twice as large, then averaged: smooth edges
    draw = ImageDraw.Draw(canvas)
    for corners, width in lines:
        draw.line(
            (corners * 2 * size).ravel().tolist(),
            fill=255,
            width=max(2, round(width * 2 * size)),
            joint="curve",
        )
    return np.asarray(canvas.resize((size, size), Image.Resampling.BOX), np.float32) / 255


def curve(rng: np.random.Generator, bend: float) -> NDArray[np.float64]:
    """(20, 2) corners of an arc across the image."""
    start, end = rng.uniform(-0.1, 1.1, 2), rng.uniform(-0.1, 1.1, 2)
    middle = (start + end) / 2 + rng.normal(0, bend, 2)
    t = np.linspace(0, 1, 20)[:, None]
    return np.asarray((1 - t) ** 2 * start + 2 * t * (1 - t) * middle + t**2 * end)


def place(rng: np.random.Generator, radius: float) -> tuple[float, float]:
    """A centre that keeps most of a disc of `radius` within the image."""
    margin = min(0.48, radius * 0.9 + 0.05)
    x, y = rng.uniform(margin, 1 - margin, 2)
    return float(x), float(y)


# ---------------------------------------------------------------- the domains


def polyps(rng: np.random.Generator, size: int) -> Scene:
    """Endoscopy: pink tissue with folds and vessels, a slightly redder dome with a soft edge, wet
    highlights.
    """
    across, down = grid(size)
    image = flat(size, (206 + rng.normal(0, 8), 122 + rng.normal(0, 10), 98 + rng.normal(0, 10)))
    tissue = cloud(rng, size, 3)
    image += tissue[..., None] * np.array([9, 11, 9], np.float32)
    far = np.hypot(across - rng.uniform(0.1, 0.9), down - rng.uniform(0.1, 0.9)) + 0.05 * noise(rng, size, 4)
    image *= (1 - 0.62 * np.exp(-((far / rng.uniform(0.16, 0.3)) ** 2)))[..., None]
    image *= (1 + 0.09 * np.sin(far * rng.uniform(26, 40)) * np.clip(far * 2, 0, 1))[..., None]
    vessels = np.exp(-((noise(rng, size, 7) / 0.07) ** 2)) * np.clip(noise(rng, size, 3), 0, 1)
    image = paint(image, (168, 52, 48), 0.45 * vessels)

    radius = rng.uniform(0.1, 0.25)
    depth = blob(rng, size, *place(rng, radius), radius, 0.22)
    cover = soft(depth, 0.035)
    dome = np.clip(depth / radius, 0, 1)
    mound = image * np.array([1.0, 0.8, 0.78], np.float32) + (28 * dome - 6)[..., None]
    mound += (cloud(rng, size, 14, 3) * 6)[..., None]
    image *= (1 - 0.3 * soft(depth + 0.03, 0.06) * (1 - cover))[..., None]  # the shade around its foot
    image = paint(image, mound, cover)
    shine = soft(noise(rng, size, 26) - 2.9 + 0.9 * dome, 0.5)
    image = paint(image, (255, 250, 246), 0.95 * shine)
    image *= (1 - 0.45 * np.clip(np.hypot(across - 0.5, down - 0.5) - 0.35, 0, 1))[..., None]
    corner = np.abs(across - 0.5) + np.abs(down - 0.5) > 0.86
    image[corner] = 6
    mask = (depth > 0) & ~corner
    return image + grain(rng, size, 2.5), mask


def lesions(rng: np.random.Generator, size: int) -> Scene:
    """Dermoscopy: pale skin, an irregular brown spot with a darker pattern, hairs, sometimes a dark frame."""
    across, down = grid(size)
    tone = rng.uniform(0.82, 1.04)
    image = flat(size, (228 * tone, 184 * tone, 160 * tone))
    image += cloud(rng, size, 4, 5)[..., None] * np.array([6, 8, 8], np.float32)
    radius = rng.uniform(0.12, 0.3)
    depth = blob(rng, size, *place(rng, radius), radius, 0.3) + 0.022 * noise(rng, size, 14)
    pattern = cloud(rng, size, 9)
    brown: Field = flat(size, (134, 86, 60)) + pattern[..., None] * np.array([24, 20, 16], np.float32)
    brown = paint(
        brown, (62, 40, 34), soft(noise(rng, size, 6) - 0.7, 1.2) * np.clip(depth / radius * 2, 0, 1)
    )
    image = paint(image, brown, rng.uniform(0.72, 0.95) * soft(depth, 0.05))
    hairs = [(curve(rng, 0.18), rng.uniform(0.003, 0.008)) for _ in range(rng.integers(0, 12))]
    image = paint(image, (48, 34, 30), 0.85 * strokes(size, hairs))
    if rng.random() < 0.35:
        image *= np.clip(1 - 6 * (np.hypot(across - 0.5, down - 0.5) - rng.uniform(0.56, 0.64)), 0, 1)[
            ..., None
        ]
    return image + grain(rng, size, 2.0), depth > 0


def nuclei(rng: np.random.Generator, size: int) -> Scene:
    """Microscopy: many small ellipses, bright on black or dark purple on pink; the mask is all of them."""
    stained = rng.random() < 0.5
    count, scale = int(rng.integers(14, 46)), rng.uniform(0.022, 0.045)
    tops = np.zeros(
        (size, size), np.float32
    )  # how deep each pixel is in the nucleus that shows there, 0 outside
    shade = np.zeros((size, size), np.float32)
    across, down = grid(size)
    for x, y in rng.uniform(0.02, 0.98, (count, 2)).tolist():
        a = scale * rng.uniform(0.8, 1.5)
        b = a * rng.uniform(0.6, 1.0)
        a, b = max(a, 1.6 / size), max(b, 1.6 / size)
        turn = rng.uniform(0, np.pi)
        rows = slice(max(0, int((y - a) * size) - 1), int((y + a) * size) + 2)
        columns = slice(max(0, int((x - a) * size) - 1), int((x + a) * size) + 2)
        dx, dy = across[rows, columns] - np.float32(x), down[rows, columns] - np.float32(y)
        u = dx * math.cos(turn) + dy * math.sin(turn)
        v = dy * math.cos(turn) - dx * math.sin(turn)
        depth = np.clip(1 - (u / a) ** 2 - (v / b) ** 2, 0, None)
        shows = depth > tops[rows, columns]
        shade[rows, columns][shows] = rng.uniform(0.65, 1.0)
        tops[rows, columns] = np.maximum(depth, tops[rows, columns])
    mask = tops > 0
    cover = np.clip(tops * 4, 0, 1)
    if stained:
        image: Field = flat(size, (226, 170, 205)) + cloud(rng, size, 8, 5)[..., None] * np.array(
            [13, 19, 11], np.float32
        )
        image = paint(image, (244, 234, 242), soft(noise(rng, size, 5) - 1.1, 0.5))
        inside = flat(size, (104, 58, 140)) + (cloud(rng, size, 40, 2) * 13 + 60 * (0.85 - shade))[..., None]
        image = paint(image, inside, 0.92 * cover)
        return image + grain(rng, size, 3.5), mask
    light = (14 + 3 * noise(rng, size, 3)) + 165 * shade * cover * (0.75 + 0.25 * np.sqrt(tops))
    light = light + 9 * cover * noise(rng, size, 48) + grain(rng, size, 3)[..., 0]
    return np.repeat(light[..., None], 3, axis=2).astype(np.float32), mask


def cracks(rng: np.random.Generator, size: int) -> Scene:
    """Pavement: coarse grey asphalt under uneven light, with thin dark wandering lines."""
    stones = noise(rng, size, size) * 15 + noise(rng, size, size // 3 or 1) * 9
    light = rng.uniform(118, 160) + 12 * cloud(rng, size, 2, 3)
    image: Field = np.repeat((light + stones)[..., None], 3, axis=2) * np.array(
        [1.0, 0.985, 0.955], np.float32
    )
    pebbles = soft(noise(rng, size, size // 4 or 1) - 2.1, 0.6)
    image = paint(image, (206, 203, 196), 0.6 * pebbles)
    lines = []
    for _ in range(rng.integers(1, 4)):
        heading = rng.uniform(0, 2 * np.pi)
        turns = np.cumsum(rng.normal(0, 0.28, 46)) * 0.6 + rng.normal(0, 0.5, 46)
        steps = np.stack([np.cos(heading + turns), np.sin(heading + turns)], axis=1) * 0.026
        walk = rng.uniform(0.25, 0.75, 2) + np.cumsum(steps, axis=0) - steps.sum(axis=0) / 2
        lines.append((walk, rng.uniform(0.007, 0.015)))
        if rng.random() < 0.6:
            branch = walk[rng.integers(8, 36)] + np.cumsum(
                steps[:20] @ np.array([[0.3, 0.95], [-0.95, 0.3]]), axis=0
            )
            lines.append((branch, 0.007))
    cover = strokes(size, lines)
    dark = image * 0.36 + 6
    return paint(image, dark, np.clip(cover * 1.2, 0, 1)) + grain(rng, size, 3), cover >= 0.4


def shadows(rng: np.random.Generator, size: int) -> Scene:
    """Outdoors in sun: grass and paving, on which a polygon lies in bluish shadow."""
    grass = flat(size, (124, 150, 74)) + (cloud(rng, size, 10, 5) * 24)[..., None] * np.array(
        [1, 0.9, 0.6], np.float32
    )
    stone: Field = flat(size, (206, 194, 174)) + (cloud(rng, size, 6, 5) * 10)[..., None]
    tile = rng.uniform(0.08, 0.16)
    u, v = turned(size, 0.5, 0.5, rng.uniform(0, np.pi))
    joints = (np.minimum(u % tile, v % tile) < 0.005).astype(np.float32)
    stone = paint(stone, (150, 138, 120), 0.7 * joints)
    border = turned(size, 0.5, 0.5, rng.uniform(0, 2 * np.pi))[0] - rng.uniform(-0.35, 0.35)
    image = paint(grass, stone, soft(border + 0.012 * noise(rng, size, 20), 0.012))
    x, y = rng.uniform(0.3, 0.7, 2)
    angles = [*np.sort(rng.uniform(0, 2 * np.pi, 3) / 4 + np.array([0, 2.1, 4.2])), 5.9]
    reach = rng.uniform(0.2, 0.48, 4)
    corners = np.stack([x + reach * np.cos(angles), y + reach * np.sin(angles)], axis=1)
    canvas = Image.new("L", (size, size))
    ImageDraw.Draw(canvas).polygon((corners * size).ravel().tolist(), fill=255)
    hard = np.asarray(canvas) > 0
    penumbra = np.asarray(canvas.filter(ImageFilter.GaussianBlur(size * 0.006)), np.float32) / 255
    dark = image * np.array([0.36, 0.41, 0.52], np.float32) * rng.uniform(0.85, 1.15)
    return paint(image, dark, penumbra) + grain(rng, size, 3), hard


def camouflage(rng: np.random.Generator, size: int) -> Scene:
    """Wildlife: a body patterned nearly as the ground it lies on, a little lighter and finer, with a faint
    rim.
    """
    shades = np.array([(84, 88, 50), (122, 112, 70), (58, 56, 40), (150, 138, 96)])
    shades = (shades * rng.uniform(0.85, 1.15, (1, 3)) + rng.normal(0, 8, (4, 3))).astype(np.float32)

    def leaves(cells: int) -> Field:
        layers = np.stack([cloud(rng, size, cells, 2) for _ in shades])
        image = shades[layers.argmax(axis=0)] + (noise(rng, size, 60) * 9)[..., None]
        return np.asarray(image, np.float32)

    ground = leaves(12)
    x, y = place(rng, 0.24)
    radius = rng.uniform(0.12, 0.2)
    body = blob(rng, size, x, y, radius, 0.18)
    turn = rng.uniform(0, 2 * np.pi)
    head_x, head_y = x + 1.05 * radius * math.cos(turn), y + 1.05 * radius * math.sin(turn)
    depth = np.maximum(body, blob(rng, size, head_x, head_y, 0.45 * radius, 0.08))
    hide = leaves(20)
    hide = 0.62 * hide + 0.38 * hide.mean(axis=(0, 1)) * np.array([1.12, 1.04, 0.8], np.float32)
    hide += (26 * np.clip(depth / radius, 0, 1) + 2)[..., None]
    image = ground * (1 - 0.42 * soft(depth + 0.02, 0.045))[..., None]
    image = paint(image, hide, soft(depth, 0.02))
    return image + grain(rng, size, 4), depth > 0


def natural(rng: np.random.Generator, size: int) -> Scene:
    """A clear picture: a few plain or striped things of distinct colours before sky and ground; the mask is
    the nearest.
    """
    _, down = grid(size)
    horizon = rng.uniform(0.35, 0.65)
    sky = flat(size, (142, 188, 232)) + (60 * (down - 0.3))[..., None]
    sky = paint(sky, (246, 246, 250), 0.8 * soft(cloud(rng, size, 3) - 0.5, 0.8))
    ground = (
        flat(size, tuple(rng.uniform((80, 90, 50), (190, 165, 120)).tolist()))
        + (cloud(rng, size, 12) * 13)[..., None]
    )
    image = paint(sky, ground, soft(down - horizon, 0.01))
    depth = np.zeros((size, size), np.float32)
    for k in range(rng.integers(3, 6)):
        radius = rng.uniform(0.08, 0.12) + 0.035 * k
        x, y = place(rng, radius)
        depth = _thing(rng, size, x, y, radius)
        rows = slice(max(0, int((y - 1.6 * radius) * size)), int((y + 1.6 * radius) * size) + 1)
        columns = slice(max(0, int((x - 1.6 * radius) * size)), int((x + 1.6 * radius) * size) + 1)
        near = depth[rows, columns].copy()
        depth[:] = -1  # Outside this window a thing has no part, whatever its outline does.
        depth[rows, columns] = near
        image[rows, columns] = paint(image[rows, columns], _dress(rng, near, size, radius), soft(near, 0.008))
    return image + grain(rng, size, 2), depth > 0


def _thing(rng: np.random.Generator, size: int, x: float, y: float, radius: float) -> Field:
    """Depth inside a disc, a wobbly disc or a box."""
    shape = rng.integers(3)
    if shape < 2:
        return blob(rng, size, x, y, radius, 0.35 * shape)
    u, v = turned(size, x, y, rng.uniform(0, np.pi))
    return np.asarray(
        np.minimum(0.9 * radius - np.abs(u), rng.uniform(0.5, 0.9) * radius - np.abs(v)), np.float32
    )


def _dress(rng: np.random.Generator, depth: Field, size: int, radius: float) -> Field:
    """A saturated colour over a part of the picture, shaded like a solid, plain or with stripes of a second
    colour.
    """
    image = np.broadcast_to(np.asarray(_vivid(rng), np.float32), (*depth.shape, 3))
    if rng.random() < 0.5:
        across, down = grid(size)
        turn, period = rng.uniform(0, np.pi), rng.uniform(0.03, 0.07) / (2 * np.pi)
        phase = (across * math.cos(turn) + down * math.sin(turn)) / period
        wave = np.sin(phase[: depth.shape[0], : depth.shape[1]])
        image = paint(image, _vivid(rng), soft(wave, 0.6))
    shade: Field = 0.72 + 0.36 * np.clip(depth / radius, 0, 1)
    return np.asarray(image * shade[..., None])


def _vivid(rng: np.random.Generator) -> Colour:
    low, high, middle = rng.uniform(20, 80), rng.uniform(185, 250), rng.uniform(50, 220)
    a, b, c = rng.permutation([low, middle, high]).tolist()
    return a, b, c


SCENES: dict[str, Callable[[np.random.Generator, int], Scene]] = {
    "polyps": polyps,
    "lesions": lesions,
    "nuclei": nuclei,
    "cracks": cracks,
    "shadows": shadows,
    "camouflage": camouflage,
    "natural": natural,
}
