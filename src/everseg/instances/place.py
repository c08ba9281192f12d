"""Where a paste goes, and how large it is.

Sizes and boxes are (height, width) and (top, left), in pixels. taken: (H, W) bool, where nothing should go.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from everseg.errors import UserError

Bool = NDArray[np.bool_]
Sums = NDArray[np.int32]


def integral(taken: Bool) -> Sums:
    """Summed area table: entry (y, x) is the number of taken pixels above and left of it, (H + 1, W + 1)."""
    sums = np.zeros((taken.shape[0] + 1, taken.shape[1] + 1), np.int32)
    np.cumsum(taken, axis=0, dtype=np.int32, out=sums[1:, 1:])
    np.cumsum(sums[1:, 1:], axis=1, out=sums[1:, 1:])
    return sums


def best_window(
    sums: Sums, size: tuple[int, int], grid: int, generator: np.random.Generator
) -> tuple[int, int]:
    """The corner of the window of this size, on a grid, that covers the fewest taken pixels; among equals a
    random one. The window fits into the image."""
    height, width = size
    ys = np.arange(0, sums.shape[0] - height, grid)
    xs = np.arange(0, sums.shape[1] - width, grid)
    upper, lower = sums[ys], sums[ys + height]
    covered = lower[:, xs + width] - lower[:, xs] - upper[:, xs + width] + upper[:, xs]
    best = np.flatnonzero(covered == covered.min())
    y, x = np.unravel_index(best[generator.integers(len(best))], covered.shape)
    return int(ys[y]), int(xs[x])


def native_size(
    box: tuple[int, int],
    crop: tuple[int, int],
    image: tuple[int, int],
    scale: float,
    upscale: float,
    largest: float,
) -> tuple[int, int]:
    """The size of a paste: that in its own image times `scale`, as long as each pixel that was kept makes at
    most `upscale` and no side more than `largest` of the image it goes into."""
    height, width = box
    scale = min(
        scale,
        upscale * crop[0] / height,
        upscale * crop[1] / width,
        largest * image[0] / height,
        largest * image[1] / width,
    )
    return max(1, int(scale * height)), max(1, int(scale * width))


def filling_size(box: tuple[int, int], cell: int) -> tuple[int, int] | None:
    """The published size: as large as the cell has room for, however small the instance was; None for what is
    one pixel wide or high.

    floor(s h) x floor(s w) with s = min(cell / (h + 1), cell / (w + 1)).
    """
    height, width = box
    if min(height, width) < 2:
        return None
    scale = min(cell / (height + 1), cell / (width + 1))
    size = int(scale * height), int(scale * width)
    return size if min(size) else None


def ranked_cells(
    taken: Bool, cell: int, rank: Literal["most_free", "least_free"] = "most_free"
) -> list[tuple[int, int]]:
    """The published places: of the four cells with corners in {0, cell}^2 the three with the most free
    pixels, best first, equals in the order of reading. "least_free": the three with the fewest, as a fault in
    the published ADE20K trainer has it.

    Raises:
        UserError: the cells do not fit into the image.
    """
    height, width = taken.shape
    if 2 * cell > min(height, width):
        raise UserError(
            f"four cells of {cell} pixels do not fit into an image of {height} x {width}; set a cell of at "
            f"most {min(height, width) // 2}"
        )
    sums = integral(taken)
    corners = [(y, x) for y in (0, cell) for x in (0, cell)]

    def covered(corner: tuple[int, int]) -> int:
        y, x = corner
        return int(sums[y + cell, x + cell] - sums[y, x + cell] - sums[y + cell, x] + sums[y, x])

    sign = 1 if rank == "most_free" else -1
    return sorted(corners, key=lambda corner: sign * covered(corner))[:3]
