"""Which class the pixels of a whole test set were given: one confusion matrix, and IoU from it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from everseg.distributed import add_up

VOID = 255
"""Pixels of the truth that nobody is asked about."""

Absent = Literal["zero", "exclude"]
"""What the IoU is of a class without a pixel in the truth: "zero" (DKD and EIR, published code) or none at
all, so that no mean has it ("exclude", MiB)."""


class Confusion:
    """Counts of pixels, grown batch by batch.

    classes: names of the channels, as `ClassSteps.columns` gives them. counts: (K, K) int64 on `device`; rows
    are the truth, columns the prediction.
    """

    def __init__(self, classes: Sequence[str], device: torch.device | str = "cpu") -> None:
        self.classes = tuple(classes)
        self.counts = torch.zeros(len(self.classes), len(self.classes), dtype=torch.int64, device=device)

    def add(self, predicted: Tensor, truth: Tensor) -> None:
        """Count the pixels of some images. predicted, truth: of one shape, channels from 0 to K - 1; where
        the truth is 255 the prediction does not matter.
        """
        assert predicted.shape == truth.shape, f"shapes {tuple(predicted.shape)}, {tuple(truth.shape)}"
        count = len(self.classes)
        truth = truth.to(self.counts.device).reshape(-1)
        valid = truth != VOID
        rows, columns = truth[valid].int(), predicted.to(self.counts.device).reshape(-1)[valid].int()
        for name, numbers in (("truth", rows), ("prediction", columns)):
            inside = not len(numbers) or (int(numbers.min()) >= 0 and int(numbers.max()) < count)
            assert inside, f"a {name} has channels beyond 0 to {count - 1}"
        self.counts += torch.bincount(rows * count + columns, minlength=count * count).view(count, count)

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
        counts = self.counts.double()
        hit, true, said = counts.diagonal(), counts.sum(1), counts.sum(0)
        union = true + said - hit
        iou = torch.where(union > 0, hit / union.clamp(min=1), torch.zeros_like(union))
        return torch.where(true == 0, torch.full_like(iou, math.nan), iou) if absent == "exclude" else iou

    def accuracy(self) -> float:
        """Share of the pixels that were given their class; NaN without pixels."""
        total = int(self.counts.sum())
        return int(self.counts.diagonal().sum()) / total if total else math.nan
