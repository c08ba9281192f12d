"""NeST: new classifiers start as a learned mix of the old ones.

    w_c = sum_o p_co (m_co * w_o)      c a new class, o the channels of the old model, * channel by channel

m_co (D,) is how much each feature counts, p_co how much each old classifier. Both begin from what the old
model says of the new class's pixels, u:

    m_co = mean over u of s_o(u) [w_o * f(u) > 0]      s the softmax of the old logits, f the features
    p_c  = softmax over o of sum_d m_co

and are trained for some epochs with a bias for each class, while everything else is frozen. Only w_c is kept.

Source: Xie et al., "Early Preparation Pays Off: New Classifier Pre-tuning for Class Incremental Semantic
Segmentation", ECCV 2024. docs/eir.md says how we read it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from everseg.classes.losses import masked_mean, unbiased_ce, weighted_bce
from everseg.distributed import add_up
from everseg.fit import FitConfig, Group, Redrawn, fit
from everseg.models.semantic.segmenter import Segmenter
from everseg.types import VOID, NoScratch


class Rows(Redrawn, Protocol):
    """A step's training rows, with the seed and the name that their order is drawn from."""

    seed: int
    name: str


class Mix(nn.Module):
    """Classifiers of C new classes as a mix of O old ones of width D.

    importance (C, O, D), projection (C, O), bias (C); and, of a softmax, what becomes of the background's own
    classifier: shade (D), strength ().
    """

    def __init__(self, importance_COD: Tensor, bias: float) -> None:
        super().__init__()
        classes, _, width = importance_COD.shape
        self.importance = nn.Parameter(importance_COD.clone())
        self.projection = nn.Parameter(importance_COD.sum(2).softmax(1))
        self.bias = nn.Parameter(importance_COD.new_full((classes,), bias))
        self.shade = nn.Parameter(importance_COD.new_ones(width))
        self.strength = nn.Parameter(importance_COD.new_ones(()))

    def weight(self, old_OD: Tensor) -> Tensor:
        """(C, D)."""
        return torch.einsum("co,cod,od->cd", self.projection, self.importance, old_OD)

    def background(self, old_OD: Tensor) -> Tensor:
        """(D,)."""
        return self.strength * self.shade * old_OD[0]


@torch.no_grad()
def importance(old: Segmenter, batches: Iterable[Any], new: range) -> Tensor:
    """The mean m over the pixels of each class of `new`, at the features' resolution: (C, O, D).

    A class of which not one place is left there counts all old ones alike.
    """
    weight = old.weight().float()
    channels, width = weight.shape
    sums = weight.new_zeros(len(new), channels, width)
    counts = weight.new_zeros(len(new))
    for batch in batches:
        out = old(old.pixels(batch.images))
        labels = batch.labels.to(old.device)[:, None].float()
        labels = F.interpolate(labels, size=out.logits.shape[-2:], mode="nearest-exact")[:, 0].long()
        said = out.logits.float().softmax(1).movedim(1, -1)
        lit = (out.features > 0).float().movedim(1, -1)
        for place, channel in enumerate(new):
            mine = labels == channel
            sums[place] += said[mine].T @ lit[mine]
            counts[place] += mine.sum()
    add_up([sums, counts])
    # Features are not below zero, so a product with a weight is above it where both are.
    mean = sums / counts.clamp(min=1)[:, None, None] * (weight > 0)
    return torch.where((counts > 0)[:, None, None], mean, 1 / channels)


def pretune(
    model: Segmenter,
    old: Segmenter,
    rows: Rows,
    batches: Iterable[Any],
    collate: Callable[[list[Any]], Any],
    how: FitConfig,
    epochs: int,
    scale: float,
) -> None:
    """Give the newest classifier of `model` its start, in place; with a softmax channel 0 is adapted, too.

    rows: the step's training rows, and `batches` one pass over them.
    how: the gradient steps, for some epochs, at `scale` times its learning rate.
    """
    name = f"{rows.name}, classifiers"
    new = model.new()
    old_OD, first = old.weight().float(), old.classifiers[0]
    assert isinstance(first, nn.Conv2d) and first.bias is not None
    mix = Mix(importance(old, batches, new), float(first.bias))
    softmax = model.rule == "softmax"

    def loss(batch: Any, size: int) -> Tensor:
        with torch.no_grad():
            out = old(old.pixels(batch.images))
        labels, features = batch.labels.to(old.device), out.features.float()
        z = F.conv2d(features, mix.weight(old_OD)[:, :, None, None], mix.bias)
        if softmax:
            shaded = F.conv2d(features, mix.background(old_OD)[None, :, None, None], first.bias)
            z = torch.cat([shaded, out.logits[:, 1:].float(), z], 1)
        z = F.interpolate(z, size=out.size, mode="bilinear", align_corners=False)
        if softmax:
            value = masked_mean(*unbiased_ce(z, labels, old.channels))
        else:
            value = masked_mean(weighted_bce(z, labels, new), labels != VOID)
        return value * (len(batch.images) / size)

    trained = [mix.importance, mix.projection, mix.bias, *([mix.shade, mix.strength] if softmax else [])]
    groups, how = [Group(name, trained, scale, 0.0)], replace(how, epochs=epochs, steps=0)
    fit(groups, rows, collate, loss, how, seed=rows.seed, name=name, scratch=NoScratch())
    newest, background = model.classifiers[-1], model.classifiers[0]
    assert isinstance(newest, nn.Conv2d) and newest.bias is not None and isinstance(background, nn.Conv2d)
    with torch.no_grad():
        newest.weight.copy_(mix.weight(old_OD)[:, :, None, None])
        newest.bias.copy_(mix.bias)
        if softmax:
            background.weight.copy_(mix.background(old_OD)[None, :, None, None])
