"""Distillation of what lies under the classifiers.

Shape suffixes: B images, C channels of a map, h w its places, S windows along a side, M length of a
descriptor.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

SCALES = (1, 2, 4)


def feature_mse(new_BChw: Tensor, old_BChw: Tensor) -> Tensor:
    """Mean squared difference of two maps for each image: (B,). ILT weighs it by 100 on the backbone's last
    map (Michieli and Zanuttigh, ICCVW 2019)."""
    return F.mse_loss(new_BChw, old_BChw, reduction="none").flatten(1).mean(1)


def pod_descriptor(x_BChw: Tensor, scales: Sequence[int] = SCALES) -> Tensor:
    """Means over the rows and over the columns of 1, 2x2 and 4x4 windows of a map: (B, C, M).

    A remainder that fills no window is left out. Source: PLOP (Douillard et al., CVPR 2021), local POD.
    """
    parts = []
    for s in scales:
        height, width = x_BChw.shape[-2] // s, x_BChw.shape[-1] // s
        assert height and width, f"a map of {tuple(x_BChw.shape[-2:])} has no {s} x {s} windows"
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


def fold_logits(new_BKhw: Tensor, old: int) -> Tensor:
    """The new classes' logits added to the background's, to be compared with an old model's `old` channels:
    (B, O, h, w)."""
    background = new_BKhw[:, :1] + new_BKhw[:, old:].sum(1, keepdim=True)
    return torch.cat([background, new_BKhw[:, 1:old]], 1)
