"""Georeferenced rasters in a folder of `images/` and `masks/`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from everseg.data.decoding import Bands, Decoding, Window
from everseg.data.domains.folder import pair_by_stem
from everseg.data.domains.prompts import PromptKind, PromptRule, StoredClicks
from everseg.data.domains.slices import SliceSamples, object_mask
from everseg.data.geo import read_mask_values, read_raster
from everseg.data.samples import PartlyReadable, take_evenly, take_part
from everseg.errors import UserError


@dataclass(frozen=True)
class RasterPair:
    """A raster and the raster that holds its mask."""

    image: Path
    path: Path
    values: tuple[int, ...] | None
    stored: StoredClicks | None = None

    @property
    def name(self) -> str:
        return self.image.name

    @property
    def place(self) -> str:
        return str(self.image)

    def picture(self, decoding: Decoding) -> Tensor:
        return read_raster(self.image, decoding)

    def mask(self) -> NDArray[np.bool_]:
        mask = object_mask(read_mask_values(self.path, self.image), self.values, self.path)
        if not mask.any():
            raise UserError(
                f"{self.path} has no object; remove the image and its mask, or correct mask_values"
            )
        return mask

    def truth(self) -> list[Any]:
        return [self.path, None if self.values is None else list(self.values)]


class GeotiffReader(SliceSamples):
    """Samples of `path/images` and `path/masks`, paired by stem, in any format that GDAL reads.

    Where both are georeferenced, a mask must lie where its image does. Pixels without data are black, and do
    not count in percentiles.

    mask_values: values of masks that are the object. mask_suffix: what the mask's stem has beyond the
    image's. part: [start, stop] of the sorted images; limit: at most so many, evenly spaced.

    Raises:
        UserError: a folder is missing or empty, or files without partner.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        mask_values: tuple[int, ...] | None = None,
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
        super().__init__(
            [RasterPair(image, mask, mask_values) for image, mask in chosen],
            PromptRule(kind, clicks, seed),
            decoding=Decoding(bands, window),
        )
        if problems:
            raise PartlyReadable(problems, self[:])
