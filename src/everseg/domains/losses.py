"""Losses of promptable models, one value per image; the caller reduces them.

A logit may stand for a block of k x k pixels, `pixels` = k * k. Then the truth is the share of the block that
lies on the object, in 0..1, and every loss here equals, in value and in gradient, the loss over the pixels
with the logits repeated (nearest upsampling) and the truth in full: each sum over a block of equal logits is
linear in the truth.

Shape suffixes: B images, H W the truth's size, h w the logits' size.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from everseg.config import Amount, Checked, Number

__all__ = [
    "REFERENCE",
    "LossConfig",
    "Reduction",
    "SamclTerms",
    "dice",
    "focal",
    "hard_iou",
    "match",
    "reduce_samcl",
    "samcl_loss",
    "samcl_terms",
]

Reduction = Literal["mean", "reference"]


@dataclass(frozen=True)
class LossConfig(Checked):
    """Loss of a promptable model's masks. The defaults are the `paper` preset."""

    upsample: Literal["bilinear", "nearest", "none"] = "bilinear"
    """How logits are brought to the size of the truth: "bilinear"; "nearest"; "none" averages the truth over
    the block of each logit instead, which gives the numbers of "nearest" at a sixteenth of the work. [Segment
    Anything: bilinear; SAMCL's code: nearest]"""
    dice_weight: Amount = 10.0
    """Weight of the Dice loss, where the focal loss has 1. [SAMCL, eq. 7]"""
    focal_scale: Amount = 0.8
    """Factor of the focal loss; it does not balance the classes. [SAMCL's code]"""
    focal_gamma: Amount = 2.0
    """Focusing exponent of the focal loss. [SAMCL's code]"""
    iou_threshold: Number = 0.0
    """Logit above which a pixel counts as predicted in the IoU that the IoU head learns; 0 is a probability
    of 1/2. [SAMCL's code: 0.5]"""
    reduction: Reduction = "mean"
    """How terms become one number: "mean" averages all terms over the batch; "reference" sums focal and Dice
    losses and averages the IoU term. [SAMCL's code: reference]"""


REFERENCE = LossConfig(upsample="none", iou_threshold=0.5, reduction="reference")
"""The published code's numbers."""


class SamclTerms(NamedTuple):
    """The three terms of SAMCL's loss, unweighted, (B,) each."""

    focal: Tensor
    dice: Tensor
    mse: Tensor


def focal(logits: Tensor, truth: Tensor, scale: float = 0.8, gamma: float = 2.0) -> Tensor:
    """Focal loss, averaged over the pixels of each image: (B, H, W), (B, H, W) -> (B,).

    mean of scale * (1 - exp(-bce)) ** gamma * bce, where `scale` is a plain factor, not a balance of classes.
    A truth between 0 and 1 mixes the losses of its two answers.

    Source: Lin et al., "Focal Loss for Dense Object Detection" (ICCV 2017), as in SAMCL eq. 7. The published
    code takes the logarithm of a sigmoid, which saturates beyond logits of about 17; we do not.
    """
    z, g = logits.float(), truth.float()
    inside, outside = F.softplus(-z), F.softplus(z)
    loss_in = (-torch.expm1(-inside)) ** gamma * inside
    loss_out = (-torch.expm1(-outside)) ** gamma * outside
    return scale * (g * loss_in + (1 - g) * loss_out).mean((-2, -1))


def dice(logits: Tensor, truth: Tensor, pixels: int = 1) -> Tensor:
    """1 - (2 sum(p g) + 1) / (sum p + sum g + 1) over the pixels of each image: (B, H, W), (B, H, W) -> (B,).

    p = sigmoid(logits), g the truth. Source: Milletari et al., "V-Net" (3DV 2016), as in SAMCL eq. 7.
    """
    p, g = logits.float().sigmoid(), truth.float()
    overlap = pixels * (p * g).sum((-2, -1))
    sizes = pixels * (p.sum((-2, -1)) + g.sum((-2, -1)))
    return 1 - (2 * overlap + 1) / (sizes + 1)


def hard_iou(
    logits: Tensor, truth: Tensor, threshold: float = 0.5, eps: float = 1e-7, pixels: int = 1
) -> Tensor:
    """IoU of the thresholded logits with the truth, without a gradient: (B, H, W), (B, H, W) -> (B,).

    `threshold` is a *logit*; the default is the published code's, a probability of 0.62. `eps` joins the
    denominator, so that nothing predicted where nothing is gives 0.
    """
    said, g = (logits.detach() >= threshold).float(), truth.float()
    overlap = pixels * (said * g).sum((-2, -1))
    union = pixels * (said.sum((-2, -1)) + g.sum((-2, -1))) - overlap
    return overlap / (union + eps)


def match(logits: Tensor, truth: Tensor, upsample: str) -> tuple[Tensor, Tensor, int]:
    """Logits (B, h, w) and truth (B, H, W) at one size, float32, and the pixels each logit stands for."""
    z, g = logits.float(), truth.float()
    if z.shape[-2:] == g.shape[-2:]:
        return z, g, 1
    if upsample == "none":
        k = g.shape[-1] // z.shape[-1]
        assert g.shape[-2:] == (k * z.shape[-2], k * z.shape[-1]), "each logit stands for a square of pixels"
        return z, F.avg_pool2d(g[:, None], k)[:, 0], k * k
    if upsample == "nearest":
        return F.interpolate(z[:, None], size=g.shape[-2:], mode="nearest")[:, 0], g, 1
    assert upsample == "bilinear", upsample
    return F.interpolate(z[:, None], size=g.shape[-2:], mode="bilinear", align_corners=False)[:, 0], g, 1


def samcl_terms(logits: Tensor, truth: Tensor, iou_hat: Tensor, config: LossConfig) -> SamclTerms:
    """Focal, dice and the squared error of the predicted IoU for each image.

    logits: (B, h, w) as the decoder gives them.
    truth: (B, H, W) bool, or float in 0..1, of the full frame.
    iou_hat: (B,), the model's own estimate. The IoU it is held against carries no gradient.
    """
    z, g, pixels = match(logits, truth, config.upsample)
    iou = hard_iou(z, g, config.iou_threshold, pixels=pixels)
    return SamclTerms(
        focal(z, g, config.focal_scale, config.focal_gamma), dice(z, g, pixels), (iou_hat.float() - iou) ** 2
    )


def samcl_loss(logits: Tensor, truth: Tensor, iou_hat: Tensor, config: LossConfig) -> Tensor:
    """focal + dice_weight * dice + squared error of the predicted IoU, for each image: (B,). Arguments:
    `samcl_terms`.

    Source: SAMCL eq. 7.
    """
    terms = samcl_terms(logits, truth, iou_hat, config)
    return terms.focal + config.dice_weight * terms.dice + terms.mse


def reduce_samcl(
    focal: Tensor,
    dice: Tensor,
    mse: Tensor,
    batch_size: int,
    reduction: Reduction = "mean",
    dice_weight: float = 10.0,
) -> Tensor:
    """One number from the terms (b,) of some images of a batch of `batch_size`: the parts' numbers add up to
    the batch's, so that micro-batches and processes give what one pass gives.

    "mean": all terms are averaged over the batch. "reference": focal and dice are summed and only the squared
    error is averaged, as in the published code; the same Adam steps but for the weight of the last term,
    which is 1 / batch_size of ours.
    """
    masks = focal.sum() + dice_weight * dice.sum()
    if reduction == "reference":
        return masks + mse.sum() / batch_size
    return (masks + mse.sum()) / batch_size
