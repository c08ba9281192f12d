"""Labels that the old model completes where the new data say "background".

Shape suffixes: B images, O channels of the old model (0 and the old classes), H W pixels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from everseg.distributed import gather
from everseg.types import VOID

FLOOR = 0.001


def pseudo_labels(labels_BHW: Tensor, scores_BOHW: Tensor, threshold: float = 0.7) -> Tensor:
    """Background pixels in which the old model is sure to see an old class get that class: (B, H, W).

    scores: the old model's sigmoids, with channel 0, which can win and then leaves the pixel background.
    Everything that has a label, void too, keeps it. Source: EIR and SSUL: at least 0.7; DKD-M 0.9.
    """
    score, best = scores_BOHW.max(1)
    seen = (labels_BHW == 0) & (best > 0) & (score >= threshold)
    return torch.where(seen, best.to(labels_BHW.dtype), labels_BHW)


def new_region(
    labels_BHW: Tensor, new: range, over_BLHW: Tensor | None = None, share_BLHW: Tensor | None = None
) -> Tensor:
    """Pixels of a class of this step: (B, H, W) bool. For `region_kd`.

    labels, over, share: as for `soft_bce`. What an old class was pasted on is not new, however little of it
    shows; a new class has to cover half of a pixel that was not new before.
    """

    def of_step(labels: Tensor) -> Tensor:
        return (labels >= new.start) & (labels < new.stop)

    region = of_step(labels_BHW)
    if over_BLHW is None or share_BLHW is None:
        return region
    for layer, part in zip(over_BLHW.unbind(1), share_BLHW.unbind(1), strict=True):
        region = torch.where(part > 0, of_step(layer) & (region | (part >= 0.5)), region)
    return region


def entropy(logits_BOHW: Tensor, over: Literal["sum", "mean"] = "sum") -> Tensor:
    """Entropy of the softmax in units of log O: (B, H, W), from 0, certain, to 1.

    "mean" averages over channels instead of summing, as PLOP's code does: 1 / O of it at most.
    """
    log_p = logits_BOHW.log_softmax(1)
    terms = -log_p.exp() * log_p / torch.log(torch.tensor(float(logits_BOHW.shape[1])))
    return terms.sum(1) if over == "sum" else terms.mean(1)


class EntropyMedians:
    """The median entropy of each class that the old model predicts on the new data's background.

    `add` batches; a histogram for each class is kept, so that its size does not grow with the data. A median
    is exact to 1 / 4096.
    """

    bins = 4096

    def __init__(self, channels: int) -> None:
        self.counts = torch.zeros(channels, self.bins, dtype=torch.int64)

    def measure(self, old_logits_BOHW: Tensor) -> Tensor:
        """What `thresholds` are thresholds of, from 0: (B, H, W)."""
        return entropy(old_logits_BOHW)

    def add(self, old_logits_BOHW: Tensor, labels_BHW: Tensor) -> None:
        """Count the background pixels of a batch."""
        channels = len(self.counts)
        background = labels_BHW == 0
        values = self.measure(old_logits_BOHW)[background]
        bins = (values * self.bins).long().clamp(0, self.bins - 1)
        index = old_logits_BOHW.argmax(1)[background] * self.bins + bins
        self.counts += torch.bincount(index, minlength=channels * self.bins).view(channels, self.bins).cpu()

    def add_up(self) -> None:
        """Add what the other processes have counted."""
        self.counts = torch.stack([counts for (counts,) in gather([self.counts])]).sum(0)

    def thresholds(self) -> Tensor:
        """tau_c = max(median, 0.001) for each channel: (O,). A class that was never predicted has 0.001."""
        below = self.counts.cumsum(1)
        half = (below[:, -1:] + 1) // 2
        middle = (below >= half.clamp(min=1)).int().argmax(1)
        median = (middle + 0.5) / self.bins
        return torch.where(below[:, -1] > 0, median, 0.0).clamp(min=FLOOR)


class BinnedMedians(EntropyMedians):
    """PLOP's thresholds as its code computes them.

    It divides an entropy that is averaged over channels by log(seen) once more, so that of 100 bins only the
    first few are ever hit, and takes entropies as spread evenly within one; and in its running sum stands the
    number of a bin in place of what is in it. Where most pixels lie in the first bin, the threshold is that
    bin's width times half the pixels over those in it: nearly the same for every class.

    seen: channels of the new model.
    """

    bins = 100

    def __init__(self, channels: int, seen: int) -> None:
        super().__init__(channels)
        self.seen = seen

    def measure(self, old_logits_BOHW: Tensor) -> Tensor:
        return entropy(old_logits_BOHW, "mean") / math.log(self.seen)

    def thresholds(self) -> Tensor:
        return torch.tensor([max(FLOOR, self._threshold(counts.tolist())) for counts in self.counts])

    def _threshold(self, counts: Sequence[int]) -> float:
        half, passed, place, edge = sum(counts) / 2, 0.0, 0, 0.0
        if not half:
            return 0.0
        for number in range(self.bins):
            edge = number / self.bins
            place = int(edge * self.bins)  # Rounds some down to the bin before, such as 29 to 28.
            if passed <= half <= passed + counts[place]:
                break
            passed += edge * self.bins
        rest = half - passed
        return edge + (rest / counts[place] / self.bins if counts[place] else math.copysign(math.inf, rest))


def completed(
    labels_BHW: Tensor, old_logits_BOHW: Tensor, thresholds_O: Tensor, doubt_BHW: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """PLOP's pseudo-labels: labels (B, H, W), and the share of each image's background that got one (B,).

    A background pixel gets the class that the old model predicts, which may be background, where its entropy
    is under the class's threshold, and is void elsewhere. The share weighs the image's loss; it is 1 where
    there is no background. doubt: what is held against the thresholds instead of the entropy.

    Source: PLOP (Douillard et al., CVPR 2021), eq. 8-10.
    """
    best = old_logits_BOHW.argmax(1)
    doubt_BHW = entropy(old_logits_BOHW) if doubt_BHW is None else doubt_BHW
    sure = doubt_BHW < thresholds_O.to(best.device)[best]
    background = labels_BHW == 0
    filled = torch.where(sure, best.to(labels_BHW.dtype), VOID)
    number = background.sum((1, 2))
    share = torch.where(number > 0, (background & sure).sum((1, 2)) / number.clamp(min=1), 1.0)
    return torch.where(background, filled, labels_BHW), share
