"""Readers of images with class maps in common layouts."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, overload

import numpy as np
import torch
from numpy.typing import NDArray

from everseg.data.classes.coco import coco_maps
from everseg.data.classes.drawn import cvat_maps, labelme_maps, yolo_maps
from everseg.data.classes.hf import HfMaps
from everseg.data.classes.legend import Legend
from everseg.data.classes.presence import listed, occurring, read_map
from everseg.data.classes.voc_colours import VOC_TABLE
from everseg.data.decoding import PLAIN, Bands, Decoding, Window
from everseg.data.described import Described, described
from everseg.data.domains.voclist import read_voc_list
from everseg.data.images import read_file
from everseg.data.names import sample_name
from everseg.data.numbers import Table, by_colour, colour_table
from everseg.data.pairing import Patterns, one_each, pair_by_stem, pair_files
from everseg.data.raster import packed, palette_of, read_raster
from everseg.data.samples import PartlyReadable, content, take_evenly, take_part
from everseg.data.synthetic.classes import SyntheticClasses
from everseg.errors import UserError, brief
from everseg.text import is_file_name
from everseg.types import VOID, SemanticSample

Bools = NDArray[np.bool_]
Pairs = Sequence[tuple[Path, Path]]


class ClassMaps(Described[SemanticSample]):
    """Images and class maps by (image, map), as a sequence that decodes `self[i]` when asked; labels are the
    numbers in the files.

    legend: what the numbers are, where the layout says so.
    index: a list of the classes in each map, which saves reading them; see `presence.listed`.
    colours: the number of each colour, for maps in colour.
    names: what the samples are called; by default the images' file names.
    decoding: how the values of images become 8-bit RGB.
    """

    def __init__(
        self,
        pairs: Pairs,
        legend: Legend | None = None,
        index: Path | None = None,
        colours: Table | None = None,
        names: Sequence[str] | None = None,
        *,
        decoding: Decoding = PLAIN,
    ) -> None:
        self.pairs, self.legend, self.listing, self.colours = tuple(pairs), legend, index, colours
        self.decoding = decoding
        if names is None:
            names = [sample_name(image, image.parent) for image, _ in self.pairs]
        self._names = tuple(names)

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
            UserError: a file is unreadable or no class map, or the sizes of image and map differ.
        """
        if isinstance(index, slice):
            part = copy.copy(self)
            part.pairs, part._names = self.pairs[index], self._names[index]
            return part
        image_path, map_path = self.pairs[index]
        file = read_file(image_path)
        image = self.decoding.decode(file, image_path)
        labels = torch.from_numpy(read_map(map_path, self.colours))
        if labels.shape != image.shape[1:]:
            raise UserError(
                f"{image_path} is {image.shape[2]}x{image.shape[1]} (after EXIF orientation) but its class "
                f"map {map_path} is {labels.shape[1]}x{labels.shape[0]}; make them the same size"
            )
        key = f"{hashlib.sha256(file).hexdigest()}:{self.decoding.name}"
        return SemanticSample(image, labels, self._names[index], key)

    def names(self) -> tuple[str, ...]:
        return self._names

    def presence(self) -> Bools:
        """As in `Described`.

        Raises:
            PartlyReadable: maps that cannot be read; `rest` is without them.
            UserError: the list given as index is wrong.
        """
        if self.listing is not None:
            return listed(self.listing, [str(PurePosixPath(name).with_suffix("")) for name in self._names])
        found = occurring([path for _, path in self.pairs], self.colours)
        self.notes = tuple(dict.fromkeys((*self.notes, *found.notes)))
        if found.faults:
            good = [i for i in range(len(self)) if i not in found.faults]
            rest = copy.copy(self)
            rest.pairs = tuple(self.pairs[i] for i in good)
            rest._names = tuple(self._names[i] for i in good)
            raise PartlyReadable([str(e) for e in found.faults.values()], rest)
        return found.present

    def content(self, index: int) -> list[Any]:
        """Names and content hashes of the files of one sample."""
        image, path = self.pairs[index]
        nested = [self._names[index]] if "/" in self._names[index] else []
        # Earlier versions read such a map by its numbers, so that its fingerprint must be another one.
        recoloured = ["by colour"] if self._by_colour(path) else []
        return [self.decoding.name, content(image), content(path), *nested, *recoloured]

    def _by_colour(self, path: Path) -> bool:
        table = self.colours or {}
        shown = palette_of(path) if table else {}
        odd = any(table.get(int(packed(np.array(c, np.uint8))), i) != i for i, c in shown.items())
        return odd and by_colour(read_raster(path), table)

    def file(self, index: int) -> str:
        return str(self.pairs[index][0])

    def truth_file(self, index: int) -> str:
        return str(self.pairs[index][1])

    def image_name(self, index: int) -> str:
        return self.pairs[index][0].name


def _maps(
    pairs: Pairs,
    problems: Sequence[str],
    legend: Legend | None,
    part: tuple[int, int] | None,
    limit: int | None,
    index: Path | None,
    decoding: Decoding,
    colours: Table | None = None,
) -> ClassMaps:
    chosen = take_evenly(take_part(pairs, part), limit)
    maps = ClassMaps(chosen, legend, index, colours, decoding=decoding)
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
    `ImageSets/Segmentation/SPLIT.txt`; classes 1 to 20.

    skip: leave out names like this one ("2007_*").
    """
    listed = read_voc_list(path, split, part, limit, skip)
    decoding = Decoding(bands, window)
    maps = _maps(listed.pairs, listed.problems, Legend.of("voc"), None, None, index, decoding, VOC_TABLE)
    maps.notes = listed.notes
    return maps


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

    split: "training" or "validation"; None if the files are in `images` and `annotations` themselves.
    """
    if split is not None and not is_file_name(split):
        raise UserError(
            f"split: {brief(repr(split))} is not the name of a folder; write training or validation"
        )
    pairs, problems = pair_by_stem(path / "images" / (split or ""), path / "annotations" / (split or ""))
    return _maps(
        pairs, problems, Legend.of("objectInfo150.txt", path), part, limit, index, Decoding(bands, window)
    )


def folder_maps(
    path: Path,
    *,
    images: Patterns | None = None,
    masks: Patterns | None = None,
    mask_suffix: str = "",
    mask_colours: dict[int, str | tuple[int, int, int]] | None = None,
    part: tuple[int, int] | None = None,
    limit: int | None = None,
    index: Path | None = None,
    bands: Bands = None,
    window: Window = None,
) -> ClassMaps:
    """`images/` and `masks/` paired by stem, or what the globs `images` and `masks` say, as for
    `FolderReader`; masks are class maps in grey, with a palette, or in colour.

    mask_colours: the colour of each number, as in {1: "#800000", 2: [0, 128, 0]}, for maps in colour.
    """
    found, problems = pair_files(path, images, masks, mask_suffix)
    chosen = list(one_each(take_evenly(take_part(found, part), limit), problems))
    table = None if mask_colours is None else colour_table(mask_colours)
    pairs, names = [(image, mask) for image, mask, _ in chosen], [name for *_, name in chosen]
    maps = ClassMaps(pairs, None, index, table, names, decoding=Decoding(bands, window))
    if problems:
        raise PartlyReadable(problems, maps)
    return maps


CLASS_READERS: dict[str, Callable[..., Sequence[Any]]] = {
    "folder": folder_maps,
    "voc": voc_maps,
    "ade20k": ade20k_maps,
    "labelme": labelme_maps,
    "yolo": yolo_maps,
    "cvat": cvat_maps,
    "coco": coco_maps,
    "hf": HfMaps,
    "synthetic": SyntheticClasses,
}
"""Readers of class maps by name. To add one, write a function that gives a sequence of `SemanticSample` whose
labels are numbers of a legend, and add a line. What the sequence can tell of itself is in `Described`."""


@dataclass(frozen=True, eq=False)
class Labelled:
    """Images with class maps whose numbers are known.

    present: (N, 256) bool, the numbers that occur in the map of each sample.
    legend: meaning of the numbers.
    elsewhere: (256,) bool, the numbers that occur in any stage's maps with this legend; None: in these alone.
    """

    samples: Sequence[SemanticSample]
    present: Bools
    legend: Legend
    elsewhere: Bools | None = None

    @classmethod
    def of(cls, samples: Sequence[SemanticSample], legend: Legend | None = None) -> Labelled:
        """Find out what occurs in each map; `legend` goes before the reader's own.

        Raises:
            PartlyReadable: maps that cannot be read.
            UserError: it is unknown what the numbers are, or a number occurs that has no name.
        """
        told = described(samples)
        if told.names_itself and legend is not None and legend != told.legend:
            raise UserError(
                "the annotations already name their classes; remove classes:, or select some of them with "
                "categories:"
            )
        legend = legend or told.legend
        if legend is None:
            raise UserError(
                "the numbers in the class maps have no names; add classes: [cat, dog] or classes: "
                "{1: cat, 2: dog}"
            )
        present = told.presence()
        _check_void(present, legend, told)
        named = [*legend.names, *legend.background, *legend.void]
        strange = present.copy()
        strange[:, named] = False
        if strange.any():
            number = int(strange.any(0).argmax())
            having = np.flatnonzero(strange[:, number])
            more = f" and {len(having) - 1} more" if len(having) > 1 else ""
            file = told.truth_file(int(having[0]))
            if Path(file).suffix.lower() in _LOSSY:
                raise UserError(
                    f"{file}{more} has the number {number}, which is not a class; the file has a lossy "
                    "format, which changes numbers, so save it again as png"
                )
            raise UserError(
                f"{file}{more} has the number {number}, which is not a class; "
                f"name it under classes:, as in {number}: cat, {number}: background or {number}: void"
            )
        return cls(samples, present, legend)

    def masks(self) -> str:
        """What the numbers in the maps mean, in words, for `check`."""
        legend, images = self.legend, self.present.sum(axis=0)
        named = [f"{n} {name} ({images[n]})" for n, name in legend.names.items() if images[n]]
        some = ", ".join(named[:8]) + (f" and {len(named) - 8} more" if len(named) > 8 else "")
        rest = {"background": legend.background, "void": legend.void}
        others = [f"{n} {what} ({images[n]})" for what, ns in rest.items() for n in sorted(ns) if images[n]]
        return f"numbers {'; '.join([some, *others])}, in {len(self.present)} files"

    def doubts(self) -> list[str]:
        """What seems wrong with all of them, as sentences."""
        *others, last = self.legend.names
        occurs = np.asarray(self.present.any(axis=0))
        anywhere = occurs if self.elsewhere is None else self.elsewhere
        told = described(self.samples)
        found = []
        if self.legend.given and not anywhere[last] and anywhere[[0, *others]].all():
            found.append(
                f"no class map has the number {last} ({self.legend.names[last]}), and all smaller ones from "
                "0 on occur; if the first class is 0, write classes: {0: ..., 1: ...}, else take the name "
                "off the list"
            )
        alone = _void_alone(self.present, self.legend)
        if self.legend.assumed_void and alone.any():
            found.append(
                f"{alone.sum()} of {len(alone)} class maps ({told.truth_file(int(alone.argmax()))}) have 255 "
                "and no class, and 255 means void; if it is a class there, save these maps with its number"
            )
        shown = palette_of(Path(told.truth_file(0))) if len(self.samples) else {}
        black = [n for n in self.legend.names if occurs[n] and shown.get(n) == (0, 0, 0)]
        ground = [n for n in self.legend.background if occurs[n] and any(shown.get(n, ()))]
        if black and ground:
            name = self.legend.names[black[0]]
            found.append(
                f"the palette of {told.truth_file(0)} shows number {black[0]} ({name}) in black and number "
                f"{ground[0]} (background) in {shown[ground[0]]}; if black is the background, say so, as in "
                f"classes: {{{ground[0]}: cat, {black[0]}: background}}"
            )
        return found


def _check_void(present: Bools, legend: Legend, told: Described[Any]) -> None:
    """Check that 255 is not a class in maps of 0 and 255, the form in which two-valued data are kept.

    Raises:
        UserError: maps have 255 and no class, and 255 has no name.
    """
    if not legend.assumed_void:
        return
    alone = _void_alone(present, legend)
    if alone.sum() > _FEW * len(alone):
        raise UserError(
            f"{alone.sum()} of {len(alone)} class maps, such as {told.truth_file(int(alone.argmax()))}, have "
            "255 and no class, and 255 means void unless it has a name; if it is a class, name it, as in "
            "classes: {255: polyp}; if it is void, say so, as in classes: {1: cat, 255: void}"
        )


def _void_alone(present: Bools, legend: Legend) -> Bools:
    """(N,): the maps that have 255 and no class."""
    return np.asarray(present[:, VOID] & ~present[:, list(legend.names)].any(axis=1))


_LOSSY = (".jpg", ".jpeg", ".webp", ".jp2")

_FEW = 0.05
"""Share of class maps that may show void alone before it is doubted that void is meant."""
