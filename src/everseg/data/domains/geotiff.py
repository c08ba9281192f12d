"""Georeferenced rasters in a folder of `images/` and `masks/`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from everseg.data.decoding import Bands, Decoding, Window
from everseg.data.domains.prompts import PromptKind, PromptRule, StoredClicks
from everseg.data.domains.slices import SliceSamples
from everseg.data.geo import read_band, read_raster, refuse_elsewhere
from everseg.data.maskrule import Threshold, mask_rule
from everseg.data.masks import Meaning
from everseg.data.meaning import settled
from everseg.data.names import sample_name
from everseg.data.pairing import pair_by_stem
from everseg.data.samples import PartlyReadable, take_evenly, take_part


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
            raise self.meaning.nothing(raster, self.path)
        return mask

    def truth(self) -> list[Any]:
        return [self.path, self.meaning.key]


class GeotiffReader(SliceSamples):
    """Samples of `path/images` and `path/masks`, paired by stem, in any format that GDAL reads.

    Where both are georeferenced, a mask must lie where its image does. Pixels without data are black, and do
    not count in percentiles.

    mask_threshold, mask_values, void: what the object is, where the masks leave it open; see `mask_rule`.
    mask_suffix: what the mask's stem has beyond the image's.
    part: [start, stop] of the sorted images; limit: at most so many, evenly spaced.

    Raises:
        UserError: a folder is missing or empty, files without partner, or masks that may mean more than one
            thing.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        mask_threshold: Threshold | None = None,
        mask_values: tuple[int, ...] | None = None,
        void: tuple[int, ...] = (),
        mask_suffix: str = "",
        prompts: Literal["clicks", "box", "clicks+box"] = "clicks",
        clicks: int = 3,
        seed: int = 0,
        part: tuple[int, int] | None = None,
        limit: int | None = None,
        bands: Bands = None,
        window: Window = None,
    ) -> None:
        path = Path(path)
        pairs, problems = pair_by_stem(path / "images", path / "masks", mask_suffix)
        chosen = take_evenly(take_part(pairs, part), limit)
        kind: PromptKind = prompts
        meaning = settled(
            [mask for _, mask in chosen], mask_rule(mask_threshold, mask_values, void=void), read_band
        )
        super().__init__(
            [RasterPair(i, mask, meaning, sample_name(i, i.parent)) for i, mask in chosen],
            PromptRule(kind, clicks, seed),
            str(meaning),
            decoding=Decoding(bands, window),
        )
        if problems:
            raise PartlyReadable(problems, self[:])
