"""Synthetic class streams: images of several kinds of objects with class maps, made from a seed."""

from __future__ import annotations

import copy
import hashlib
from pathlib import Path
from typing import Any, NamedTuple, overload

import numpy as np
import torch
import yaml
from numpy.typing import NDArray
from PIL import Image

from everseg.data.classes.legend import Legend
from everseg.data.classes.steps import ClassSteps
from everseg.data.classes.voc_colours import VOC_COLOURS
from everseg.data.described import Described
from everseg.data.synthetic.objects import LOOKS
from everseg.data.synthetic.scenes import Field, cloud, curve, grain, paint, soft, strokes
from everseg.errors import UserError, unknown
from everseg.files import atomic_path, write_text
from everseg.seed import numpy_generator
from everseg.types import SemanticSample, Setting

SMALLEST, LARGEST = 48, 8192
MOST = 1_000_000

VERSION = "objects-1"
"""Names the painters' rules, as `synthetic.VERSION` does."""

PARTS = ("images", "masks")
MOST_OBJECTS = 5
RADII = (0.12, 0.2)
GAP = 0.025
"""Between two objects, a fraction of the side: more than a pixel, so that every object is a 4-connected part
of the class map by itself."""


class Placed(NamedTuple):
    """An object before it is painted.

    label: its class.
    x, y, radius: fractions of the side.
    """

    label: int
    x: float
    y: float
    radius: float
    turn: float


class SyntheticClasses(Described[SemanticSample]):
    """`count` images with objects of up to four classes on a textured ground, painted when asked for.

    Labels are the places of `kinds` (names in `LOOKS`; all of them where None), counted from 1. Sample i is a
    function of (seed, split, kinds, i) alone: splits share no image, and a longer one begins with the
    shorter. Sample i has class i modulo the number of classes, so that each class is in at least floor(count
    / classes) images; the others in it are drawn. Objects do not touch each other or the edge.

    size: side in pixels.

    Raises:
        UserError: an unknown or repeated kind, a count below 1 or a size below 48.
    """

    legend: Legend

    def __init__(
        self,
        count: int,
        split: str,
        *,
        size: int = 128,
        seed: int = 0,
        kinds: list[str] | None = None,
    ) -> None:
        self.kinds = tuple(LOOKS) if kinds is None else tuple(kinds)
        for kind in self.kinds:
            if kind not in LOOKS:
                raise unknown("synthetic class", kind, LOOKS)
        if not (1 <= count <= MOST and SMALLEST <= size <= LARGEST):
            raise UserError(
                f"synthetic classes with count {count} and size {size}; give a count from 1 to a million, "
                f"a size from {SMALLEST} to {LARGEST}"
            )
        self.legend = Legend.of(self.kinds)
        self.split, self.size, self.seed = split, size, seed
        self.indices = range(count)

    def __len__(self) -> int:
        return len(self.indices)

    def __repr__(self) -> str:
        return f"SyntheticClasses({len(self)} samples of {len(self.kinds)} classes, split {self.split!r})"

    @overload
    def __getitem__(self, index: int) -> SemanticSample: ...
    @overload
    def __getitem__(self, index: slice) -> SyntheticClasses: ...
    def __getitem__(self, index: int | slice) -> SemanticSample | SyntheticClasses:
        if isinstance(index, slice):
            part = copy.copy(self)
            part.indices = self.indices[index]
            return part
        number = self.indices[index]
        rng = self._generator("paint", number)
        scene = _ground(rng, self.size)
        labels = np.zeros((self.size, self.size), np.uint8)
        for placed in self.objects(index):
            _draw(rng, scene, labels, placed, self.kinds[placed.label - 1])
        scene += grain(rng, self.size, 3.0)
        pixels = np.ascontiguousarray(scene.clip(0, 255).astype(np.uint8).transpose(2, 0, 1))
        key = f"{hashlib.sha256(pixels.tobytes()).hexdigest()}:{VERSION}"
        return SemanticSample(torch.from_numpy(pixels), torch.from_numpy(labels), self.file(index), key)

    def objects(self, index: int) -> list[Placed]:
        """What is in sample `index`, and where; nothing is painted for it."""
        number = self.indices[index]
        rng = self._generator("place", number)
        own, count = 1 + number % len(self.kinds), len(self.kinds)
        others = [1 + int(k) for k in rng.permutation(count) if 1 + k != own]
        chosen = [own, *others[: int(rng.integers(1, 4))]]
        labels = [*chosen, *rng.choice(chosen, MOST_OBJECTS - len(chosen)).tolist()]
        found: list[Placed] = []
        for label in labels:
            radius, turn = float(rng.uniform(*RADII)), float(rng.uniform(0, 2 * np.pi))
            for x, y in rng.uniform(radius + GAP, 1 - radius - GAP, (40, 2)).tolist():
                if all(np.hypot(x - o.x, y - o.y) > radius + o.radius + GAP for o in found):
                    found.append(Placed(int(label), x, y, radius, turn))
                    break
        return found

    def presence(self) -> NDArray[np.bool_]:
        """As in `Described`; nothing is painted for it."""
        present = np.zeros((len(self), 256), bool)
        present[:, 0] = True  # The ground shows beside every object.
        for i in range(len(self)):
            present[i, [placed.label for placed in self.objects(i)]] = True
        return present

    def content(self, index: int) -> list[Any]:
        """All that decides sample `index`, for fingerprints."""
        return [VERSION, self.seed, self.split, self.size, list(self.kinds), self.indices[index]]

    def file(self, index: int) -> str:
        return f"{self.split}-{self.indices[index]:05d}.png"

    def _generator(self, purpose: str, number: int) -> np.random.Generator:
        return numpy_generator(self.seed, "classes", self.split, ",".join(self.kinds), purpose, number)


def _ground(rng: np.random.Generator, size: int) -> Field:
    """Mottled ground of any colour, with scratches that are not objects."""
    colour = rng.uniform(70, 190, 3).astype(np.float32)
    mottle = cloud(rng, size, int(rng.integers(3, 9)))[..., None] * rng.uniform(6, 20, 3).astype(np.float32)
    scratches = [(curve(rng, 0.2), float(rng.uniform(0.004, 0.012))) for _ in range(rng.integers(0, 6))]
    shade = tuple(rng.uniform(20, 235, 3).tolist())
    return paint(colour + mottle, shade, 0.6 * strokes(size, scratches))


def _draw(
    rng: np.random.Generator, scene: Field, labels: NDArray[np.uint8], placed: Placed, kind: str
) -> None:
    """Paint an object into its window of the image, and its number into the class map."""
    from scipy import ndimage  # Streams of files never need it.

    size, look = len(labels), LOOKS[kind]
    window = tuple(
        slice(max(0, int((c - placed.radius) * size) - 1), int((c + placed.radius) * size) + 2)
        for c in (placed.y, placed.x)
    )
    rows, columns = (
        (np.arange(size)[part] + np.float32(0.5)) / size - np.float32(c)
        for part, c in zip(window, (placed.y, placed.x), strict=True)
    )
    cos, sin = np.cos(placed.turn) / placed.radius, np.sin(placed.turn) / placed.radius
    u = columns[None] * cos + rows[:, None] * sin
    v = rows[:, None] * cos - columns[None] * sin
    depth = look.shape(u, v)
    light = rng.uniform(0.8, 1.15)
    first, second = ((np.asarray(c) + rng.normal(0, 14, 3)) * light for c in look.colours)
    dress = paint(np.broadcast_to(first, (*u.shape, 3)), second, look.texture(u, v, rng.uniform(2.4, 3.6)))
    scene[window] = paint(scene[window], dress, soft(depth * placed.radius, 1.5 / size))
    parts, _ = ndimage.label(depth > 0)
    # A tip thinner than a pixel can come off; it stays in the image, as thin things in real class maps do.
    labels[window][parts == 1 + np.bincount(parts.ravel())[1:].argmax()] = placed.label


def write_synthetic_classes(
    folder: str | Path,
    steps: str = "4-2",
    train: int = 240,
    test: int = 60,
    seed: int = 0,
    size: int = 128,
    setting: Setting = "overlapped",
    kinds: list[str] | None = None,
) -> Path:
    """Write `train` and `test`, each with `images` and `masks` (class maps with a palette), and the stream
    file; returns `folder/stream.yaml`.

    Raises:
        UserError: as `SyntheticClasses`, steps that do not come out even, or the folder holds such images.
    """
    folder = Path(folder)
    splits = {
        split: SyntheticClasses(count, split, size=size, seed=seed, kinds=kinds)
        for split, count in (("train", train), ("test", test))
    }
    ClassSteps.split(steps, splits["train"].legend)
    for split, samples in splits.items():
        for part in PARTS:
            place = folder / split / part
            if place.is_dir() and any(place.iterdir()):
                raise UserError(f"{place} is not empty; choose a new folder or delete it first")
        for sample in samples:
            classes = Image.fromarray(sample.labels.numpy())
            classes.putpalette(VOC_COLOURS.tobytes())
            image = Image.fromarray(sample.image.permute(1, 2, 0).numpy())
            for part, picture in zip(PARTS, (image, classes), strict=True):
                with atomic_path(folder / split / part / sample.name) as temporary:
                    picture.save(temporary, format="PNG", compress_level=1)
    stream = {
        "name": "synthetic-classes",
        "seed": seed,
        "classes": list(splits["train"].kinds),
        "train": "train",
        "test": "test",
        "setting": setting,
        "steps": steps,
    }
    path = folder / "stream.yaml"
    write_text(path, yaml.safe_dump(stream, sort_keys=False))
    return path
