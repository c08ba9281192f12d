"""Find instances in a label map and cut them out.

No instance is annotated: a 4-connected part of one class counts as one.
"""

from __future__ import annotations

import io
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import Annotated, Any, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader, Subset

from everseg.classes.instances.pool import Instance
from everseg.config import Checked, Count, Range, Share, Size
from everseg.data.resize import resized
from everseg.distributed import gather, shard
from everseg.progress import bar
from everseg.types import VOID, SemanticSample


@dataclass(frozen=True)
class HarvestConfig(Checked):
    """How instances are cut out of a step's images."""

    min_area: Share = 0.002
    """Minimum share of the image that an instance covers. [ours; EIR's code: 0]"""
    max_area: Share = 0.6
    """Maximum share of the image that an instance covers. [ours; EIR's code: 1]"""
    border: Count = 0
    """Skip instances closer than this many pixels to the image's edge, where the object may continue; 0:
    none."""
    single: Literal["off", "class", "image"] = "off"
    """Skip a class that lies in several parts ("class"), or the whole image if any class does ("image").
    [EIR's code: image]"""
    max_side: Size = 256
    """Maximum side of a kept cut-out, in pixels; larger ones are shrunk. [ours]"""
    margin: Count = 2
    """Pixels kept around the mask, for resizing; everything beyond becomes the mean colour. [ours]"""
    quality: Annotated[int, Range(0, 100)] = 90
    """JPEG quality of a cut-out; 0: lossless PNG. [ours]"""

    @classmethod
    def presets(cls) -> dict[str, HarvestConfig]:
        """`reference`: the published code's criterion; it applies it to a random crop and keeps the whole
        image, of which the cut-out has all that is pasted."""
        return {"paper": cls(), "reference": cls(min_area=0.0, max_area=1.0, single="image", quality=0)}


class Found(NamedTuple):
    """An instance that was found but not yet cut out.

    image: identifies the image.
    label: its class, as in the label map.
    box: (top, left, bottom, right); bottom and right are exclusive.
    at: (row, column) of its first pixel.
    area: number of its pixels.
    size: (H, W) of the image.
    """

    image: str
    label: int
    box: tuple[int, int, int, int]
    at: tuple[int, int]
    area: int
    size: tuple[int, int]


def find_instances(
    labels: Tensor | NDArray[np.uint8],
    classes: Collection[int],
    image: str = "",
    config: HarvestConfig | None = None,
) -> list[Found]:
    """The instances of some classes in a label map (H, W), 0 background, 255 void, by class and row.

    image: identifies the image; goes with each of them.
    """
    config = config or HarvestConfig()
    array = np.asarray(labels)
    size = (int(array.shape[0]), int(array.shape[1]))
    found: list[Found] = []
    present = np.flatnonzero(np.bincount(array.ravel(), minlength=256))
    for label in (int(c) for c in present if c not in (0, VOID)):
        if label not in classes and config.single != "image":
            continue
        parts, count = ndimage.label(array == label)
        if count > 1 and config.single == "image":
            return []
        if (count > 1 and config.single == "class") or label not in classes:
            continue
        areas = np.bincount(parts.ravel())
        for number, where in enumerate(ndimage.find_objects(parts), 1):
            area = int(areas[number])
            box = (where[0].start, where[1].start, where[0].stop, where[1].stop)
            share = area / array.size
            if config.min_area <= share <= config.max_area and not _touches(box, size, config.border):
                column = box[1] + int(np.argmax(parts[box[0], box[1] : box[3]] == number))
                found.append(Found(image, label, box, (box[0], column), area, size))
    return found


def find_all(
    samples: Sequence[SemanticSample],
    classes: Collection[int],
    config: HarvestConfig,
    *,
    name: str,
    workers: int = 0,
) -> dict[Found, int]:
    """The instances of some classes in all samples, each with its sample's place. The samples are shared out
    among the processes, and every process has all."""
    mine = shard(range(len(samples)))
    loader: DataLoader[Any] = DataLoader(
        Subset(samples, mine),  # type: ignore[arg-type]  # any sequence serves
        batch_size=8,
        collate_fn=list,
        num_workers=workers,
    )
    here: list[tuple[int, list[Found]]] = []
    with bar(f"{name}: instances", len(mine)) as advance:
        for batch in loader:
            for sample in batch:
                here.append((mine[len(here)], find_instances(sample.labels, classes, sample.name, config)))
                advance("")
    where: dict[Found, int] = {}
    for position, found in sorted((pair for part in gather(here) for pair in part), key=itemgetter(0)):
        where.update(dict.fromkeys(found, position))
    return where


def _touches(box: tuple[int, int, int, int], size: tuple[int, int], border: int) -> bool:
    top, left, bottom, right = box
    return border > 0 and (
        top < border or left < border or bottom > size[0] - border or right > size[1] - border
    )


def cut(
    image: Tensor,
    labels: Tensor | NDArray[np.uint8],
    found: Found,
    step: int,
    config: HarvestConfig | None = None,
) -> Instance:
    """The instance as it is kept: image (3, H, W) uint8 and the labels that it was found in.

    step: when it was learned. Pixels further than the margin from the mask are not kept: they may show what
        nobody agreed to keep.
    """
    config = config or HarvestConfig()
    top, left, bottom, right = found.box
    parts, _ = ndimage.label(np.asarray(labels)[top:bottom, left:right] == found.label)
    mask = parts == parts[found.at[0] - top, found.at[1] - left]
    crop = image[:, top:bottom, left:right].numpy()
    near = ndimage.binary_dilation(mask, iterations=config.margin) if config.margin else mask
    crop = np.where(near, crop, crop[:, mask].mean(1).round().astype(np.uint8)[:, None, None])
    height, width = mask.shape
    scale = config.max_side / max(height, width)
    if scale < 1:
        size = (max(1, round(scale * height)), max(1, round(scale * width)))
        small = resized(torch.from_numpy(crop)[None], size)[0]
        crop = small.numpy()
        shrunk = F.interpolate(torch.from_numpy(mask)[None, None].float(), size=size, mode="area")[0, 0]
        mask = shrunk.numpy() >= min(0.5, float(shrunk.max()))
    return Instance(
        picture=_encoded(crop.transpose(1, 2, 0), config.quality),
        mask=_encoded(mask, 0),
        label=found.label,
        image=found.image,
        box=found.box,
        size=found.size,
        step=step,
    )


def _encoded(pixels: NDArray[np.generic], quality: int) -> bytes:
    buffer = io.BytesIO()
    picture = Image.fromarray(np.ascontiguousarray(pixels))
    if quality:
        picture.save(buffer, format="JPEG", quality=quality)
    else:
        picture.save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()
