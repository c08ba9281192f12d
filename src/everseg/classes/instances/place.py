"""Choose the place and the size of a paste.

Sizes and boxes are (height, width) and (top, left), in pixels. taken: (H, W) bool, where nothing should go.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from everseg.errors import UserError

Bool = NDArray[np.bool_]


def covered(taken: Bool, size: tuple[int, int], grid: int) -> NDArray[np.int32]:
    """How many taken pixels each window of this size covers whose corner lies on a grid: one entry a corner.

    A summed area table, of which only what the grid needs is made; rows are summed as they lie in memory.
    """
    return _run_sums(np.ascontiguousarray(_run_sums(taken, size[1], grid).T), size[0], grid).T


def _run_sums(x: NDArray[Any], length: int, grid: int) -> NDArray[np.int32]:
    """Sums over `length` columns from every grid-th column on."""
    starts = np.arange(0, x.shape[1] - length + 1, grid)
    sums = np.zeros((len(x), x.shape[1] + 1), np.int32)
    np.cumsum(x, axis=1, out=sums[:, 1:])
    return sums[:, starts + length] - sums[:, starts]


def best_window(
    taken: Bool, size: tuple[int, int], grid: int, generator: np.random.Generator
) -> tuple[int, int]:
    """The corner of the window of this size, on a grid, that covers the fewest taken pixels; among equals a
    random one. The window fits into the image."""
    counts = covered(taken, size, grid)
    best = np.flatnonzero(counts == counts.min())
    y, x = divmod(int(best[generator.integers(len(best))]), counts.shape[1])
    return y * grid, x * grid


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
            f"four cells of {cell} pixels do not fit into an image of {height} x {width} pixels; set "
            f"paste.cell to at most {min(height, width) // 2}"
        )
    corners = [(y, x) for y in (0, cell) for x in (0, cell)]
    sign = 1 if rank == "most_free" else -1
    return sorted(corners, key=lambda c: sign * int(taken[c[0] : c[0] + cell, c[1] : c[1] + cell].sum()))[:3]
