"""Images that are held out of a stage's training images, to choose something by."""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Sequence
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import ConcatDataset

from everseg.data.described import Described, described
from everseg.data.domains.prompts import StoredClicks


class Chosen(Described[Any]):
    """Some samples of a sequence, in its order. places: which."""

    def __init__(self, samples: Sequence[Any], places: Sequence[int]) -> None:
        self.samples, self.places = described(samples), tuple(places)
        self.legend, self.rule = self.samples.legend, self.samples.rule

    def __len__(self) -> int:
        return len(self.places)

    @overload
    def __getitem__(self, index: int) -> Any: ...
    @overload
    def __getitem__(self, index: slice) -> Chosen: ...
    def __getitem__(self, index: int | slice) -> Any:
        if isinstance(index, slice):
            return Chosen(self.samples, self.places[index])
        return self.samples[self.places[index]]

    def content(self, index: int) -> list[Any]:
        return self.samples.content(self.places[index])

    def file(self, index: int) -> str:
        return self.samples.file(self.places[index])

    def truth_file(self, index: int) -> str:
        return self.samples.truth_file(self.places[index])

    def image_name(self, index: int) -> str:
        return self.samples.image_name(self.places[index])

    def presence(self) -> NDArray[np.bool_]:
        return self.samples.presence()[list(self.places)]

    def stored_clicks(self, index: int) -> StoredClicks | None:
        return self.samples.stored_clicks(self.places[index])


def hold_out(samples: Sequence[Any], share: float, purpose: str = "validation") -> tuple[Chosen, Chosen]:
    """What to train on, and about `share` of the images to choose the best epoch by, or something else.

    Other images are drawn for another purpose, so that one part can be held out of another. Each image is
    drawn by its name alone, so it stays on its side when images are added or files move; the
    objects of one image stay together. At least one image is trained on, and of several one is held out:
    where the draw leaves a side empty, the image that came closest goes there.
    """
    names = _image_names(samples)
    drawn = {name: _drawn(name, purpose) for name in names}
    held = {name for name, value in drawn.items() if value < share}
    if drawn:
        held = held or {min(drawn, key=lambda name: drawn[name])}
        if len(held) == len(drawn):
            held = held - {max(drawn, key=lambda name: drawn[name])}
    kept = [i for i, name in enumerate(names) if name not in held]
    return Chosen(samples, kept), Chosen(samples, [i for i, name in enumerate(names) if name in held])


def _image_names(samples: Sequence[Any]) -> list[str]:
    if isinstance(samples, ConcatDataset):
        return [name for part in samples.datasets for name in _image_names(part)]  # type: ignore[arg-type]
    told = described(samples)
    # Systems differ in how they write an accent.
    return [unicodedata.normalize("NFC", told.image_name(index)) for index in range(len(told))]


def _drawn(name: str, purpose: str) -> float:
    """A number from 0 to 1 that depends on the name and the purpose alone."""
    digest = hashlib.sha256(f"{purpose}|{name}".encode(errors="surrogateescape")).digest()
    return int.from_bytes(digest[:8]) / 2**64
