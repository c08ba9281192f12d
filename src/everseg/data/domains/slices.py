"""Samples that are parts of files, such as slices of a volume, and decode themselves."""

from __future__ import annotations

import re
from typing import Any, Protocol

from torch import Tensor

from everseg.data.decoding import Decoding
from everseg.data.samples import Entry, Samples
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
