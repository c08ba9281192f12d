"""Clicks as a picture: where the user pointed, on the token grid.

Shape suffixes: B rows, P points of a row, Y X token grid (both `grid`), K taps of the blur.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

PEAK = 255.0

# OpenCV's fixed tables for a Gaussian of a given size and sigma 0. They are binary fractions and differ from
# the Gaussian that its documentation gives the formula of; being exact in float32 they make the map bitwise
# reproducible.
_TAPS = {
    3: (64, 128, 64),
    5: (16, 64, 96, 64, 16),
    7: (8, 28, 56, 72, 56, 28, 8),
    9: (4, 13, 30, 51, 60, 51, 30, 13, 4),
}


def taps_for(grid: int) -> int:
    """Taps of the blur: 9 on the published 64 x 64 grid, else the odd number nearest 9/64 of it, 3 to 9."""
    return min(9, max(3, 2 * (9 * grid // 128) + 1))


def click_heatmap(
    points: Tensor | None,
    labels: Tensor | None,
    side: int,
    grid: int,
    rows: int = 1,
    *,
    transposed: bool = False,
    device: torch.device | None = None,
) -> Tensor:
    """Clicks on the object as blurred spots on the token grid: (B, Y, X) float32.

    points: (B, P, 2) x, y in the `side` x `side` frame.
    labels: (B, P); only clicks labelled 1 count, so clicks off the object (0) and padding (-10) leave no
        trace. Clicks outside the frame are moved to its border. Without points the map is zero, for `rows`
        rows on `device`. Otherwise all stays on the points' device and waits for nothing.

    Each clicked cell is set to 1 (twice the same cell is still 1), blurred by OpenCV's fixed table with
    reflected borders (the blur's size: `taps_for`) and multiplied by 255.

    Source: SAMCL section "Prompt augmentation", heatmap (appendix B.3). The published code stores the map as
    [x, y] and adds it to [y, x] features in the neck; `transposed` returns that array.
    """
    if points is None or labels is None:
        return torch.zeros(rows, grid, grid, device=device)
    cell_BP2 = (points.detach().trunc() * grid / side).floor().long().clamp(0, grid - 1)
    index_BP = cell_BP2[..., 1] * grid + cell_BP2[..., 0]
    # Clicks that do not count fall into one more cell at the end, which is cut off.
    drain = grid * grid
    heat = torch.zeros(points.shape[0], drain + 1, device=points.device)
    heat = heat.scatter(1, torch.where(labels == 1, index_BP, drain), 1.0)
    heat_BYX = PEAK * _blur(heat[:, :drain].view(-1, grid, grid), taps_for(grid))
    return heat_BYX.transpose(1, 2).contiguous() if transposed else heat_BYX


def _blur(heat_BYX: Tensor, taps: int) -> Tensor:
    """A separable Gaussian, its borders reflected without repeating the edge (OpenCV's reflect-101).

    Sums of shifted copies rather than a convolution: neither autocast nor TF32 touches them, every partial
    sum is exact, and no weights travel to the device.
    """
    margin, grid = taps // 2, heat_BYX.shape[-1]
    padded = F.pad(heat_BYX[:, None], (margin,) * 4, mode="reflect")[:, 0]
    weights = [tap / 256 for tap in _TAPS[taps]]
    rows = torch.stack([w * padded[:, k : k + grid] for k, w in enumerate(weights)]).sum(0)
    return torch.stack([w * rows[:, :, k : k + grid] for k, w in enumerate(weights)]).sum(0)
