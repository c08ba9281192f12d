"""Decode samples to find out whether that works, and keep nothing of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from everseg.errors import UserError


class Tried(NamedTuple):
    """The name of a sample, and what is wrong with it; "" if nothing is."""

    name: str
    fault: str


class Trial:
    """Samples of which each is decoded when it is asked for; a class, so that workers can be given it."""

    def __init__(self, samples: Sequence[Any]) -> None:
        self.samples = samples

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> Tried:
        try:
            return Tried(self.samples[index].name, "")
        except UserError as error:
            return Tried("", str(error))
