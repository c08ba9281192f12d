"""How `check` and the contact sheet see the samples of a stream: each kind of stream has its own view."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from everseg.data.classes.view import ClassView
from everseg.data.described import Described
from everseg.data.domains.view import DomainView
from everseg.data.stream import Stream
from everseg.pictures.palette import Colour

Severity = Literal["error", "warning"]


class View(Protocol):
    """What differs between samples with prompts and samples with class maps."""

    @property
    def marks(self) -> Sequence[tuple[str, Colour]]:
        """What the contact sheet's legend explains: names and colours, from right to left."""

    @property
    def scored_by_name(self) -> bool:
        """Whether each test image has a score under its name."""

    def labels(self, sample: Any) -> set[int]:
        """The class labels that occur in a sample; none where there are no classes."""

    def prompts(self, samples: Described[Any], sample: Any) -> str:
        """What a sample is prompted with, in words."""

    def foreground(self, sample: Any) -> NDArray[np.bool_]:
        """(N, H, W): the pixels of each object, or of any class."""

    def faults(self, sample: Any) -> Iterator[tuple[Severity, str]]:
        """What is wrong with the truth of a sample, as sentences."""

    def doubts(self, share: float) -> Iterator[str]:
        """What seems wrong with a split whose objects have this mean share of the pixels, as sentences."""

    def tile(self, sample: Any, side: int) -> Image.Image:
        """A sample with its truth and prompts drawn on it, in a square."""


def view_of(stream: Stream) -> View:
    """The view of a stream of domains or of classes."""
    return ClassView() if stream.stages[0].classes else DomainView()
