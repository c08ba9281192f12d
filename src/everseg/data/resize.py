"""Images of bytes in another size."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def resized(images_BCHW: Tensor, size: tuple[int, int]) -> Tensor:
    """Images (B, 3, H, W) uint8 in another size (h, w), bilinear and without aliasing: (B, 3, h, w) uint8."""
    if size == (1, 1):  # PyTorch 2.13 asserts in its kernel for bytes, and has one for floats.
        one = F.interpolate(images_BCHW.float(), size=size, mode="bilinear", antialias=True)
        return one.round().to(torch.uint8)
    return F.interpolate(images_BCHW, size=size, mode="bilinear", antialias=True)
