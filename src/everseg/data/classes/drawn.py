"""Class maps drawn from annotations that name their classes: labelme, YOLO, CVAT."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, overload

import numpy as np
import torch
from numpy.typing import NDArray

from everseg.data.classes.legend import Legend
from everseg.data.decoding import Bands, Decoding, Window
from everseg.data.described import Described
from everseg.data.domains.cvat import Colours, CvatData
from everseg.data.domains.labelme import BACKGROUND, IGNORE, labelme_files, read_labelme
from everseg.data.domains.yolo import YoloData, read_lines
from everseg.data.images import read_file, shown_size
from everseg.data.names import sample_names
from everseg.data.samples import PartlyReadable, content, take_evenly, take_part
from everseg.errors import UserError
from everseg.types import VOID, SemanticSample

Numbers = NDArray[np.uint8]


class Drawing(Protocol):
    """Where the class map of one image comes from. Drawings are small and picklable."""

    @property
    def image(self) -> Path: ...

    @property
    def path(self) -> Path: ...

    def labels(self) -> Numbers:
        """(H, W) numbers of classes. Raises UserError, naming the file."""


class DrawnMaps(Described[SemanticSample]):
    """Images and the class maps that are drawn for them, each when `self[i]` is asked for.

    legend: names the numbers that are drawn, so that no other legend fits.
    """

    names_itself = True

    def __init__(self, drawings: Sequence[Drawing], classes: Sequence[str], decoding: Decoding) -> None:
        self.drawings, self.decoding = tuple(drawings), decoding
        self.legend = Legend.of(dict(enumerate(classes, 1)))
        self._names = tuple(sample_names([drawing.image for drawing in self.drawings]))

    def __len__(self) -> int:
        return len(self.drawings)

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
        drawing = self.drawings[index]
        file = read_file(drawing.image)
        image = self.decoding.decode(file, drawing.image)
        labels = drawing.labels()
        if labels.shape != tuple(image.shape[1:]):
            raise UserError(
                f"{drawing.image} is {image.shape[2]}x{image.shape[1]} (after EXIF orientation) but "
                f"{drawing.path} is of an image of {labels.shape[1]}x{labels.shape[0]}; label the image anew"
            )
        key = f"{hashlib.sha256(file).hexdigest()}:{self.decoding.name}"
        return SemanticSample(image, torch.from_numpy(labels), self._names[index], key)

    def _only(self, places: Sequence[int]) -> DrawnMaps:
        part = copy.copy(self)
        part.drawings = tuple(self.drawings[i] for i in places)
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
        for i, drawing in enumerate(self.drawings):
            try:
                present[i, np.unique(drawing.labels())] = True
            except UserError as error:
                faults[i] = error
        if faults:
            rest = self._only([i for i in range(len(self)) if i not in faults])
            raise PartlyReadable([str(e) for e in faults.values()], rest)
        return present

    def content(self, index: int) -> list[Any]:
        """The image's name and content, and what is drawn."""
        drawing = self.drawings[index]
        labels = drawing.labels()
        drawn = hashlib.sha256(f"{labels.shape}".encode() + labels.tobytes()).hexdigest()
        nested = [self._names[index]] if "/" in self._names[index] else []
        return [self.decoding.name, content(drawing.image), drawn, *nested]

    def file(self, index: int) -> str:
        return str(self.drawings[index].image)

    def truth_file(self, index: int) -> str:
        return str(self.drawings[index].path)

    def image_name(self, index: int) -> str:
        return self._names[index]


def _drawn(
    drawings: Sequence[Drawing],
    classes: Sequence[str],
    problems: Sequence[str],
    part: tuple[int, int] | None,
    limit: int | None,
    decoding: Decoding,
) -> DrawnMaps:
    maps = DrawnMaps(take_evenly(take_part(drawings, part), limit), classes, decoding)
    if problems:
        raise PartlyReadable(problems, maps)
    return maps


@dataclass(frozen=True)
class LabelmeMap:
    """The shapes of a file, drawn in their order: later ones lie above. Labels that are not among `names` are
    background."""

    image: Path
    path: Path
    folder: Path | None
    names: tuple[str, ...]

    def labels(self) -> Numbers:
        file = read_labelme(self.path, self.folder)
        labels = np.zeros((file.height, file.width), np.uint8)
        numbers = {name: number for number, name in enumerate(self.names, 1)} | {IGNORE: VOID}
        for place, shape in enumerate(file.shapes):
            labels[file.draw([place])] = numbers.get(shape.label, 0)
        return labels


def labelme_maps(
    path: Path,
    *,
    images: Path | None = None,
    categories: tuple[str, ...] | None = None,
    part: tuple[int, int] | None = None,
    limit: int | None = None,
    bands: Bands = None,
    window: Window = None,
) -> DrawnMaps:
    """labelme's JSON files; see `LabelmeReader`. categories: the labels that are classes; all there are, in
    alphabetical order, where None."""
    files, problems = labelme_files(path, images)
    found = {s.label for f in files for s in f.shapes} - {BACKGROUND, IGNORE}
    names = tuple(sorted(found)) if categories is None else categories
    if not names:
        raise UserError(f"{path} has no shape to learn from; draw some")
    drawings = [LabelmeMap(f.image, f.path, images, names) for f in files]
    return _drawn(drawings, names, problems, part, limit, Decoding(bands, window))


@dataclass(frozen=True)
class YoloMap:
    """The lines of a label file, drawn in their order: later ones lie above. numbers: which number each class
    of the file is drawn as."""

    image: Path
    path: Path
    numbers: tuple[int, ...]

    def labels(self) -> Numbers:
        labels = np.zeros(shown_size(self.image), np.uint8)
        for line in read_lines(self.path):
            labels[line.mask(*labels.shape)] = self.numbers[line.label]
        return labels


def yolo_maps(
    path: Path,
    split: str,
    *,
    categories: tuple[str, ...] | None = None,
    boxes: bool = False,
    part: tuple[int, int] | None = None,
    limit: int | None = None,
    bands: Bands = None,
    window: Window = None,
) -> DrawnMaps:
    """A data set that Ultralytics' YOLO is trained on; see `YoloReader`. categories: the names that are
    classes; others are background. Images without labels are passed over."""
    data = YoloData.of(path, split)
    wanted = data.numbers(categories)
    numbers = tuple(wanted.index(i) + 1 if i in wanted else 0 for i in range(len(data.names)))
    found, problems = data.labelled(boxes)
    drawings = [YoloMap(image, labels, numbers) for image, labels, _ in found]
    names = [data.names[i] for i in wanted]
    return _drawn(drawings, names, problems, part, limit, Decoding(bands, window))


@dataclass(frozen=True)
class CvatMap:
    """A map in colours, and what they mean."""

    image: Path
    path: Path
    colours: Colours
    categories: tuple[str, ...] | None

    def labels(self) -> Numbers:
        return self.colours.numbers(self.path, self.categories)


def cvat_maps(
    path: Path,
    *,
    images: Path | None = None,
    subset: str | None = None,
    categories: tuple[str, ...] | None = None,
    part: tuple[int, int] | None = None,
    limit: int | None = None,
    bands: Bands = None,
    window: Window = None,
) -> DrawnMaps:
    """An export of CVAT's "Segmentation mask 1.1"; see `CvatReader`. categories: the labels that are classes;
    others are background."""
    data, problems = CvatData.of(path, images, subset)
    data.colours.wanted(categories)
    drawings = [CvatMap(image, file, data.colours, categories) for image, file in data.pairs]
    names = list(data.colours.labels) if categories is None else categories
    return _drawn(drawings, names, problems, part, limit, Decoding(bands, window))
