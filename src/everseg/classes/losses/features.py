"""Distillation of feature maps.

Shape suffixes: B images, C channels of a map, h w its places, S windows along a side, M length of a
descriptor.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from everseg.errors import UserError

SCALES = (1, 2, 4)
"""Windows along a side: PLOP's."""

POOLS = (4, 8, 12, 16, 20, 24)
"""Sides of windows: RCIL's."""


def feature_mse(new_BChw: Tensor, old_BChw: Tensor) -> Tensor:
    """Mean squared difference of two maps for each image: (B,). ILT weighs it by 100 on the backbone's last
    map (Michieli and Zanuttigh, ICCVW 2019)."""
    return F.mse_loss(new_BChw, old_BChw, reduction="none").flatten(1).mean(1)


def pod_descriptor(x_BChw: Tensor, scales: Sequence[int] = SCALES) -> Tensor:
    """Means over the rows and over the columns of 1, 2x2 and 4x4 windows of a map: (B, C, M).

    A remainder that fills no window is left out. Source: PLOP (Douillard et al., CVPR 2021), local POD.

    Raises:
        UserError: the map is smaller than the windows are many.
    """
    parts = []
    for s in scales:
        height, width = x_BChw.shape[-2] // s, x_BChw.shape[-1] // s
        if not (height and width):
            rows, columns = x_BChw.shape[-2:]
            raise UserError(
                f"a feature map of {rows} x {columns} is too small for windows of {s} x {s}; train on "
                "larger crops (tune.crop)"
            )
        windows = x_BChw[..., : s * height, : s * width].unflatten(-1, (s, width)).unflatten(-3, (s, height))
        parts += [windows.mean(-1).flatten(2), windows.mean(-3).flatten(2)]
    return torch.cat(parts, -1)


def local_pod(new: Sequence[Tensor], old: Sequence[Tensor], scales: Sequence[int] = SCALES) -> Tensor:
    """Distance of squared maps' descriptors for each image, averaged over the layers: (B,).

    Give it the backbone's stages, weighed by 0.01, and the logits (`fold_logits`), weighed by 0.0005, both
    times sqrt(classes seen / classes new). Source: PLOP eq. 5-7.
    """
    gaps = [
        (pod_descriptor(a.square(), scales) - pod_descriptor(b.square(), scales)).flatten(1).norm(dim=1)
        for a, b in zip(new, old, strict=True)
    ]
    return torch.stack(gaps).mean(0)


def spatial_distance(new_BChw: Tensor, old_BChw: Tensor, pools: Sequence[int] = POOLS) -> Tensor:
    """Norm of the difference of squared maps averaged over square windows, one at every place, zeros beyond
    the edge; mean over the sizes of the windows: (B,).

    Source: RCIL (Zhang et al., CVPR 2022), pooled cube distillation.
    """
    gap = new_BChw.square() - old_BChw.square()  # Pooling is linear: the difference first, and once.
    norms = []
    for side in pools:
        columns = F.avg_pool2d(gap, (side, 1), 1, (side // 2, 0))  # Two passes cost 2 side, one side^2.
        norms.append(F.avg_pool2d(columns, (1, side), 1, (0, side // 2)).flatten(1).norm(dim=1))
    return torch.stack(norms).mean(0)


def channel_distance(new_BChw: Tensor, old_BChw: Tensor) -> Tensor:
    """Norm of the difference of squared maps averaged over three neighbouring channels, zeros beyond the
    first and the last: (B,). Source: as `spatial_distance`."""
    gap = (new_BChw.square() - old_BChw.square()).flatten(2)[:, None]
    return F.avg_pool2d(gap, (3, 1), 1, (1, 0)).flatten(1).norm(dim=1)


def fold_logits(new_BKhw: Tensor, old: int) -> Tensor:
    """The new classes' logits added to the background's, to be compared with an old model's `old` channels:
    (B, O, h, w)."""
    background = new_BKhw[:, :1] + new_BKhw[:, old:].sum(1, keepdim=True)
    return torch.cat([background, new_BKhw[:, 1:old]], 1)
