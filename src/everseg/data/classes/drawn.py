"""Class maps drawn from annotations that name their classes: labelme, YOLO, CVAT; `coco` is in a file of its
own."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Unpack, overload

import numpy as np
import torch
from numpy.typing import NDArray

from everseg.data.classes.legend import Legend
from everseg.data.decoding import Decoding
from everseg.data.described import Described
from everseg.data.domains.annotated import Annotations, Drawable
from everseg.data.domains.cvat import cvat
from everseg.data.domains.labelme import BACKGROUND, IGNORE, labelme
from everseg.data.domains.options import MapOptions, Options
from everseg.data.domains.yolo import yolo
from everseg.data.images import read_file
from everseg.data.names import sample_names
from everseg.data.samples import PartlyReadable, content, take_evenly, take_part
from everseg.errors import UserError
from everseg.types import VOID, SemanticSample


class DrawnMaps(Described[SemanticSample]):
    """Images and the class maps that are drawn for them, each when `self[i]` is asked for.

    legend: names the numbers that are drawn, so that no other legend fits.
    """

    names_itself = True

    def __init__(self, annotated: Sequence[Drawable], classes: Sequence[str], decoding: Decoding) -> None:
        self.annotated, self.decoding = tuple(annotated), decoding
        self.legend = Legend.of(dict(enumerate(classes, 1)))
        self.numbers = {label: number for number, label in enumerate(classes, 1)}
        self._names = tuple(sample_names([one.image for one in self.annotated]))

    def __len__(self) -> int:
        return len(self.annotated)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({len(self)} class maps)"

    @overload
    def __getitem__(self, index: int) -> SemanticSample: ...
    @overload
    def __getitem__(self, index: slice) -> DrawnMaps: ...
    def __getitem__(self, index: int | slice) -> SemanticSample | DrawnMaps:
        """Decode and draw one sample, or take a slice without doing so.

        Raises:
            UserError: a file is unreadable, or the annotations are of an image of another size.
        """
        if isinstance(index, slice):
            return self._only(range(len(self))[index])
        one = self.annotated[index]
        file = read_file(one.image)
        image = self.decoding.decode(file, one.image)
        labels = one.labels(self.numbers)
        if labels.shape != tuple(image.shape[1:]):
            raise UserError(
                f"{one.image} is {image.shape[2]}x{image.shape[1]} (after EXIF orientation) but "
                f"{one.path} is of an image of {labels.shape[1]}x{labels.shape[0]}; label the image again"
            )
        key = f"{hashlib.sha256(file).hexdigest()}:{self.decoding.name}"
        return SemanticSample(image, torch.from_numpy(labels), self._names[index], key)

    def _only(self, places: Sequence[int]) -> DrawnMaps:
        part = copy.copy(self)
        part.annotated = tuple(self.annotated[i] for i in places)
        part._names = tuple(self._names[i] for i in places)
        return part

    def names(self) -> tuple[str, ...]:
        return self._names

    def presence(self) -> NDArray[np.bool_]:
        """As in `Described`; draws all maps.

        Raises:
            PartlyReadable: maps that cannot be drawn; `rest` is without them.
        """
        present = np.zeros((len(self), 256), bool)
        faults: dict[int, UserError] = {}
        for i, one in enumerate(self.annotated):
            try:
                present[i, np.unique(one.labels(self.numbers))] = True
            except UserError as error:
                faults[i] = error
        if faults:
            rest = self._only([i for i in range(len(self)) if i not in faults])
            raise PartlyReadable([str(e) for e in faults.values()], rest)
        return present

    def content(self, index: int) -> list[Any]:
        """The image's name and content, and what is drawn."""
        one = self.annotated[index]
        labels = one.labels(self.numbers)
        told = hashlib.sha256(f"{labels.shape}".encode() + labels.tobytes()).hexdigest()
        nested = [self._names[index]] if "/" in self._names[index] else []
        return [self.decoding.name, content(one.image), told, *nested]

    def file(self, index: int) -> str:
        return str(self.annotated[index].image)

    def truth_file(self, index: int) -> str:
        return str(self.annotated[index].path)

    def image_name(self, index: int) -> str:
        return self._names[index]


def drawn(found: Annotations[Any], classes: Sequence[str], **options: Unpack[MapOptions]) -> DrawnMaps:
    """The class maps of what a parser found.

    classes: the labels that are classes.
    """
    if len(classes) >= VOID:
        raise UserError(
            f"{found.source} has {len(classes)} classes, and class maps of 8 bits hold {VOID - 1}; name "
            "those that are learned in the stream file, as in categories: [cat, dog]"
        )
    given = Options(**options)
    annotated = take_evenly(take_part(found.images, given.part, found.problems), given.limit)
    maps = DrawnMaps(annotated, classes, given.decoding)
    maps.notes, maps.as_shown = found.notes, found.as_shown
    if found.problems:
        raise PartlyReadable(found.problems, maps)
    return maps


def labelme_maps(
    path: Path,
    *,
    images: Path | None = None,
    categories: tuple[str, ...] | None = None,
    **options: Unpack[MapOptions],
) -> DrawnMaps:
    """labelme's JSON files; see `LabelmeReader`.

    categories: the labels that are classes; all there are, in alphabetical order, where None.
    """
    found = labelme(path, images)
    # A split may lack a class that others have, so that `categories` need not occur.
    classes = sorted({*found.names} - {BACKGROUND, IGNORE}) if categories is None else categories
    if not classes:
        raise UserError(f"{path} has no shape to learn from; draw some")
    return drawn(found, classes, **options)


def yolo_maps(
    path: Path,
    split: str,
    *,
    categories: tuple[str, ...] | None = None,
    boxes: bool = False,
    **options: Unpack[MapOptions],
) -> DrawnMaps:
    """A data set that Ultralytics' YOLO is trained on; see `YoloReader`.

    categories: the names that are classes; others are background. Images without labels are passed over.
    """
    found = yolo(path, split, boxes)
    found.check(categories)
    classes = [name for name in found.names if categories is None or name in categories]
    return drawn(found, classes, **options)


def cvat_maps(
    path: Path,
    *,
    images: Path | None = None,
    subset: str | None = None,
    categories: tuple[str, ...] | None = None,
    **options: Unpack[MapOptions],
) -> DrawnMaps:
    """An export of CVAT's "Segmentation mask 1.1"; see `CvatReader`.

    categories: the labels that are classes; others are background.
    """
    found = cvat(path, images, subset)
    found.check(categories)
    return drawn(found, found.names if categories is None else categories, **options)
