"""Samples that are parts of files, such as slices of a volume, and decode themselves.

To add a format, write a `Slice` and a reader that pairs the files and finds the slices of a pair that have an
object: `dicom` and `nifti` are such files.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol, Unpack

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from everseg.data.decoding import Decoding
from everseg.data.domains.options import Options, SampleOptions
from everseg.data.samples import Entry, PartlyReadable, Samples, take_evenly
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

    def image_name(self, index: int) -> str:
        return re.sub(r"#\d+$", "", self.entries[index].name)


class SliceReader(SliceSamples):
    """Slices that have an object, from pairs of files.

    masks: folder of the masks, for messages.
    pairs: pairs (image, mask), after `part` was applied.
    problems: one sentence per file that cannot be used.
    slices: function that returns the slices of one pair that have an object.
    said: function that says what the masks mean, given the slices.

    Further options: see `SampleOptions`.

    Raises:
        PartlyReadable: files cannot be used.
        UserError: no slice has an object.
    """

    def __init__(
        self,
        masks: Path,
        pairs: Sequence[tuple[Path, Path]],
        problems: Sequence[str],
        slices: Callable[[Path, Path], Sequence[Any]],
        said: Callable[[Sequence[Any]], str],
        **options: Unpack[SampleOptions],
    ) -> None:
        given, problems = Options(**options), list(problems)
        entries: list[Any] = []
        for image, mask in pairs:
            try:
                entries += slices(image, mask)
            except UserError as error:
                problems.append(str(error))
        try:
            meaning = said(entries)
        except UserError as error:
            meaning, entries = "", []
            problems.append(str(error))
        super().__init__(take_evenly(entries, given.limit), given.rule, meaning, decoding=given.decoding)
        if problems:
            raise PartlyReadable(problems, self[:])
        if not entries:
            raise UserError(f"no mask in {masks} has an object; check mask_values")


def refuse_gone(mask: NDArray[np.bool_], path: Path) -> NDArray[np.bool_]:
    """A mask that had an object when its reader was made.

    Raises:
        UserError: it has none now.
    """
    if not mask.any():
        raise UserError(f"{path} has changed: an object is gone; run the same command again")
    return mask
