"""What the napari plug-in does, without napari: a run, prompts to masks, masks to a domain that is learned.

napari's positions are (row, column) with pixels' centres at whole numbers; everseg's are x, y with centres at
halves.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from everseg.errors import UserError
from everseg.napari.stage import Annotations, Learning, gated_learn
from everseg.pictures.drawn import Region, numbered
from everseg.pictures.encode import png
from everseg.runs.folder import load
from everseg.runs.problem import refuse_classes
from everseg.runs.run import Run

Places = NDArray[Any]


@dataclass(frozen=True)
class Found:
    """What a run says of an image: labels (H, W), one number per object, and a sentence about the module."""

    labels: NDArray[np.uint8] | NDArray[np.uint16]
    said: str


class Session:
    """A run that is used from napari. The features of the last few images are kept by the run."""

    def __init__(self, run: Path | str, base: str | None = None) -> None:
        self.given, self.base = run, base
        self.run: Run = load(run, base)
        self.learning: Learning | None = None
        refuse_classes(self.run.config.method, "the plug-in points at single objects")

    def segment(self, image: NDArray[np.uint8], on: Places, off: Places, boxes: Sequence[Places]) -> Found:
        """Masks of the object that is clicked, and of the object in each box.

        image: (H, W, 3) or (H, W) uint8.
        on, off: (P, 2) clicks.
        boxes: (4, 2) corners of each.

        Raises:
            UserError: nothing points at an object, or a prompt lies outside the image.
        """
        masks: list[NDArray[np.bool_]] = []
        said = ""
        if len(on):
            points = np.concatenate([_xy(on), _xy(off)])
            found = self.run.predict(image, points, [1] * len(on) + [0] * len(off))
            masks, said = [*masks, *found.masks], _said(found.route)
        if boxes:
            height, width = image.shape[:2]
            corners = [_box(_xy(box), width, height) for box in boxes]
            found = self.run.predict(image, boxes=corners)
            masks, said = [*masks, *found.masks], said or _said(found.route)
        if not masks:
            raise UserError("no prompt points at an object; click on one, or draw a rectangle around it")
        size = (int(image.shape[0]), int(image.shape[1]))
        return Found(numbered([Region.of(mask, 0, 0, size) for mask in masks], size), said)

    def keep(self, folder: Path, domain: str, image: NDArray[np.uint8], labels: NDArray[Any]) -> int:
        """Keep an image and its masks, one per number, for a domain; returns how many objects it has."""
        masks = [("object", labels == number) for number in np.unique(labels) if number]
        if not masks:
            raise UserError("the labels layer is empty; segment or paint an object first")
        number = int.from_bytes(hashlib.sha256(image.tobytes()).digest()[:6])
        picture = Image.fromarray(image if image.ndim == 3 else np.repeat(image[..., None], 3, 2))
        Annotations(folder / domain, domain).keep(number, png(picture), masks)
        return len(masks)

    def learn(self, folder: Path, domain: str) -> Iterator[str]:
        """Learn what was kept for a domain, with the gate, and read the run again; what `everseg learn` says,
        line by line. Meanwhile the run answers as before, in another thread.

        Raises:
            UserError: too few images were kept, or learning failed or was stopped.
        """
        stream = Annotations(folder / domain, domain).write_stage(self.run.record.stream)
        self.learning = Learning(gated_learn(self.run, stream, self.base))
        try:
            yield from self.learning.said()
        except UserError as error:
            raise UserError(f"{domain} was not learned: {error}") from error
        finally:
            self.learning = None
        self.run = load(self.given, self.base)

    def stop(self) -> None:
        """Stop learning, if it learns."""
        if self.learning is not None:
            self.learning.stop()


def as_bytes(data: NDArray[Any], limits: Sequence[float]) -> NDArray[np.uint8]:
    """An image layer's picture (H, W) or (H, W, 3 or 4) as uint8, by its contrast limits where it is not."""
    if data.ndim == 3:
        data = data[..., :3]
    if data.dtype == np.uint8:
        return np.ascontiguousarray(data)
    low, high = (float(limits[0]), float(limits[1]))
    scaled = (data.astype(np.float64) - low) / max(high - low, 1e-12)
    return (255 * scaled.clip(0, 1)).round().astype(np.uint8)


def _xy(places: Places) -> NDArray[np.float64]:
    """(P, 2) rows and columns, perhaps after other axes, as x, y in pixels."""
    if not len(places):
        return np.zeros((0, 2))
    found = np.asarray(places, np.float64).reshape(len(places), -1)
    return found[:, -2:][:, ::-1] + 0.5


def _box(corners: NDArray[np.float64], width: int, height: int) -> list[float]:
    low, high = corners.min(0).clip(0), corners.max(0)
    return [float(low[0]), float(low[1]), min(float(high[0]), width), min(float(high[1]), height)]


def _said(route: Any) -> str:
    """The module and the p-values, for people."""
    if route is None:
        return "the run's one adapter"
    text = f"{route.name} ({route.probability:.2f})"
    if route.p_values:
        text += "; p: " + ", ".join(f"{name} {p:.2g}" for name, p in route.p_values.items())
    return text
