"""Distillation per class, for models with one sigmoid per class.

Shape suffixes: B images, C channels, K all channels, D width of the features, H W or h w places.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def sigmoid_kd(new_BCHW: Tensor, old_BCHW: Tensor) -> Tensor:
    """Binary cross-entropy of each channel against the old model's probability, summed over channels:
    (B, H, W).

    The same channels of both. DKD weighs it by 5; on the positive and the negative parts of the scores
    (`split_scores`) it is DKD's own term, likewise by 5. LwF-MC is `soft_bce` and 10 times this.

    Source: DKD (Baek et al., NeurIPS 2022).
    """
    return (F.softplus(new_BCHW) - old_BCHW.sigmoid() * new_BCHW).sum(1)


def split_scores(features_BDhw: Tensor, weight_KD: Tensor) -> tuple[Tensor, Tensor]:
    """What speaks for and what against each class: z+ >= 0 and z- <= 0, (B, K, h, w) each.

    z = z+ + z- + bias. The features are no smaller than zero, so the sign of a weight decides.

    Source: DKD eq. 5.
    """
    kernel = weight_KD[:, :, None, None]
    return F.conv2d(features_BDhw, kernel.clamp(min=0)), F.conv2d(features_BDhw, kernel.clamp(max=0))


def decomposed_kd(new: tuple[Tensor, Tensor], old: tuple[Tensor, Tensor], channels: slice) -> Tensor:
    """The distillation of both parts of some channels' scores, a scalar: the mean over places of
    `sigmoid_kd` on z+ and of that on z-, summed.

    new, old: features (B, D, h, w) and weights (K, D) of the classifiers. Source: DKD eq. 7.
    """
    parts = (split_scores(features.float(), weight[channels]) for features, weight in (new, old))
    return torch.stack([sigmoid_kd(a, b).mean() for a, b in zip(*parts, strict=True)]).sum()
