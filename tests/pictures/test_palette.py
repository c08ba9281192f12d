"""The colours of classes are what the computation gives, and are apart for every reader."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from everseg.pictures.palette import COLOURS, VOID_COLOUR, Colour, class_colour

Floats = NDArray[np.float64]
CLASS_COLOURS = [class_colour(channel) for channel in range(1, 255)]

FIRST: tuple[Colour, ...] = (
    (0, 114, 178),
    (230, 159, 0),
    (0, 158, 115),
    (204, 121, 167),
    (213, 94, 0),
    (86, 180, 233),
)
"""Okabe and Ito's colours without yellow and black."""

LEVELS = np.linspace(0, 255, 10).round()
LIGHTNESS = (32.0, 86.0)
"""CIE L* of a colour: seen on white and on black paper alike."""
CHROMA = 22.0
"""At least: greys are the image below."""

NORMAL = np.eye(3)
PROTANOPIA = np.array(
    [
        [0.152286, 1.052583, -0.204868],
        [0.114503, 0.786281, 0.099216],
        [-0.003882, -0.048116, 1.051998],
    ]
)
DEUTERANOPIA = np.array(
    [
        [0.367322, 0.860646, -0.227968],
        [0.280085, 0.672501, 0.047413],
        [-0.011820, 0.042940, 0.968881],
    ]
)
VISIONS = (NORMAL, PROTANOPIA, DEUTERANOPIA)
"""What linear RGB looks like to a reader. Source: Machado, Oliveira and Fernandes 2009, severity 1."""


def computed(count: int = 254) -> tuple[Colour, ...]:
    """Colours of the channels 1, 2, ...: after the first few each is the one, of a grid, that lies furthest
    from all before it to the reader to whom they look most alike."""
    grid = np.stack(np.meshgrid(LEVELS, LEVELS, LEVELS, indexing="ij"), -1).reshape(-1, 3)
    seen = lab(grid, NORMAL)
    within = (seen[:, 0] >= LIGHTNESS[0]) & (seen[:, 0] <= LIGHTNESS[1])
    grid = grid[within & (np.hypot(seen[:, 1], seen[:, 2]) >= CHROMA)]
    looks = np.stack([lab(grid, vision) for vision in VISIONS])
    chosen = list(FIRST[:count])
    nearest = np.full(len(grid), np.inf)
    for place in range(count):
        if place >= len(chosen):
            # Rounded, so that the last bits of another machine's arithmetic choose no other colour.
            chosen.append(_plain(grid[int(np.argmax(nearest.round(3)))]))
        own = np.stack([lab(np.array([chosen[place]], float), vision) for vision in VISIONS])
        nearest = np.minimum(nearest, np.linalg.norm(looks - own, axis=2).min(0))
    return tuple(chosen)


def _plain(colour: Floats) -> Colour:
    red, green, blue = (int(part) for part in colour)
    return red, green, blue


def lab(colours: Floats, vision: Floats) -> Floats:
    """CIE L*a*b* (D65) of sRGB colours (N, 3) in 0..255, as a reader of some vision sees them."""
    share = colours / 255
    linear = np.where(share <= 0.04045, share / 12.92, ((share + 0.055) / 1.055) ** 2.4)
    linear = (linear @ vision.T).clip(0, 1)
    to_xyz = np.array(
        [[0.412456, 0.357576, 0.180437], [0.212673, 0.715152, 0.072175], [0.019334, 0.119192, 0.950304]]
    )
    xyz = linear @ to_xyz.T / np.array([0.95047, 1.0, 1.08883])
    root = np.where(xyz > 216 / 24389, np.cbrt(xyz), (24389 / 27 * xyz + 16) / 116)
    x, y, z = root.T
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], axis=1)


def test_the_colours_are_what_the_computation_gives() -> None:
    assert CLASS_COLOURS == list(computed())
    assert class_colour(0) == (0, 0, 0) and class_colour(255) == VOID_COLOUR and COLOURS.shape == (256, 3)


def test_colours_are_apart_for_every_reader() -> None:
    """Distances in CIE L*a*b*: 2.3 is just noticed."""
    assert len(set(CLASS_COLOURS)) == 254
    for count, least in ((8, 17), (21, 14), (150, 3)):
        colours = np.array(CLASS_COLOURS[:count], float)
        for vision in (NORMAL, PROTANOPIA, DEUTERANOPIA):
            seen = lab(colours, vision)
            apart = np.linalg.norm(seen[:, None] - seen[None], axis=2)[np.triu_indices(count, 1)]
            assert apart.min() > least
    # White, black and a red whose coordinates are in any text book.
    known = lab(np.array([[255, 255, 255], [0, 0, 0], [255, 0, 0]], float), NORMAL)
    assert known[:2] == pytest.approx(np.array([[100, 0, 0], [0, 0, 0]]), abs=0.02)
    assert known[2] == pytest.approx([53.24, 80.09, 67.20], abs=0.05)
