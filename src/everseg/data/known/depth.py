"""Propose bands and window of deep or multi-band images, from a few files."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from everseg.data.geo import opened
from everseg.data.images import DEEP, open_image, read_file
from everseg.data.known.site import Options
from everseg.data.samples import take_evenly
from everseg.data.tiff import beyond_pillow, is_tiff, read_tiff
from everseg.errors import UserError

_LOOKED = 4
_GEO_TAGS = (33550, 34264, 34735)
"""ModelPixelScale, ModelTransformation and GeoKeyDirectory."""

_RED_GREEN_BLUE = ("red|b0?4|band_?4", "green|b0?3|band_?3", "blue|b0?2|band_?2")
"""What bands are described as, Sentinel-2's and Landsat 8's numbers included."""


@dataclass
class Shown:
    """Options for images, what is unsure of them, and whether the files are georeferenced."""

    options: Options = field(default_factory=dict)
    doubts: list[str] = field(default_factory=list)
    comments: dict[str, str] = field(default_factory=dict)
    geo: bool = False


def shown_by(files: Sequence[Path]) -> Shown:
    """The options that a few of the files need so that they can be seen."""
    found = Shown()
    top = 0.0
    for file in take_evenly(files, _LOOKED):
        try:
            content = read_file(file)
        except UserError:
            continue
        tiff = is_tiff(content)
        found.geo |= tiff and _on_map(file)
        deep = _deep(content, file, tiff)
        if deep is None:
            continue
        values, picture = deep
        needs = len(values) not in (1, 3) and picture is None
        if needs and "bands" not in found.options:
            _choose_bands(found, file, len(values))
        top = max(top, float(np.nanmax(values)))
        if values.dtype.kind == "f" or len(values) > 1:
            seen = values.dtype.kind == "f" and float(np.nanmin(values)) >= 0 and top <= 1
            if values.dtype != np.uint8 and not seen:
                found.options["window"] = ["2%", "98%"]
    if "window" in found.options:
        found.doubts.append(
            f"values go up to {top:g}; 2% of them are shown as black and 2% as white, image by image"
        )
    elif 255 < top < 2**14:
        bits = int(np.ceil(np.log2(top + 1)))
        found.options["window"] = [0, 2**bits - 1]
        found.doubts.append(f"values go up to {top:g}, so these seem to be {bits}-bit data in 16-bit files")
    if "window" in found.options:
        found.comments["window"] = "unsure: what becomes black and what becomes white"
    return found


def _deep(content: bytes, file: Path, tiff: bool) -> tuple[NDArray[Any], int | None] | None:
    """(C, H, W) values of a file that is deeper than 8 bits or has many bands; None of any other."""
    try:
        if tiff and (beyond_pillow(content) or open_image(content, file).mode in DEEP):
            return read_tiff(content, file, chosen=False)
        image = open_image(content, file)
        return (np.asarray(image)[None], 1) if image.mode in DEEP else None
    except UserError:
        return None


def _on_map(file: Path) -> bool:
    try:
        with Image.open(file) as image:
            return any(tag in image.tag_v2 for tag in _GEO_TAGS)  # type: ignore[attr-defined]
    except Exception:  # Files that Pillow cannot open.
        return _on_map_by_tifffile(file)


def _on_map_by_tifffile(file: Path) -> bool:
    if find_spec("tifffile") is None:
        return False
    import tifffile

    try:
        with tifffile.TiffFile(file) as opened_file:
            return any(tag in opened_file.pages.first.tags for tag in _GEO_TAGS)
    except Exception:  # tifffile raises errors of many types on damaged files.
        return False


def _choose_bands(found: Shown, file: Path, count: int) -> None:
    """Red, green and blue by the bands' descriptions, or a guess by their number."""
    described = _descriptions(file) if found.geo else ()
    places = [
        next((i for i, text in enumerate(described, 1) if re.fullmatch(form, text)), 0)
        for form in _RED_GREEN_BLUE
    ]
    if all(places):
        found.options["bands"] = places
        return
    guess = [1] if count < 3 else [3, 2, 1] if count < 7 else [4, 3, 2]
    found.options["bands"] = guess
    found.comments["bands"] = f"unsure: which of {count} bands are red, green and blue, counted from 1"
    found.doubts.append(
        f"images have {count} bands and do not say which are red, green and blue; bands: {guess} is a guess"
    )


def _descriptions(file: Path) -> tuple[str, ...]:
    if find_spec("rasterio") is None:
        return ()
    try:
        with opened(file) as raster:
            return tuple(str(text or "").lower() for text in raster.descriptions)
    except UserError:
        return ()
