"""Confusion matrix over the pixels of a whole test set, and the IoU from it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from everseg.distributed import add_up
from everseg.types import VOID

Absent = Literal["zero", "exclude"]
"""What the IoU is of a class without a pixel in the truth: "zero" (DKD and EIR, published code) or none at
all, so that no mean has it ("exclude", MiB)."""


class Confusion:
    """Counts of pixels, added up batch by batch.

    classes: names of the channels, as `ClassSteps.columns` returns them.
    counts: (K, K) int64 on `device`; rows are the truth, columns the prediction.
    """

    def __init__(self, classes: Sequence[str], device: torch.device | str = "cpu") -> None:
        assert len(classes) <= VOID, f"{len(classes)} channels; labels of 8 bits hold {VOID}"
        self.classes = tuple(classes)
        self.counts = torch.zeros(len(self.classes), len(self.classes), dtype=torch.int64, device=device)

    def add(self, predicted: Tensor, truth: Tensor) -> Tensor:
        """Count the pixels of some images, and return their own counts (K, K).

        predicted, truth: of one shape, whole numbers and uint8, channels from 0 to K - 1; where the truth is
            255 the prediction does not matter.
        """
        assert truth.dtype == torch.uint8, f"the truth is uint8, not {truth.dtype}"
        assert predicted.shape == truth.shape, f"shapes {tuple(predicted.shape)}, {tuple(truth.shape)}"
        device, count = self.counts.device, len(self.classes)
        said = predicted.to(device).reshape(-1)
        if said.dtype != torch.uint8:
            said = torch.where((said >= 0) & (said < VOID), said, VOID).to(torch.uint8)
        # One pass over all pairs of bytes, void and what cannot be included: masking first takes five times
        # as long.
        pairs = truth.to(device).reshape(-1).to(torch.int32).mul_(256).add_(said)
        counts = torch.bincount(pairs, minlength=256 * 256).view(256, 256)
        inside = counts[:count, :count]
        asked = int(counts.sum() - counts[VOID].sum())
        assert int(inside.sum()) == asked, f"truth or prediction has channels beyond 0 to {count - 1}"
        self.counts += inside
        return inside

    def everywhere(self) -> Confusion:
        """The sum over all processes, on each of them."""
        total = Confusion(self.classes, self.counts.device)
        total.counts = self.counts.clone()
        add_up([total.counts])
        return total

    def iou(self, absent: Absent = "zero") -> Tensor:
        """(K,) float64: TP / (TP + FP + FN) of each channel; NaN for an absent class that is excluded.

        The published code of DKD and EIR takes 1e-6 from the denominator, which changes no digit that is
        shown.
        """
        return iou_of(self.counts, absent)

    def scores(self, absent: Absent = "zero") -> dict[str, float]:
        """The IoU of each channel by its name."""
        return dict(zip(self.classes, self.iou(absent).tolist(), strict=True))


def iou_of(counts: Tensor, absent: Absent) -> Tensor:
    """`Confusion.iou` of counts (K, K), rows the truth."""
    counts = counts.double()
    hit, true, said = counts.diagonal(), counts.sum(1), counts.sum(0)
    union = true + said - hit
    iou = torch.where(union > 0, hit / union.clamp(min=1), torch.zeros_like(union))
    return torch.where(true == 0, torch.full_like(iou, math.nan), iou) if absent == "exclude" else iou
