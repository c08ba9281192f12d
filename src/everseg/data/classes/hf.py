"""Class maps of data sets of Hugging Face's `datasets`."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any, overload

import numpy as np
import torch
from numpy.typing import NDArray

from everseg.data.classes.presence import map_of, occurring_in
from everseg.data.decoding import Bands, Decoding, Window
from everseg.data.described import Described
from everseg.data.domains.hf import HfRows
from everseg.data.numbers import colour_table
from everseg.data.samples import PartlyReadable, take_evenly, take_part
from everseg.errors import UserError
from everseg.types import SemanticSample


class HfMaps(Described[SemanticSample]):
    """Images and class maps of a data set; see `HfReader` for its options. The stream file names the classes.

    mask_colours: the number of each colour, as for `folder_maps`.

    Raises:
        UserError: `datasets` is missing, or there is no such data set, split or column.
    """

    def __init__(
        self,
        path: str,
        *,
        split: str | None = None,
        config: str | None = None,
        image: str = "image",
        mask: str = "mask",
        mask_colours: dict[int, str | tuple[int, int, int]] | None = None,
        part: tuple[int, int] | None = None,
        limit: int | None = None,
        bands: Bands = None,
        window: Window = None,
        stream_root: str = ".",
    ) -> None:
        self.rows = HfRows(path, config, split, image, mask, stream_root, Decoding(bands, window))
        self.colours = None if mask_colours is None else colour_table(mask_colours)
        self.places = tuple(take_evenly(take_part(range(len(self.rows)), part), limit))

    def __len__(self) -> int:
        return len(self.places)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({len(self)} class maps)"

    @overload
    def __getitem__(self, index: int) -> SemanticSample: ...
    @overload
    def __getitem__(self, index: slice) -> HfMaps: ...
    def __getitem__(self, index: int | slice) -> SemanticSample | HfMaps:
        """Decode one sample, or take a slice without decoding.

        Raises:
            UserError: a picture is unreadable, or the sizes of image and map differ.
        """
        if isinstance(index, slice):
            part = copy.copy(self)
            part.places = self.places[index]
            return part
        row = self.places[index]
        image, labels = self.rows.picture(row), self._labels(row)
        if labels.shape != tuple(image.shape[1:]):
            raise UserError(f"{self.rows.place(row)}: the maps differ in size; make them the same size")
        return SemanticSample(image, torch.from_numpy(labels), f"{row:06d}")

    def _labels(self, row: int) -> NDArray[np.uint8]:
        return map_of(self.rows.raster(row), Path(self.rows.mask_place(row)), self.colours)

    def presence(self) -> NDArray[np.bool_]:
        """As in `Described`; reads all maps.

        Raises:
            PartlyReadable: maps that cannot be read; `rest` is without them.
        """
        names = [Path(self.rows.mask_place(row)) for row in self.places]
        found = occurring_in(names, lambda i: self.rows.raster(self.places[i]), self.colours)
        self.notes = tuple(dict.fromkeys((*self.notes, *found.notes)))
        if found.faults:
            rest = self[:]
            rest.places = tuple(row for i, row in enumerate(self.places) if i not in found.faults)
            raise PartlyReadable([str(e) for e in found.faults.values()], rest)
        return found.present

    def names(self) -> list[str]:
        return [f"{row:06d}" for row in self.places]

    def content(self, index: int) -> list[Any]:
        row = self.places[index]
        colours = [] if self.colours is None else [sorted(self.colours.items())]
        return [self.rows.decoding.name, row, *self.rows.content(row), *colours]

    def file(self, index: int) -> str:
        return self.rows.place(self.places[index])

    def truth_file(self, index: int) -> str:
        return self.rows.mask_place(self.places[index])

    def image_name(self, index: int) -> str:
        return f"{self.places[index]:06d}"
