"""Images of bytes in another size."""

from __future__ import annotations

from itertools import product

import pytest
import torch

from everseg.data.resize import resized


@pytest.mark.parametrize(("height", "width"), list(product((1, 2, 5), repeat=2)))
def test_any_size_down_to_one_pixel(height: int, width: int) -> None:
    """PyTorch's kernel for bytes fails where an image becomes a single pixel."""
    image = torch.randint(0, 256, (1, 3, height, width), dtype=torch.uint8)
    for size in product((1, 3), repeat=2):
        found = resized(image, size)
        assert found.dtype == torch.uint8 and found.shape[-2:] == size
        assert resized(torch.full_like(image, 7), size).unique().tolist() == [7]
        assert (image.amin((2, 3)) <= found.amin((2, 3))).all()
        assert (found.amax((2, 3)) <= image.amax((2, 3))).all()
