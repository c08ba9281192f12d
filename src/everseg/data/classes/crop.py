"""The crop used to compare class-incremental methods: short side to 512 pixels, then the centre."""

from __future__ import annotations

from collections.abc import Sequence
from typing import overload

from torch.nn import functional as F

from everseg.data.resize import resized
from everseg.types import SemanticSample


def centre_crop(sample: SemanticSample, size: int = 512) -> SemanticSample:
    """The sample with its short side brought to `size`, image bilinear and labels nearest, and of that the
    square in the middle.

    The long side is rounded down. Its key names the size, so that a cache keeps both forms apart.

    Source: the evaluation of MiB, DKD and EIR, published code; SSUL has 513.
    """
    height, width = sample.labels.shape
    short = min(height, width)
    big = (size * height // short, size * width // short)
    image, labels = sample.image[None], sample.labels[None, None]
    if big != (height, width):
        image = resized(image, big)
        labels = F.interpolate(labels, size=big, mode="nearest-exact")
    top, left = round((big[0] - size) / 2), round((big[1] - size) / 2)
    rows, columns = slice(top, top + size), slice(left, left + size)
    return SemanticSample(
        image[0, :, rows, columns].contiguous(),
        labels[0, 0, rows, columns].contiguous(),
        sample.name,
        f"{sample.key}:crop-{size}" if sample.key else "",
    )


class CentreCropped(Sequence[SemanticSample]):
    """Samples through `centre_crop`, each when it is asked for."""

    def __init__(self, samples: Sequence[SemanticSample], size: int = 512) -> None:
        assert size >= 1, f"size {size}"
        self.samples, self.size = samples, size

    def __len__(self) -> int:
        return len(self.samples)

    @overload
    def __getitem__(self, index: int) -> SemanticSample: ...
    @overload
    def __getitem__(self, index: slice) -> CentreCropped: ...
    def __getitem__(self, index: int | slice) -> SemanticSample | CentreCropped:
        if isinstance(index, slice):
            return CentreCropped(self.samples[index], self.size)
        return centre_crop(self.samples[index], self.size)
