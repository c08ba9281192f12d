"""The loss of a model that is trained on labels alone.

Shape suffixes: B images, K channels, H W pixels.
"""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from everseg.classes.losses.bce import masked_mean, positives, soft_bce
from everseg.classes.losses.softmax import unbiased_ce

Loss = Literal["ce", "bce"]
"""One softmax over background and classes, or a sigmoid for each."""


def supervised(
    logits_BKHW: Tensor,
    labels_BHW: Tensor,
    kind: Loss,
    *,
    gamma: float = 1.0,
    void_in_mean: bool = False,
) -> Tensor:
    """Plain cross-entropy, or binary cross-entropy summed over all channels, over the labelled pixels.

    gamma: weight of the positive pixels of each class in binary cross-entropy.
    void_in_mean: divide by the number of all pixels, those of void too.
    """
    if kind == "ce":
        each, valid = unbiased_ce(logits_BKHW, labels_BHW, 1)
    else:
        weight = positives(logits_BKHW, slice(1, None), gamma)
        each, valid = soft_bce(logits_BKHW, labels_BHW, gamma_K=weight)
    return masked_mean(each, valid, each.numel() if void_in_mean else None)
