"""A SAM whose weights follow from their names: golden values of whole networks without pretrained ones."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from everseg.models.promptable.names import FOURIER, TWIN, to_original


def formula(name: str, position: int, shape: torch.Size) -> Tensor:
    """A tensor's values: a hash of flat index and the tensor's position, around 0, or 1 for norms."""
    h = np.arange(shape.numel(), dtype=np.uint64) + np.uint64(position * 0x9E3779B9)
    h = (h & np.uint64(0xFFFFFFFF)).astype(np.uint32)
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35)):
        h ^= h >> np.uint32(shift)
        h *= np.uint32(factor)
    h ^= h >> np.uint32(16)
    u = h.astype(np.float64) / 2**32 - 0.5
    if len(shape) >= 2:
        values = 0.1 * u
    elif name.endswith("weight"):
        values = 1 + 0.2 * u
    else:
        values = 0.2 * u
    return torch.from_numpy(values.astype(np.float32)).view(shape)


@torch.no_grad()
def fill(state: Mapping[str, Tensor]) -> None:
    """Fill a `SamModel.state_dict()` in place; positions are those among the sorted original names."""
    for position, (name, tensor) in enumerate(sorted(to_original(state).items())):
        tensor.copy_(formula(name, position, tensor.shape))
    if TWIN in state:
        state[TWIN].copy_(state[FOURIER])


def image() -> Tensor:
    """The test image (3, 1024, 1024), float32 on the scale of 0..255."""
    c, y, x = np.meshgrid(np.arange(3.0), np.arange(1024.0), np.arange(1024.0), indexing="ij")
    value = 127.5 + 100 * np.sin(2 * np.pi * x * (c + 1) / 256) * np.cos(2 * np.pi * y * (c + 2) / 512)
    return torch.from_numpy(value.astype(np.float32))
