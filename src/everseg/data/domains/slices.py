"""Samples that are parts of files, such as slices of a volume, and decode themselves."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from everseg.data.decoding import Decoding
from everseg.data.samples import Entry, Samples
from everseg.errors import UserError
from everseg.types.pixels import content_key


class Slice(Entry, Protocol):
    """Where one slice is: an `Entry` that decodes its image itself."""

    @property
    def place(self) -> str:
        """The file and which part of it, for messages."""

    def picture(self, decoding: Decoding) -> Tensor:
        """(3, H, W) uint8. Raises UserError, naming the file."""


class SliceSamples(Samples):
    """Slices as a sequence that decodes `self[i]` when asked; keys are of the pixels."""

    def picture(self, entry: Slice) -> tuple[Tensor, str]:
        image = entry.picture(self.decoding)
        return image, content_key(image)

    def file(self, index: int) -> str:
        entry: Any = self.entries[index]
        return str(entry.place)


def object_mask(
    values: NDArray[Any], wanted: Sequence[int] | None, what: Path | str, *, several: bool = False
) -> NDArray[np.bool_]:
    """(H, W), or more axes, from the values of a mask: those `wanted`; without a word on it, 1 of 0 and 1, or
    255 of 0 and 255.

    several: without a word on it, every value but 0 is an object. what: names the mask in messages.

    Raises:
        UserError: other values, of which nobody says what they mean.
    """
    if wanted is not None:
        return np.isin(values, wanted)
    if values.dtype.kind == "f" and not (np.isfinite(values).all() and (values == np.rint(values)).all()):
        raise UserError(f"{what} has values that are not whole; a mask numbers its objects")
    if not several and values.dtype != np.bool_:
        found = np.unique(values)
        if not (np.isin(found, (0, 1)).all() or np.isin(found, (0, 255)).all()):
            some = ", ".join(f"{v:g}" for v in found[:4]) + (", ..." if len(found) > 4 else "")
            raise UserError(
                f"{what} has the values {some}; say which are the object, as in mask_values: [{found[-1]:g}]"
            )
    return np.asarray(values != 0)
