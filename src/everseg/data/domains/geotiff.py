"""Georeferenced rasters in a folder of `images/` and `masks/`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Unpack

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from everseg.data.decoding import Decoding
from everseg.data.domains.options import Options, SampleOptions
from everseg.data.domains.prompts import StoredClicks
from everseg.data.domains.slices import SliceSamples
from everseg.data.empty import LEFT_OUT, SKIP, with_object
from everseg.data.geo import read_band, read_raster, refuse_elsewhere
from everseg.data.maskrule import Threshold, mask_rule
from everseg.data.masks import Meaning
from everseg.data.meaning import settled
from everseg.data.pairing import Patterns, one_each, pair_files
from everseg.data.samples import PartlyReadable, take_evenly, take_part
from everseg.errors import UserError


@dataclass(frozen=True)
class RasterPair:
    """A raster and the raster that holds its mask."""

    image: Path
    path: Path
    meaning: Meaning
    name: str
    stored: StoredClicks | None = None

    @property
    def place(self) -> str:
        return str(self.image)

    def picture(self, decoding: Decoding) -> Tensor:
        return read_raster(self.image, decoding)

    def mask(self) -> NDArray[np.bool_]:
        refuse_elsewhere(self.path, self.image)
        raster = read_band(self.path)
        mask = self.meaning.object_in(raster, self.path)
        if not mask.any():
            raise self.meaning.nothing(raster, self.path, SKIP)
        return mask

    def truth(self) -> list[Any]:
        return [self.path, self.meaning.key]


class GeotiffReader(SliceSamples):
    """Samples of `path/images` and `path/masks`, paired by stem, in any format that GDAL reads.

    Where both are georeferenced, a mask must lie where its image does. Pixels without data are black, and do
    not count in percentiles.

    images, masks: globs below `path`, as for `FolderReader`.
    mask_threshold, mask_values, void: what the object is, where the masks leave it open; see `mask_rule`.
    skip_empty: leave out images whose masks have no object; to find them, every mask is decoded once.
    mask_suffix: what the mask's stem has beyond the image's. Other options: see `SampleOptions`.

    Raises:
        UserError: a folder is missing or empty, files without partner, or masks that may mean more than one
            thing.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        images: Patterns | None = None,
        masks: Patterns | None = None,
        mask_threshold: Threshold | None = None,
        mask_values: tuple[int, ...] | None = None,
        void: tuple[int, ...] = (),
        skip_empty: bool = False,
        mask_suffix: str = "",
        **options: Unpack[SampleOptions],
    ) -> None:
        given = Options(**options)
        found, problems = pair_files(Path(path), images, masks, mask_suffix)
        part, rule = take_part(found, given.part, problems), mask_rule(mask_threshold, mask_values, void=void)
        if not skip_empty:
            part = take_evenly(part, given.limit)
        chosen = list(one_each(part, problems))
        files = [mask for _, mask, _ in chosen]
        meaning = settled(files, rule, read_band)
        if skip_empty:
            has = with_object(files, meaning, read_band)
            if not any(has):
                raise UserError(
                    f"no mask in {path} has an object; correct the masks, or set mask_threshold or "
                    "mask_values to what the object is"
                )
            if not all(has):
                self.notes = (f"{path}: {LEFT_OUT.format(has.count(False), len(has))}",)
            kept = [one for one, drawn in zip(chosen, has, strict=True) if drawn]
            chosen = list(take_evenly(kept, given.limit))
        super().__init__(
            [RasterPair(image, mask, meaning, name) for image, mask, name in chosen],
            given.rule,
            str(meaning),
            decoding=given.decoding,
        )
        if problems:
            raise PartlyReadable(problems, self[:])
