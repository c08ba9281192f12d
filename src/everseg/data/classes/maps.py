"""Images with class maps: readers of the common layouts, and which of a map's numbers are which class."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, overload

import numpy as np
import torch
from numpy.typing import NDArray

from everseg.data.classes.drawn import cvat_maps, labelme_maps, yolo_maps
from everseg.data.classes.hf import HfMaps
from everseg.data.classes.legend import Legend
from everseg.data.classes.presence import listed, occurring, open_map
from everseg.data.decoding import PLAIN, Bands, Decoding, Window
from everseg.data.described import Described, described
from everseg.data.domains.folder import pair_by_stem
from everseg.data.domains.voc import voc_pairs
from everseg.data.images import read_file
from everseg.data.samples import PartlyReadable, content, take_evenly, take_part
from everseg.data.synthetic.classes import SyntheticClasses
from everseg.errors import UserError
from everseg.types import SemanticSample

Bools = NDArray[np.bool_]
Pairs = Sequence[tuple[Path, Path]]


class ClassMaps(Described[SemanticSample]):
    """Images and class maps by (image, map), as a sequence that decodes `self[i]` when asked; labels are the
    numbers in the files.

    legend: what the numbers are, where the layout says so. index: a list of the classes in each map, which
    saves reading them; see `presence.listed`. decoding: how the values of images become 8-bit RGB.
    """

    def __init__(
        self,
        pairs: Pairs,
        legend: Legend | None = None,
        index: Path | None = None,
        *,
        decoding: Decoding = PLAIN,
    ) -> None:
        self.pairs, self.legend, self.listing, self.decoding = tuple(pairs), legend, index, decoding

    def __len__(self) -> int:
        return len(self.pairs)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({len(self)} class maps)"

    @overload
    def __getitem__(self, index: int) -> SemanticSample: ...
    @overload
    def __getitem__(self, index: slice) -> ClassMaps: ...
    def __getitem__(self, index: int | slice) -> SemanticSample | ClassMaps:
        """Decode one sample, or take a slice without decoding.

        Raises:
            UserError: a file is unreadable, the map is none, or the sizes of image and map differ.
        """
        if isinstance(index, slice):
            return ClassMaps(self.pairs[index], self.legend, self.listing, decoding=self.decoding)
        image_path, map_path = self.pairs[index]
        file = read_file(image_path)
        image = self.decoding.decode(file, image_path)
        labels = torch.from_numpy(np.array(open_map(map_path)))
        if labels.shape != image.shape[1:]:
            raise UserError(
                f"{image_path} is {image.shape[2]}x{image.shape[1]} (after EXIF orientation) but its class "
                f"map {map_path} is {labels.shape[1]}x{labels.shape[0]}; make both of one size"
            )
        key = f"{hashlib.sha256(file).hexdigest()}:{self.decoding.name}"
        return SemanticSample(image, labels, image_path.name, key)

    def presence(self) -> Bools:
        """As in `Described`.

        Raises:
            PartlyReadable: maps that cannot be read; `rest` is without them.
            UserError: the list given as index is wrong.
        """
        if self.listing is not None:
            return listed(self.listing, [image.stem for image, _ in self.pairs])
        present, faults = occurring([path for _, path in self.pairs])
        if faults:
            good = [pair for i, pair in enumerate(self.pairs) if i not in faults]
            raise PartlyReadable(
                [str(e) for e in faults.values()], ClassMaps(good, self.legend, decoding=self.decoding)
            )
        return present

    def content(self, index: int) -> list[Any]:
        """Names and content hashes of the files of one sample."""
        image, path = self.pairs[index]
        return [self.decoding.name, content(image), content(path)]

    def file(self, index: int) -> str:
        return str(self.pairs[index][0])

    def truth_file(self, index: int) -> str:
        return str(self.pairs[index][1])


def _maps(
    pairs: Pairs,
    problems: Sequence[str],
    legend: Legend | None,
    part: tuple[int, int] | None,
    limit: int | None,
    index: Path | None,
    decoding: Decoding,
) -> ClassMaps:
    maps = ClassMaps(take_evenly(take_part(pairs, part), limit), legend, index, decoding=decoding)
    if problems:
        raise PartlyReadable(problems, maps)
    return maps


def voc_maps(
    path: Path,
    split: str,
    *,
    part: tuple[int, int] | None = None,
    limit: int | None = None,
    index: Path | None = None,
    skip: str | None = None,
    bands: Bands = None,
    window: Window = None,
) -> ClassMaps:
    """PASCAL VOC's layout: `JPEGImages`, `SegmentationClassAug` (or `SegmentationClass`) and the list
    `ImageSets/Segmentation/SPLIT.txt`; classes 1 to 20. skip: leave out names like this one ("2007_*")."""
    pairs, problems = voc_pairs(path, split, part, limit, skip)
    return _maps(pairs, problems, Legend.of("voc"), None, None, index, Decoding(bands, window))


def ade20k_maps(
    path: Path,
    split: str | None = None,
    *,
    part: tuple[int, int] | None = None,
    limit: int | None = None,
    index: Path | None = None,
    bands: Bands = None,
    window: Window = None,
) -> ClassMaps:
    """ADE20K's scene parsing layout: `images/SPLIT`, `annotations/SPLIT` and `objectInfo150.txt`.

    split: "training" or "validation"; None where the files lie in `images` and `annotations` themselves.
    """
    pairs, problems = pair_by_stem(path / "images" / (split or ""), path / "annotations" / (split or ""))
    return _maps(
        pairs, problems, Legend.of("objectInfo150.txt", path), part, limit, index, Decoding(bands, window)
    )


def folder_maps(
    path: Path,
    *,
    mask_suffix: str = "",
    part: tuple[int, int] | None = None,
    limit: int | None = None,
    index: Path | None = None,
    bands: Bands = None,
    window: Window = None,
) -> ClassMaps:
    """`images/` and `masks/` paired by stem, masks being class maps with a palette or in grey."""
    pairs, problems = pair_by_stem(path / "images", path / "masks", mask_suffix)
    return _maps(pairs, problems, None, part, limit, index, Decoding(bands, window))


CLASS_READERS: dict[str, Callable[..., Sequence[Any]]] = {
    "folder": folder_maps,
    "voc": voc_maps,
    "ade20k": ade20k_maps,
    "labelme": labelme_maps,
    "yolo": yolo_maps,
    "cvat": cvat_maps,
    "hf": HfMaps,
    "synthetic": SyntheticClasses,
}
"""Readers of class maps by name. To add one, write a function that gives a sequence of `SemanticSample` whose
labels are numbers of a legend, and add a line. What the sequence can tell of itself is in `Described`."""


@dataclass(frozen=True, eq=False)
class Labelled:
    """Images whose class maps were understood: what occurs in each, and what the numbers are.

    present: (N, 256), which numbers occur in the map of each sample.
    """

    samples: Sequence[SemanticSample]
    present: Bools
    legend: Legend

    @classmethod
    def of(cls, samples: Sequence[SemanticSample], legend: Legend | None = None) -> Labelled:
        """Find out what occurs in each map; `legend` goes before the reader's own.

        Raises:
            PartlyReadable: maps that cannot be read.
            UserError: nobody says what the numbers are, or a number occurs that has no name.
        """
        told = described(samples)
        if told.names_itself and legend is not None and legend != told.legend:
            raise UserError("the annotations name the classes themselves; remove classes: or use categories:")
        legend = legend or told.legend
        if legend is None:
            raise UserError("nothing names the classes; add classes: [cat, dog] or classes: {1: cat, 2: dog}")
        present = told.presence()
        named = [*legend.names, *legend.background, *legend.void]
        strange = present.copy()
        strange[:, named] = False
        if strange.any():
            number = int(strange.any(0).argmax())
            having = np.flatnonzero(strange[:, number])
            more = f" and {len(having) - 1} more" if len(having) > 1 else ""
            raise UserError(
                f"{told.truth_file(int(having[0]))}{more} has the number {number}, which is no class; "
                f"name it under classes:, as in {number}: cat, {number}: background or {number}: void"
            )
        return cls(samples, present, legend)
