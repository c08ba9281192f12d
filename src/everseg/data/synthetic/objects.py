"""What the classes of synthetic class streams look like: a shape, a texture and two colours each.

A shape takes coordinates from an object's centre, along and across its direction, in units of its radius, and
gives the signed depth inside it in the same units: positive inside, within the unit disc. A texture takes the
same coordinates, and how many stripes or spots the object has, and gives how far the second colour covers the
first (0..1).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from everseg.data.synthetic.scenes import Colour, Field

Pattern = Callable[[Field, Field, float], Field]
Shape = Callable[[Field, Field], Field]


@dataclass(frozen=True)
class Look:
    shape: Shape
    texture: Pattern
    colours: tuple[Colour, Colour]


# ---------------------------------------------------------------- shapes


def disc(u: Field, v: Field) -> Field:
    return 1 - np.hypot(u, v)


def square(u: Field, v: Field) -> Field:
    return 0.7 - np.maximum(np.abs(u), np.abs(v))


def ring(u: Field, v: Field) -> Field:
    far = np.hypot(u, v)
    return np.minimum(1 - far, far - 0.45)


def cross(u: Field, v: Field) -> Field:
    a, b = np.abs(u), np.abs(v)
    return np.maximum(np.minimum(0.92 - a, 0.34 - b), np.minimum(0.34 - a, 0.92 - b))


def flower(u: Field, v: Field) -> Field:
    return 0.74 + 0.26 * np.cos(5 * np.arctan2(v, u)) - np.hypot(u, v)


def triangle(u: Field, v: Field) -> Field:
    sides = [u * np.cos(turn) + v * np.sin(turn) for turn in (0.0, 2 * np.pi / 3, 4 * np.pi / 3)]
    return 0.5 - np.maximum.reduce(sides)


def leaf(u: Field, v: Field) -> Field:
    """Where two discs meet."""
    return 1.2 - np.hypot(u, np.abs(v) + 0.663)


def pill(u: Field, v: Field) -> Field:
    return 0.38 - np.hypot(np.maximum(np.abs(u) - 0.62, 0), v)


# ---------------------------------------------------------------- textures


def plain(u: Field, v: Field, count: float) -> Field:
    """Lit from one side."""
    return np.clip(0.5 + 0.45 * u, 0, 1)


def stripes(u: Field, v: Field, count: float) -> Field:
    return np.clip(0.5 + 2 * np.sin(np.pi * count * u), 0, 1)


def checks(u: Field, v: Field, count: float) -> Field:
    return np.clip(0.5 + 2 * np.sin(np.pi * count * u) * np.sin(np.pi * count * v), 0, 1)


def spots(u: Field, v: Field, count: float) -> Field:
    return np.clip(3 * (np.cos(np.pi * count * u) * np.cos(np.pi * count * v) - 0.35), 0, 1)


def rings(u: Field, v: Field, count: float) -> Field:
    return np.clip(0.5 + 2 * np.sin(np.pi * count * np.hypot(u, v)), 0, 1)


def spokes(u: Field, v: Field, count: float) -> Field:
    return np.clip(0.5 + 2 * np.sin(round(2 * count) * np.arctan2(v, u)), 0, 1)


def veins(u: Field, v: Field, count: float) -> Field:
    return np.clip(0.5 + 2 * np.sin(np.pi * count * (u + np.abs(v))), 0, 1)


def halves(u: Field, v: Field, count: float) -> Field:
    return np.clip(0.5 + 6 * u, 0, 1)


LOOKS: dict[str, Look] = {
    "ball": Look(disc, plain, ((150, 34, 36), (232, 92, 78))),
    "tile": Look(square, checks, ((38, 70, 170), (206, 216, 236))),
    "leaf": Look(leaf, veins, ((34, 104, 46), (134, 186, 78))),
    "flower": Look(flower, spots, ((232, 186, 40), (140, 62, 24))),
    "ring": Look(ring, spokes, ((104, 44, 140), (206, 150, 222))),
    "cross": Look(cross, stripes, ((214, 60, 52), (240, 226, 206))),
    "triangle": Look(triangle, rings, ((30, 120, 128), (160, 220, 214))),
    "pill": Look(pill, halves, ((226, 120, 34), (44, 62, 120))),
}
"""The classes in the order of their numbers, from 1. Colours recur over the classes, so that none is known by
its colour alone."""
