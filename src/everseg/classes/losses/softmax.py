"""Cross-entropy and distillation under one softmax whose background shifts from step to step.

Shape suffixes: B images, K channels of the new model, O of the old one (0 and the old classes), H W pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from everseg.types import VOID

Where = Literal["both", "new", "old"]
Background = Literal["new", "bg+new"]


def unbiased_ce(logits_BKHW: Tensor, labels_BHW: Tensor, old: int) -> tuple[Tensor, Tensor]:
    """Cross-entropy where "background" means background or any old class: loss and labelled pixels (B, H, W).

    old: channels of the old model, O, with channel 0; 1 is plain cross-entropy.

    Source: MiB (Cermelli et al., CVPR 2020), eq. 4. Its code trains void as background; here it is left out.
    """
    valid = labels_BHW != VOID
    target = torch.where(valid, labels_BHW, 0).long()
    own = logits_BKHW.gather(1, target[:, None])[:, 0]
    shared = logits_BKHW[:, :old].logsumexp(1)
    loss = logits_BKHW.logsumexp(1) - torch.where(target == 0, shared, own)
    return torch.where(valid, loss, 0), valid


def softmax_kd(new_BKHW: Tensor, old_BOHW: Tensor, absorb: Sequence[int] = (0,)) -> Tensor:
    """Distillation in which some channels together answer for the old background: (B, H, W).

        -1/O [ p_old(0) log sum_{c in absorb} p(c) + sum_{old classes c} p_old(c) log p(c) ]

    p is over all channels that are given.

    absorb: (0,) is plain distillation; (0, *new) MiB's unbiased one. LwF: plain, with the new logits cut to
        the old channels.

    Source: MiB eq. 8. LwF (Li and Hoiem, ECCV 2016) as MiB's code has it.
    """
    p_old = old_BOHW.softmax(1)
    return _cross(p_old, new_BKHW, _absorbed(new_BKHW, absorb))


def region_kd(
    new_BKHW: Tensor,
    old_BOHW: Tensor,
    region_BHW: Tensor,
    where: Where = "both",
    background: Background = "new",
) -> Tensor:
    """EIR's region-specific distillation, in our reading: (B, H, W), zero outside the regions asked for.

    region: pixels labelled with a class of this step, R_n; the others are R_o.

    where: which of them count. background "new": in R_n the old background's probability belongs to the new
        classes, in R_o background stays background. "bg+new": background and new classes together answer for
        it in both (MiB's).

    The four variants worth a comparison: (new, bg+new), (old, bg+new), (both, new), and `sigmoid_kd`
    instead.

    Source: EIR (CVPR 2025). Its equation is not known to us and its code cannot run as written: there the
    channels that absorb are the new ones without the first and without the background, no channel at all
    where a step brings one class, and the loss infinite.
    """
    old = old_BOHW.shape[1]
    fresh = range(old, new_BKHW.shape[1])
    assert fresh, "the new model has channels of its own"
    inside = [*fresh] if background == "new" else [0, *fresh]
    outside = [0] if background == "new" else [0, *fresh]
    gain = _absorbed(new_BKHW, outside)
    if inside != outside:
        gain = torch.where(region_BHW, _absorbed(new_BKHW, inside), gain)
    loss = _cross(old_BOHW.softmax(1), new_BKHW, gain)
    if where == "both":
        return loss
    return torch.where(region_BHW == (where == "new"), loss, 0)


def _absorbed(new_BKHW: Tensor, channels: Sequence[int]) -> Tensor:
    """Log of the summed, unnormalised probability of some channels: (B, H, W)."""
    assert channels, "no channel would answer for the background, and the loss be infinite"
    if len(channels) == 1:
        return new_BKHW[:, channels[0]]
    return new_BKHW[:, list(channels)].logsumexp(1)


def _cross(p_old_BOHW: Tensor, new_BKHW: Tensor, background_BHW: Tensor) -> Tensor:
    """-1/O sum_c p_old(c) log p(c), with the given unnormalised log-probability for c = 0."""
    old = p_old_BOHW.shape[1]
    said = p_old_BOHW[:, 0] * background_BHW + (p_old_BOHW[:, 1:] * new_BKHW[:, 1:old]).sum(1)
    return (new_BKHW.logsumexp(1) - said) / old  # p_old sums to 1
