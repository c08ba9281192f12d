"""Depth-wise averaging: uniform in the early layers, the anchor's own in the last."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from everseg.merge.rule import Answer, Domain, Joint, Network, tensors_of
from everseg.merge.tensors import Tensors, alike, weighted_sum


def anchor_weights(layers: int, models: int) -> Tensor:
    """w(l) = 1 / K + (1 - 1 / K) l / (L - 1), l = 0 .. L - 1: (L,) float64; a layer alone is averaged."""
    depth = torch.linspace(0, 1, layers, dtype=torch.float64) if layers > 1 else torch.zeros(1).double()
    return 1 / models + (1 - 1 / models) * depth


def layerwise(
    models: Sequence[Tensors], layer_of: Callable[[str], int | None], anchor: int = -1
) -> dict[str, Tensor]:
    """theta*_l = w(l) theta_anchor + (1 - w(l)) mean of the others, for each layer l.

    layer_of: a tensor's layer, counted from 0 at the input; None for one that is the anchor's alone, such as
        a head.
    anchor: index of the model whose task matters, the latest by default.

    Needs no data. Order-free but for the choice of the anchor; sequential while that stays. On any tensors.
    Source: "Layer-wise model merging for unsupervised domain adaptation in segmentation tasks" (arXiv
    2409.15813), which does not tell its schedule in what we could read: this linear one is our reading.
    """
    names, count = alike(models), len(models)
    anchor %= count
    depths = {n: layer_of(n) for n in names}
    known = [d for d in depths.values() if d is not None]
    share = anchor_weights(max(known, default=0) + 1, count).tolist()
    out: dict[str, Tensor] = {}
    for name in names:
        depth = depths[name]
        own = 1.0 if depth is None or count == 1 else share[depth]
        rest = (1 - own) / (count - 1) if count > 1 else 0.0
        weights = [own if k == anchor else rest for k in range(count)]
        out |= weighted_sum([{name: model[name]} for model in models], weights)
    return out


@dataclass(frozen=True)
class Layerwise(Joint):
    """An average in early layers that goes over to the latest model in the last ones.

    Source: arXiv 2409.15813.
    """

    anchor: int = -1
    """Position of the model that the last layers are taken from; -1 is the latest. [ours]"""

    works_on = ("factors",)
    takes = "weights"
    order_free = False

    def merge(self, domains: Sequence[Domain], network: Network | None = None) -> Answer:
        assert network is not None, "the layers are the network's"
        order = sorted({block for block in network.blocks.values() if block is not None})
        # What all blocks share is met first at the first of them.
        depth = {n: 0 if block is None else order.index(block) for n, block in network.blocks.items()}
        return Answer(layerwise(tensors_of(domains), depth.__getitem__, self.anchor))
