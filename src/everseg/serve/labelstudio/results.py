"""Label Studio's results: prompts from what was clicked, masks as brush strokes or polygons, and both back.

Positions are percentages of the image. A brush stroke is a picture in four channels, packed in run lengths:
32 bits for the number of values, 5 for the bits of a value less one, four times 4 for the sizes of run
lengths less one; then for each run a bit (1: one value repeated), 2 bits for the size, the length less one,
and the value or values.

Source: the format `rle-pack` of thi.ng/umbrella, which Label Studio writes.
"""

from __future__ import annotations

import uuid
import xml.etree.ElementTree as ET
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from everseg.data.domains.areas import fill_polygons
from everseg.errors import UserError
from everseg.pictures.drawn import Region
from everseg.pictures.outline import outlines

SIZES = (3, 4, 8, 16)
"""Bits of the run lengths that we write."""
CHANNELS = 4
BRUSH, POLYGON = "BrushLabels", "PolygonLabels"
PROMPTS = ("keypointlabels", "rectanglelabels")

Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Control:
    """What a label config says of drawing masks on an image.

    tag: `BRUSH` or `POLYGON`.
    name, to: of the control and of the image.
    labels: that it has.
    data: the key of the image in a task.
    """

    tag: str
    name: str
    to: str
    labels: tuple[str, ...]
    data: str


def control_of(config: str) -> Control:
    """The first control that can hold a mask.

    Raises:
        UserError: there is none, or the config is not XML.
    """
    try:
        tree = ET.fromstring(config)
    except ET.ParseError as error:
        raise UserError(f"the label config is not valid XML ({error}); correct it in Label Studio") from error
    images = {e.get("name"): str(e.get("value", "")).lstrip("$") for e in tree.iter("Image")}
    for tag in (BRUSH, POLYGON):
        for found in tree.iter(tag):
            name, to = str(found.get("name")), str(found.get("toName"))
            if to in images:
                labels = tuple(str(label.get("value")) for label in found.iter("Label"))
                return Control(tag, name, to, labels, images[to])
    raise UserError("the label config has no BrushLabels or PolygonLabels on an Image; add one for the masks")


@dataclass(frozen=True)
class Clicked:
    """What somebody points at: clicks (x, y) in pixels with labels 1 and 0, or a box; and the label."""

    points: tuple[tuple[float, float], ...]
    labels: tuple[int, ...]
    box: tuple[float, float, float, float] | None
    label: str


def clicked(results: Sequence[Mapping[str, Any]], width: int, height: int) -> Clicked | None:
    """The prompts among results, as one object; None where nothing points at it."""
    points, labels, box, label = [], [], None, ""
    for row in results:
        kind, value = str(row.get("type", "")), row.get("value", {})
        if kind not in PROMPTS:
            continue
        label = next(iter(value.get(kind) or [label]), label)
        x, y = float(value["x"]) / 100 * width, float(value["y"]) / 100 * height
        if kind == "keypointlabels":
            points.append((min(x, width - 1e-3), min(y, height - 1e-3)))
            labels.append(0 if row.get("is_positive", value.get("is_positive")) in (False, 0) else 1)
        else:
            right, bottom = x + float(value["width"]) / 100 * width, y + float(value["height"]) / 100 * height
            box = (x, y, min(right, width), min(bottom, height))
    if box is None and 1 not in labels:
        return None
    return Clicked(tuple(points), tuple(labels), box, label)


def masked(region: Region, control: Control, label: str, score: float) -> list[dict[str, Any]]:
    """A mask as results of a control: one brush stroke, or a polygon for each part."""
    height, width = region.size
    about = {
        "from_name": control.name,
        "to_name": control.to,
        "original_width": width,
        "original_height": height,
        "image_rotation": 0,
        "score": score,
        "readonly": False,
    }
    given = [label] if label else list(control.labels[:1])
    if control.tag == BRUSH:
        value = {"format": "rle", "rle": pack(region.full()), "brushlabels": given}
        return [{**about, "id": _fresh_id(), "type": "brushlabels", "value": value}] if region.count else []
    rings, _ = outlines(region)
    return [
        {
            **about,
            "id": _fresh_id(),
            "type": "polygonlabels",
            "value": {
                "points": (ring / (width, height) * 100).round(4).tolist(),
                "closed": True,
                "polygonlabels": given,
            },
        }
        for ring in rings
    ]


def objects_in(results: Sequence[Mapping[str, Any]], height: int, width: int) -> list[tuple[str, Mask]]:
    """The label and the mask (H, W) of each drawn object of an annotation; prompts are none.

    Raises:
        UserError: a result is damaged, or of an image of another size.
    """
    found = []
    for row in results:
        kind, value = str(row.get("type", "")), row.get("value", {})
        if kind not in ("brushlabels", "polygonlabels"):
            continue
        size = (row.get("original_height"), row.get("original_width"))
        if size != (height, width):
            raise UserError(
                f"a result belongs to an image of {size[1]}x{size[0]} pixels, but the image has "
                f"{width}x{height}; import the image again"
            )
        label = str(next(iter(value.get(kind) or []), "object"))
        if kind == "brushlabels":
            found.append((label, unpack(value.get("rle") or [], height, width)))
        else:
            points = np.array(value.get("points") or np.zeros((0, 2)), np.float64) / 100 * (width, height)
            found.append((label, fill_polygons([points.ravel().tolist()], height, width)))
    return [(label, mask) for label, mask in found if mask.any()]


def pack(mask: Mask) -> list[int]:
    """A mask (H, W) as Label Studio's run lengths of a picture in four channels of 0 and 255."""
    flat = mask.ravel()
    ends = np.concatenate([[0], np.flatnonzero(flat[1:] != flat[:-1]) + 1, [flat.size]])
    bits = [f"{flat.size * CHANNELS:032b}", f"{7:05b}", *(f"{size - 1:04b}" for size in SIZES)]
    for first, last in zip(ends[:-1].tolist(), ends[1:].tolist(), strict=True):
        word = "11111111" if flat[first] else "00000000"
        left = (last - first) * CHANNELS
        while left:
            run = min(left, 1 << SIZES[-1])
            size = next(n for n, bit in enumerate(SIZES) if run <= 1 << bit)
            bits.append(f"1{size:02b}{run - 1:0{SIZES[size]}b}{word}")
            left -= run
    text = "".join(bits)
    text += "0" * (-len(text) % 8)
    return np.packbits(np.frombuffer(text.encode(), np.uint8) - ord("0")).tolist()


def unpack(rle: Sequence[int], height: int, width: int) -> Mask:
    """A mask (H, W) from run lengths: the pixels whose last channel is not 0.

    Raises:
        UserError: they are damaged or of another size.
    """
    try:
        bits = "".join(map(str, np.unpackbits(np.array(rle, np.uint8)).tolist()))
        at = 0

        def read(count: int) -> int:
            nonlocal at
            at += count
            return int(bits[at - count : at], 2)

        total, word = read(32), read(5) + 1
        sizes = [read(4) + 1 for _ in range(4)]
        if total != height * width * CHANNELS:
            raise ValueError
        out, done = np.zeros(total, np.uint8), 0
        while done < total:
            same, end = read(1), done
            end = done + 1 + read(sizes[read(2)])
            if same:
                out[done:end] = read(word)
            else:
                out[done:end] = [read(word) for _ in range(end - done)]
            done = end
    except (ValueError, OverflowError, TypeError) as error:
        raise UserError(
            "the run lengths of a brush stroke are damaged or belong to an image other than "
            f"{width}x{height}; draw it again"
        ) from error
    return out.reshape(height, width, CHANNELS)[..., CHANNELS - 1] > 0


def _fresh_id() -> str:
    return uuid.uuid4().hex[:10]
