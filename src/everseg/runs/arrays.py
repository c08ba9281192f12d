"""Images and prompts as users have them: paths, Pillow images, arrays, lists."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from everseg.data.imagefiles import read_image
from everseg.errors import UserError
from everseg.text import plural
from everseg.types import Prompts
from everseg.types.pixels import image_tensor


def as_image(
    image: Any, bands: Sequence[int] | None = None, window: Sequence[float | str] | None = None
) -> Tensor:
    """Any image as (3, H, W) uint8: a path, or what `types.pixels.image_tensor` takes.

    bands, window: how a file is read, as in `read_image`.

    Raises:
        UserError: it is of another type or shape, or cannot be read.
    """
    if isinstance(image, str | Path):
        return read_image(image, bands=bands, window=window)
    if bands is not None or window is not None:
        raise UserError("bands and window apply to files only; give the path of the image, or leave them out")
    return image_tensor(image, "the image")


def as_prompts(points: Any, labels: Any, boxes: Any, image: Tensor) -> Prompts | None:
    """Points, labels and boxes of one object or of several, checked against the image; None without any.

    Raises:
        UserError: shapes that do not fit, labels other than 0 and 1, only clicks off an object and no box, a
            coordinate outside the image, or an empty box.
    """
    if points is None and boxes is None:
        if labels is not None:
            raise UserError(
                "labels belong to points, and there are none; give points as well, or leave labels out"
            )
        return None
    clicks = None if points is None else _numbers(points, "points", 2)
    corners = None if boxes is None else _numbers(boxes, "boxes", 4)
    if clicks is not None:
        clicks = clicks[None] if clicks.ndim == 2 else clicks
        if clicks.ndim != 3 or not clicks.numel():
            raise UserError(
                f"points have shape {tuple(clicks.shape)}; give (P, 2) for one object or (N, P, 2) for N "
                "objects"
            )
    if corners is not None:
        corners = corners[None] if corners.ndim == 1 else corners
        if corners.ndim != 2 or not corners.numel():
            raise UserError(
                f"boxes have shape {tuple(corners.shape)}; give (4,) for one object or (N, 4) for N objects"
            )
        if bool((corners[:, 2:] <= corners[:, :2]).any()):
            raise UserError("a box is empty; give x0, y0, x1, y1 with x1 > x0 and y1 > y0")
    if clicks is not None and corners is not None and len(clicks) != len(corners):
        raise UserError(
            f"there are points of {plural(len(clicks), 'object')}, but the number of boxes is "
            f"{len(corners)}; give one box per object"
        )
    on = None if clicks is None else _labels(labels, clicks)
    if on is not None and corners is None and not bool(on.any(1).all()):
        raise UserError(
            "the labels of an object are all 0, so no click points at it; give at least one click on "
            "it (label 1), or a box"
        )
    prompts = Prompts(clicks, on, corners)
    check_inside(prompts, image, "the prompt")
    return prompts


def _numbers(values: Any, what: str, last: int) -> Tensor:
    try:
        numbers = torch.as_tensor(np.asarray(values, dtype=np.float32))
    except (TypeError, ValueError) as error:
        raise UserError(f"{what} are not an array of numbers ({error})") from error
    if not numbers.numel():
        raise UserError(f"{what} are empty; give at least one, or leave them out")
    if not bool(numbers.isfinite().all()):
        raise UserError(f"{what} hold NaN or infinity; give finite numbers, in pixels")
    if numbers.ndim == 0 or numbers.shape[-1] != last:
        raise UserError(f"{what} have shape {tuple(numbers.shape)}; give {last} numbers each, in pixels")
    return numbers


def _labels(labels: Any, clicks: Tensor) -> Tensor:
    if labels is None:
        return torch.ones(clicks.shape[:-1], dtype=torch.int64)
    try:
        given = torch.as_tensor(np.asarray(labels))
    except (TypeError, ValueError) as error:
        raise UserError(f"labels are not an array of numbers ({error})") from error
    given = given[None] if given.ndim == 1 else given
    if given.shape != clicks.shape[:-1] or not bool(((given == 0) | (given == 1)).all()):
        raise UserError(
            f"labels have shape {tuple(given.shape)} for points {tuple(clicks.shape)}; give 1 or 0 per point"
        )
    return given.long()


def check_inside(prompts: Prompts, image: Tensor, where: str) -> None:
    """Check that points and corners lie in the image.

    Raises:
        UserError: one does not.
    """
    height, width = image.shape[-2:]
    given = [t.reshape(-1, 2) for t in (prompts.points, prompts.boxes) if t is not None]
    for x, y in torch.cat(given).tolist():
        if not (0 <= x <= width and 0 <= y <= height):
            raise UserError(
                f"{where}: ({x:g}, {y:g}) lies outside the image of {width}x{height} pixels; "
                "coordinates are x,y"
            )
