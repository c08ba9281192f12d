"""Learn how to merge from unlabelled inputs: a mask over parameters, or a weight for each model and tensor.

Both minimise what a callback makes of the merged tensors, such as the mean entropy of its predictions.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Literal

import torch
from torch import Tensor

from everseg.config import Amount, Count, Number, Positive
from everseg.merge.rule import Answer, Domain, Joint, Network, tensors_of
from everseg.merge.tensors import Tensors, alike, copied, deltas, weighted_sum
from everseg.seed import torch_generator

Loss = Callable[[dict[str, Tensor]], Tensor]
"""From merged tensors, with a graph behind them, to a scalar. It draws its own batches."""


def soft_mask(
    logits: Tensors, temperature: float = 0.5, generator: torch.Generator | None = None
) -> dict[str, Tensor]:
    """m = sigmoid((logit(u) + x) / T) over its mean, for each tensor; u ~ U(0, 1).

    Without a generator u = 1/2. Logits of zero are not a mask: m = 1 on average, and exactly without noise.
    """
    out = {}
    for name, x in logits.items():
        noise = torch.zeros_like(x)
        if generator is not None:
            u = torch.rand(x.shape, generator=generator, dtype=x.dtype)
            noise = torch.logit(u, eps=1e-6).to(x.device)
        mask = torch.sigmoid((noise + x) / temperature)
        out[name] = mask / mask.mean()
    return out


def concrete(
    base: Tensors,
    models: Sequence[Tensors],
    loss: Loss,
    generator: torch.Generator,
    scale: float = 0.3,
    *,
    temperature: float = 0.5,
    steps: int = 2000,
    lr: float = 1e-3,
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """theta_0 + lambda m * sum_k tau_k with one mask m for all models, learned; returns it and m's logits.

    The mask returned with is the one without noise. Adam; `temperature` is T.

    Data: unlabelled inputs of every domain, at the merge. Not sequential; order-free. On deltas.
    Source: Tang et al., "Concrete subspace learning based interference elimination for multi-task model
    fusion" (arXiv 2312.06173): T 0.5, logits 0, Adam 1e-3, batches of 16, 2000 steps, lambda 0.3, entropy of
    the predictions on test batches; for masks that is the entropy of each pixel. The mean that the mask is
    divided by is taken tensor by tensor, as in fusion_bench.
    """
    base = copied(base)
    total = weighted_sum(deltas(models, base), [scale] * len(models))
    logits = {n: torch.zeros_like(value).requires_grad_(True) for n, value in total.items()}
    optimiser = torch.optim.Adam(logits.values(), lr=lr)

    def merged(draw: torch.Generator | None) -> dict[str, Tensor]:
        mask = soft_mask(logits, temperature, draw)
        return {n: base[n] + mask[n] * total[n] for n in total}

    for _ in range(steps):
        optimiser.zero_grad()
        loss(merged(generator)).backward()
        optimiser.step()
    with torch.no_grad():
        return merged(None), {n: x.detach().clone() for n, x in logits.items()}


def adamerging(
    base: Tensors,
    models: Sequence[Tensors],
    loss: Loss,
    *,
    per: Literal["tensor", "model"] = "tensor",
    start: float = 0.3,
    steps: int = 500,
    lr: float = 1e-3,
    clamp: bool = True,
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """theta_0 + sum_k lambda_k tau_k with learned lambda; returns it and the lambdas (K,) of each tensor.

    per: "tensor" for a lambda_k of each tensor (layer-wise AdaMerging), "model" for one.
    clamp: to [0, 1], as in the original; fusion_bench leaves them free.

    Data: unlabelled inputs of every domain, at the merge. Not sequential; order-free. On deltas.
    Source: Yang et al., ICLR 2024: lambda 0.3 at the start, Adam 1e-3, 500 steps (1000 elsewhere) of 16
    images, the predictions' mean entropy.
    """
    base = copied(base)
    names, learned = alike([base, *models]), deltas(models, base)
    keys = names if per == "tensor" else [""]
    shares = {k: base[names[0]].new_full((len(models),), start).requires_grad_(True) for k in keys}
    optimiser = torch.optim.Adam(shares.values(), lr=lr)

    def merged() -> dict[str, Tensor]:
        out = {}
        for n in names:
            share = shares[n if per == "tensor" else ""]
            share = share.clamp(0, 1) if clamp else share
            stack = torch.stack([tau[n] for tau in learned])
            out[n] = base[n] + torch.tensordot(share.to(stack), stack, dims=1)
        return out

    for _ in range(steps):
        optimiser.zero_grad()
        loss(merged()).backward()
        optimiser.step()
    with torch.no_grad():
        final = {k: s.detach().clamp(0, 1) if clamp else s.detach().clone() for k, s in shares.items()}
        return merged(), {n: final[n if per == "tensor" else ""] for n in names}


@dataclass(frozen=True)
class Concrete(Joint):
    """The sum of deltas under one learned mask.

    Source: Tang et al., arXiv 2312.06173.
    """

    scale: Number = 0.3
    """Factor on the sum of deltas. [Tang et al.]"""
    temperature: Positive = 0.5
    """Temperature of the relaxed mask. [Tang et al.]"""
    steps: Count = 2000
    """Steps of Adam. [Tang et al.]"""
    lr: Amount = 1e-3
    """Learning rate of Adam. [Tang et al.]"""

    needs = frozenset({"samples"})
    works_on = ("factors",)
    takes = "weights"

    def merge(self, domains: Sequence[Domain], network: Network | None = None) -> Answer:
        if len(domains) == 1:
            return Answer(domains[0].tensors)
        assert network is not None, "the mask is learned on what the network predicts"
        draw = torch_generator(network.seed, "concrete")
        start, loss = domains[0].start, network.entropy(draw)
        return Answer(_plain(concrete(start, tensors_of(domains), loss, draw, **asdict(self))[0]))


@dataclass(frozen=True)
class AdaMerging(Joint):
    """The sum of deltas with learned weights.

    Source: Yang et al., ICLR 2024.
    """

    per: Literal["tensor", "model"] = "tensor"
    """A weight for each tensor of each model, or one for each model. [tensor: layer-wise AdaMerging]"""
    start: Number = 0.3
    """Every weight at the start. [Yang et al.]"""
    steps: Count = 500
    """Steps of Adam. [Yang et al.; 1000 elsewhere]"""
    lr: Amount = 1e-3
    """Learning rate of Adam. [Yang et al.]"""
    clamp: bool = True
    """Keep weights in 0..1. [Yang et al.; fusion_bench leaves them free]"""

    needs = frozenset({"samples"})
    works_on = ("factors",)
    takes = "weights"

    def merge(self, domains: Sequence[Domain], network: Network | None = None) -> Answer:
        if len(domains) == 1:
            return Answer(domains[0].tensors)
        assert network is not None, "the weights are learned on what the network predicts"
        loss = network.entropy(torch_generator(network.seed, "adamerging"))
        return Answer(_plain(adamerging(domains[0].start, tensors_of(domains), loss, **asdict(self))[0]))


def _plain(tensors: Tensors) -> dict[str, Tensor]:
    return {name: value.detach().cpu() for name, value in tensors.items()}
