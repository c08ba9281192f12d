"""Window partition of a token grid, shared by the blocks and by whatever runs beside their attention.

Shape suffixes: B batch, Y X token grid, V windows of one image, w window side, C channels.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F


def partition(x_BYXC: Tensor, window: int) -> Tensor:
    """Cut a grid into windows, zero-padded at the right and the bottom: (B, Y, X, C) -> (B*V, w, w, C),
    image-major.

    `window` 0 means global attention: the grid is returned as it is.
    """
    if window == 0:
        return x_BYXC
    b, y, x, c = x_BYXC.shape
    # Padding by nothing would copy.
    padded = F.pad(x_BYXC, (0, 0, 0, -x % window, 0, -y % window)) if x % window or y % window else x_BYXC
    rows, columns = padded.shape[1] // window, padded.shape[2] // window
    cut = padded.reshape(b, rows, window, columns, window, c).transpose(2, 3)
    return cut.reshape(b * rows * columns, window, window, c)


def unpartition(x_VwwC: Tensor, window: int, size: tuple[int, int]) -> Tensor:
    """Undo `partition` and drop the padding: (B*V, w, w, C) -> (B, Y, X, C) with (Y, X) = `size`."""
    if window == 0:
        return x_VwwC
    y, x = size
    rows, columns = -(-y // window), -(-x // window)
    c = x_VwwC.shape[-1]
    grid = x_VwwC.reshape(-1, rows, columns, window, window, c).transpose(2, 3)
    return grid.reshape(-1, rows * window, columns * window, c)[:, :y, :x]
