"""Georeferenced rasters: read them band by band, and write a mask back with its image's georeference."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from everseg.data.decoding import Decoding
from everseg.data.extras import needed
from everseg.data.raster import Raster, raster_of
from everseg.data.tiff import MOST_PIXELS, tags_of
from everseg.errors import UserError, first_line
from everseg.files import write_bytes

_GEOREFERENCE = {33550, 33922, 34264, 50844}
"""Tags of a TIFF's place: ModelPixelScale, ModelTiepoint, ModelTransformation, RPCCoefficient."""


@contextmanager
def opened(path: Path) -> Iterator[Any]:
    """A raster that GDAL reads, as rasterio's dataset.

    Raises:
        UserError: rasterio is missing, or the file is damaged or no raster; also while it is open.
    """
    rasterio = needed("rasterio", "geo", path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Files without a georeference.
        try:
            with rasterio.open(path) as raster:
                if raster.width * raster.height > MOST_PIXELS:
                    raise UserError(
                        f"{path} is {raster.width}x{raster.height}, which is too large; cut it into tiles"
                    )
                yield raster
        except rasterio.errors.RasterioError as error:
            raise UserError(
                f"{path} is not a raster or is damaged ({first_line(error)}); copy it again or remove it"
            ) from error


def read_raster(path: Path, decoding: Decoding) -> Tensor:
    """(3, H, W) uint8 of the chosen bands; without a choice, those that the file calls red, green and blue,
    or its only one. Pixels without data are 0.

    Raises:
        UserError: as `opened`, or no word on which of several bands to take.
    """
    with opened(path) as raster:
        named = [c.name for c in raster.colorinterp]
        bands: list[int] | None = None
        if decoding.bands is not None:
            bands = [band for band in decoding.bands if band <= raster.count]
        elif {"red", "green", "blue"} <= set(named):
            bands = [named.index(colour) + 1 for colour in ("red", "green", "blue")]
        elif len([name for name in named if name != "alpha"]) == 1:
            bands = [1]
        if decoding.bands is not None and bands != list(decoding.bands):
            raise UserError(
                f"{path} has {raster.count} bands; correct bands: {list(decoding.bands)}, counted from 1"
            )
        if bands is None:
            raise UserError(
                f"{path} has {raster.count} bands; say which are red, green and blue, as in bands: [3, 2, 1]"
            )
        values = raster.read(bands)
        valid = np.logical_and.reduce([raster.read_masks(band) > 0 for band in bands])
    if values.dtype.kind == "f":
        valid &= np.isfinite(values).all(0)
    return Decoding(None, decoding.window).shown(values, path, len(bands), valid=valid)


def read_band(path: Path) -> Raster:
    """The values of a mask's only band, 0 where it has no data.

    Raises:
        UserError: as `opened`, or several bands.
    """
    with opened(path) as raster:
        if raster.count != 1:
            raise UserError(
                f"{path} has {raster.count} bands, and a mask has one; save the band of the mask alone"
            )
        return raster_of(np.where(raster.read_masks(1) > 0, raster.read(1), 0), path)


def refuse_elsewhere(path: Path, image: Path) -> None:
    """Check that a mask has the position of its image, if both are georeferenced.

    Raises:
        UserError: as `opened`, or another place than the image's.
    """
    with opened(image) as raster:
        crs, place, pixel = raster.crs, raster.transform, _pixel(raster.transform)
        whole = (raster.width, raster.height)
    with opened(path) as raster:
        own, size = raster.transform, (raster.width, raster.height)
        if raster.crs and crs and raster.crs != crs:
            raise UserError(f"{path} is in {raster.crs}, its image {image} in {crs}; reproject the mask")
        if not own.is_identity and not place.is_identity:
            corners = [(0, 0), (size[0], 0), (0, size[1]), size]
            apart = max(np.hypot(*np.subtract(_at(own, *c), _at(place, *c))) for c in corners)
            of_image = [(0, 0), (whole[0], 0), (0, whole[1]), whole]
            ends = zip(corners, of_image, strict=True)
            off = max(np.hypot(*np.subtract(_at(own, *c), _at(place, *d))) for c, d in ends)
            if size != whole and off <= 0.5 * pixel:
                raise UserError(
                    f"{path} is {size[0]}x{size[1]} and its image {image}, of the same place, "
                    f"{whole[0]}x{whole[1]}; resample it to the image's grid"
                )
            if apart > 0.5 * pixel:
                raise UserError(
                    f"{path} is shifted by up to {apart:.3g} map units ({apart / pixel:.1f} pixels) against "
                    f"its image {image}; resample it to the image's grid"
                )


def _at(transform: Any, column: int, row: int) -> tuple[float, float]:
    """The place on the map of a pixel's corner."""
    return (
        transform.a * column + transform.b * row + transform.c,
        transform.d * column + transform.e * row + transform.f,
    )


def _pixel(transform: Any) -> float:
    """The shorter side of a pixel, in map units."""
    return float(min(np.hypot(transform.a, transform.d), np.hypot(transform.b, transform.e)))


def georeferenced(path: Path) -> bool:
    """Whether a file is a georeferenced TIFF.

    Raises:
        UserError: it does, and rasterio is missing or cannot read it.
    """
    if not _GEOREFERENCE & tags_of(path):
        return False
    with opened(path) as raster:
        return bool(_reference(raster))


def _reference(raster: Any) -> dict[str, Any]:
    """The georeference of a raster, as arguments of a new one; empty if it has none."""
    points, points_crs = raster.gcps
    reference = {"crs": raster.crs, "transform": raster.transform}
    if raster.transform.is_identity:
        reference = {"gcps": points, "crs": points_crs} if points else {}
    if raster.rpcs:
        reference["rpcs"] = raster.rpcs
    return reference


def write_mask_like(path: str | Path, mask: NDArray[Any], image: str | Path) -> Path:
    """Write a mask as a GeoTIFF with the georeference of its image, atomically. Returns its path.

    mask, image: as in `mask_like`.

    Raises:
        UserError: as `mask_like`, or the file cannot be written.
    """
    path = Path(path)
    write_bytes(path, mask_like(mask, Path(image)))
    return path


def mask_like(mask: NDArray[Any], image: Path, software: str = "") -> bytes:
    """A mask as the content of a GeoTIFF with the georeference of its image.

    mask: (H, W), as large as the image: bool becomes 0 and 255, whole numbers (a class map) stay as they are.
    image: a raster whose coordinate system, transform or ground control points the mask gets.
    software: what the file says of who wrote it.

    Raises:
        UserError: the image has no georeference or another size, or cannot be read.
    """
    values = np.asarray(mask)
    with opened(image) as raster:
        size = (raster.height, raster.width)
        reference = _reference(raster)
    if not reference:
        raise UserError(f"{image} has no georeference to give to a mask; write the mask as png")
    if values.shape != size:
        raise UserError(
            f"the mask has the shape {values.shape}, but {image} is {size[1]}x{size[0]}; resize it"
        )
    if values.dtype == np.bool_:
        values = values.astype(np.uint8) * 255
    if values.dtype.kind not in "ui" or values.dtype.itemsize > 4:
        raise UserError(
            f"the mask is of dtype {values.dtype}; give bool, or whole numbers of at most 32 bits"
        )
    memory = needed("rasterio.io", "geo", image)
    kind = {"driver": "GTiff", "count": 1, "dtype": values.dtype, "compress": "deflate"}
    with memory.MemoryFile() as written, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with written.open(height=size[0], width=size[1], **kind, **reference) as raster:
            if software:
                raster.update_tags(TIFFTAG_SOFTWARE=software)
            raster.write(values, 1)
        return bytes(written.read())
