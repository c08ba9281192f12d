"""How well one predicted mask covers the true one: IoU, F1 and MAE from the same four counts."""

from __future__ import annotations

import torch
from torch import Tensor


def binary_scores(pred: Tensor, truth: Tensor) -> dict[str, Tensor]:
    """IoU, F1 and MAE of each mask, from its counts of true and false positives and negatives.

    pred, truth: (N, H, W) bool. Returns float64 (N,) for each name in METRICS, on the device of `pred`.

        IoU = tp / (tp + fp + fn)      F1 = 2 tp / (2 tp + fp + fn)      MAE = (fp + fn) / (H W)

    Where both masks are empty IoU and F1 are 1. MAE is taken after binarising, as SAMCL does (published code,
    `mae`), unlike the saliency literature's mean absolute error of soft maps.
    """
    assert pred.dtype == truth.dtype == torch.bool, f"masks are bool, not {pred.dtype} and {truth.dtype}"
    assert pred.shape == truth.shape and pred.ndim == 3, f"shapes {tuple(pred.shape)}, {tuple(truth.shape)}"
    assert pred.shape[1] * pred.shape[2] > 0, "a mask has at least one pixel"
    tp = (pred & truth).flatten(1).sum(1).double()
    wrong = (pred ^ truth).flatten(1).sum(1).double()
    one = torch.ones_like(tp)
    empty = (tp + wrong) == 0
    return {
        "iou": torch.where(empty, one, tp / (tp + wrong)),
        "f1": torch.where(empty, one, 2 * tp / (2 * tp + wrong)),
        "mae": wrong / (pred.shape[1] * pred.shape[2]),
    }
