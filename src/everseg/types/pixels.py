"""Images and masks in memory, checked and converted to one form; clicks and boxes on a mask."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps
from torch import Tensor
from torch.nn import functional as F

from everseg.errors import UserError
from everseg.seed import numpy_generator


def stretched(masks: Tensor, side: int) -> Tensor:
    """Masks (N, H, W) bool in the square of `side` pixels that a model sees or scores are taken in: (N, side,
    side) bool, each pixel the nearest one's."""
    return F.interpolate(masks[None].float(), size=(side, side), mode="nearest")[0] > 0.5


def image_tensor(given: Any, what: str) -> Tensor:
    """(3, H, W) uint8, a copy of a numpy array (H, W, 3) or (H, W), a tensor (3, H, W) or (H, W), or a PIL
    image.

    what: names the image in messages.

    Raises:
        UserError: another type, shape or dtype, saying what was given and how to convert it.
    """
    values = _array(given, what, "image")
    tensor = isinstance(given, Tensor)
    shape = values.shape
    channels = shape[0 if tensor else -1] if len(shape) == 3 else None
    if len(shape) not in (2, 3) or channels not in (None, 3) or 0 in shape:
        wanted = "a tensor image is (3, H, W) or (H, W)" if tensor else "an image is (H, W, 3) or (H, W)"
        advice = ""
        if len(shape) == 4:
            advice = "; give the images one by one, in a list"
        elif channels == 1:
            advice = f"; give {'image[0]' if tensor else 'image[..., 0]'}"
        elif channels == 4:
            advice = f"; drop the alpha channel: {'image[:3]' if tensor else 'image[..., :3]'}"
        elif channels and shape[-1 if tensor else 0] == 3:
            advice = f"; give image.{'permute(2, 0, 1)' if tensor else 'transpose(1, 2, 0)'}"
        raise UserError(f"{what} is {_about(given, values)}; {wanted}{advice}")
    if values.dtype != np.uint8:
        advice = _to_uint8(given, values)
        raise UserError(f"{what} is {_about(given, values)}; an image is uint8 from 0 to 255{advice}")
    if len(shape) == 2:
        values = np.repeat(values[None], 3, axis=0)
    elif not tensor:
        values = values.transpose(2, 0, 1)
    return torch.from_numpy(np.array(values, order="C"))


def mask_tensor(given: Any, what: str, size: tuple[int, int], *, numbered: bool = False) -> Tensor:
    """(N, H, W) bool, from a mask (H, W), or (N, H, W) with one for each object: bool, 0 and 1, or 0 and 255.

    what: names the mask in messages.
    size: (H, W) of the image.
    numbered: the mask is (H, W) and its values number the objects; 0 is the background.

    Raises:
        UserError: another type, shape or value, another size than the image's, or a mask without an object.
    """
    values = _array(given, what, "mask")
    about = _about(given, values)
    if values.ndim not in ((2,) if numbered else (2, 3)):
        wanted = "(H, W) and numbers the objects" if numbered else "(H, W), or (N, H, W) for N objects"
        raise UserError(f"{what} is {about}; a mask is {wanted}")
    if values.shape[-2:] != size:
        advice = "; put the objects first, as in (N, H, W)" if values.shape[:2] == size else ""
        raise UserError(f"{what} is {about}, but its image is {size[0]} high and {size[1]} wide{advice}")
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        raise UserError(f"{what} contains NaN or infinite values; give bool, as in probability > 0.5")
    if numbered:
        if values.dtype.kind not in "ui" or values.min() < 0:
            raise UserError(
                f"{what} is {about}; objects are numbered by integers from 1; 0 is the background"
            )
        numbers = np.unique(values)
        masks = values == numbers[numbers > 0][:, None, None]
    else:
        found = np.unique(values) if values.dtype != np.bool_ else values[:0]
        if found.size and not (np.isin(found, (0, 1)).all() or np.isin(found, (0, 255)).all()):
            some = ", ".join(f"{v:g}" for v in found[:4]) + (", ..." if len(found) > 4 else "")
            advice = (
                "mask > 127"
                if found[-1] > 127
                else "mask > 0.5"
                if values.dtype.kind == "f" and 0 < found[-1] <= 1
                else "mask != 0"
            )
            raise UserError(
                f"{what} has the values {some}; a mask is bool, 0 and 1, or 0 and 255: give {advice}, or "
                "numbered=True if its values number the objects"
            )
        masks = (values != 0).reshape(-1, *size)
    missing = np.flatnonzero(~masks.any(axis=(1, 2)))
    if not len(masks) or len(missing):
        which = f"[{missing[0]}]" if len(masks) > 1 else ""
        raise UserError(f"{what}{which} is empty (no pixel is set); leave out what has no object")
    return torch.from_numpy(np.array(masks, order="C"))


def content_key(image: Tensor) -> str:
    """Identifies the pixels (3, H, W) for the feature cache."""
    digest = hashlib.sha256(f"{tuple(image.shape)}|".encode())
    digest.update(image.detach().cpu().contiguous().numpy().data)
    return f"{digest.hexdigest()}:array"


def draw_clicks(mask: NDArray[np.bool_], count: int, seed: int, name: str) -> NDArray[np.float32]:
    """(count, 2) x, y of foreground pixels, drawn uniformly with replacement; a function of mask, seed and
    name.
    """
    foreground = np.flatnonzero(mask)
    picked = foreground[numpy_generator(seed, "clicks", name).integers(0, len(foreground), count)]
    rows, columns = np.divmod(picked, mask.shape[1])
    return np.stack([columns, rows], axis=1).astype(np.float32)


def tight_box(mask: NDArray[np.bool_]) -> NDArray[np.float32]:
    """(4,) x0, y0, x1, y1: the first and last column and row that hold foreground, inclusive."""
    columns, rows = np.flatnonzero(mask.any(axis=0)), np.flatnonzero(mask.any(axis=1))
    return np.array([columns[0], rows[0], columns[-1], rows[-1]], np.float32)


def _array(given: Any, what: str, kind: str) -> NDArray[Any]:
    """The pixels as numpy sees them, in the layout in which they were given."""
    if isinstance(given, Image.Image):
        picture = ImageOps.exif_transpose(given)
        if picture.mode.startswith(("I", "F")) or (kind == "mask" and picture.mode in ("1", "L", "P")):
            return np.asarray(picture)
        colours = np.asarray(picture.convert("RGB"))
        return colours.max(axis=2) if kind == "mask" else colours
    if isinstance(given, Tensor):
        values = given.detach().cpu()
        return (values.float() if values.dtype == torch.bfloat16 else values).numpy()
    if isinstance(given, np.ndarray) and given.dtype.kind in "buif":
        return given
    if isinstance(given, np.ndarray):
        raise UserError(f"{what} is an array of dtype {given.dtype}; give numbers, one array for each {kind}")
    about = "None" if given is None else f"of type {type(given).__name__}"
    raise UserError(f"{what} is {about}; give a numpy array, a torch tensor or a PIL image")


def _about(given: Any, values: NDArray[Any]) -> str:
    kinds = {Tensor: "a tensor", Image.Image: "a PIL image"}
    kind = next((name for of, name in kinds.items() if isinstance(given, of)), "an array")
    return f"{kind} of dtype {values.dtype} and shape {values.shape}"


def _to_uint8(given: Any, values: NDArray[Any]) -> str:
    """How to convert an image of another dtype, by its values."""
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        return ", and this one contains NaN or infinite values; replace them first, for example by 0"
    image = "np.asarray(image)" if isinstance(given, Image.Image) else "image"
    cast = ".to(torch.uint8)" if isinstance(given, Tensor) else ".astype(np.uint8)"
    low, high = float(values.min()), float(values.max())
    span = f", and this one has values from {low:g} to {high:g}; "
    if low < 0:
        return f"{span}undo its normalisation first"
    if high > 255:  # 16 bits, or 12 and the like in 16
        scale = 257 if high > 4095 else 2 ** (int(high).bit_length() - 8)
        return f"{span}convert with ({image} / {scale}).round(){cast}"
    if high <= 1:
        return f"{span}convert with ({image} * 255.0).round(){cast}"
    return f"{span}convert with {image}{'.round()' if values.dtype.kind == 'f' else ''}{cast}"
