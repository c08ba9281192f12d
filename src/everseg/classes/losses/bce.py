"""A sigmoid for each class: binary cross-entropy against label maps.

Shape suffixes: B images, K channels, L layers of a soft label, N = L + 1 of its parts, H W pixels.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from everseg.types import VOID


def masked_mean(loss_BHW: Tensor, mask_BHW: Tensor, count: Tensor | float | None = None) -> Tensor:
    """The sum of a loss over the pixels of a mask, divided by their number: a scalar, 0 where there is none.

    count: their number in the whole batch, where this is a part of it; parts then add up to the whole.
    """
    total = torch.where(mask_BHW, loss_BHW, 0).sum()
    return total / torch.as_tensor(mask_BHW.sum() if count is None else count).clamp(min=1)


def row_mean(loss_BHW: Tensor, mask_BHW: Tensor, weight_B: Tensor | None = None) -> Tensor:
    """The mean over rows of each row's own mean over the pixels of a mask: a scalar, 0 where there is none.

    weight: how much each row counts, beside the others. A row without a pixel in the mask does not count, so
    that one with few is heard as loudly as one with many.
    """
    total = torch.where(mask_BHW, loss_BHW, 0).flatten(1).sum(1)
    count = mask_BHW.flatten(1).sum(1)
    weight = (count > 0).to(total.dtype)
    if weight_B is not None:
        weight = weight * weight_B
    return (weight * total / count.clamp(min=1)).sum() / weight.sum().clamp(min=1e-9)


def soft_bce(
    logits_BKHW: Tensor,
    under_BHW: Tensor,
    over_BLHW: Tensor | None = None,
    share_BLHW: Tensor | None = None,
    gamma_K: Tensor | None = None,
    *,
    background: bool = True,
) -> tuple[Tensor, Tensor]:
    """Binary cross-entropy over all channels against labels that a paste may share between classes.

        sum_c softplus(z_c) + sum_n w_n [gamma_n softplus(-z_n) - softplus(z_n)]

    under: the channel of each pixel, 255 void. over: the channels that were laid upon it, the last on top.
    share: how much of a pixel the layer covers, 0..1, 0 where there is nothing. With one layer the target is
    share of `over` and 1 - share of `under`; more compose in turn. gamma: how much a positive of each channel
    counts; with 1, as where there is none, the bracket is -z_n.

    background: False leaves channel 0 out, so that a background pixel is a negative of every class and no
        more.

    Returns the loss, summed over channels, and the pixels that count, both (B, H, W). Void has no share of
    any class. A pixel all void does not count; void under a paste does, with a target that sums to the share.

    Source: EIR's trainer (`mbce` with ignored pixels); it builds the target with K channels of floats.
    """
    index, weight = _parts(under_BHW, over_BLHW, share_BLHW)
    counted = weight.sum(1) > 0
    if not background:
        weight = weight * (index > 0)
        index = (index - 1).clamp(min=0)
        logits_BKHW, gamma_K = logits_BKHW[:, 1:], None if gamma_K is None else gamma_K[1:]
    loss = _SoftBCE.apply(logits_BKHW, index, weight.to(logits_BKHW.dtype), gamma_K)  # type: ignore[no-untyped-call]
    return loss, counted


def positives(logits_BKHW: Tensor, channels: slice, gamma: float) -> Tensor | None:
    """How much a positive of each channel counts, for `soft_bce`: gamma in `channels`, 1 in the others (K,);
    None where all count once."""
    if gamma == 1:
        return None
    weights = logits_BKHW.new_ones(logits_BKHW.shape[1])
    weights[channels] = gamma
    return weights


def _parts(under_BHW: Tensor, over: Tensor | None, share: Tensor | None) -> tuple[Tensor, Tensor]:
    """The channels (B, N, H, W) that a pixel is of, and how much of each; void is nothing of channel 0."""
    labelled = under_BHW != VOID
    index, weight = [torch.where(labelled, under_BHW, 0)], []
    rest = torch.ones_like(under_BHW, dtype=torch.float32)
    if over is not None:
        assert share is not None and over.shape == share.shape, "each layer has its share"
        for layer, part in zip(reversed(over.unbind(1)), reversed(share.float().unbind(1)), strict=True):
            index.append(layer)
            weight.append(part * rest)
            rest = rest * (1 - part)
    return torch.stack(index, 1).long(), torch.stack([rest * labelled, *weight], 1)


class _SoftBCE(torch.autograd.Function):
    """The formula of `soft_bce`. Autograd's own way through it keeps and adds three tensors of the logits'
    size; this one keeps none and makes the gradient in place."""

    @staticmethod
    def forward(
        ctx: Any, z_BKHW: Tensor, index_BNHW: Tensor, weight_BNHW: Tensor, gamma_K: Tensor | None
    ) -> Tensor:
        ctx.save_for_backward(z_BKHW, index_BNHW, weight_BNHW)
        ctx.gamma_K = gamma_K
        spread = torch.stack([F.softplus(image).sum(0) for image in z_BKHW])
        gain = own = z_BKHW.gather(1, index_BNHW)
        if gamma_K is not None:
            gain = F.softplus(own) - gamma_K[index_BNHW] * F.softplus(-own)
        return spread - (weight_BNHW * gain).sum(1)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None, None]:
        z_BKHW, index_BNHW, slope = ctx.saved_tensors
        grad = grads[0][:, None]
        if ctx.gamma_K is not None:
            slope = slope * (1 + (ctx.gamma_K[index_BNHW] - 1) * torch.sigmoid(-z_BKHW.gather(1, index_BNHW)))
        out = torch.sigmoid(z_BKHW).mul_(grad)
        return out.scatter_add_(1, index_BNHW, -slope * grad), None, None, None


def weighted_bce(logits_BCHW: Tensor, labels_BHW: Tensor, channels: range, gamma: float = 1.0) -> Tensor:
    """Binary cross-entropy of some channels with positives weighted, summed over them: (B, H, W).

    logits: of `channels` alone. Any other label, void included, is a negative of each.

    gamma: DKD has 2 on VOC's base classes, 1 on VOC's later ones, 35 on ADE20K.

    Source: DKD (Baek et al., "Decomposed Knowledge Distillation", NeurIPS 2022).
    """
    mine = (labels_BHW >= channels.start) & (labels_BHW < channels.stop)
    at_BHW = torch.where(mine, labels_BHW - channels.start, 0).long()
    z_BHW = logits_BCHW.gather(1, at_BHW[:, None])[:, 0]
    swap = gamma * F.softplus(-z_BHW) - F.softplus(z_BHW)
    return F.softplus(logits_BCHW).sum(1) + torch.where(mine, swap, 0)


def auxiliary_loss(logits_B1HW: Tensor) -> Tensor:
    """-log(1 - sigmoid(z)) of channel 0: everything is a negative (B, H, W). Source: DKD, L_ac."""
    return F.softplus(logits_B1HW[:, 0])
