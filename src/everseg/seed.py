"""Seeds folded from (seed, stage, purpose), so that resuming needs no saved generator state."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:  # Who draws with numpy does not wait for torch.
    import torch


def fold(seed: int, *keys: int | str) -> int:
    """A 63-bit seed that depends on `seed` and every key, and on nothing else; the same on every machine."""
    assert all(isinstance(k, int | str) for k in keys), f"numpy's numbers fold differently from int: {keys}"
    text = "\x1f".join([str(seed), *(f"{type(k).__name__}:{k}" for k in keys)])
    return int.from_bytes(hashlib.sha256(text.encode(errors="surrogateescape")).digest()[:8], "big") >> 1


def torch_generator(seed: int, *keys: int | str) -> torch.Generator:
    """A CPU generator for one purpose. Draw on the CPU and move: CUDA and CPU generators differ."""
    import torch

    return torch.Generator().manual_seed(fold(seed, *keys))


def numpy_generator(seed: int, *keys: int | str) -> np.random.Generator:
    """A numpy generator for one purpose."""
    return np.random.default_rng(fold(seed, *keys))
