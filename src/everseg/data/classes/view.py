"""How samples with class maps are checked and drawn."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from everseg.data.described import Described
from everseg.pictures.palette import COLOURS, Colour
from everseg.pictures.sheet import enlarged, framed
from everseg.pictures.tile import picture_of
from everseg.types import VOID, SemanticSample


class ClassView:
    """The `View` of a stream of classes."""

    marks: tuple[tuple[str, Colour], ...] = ()

    scored_by_name = False

    def labels(self, sample: SemanticSample) -> set[int]:
        return set(np.unique(sample.labels.numpy()).tolist())

    def prompts(self, samples: Described[Any], sample: SemanticSample) -> str:
        return "class maps"

    def foreground(self, sample: SemanticSample) -> NDArray[np.bool_]:
        labels = sample.labels.numpy()[None]
        return np.asarray((labels != 0) & (labels != VOID))

    def faults(self, sample: SemanticSample) -> Iterator[tuple[Literal["error", "warning"], str]]:
        """None: an image may be all background, and may have no background."""
        yield from ()

    def doubts(self, share: float) -> Iterator[str]:
        """None: classes may cover everything."""
        yield from ()

    def tile(self, sample: SemanticSample, side: int) -> Image.Image:
        pixels, _ = enlarged(picture_of(sample.image), side)
        size = (pixels.shape[1], pixels.shape[0])
        labels = np.asarray(Image.fromarray(sample.labels.numpy()).resize(size, Image.Resampling.NEAREST))
        over = labels != 0
        pixels[over] = (0.4 * pixels[over] + 0.6 * COLOURS[labels[over]]).astype(np.uint8)
        return framed(pixels, side)[0]
