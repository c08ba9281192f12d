"""Images whose instances are known."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from everseg.classes.instances import HarvestConfig, InstancePool, cut, find_instances


@pytest.fixture(autouse=True)
def micro_tensors() -> None:
    """All here is as small as the micro base, and by this name `tests/conftest.py` gives it one thread."""


def drawn_image(height: int = 96, width: int = 128, seed: int = 0) -> Tensor:
    """Noise: a pixel that moved is seen to have moved."""
    return torch.randint(0, 256, (3, height, width), generator=torch.Generator().manual_seed(seed)).byte()


def drawn_labels(parts: list[tuple[int, int, int, int, int]], height: int = 96, width: int = 128) -> Tensor:
    """Rectangles (class, top, left, bottom, right) on background."""
    labels = torch.zeros(height, width, dtype=torch.uint8)
    for label, top, left, bottom, right in parts:
        labels[top:bottom, left:right] = label
    return labels


@pytest.fixture
def pool() -> InstancePool:
    """Two instances each of classes 1 to 5, kept losslessly, of 20 x 30 and 30 x 20 pixels."""
    config = HarvestConfig(quality=0)
    found, sources = [], {}
    for label in range(1, 6):
        name = f"patient{label % 2}-{label}"
        labels = drawn_labels([(label, 10, 10, 30, 40), (label, 50, 60, 80, 80)])
        sources[name] = (drawn_image(seed=label), labels)
        found += find_instances(labels, [label], name, config)
    filled = InstancePool(10)
    filled.refill(found, lambda f: cut(*sources[f.image], f, 0, config), seed=0, step=1)
    assert len(filled) == 10
    return filled


@pytest.fixture
def generator() -> np.random.Generator:
    return np.random.default_rng(0)
