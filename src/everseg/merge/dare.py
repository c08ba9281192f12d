"""DARE: drop most entries of a delta at random and scale up the rest."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Literal

import torch
from torch import Tensor

from everseg.config import Number, Share
from everseg.errors import UserError
from everseg.merge.arithmetic import task_arithmetic
from everseg.merge.rule import Answer, Domain, Joint, Network
from everseg.merge.tensors import Tensors
from everseg.seed import torch_generator


@torch.no_grad()
def dropped(
    delta: Tensors,
    generator: torch.Generator,
    drop: float = 0.9,
    rescale: Literal["density", "l1"] = "density",
) -> dict[str, Tensor]:
    """m tau / (1 - p), with m zero where an entry was dropped.

    drop: p.
    rescale: "density" by 1 / (1 - p), so that the mean stays; "l1" so that each tensor's sum of magnitudes
        stays. `generator` is on the CPU, whatever the device.

    Raises:
        UserError: p is not in [0, 1).
    """
    if not 0 <= drop < 1:
        raise UserError(f"drop is {drop}; it must be a share from 0 to less than 1")
    out = {}
    for name, value in delta.items():
        keep = torch.rand(value.shape, generator=generator, dtype=torch.float64) >= drop
        kept = value * keep.to(value.device)
        if rescale == "density":
            out[name] = kept / (1 - drop)
        else:
            left = kept.double().abs().sum()
            factor = value.double().abs().sum() / left if float(left) else 0.0
            out[name] = (kept.double() * factor).to(value.dtype)
    return out


def dare(
    deltas: Sequence[Tensors],
    generator: torch.Generator,
    drop: float = 0.9,
    scale: float = 1.0,
    rescale: Literal["density", "l1"] = "density",
) -> dict[str, Tensor]:
    """lambda sum_k of the deltas after dropping; DARE-TIES is `ties` of what `dropped` returns.

    Needs no data. A delta is dropped from by itself, so a running sum does (sequential); order-free in law,
    not for one seed. On deltas, small ones: the second moment of an entry grows by 1 / (1 - p), tenfold at
    0.9, which adapters trained from zero do not bear.
    Source: Yu et al., ICML 2024; p 0.9. Elsewhere: p 0.5 (fusion_bench), 0.34 (RMM); mergekit
    rescales to the L1 norm.
    """
    return task_arithmetic([dropped(delta, generator, drop, rescale) for delta in deltas], scale)


@dataclass(frozen=True)
class Dare(Joint):
    """The sum of deltas of which most entries are dropped at random.

    Source: Yu et al., ICML 2024.
    """

    drop: Share = 0.9
    """Share of entries that each delta loses. [Yu et al.; fusion_bench has 0.5, RMM 0.34]"""
    scale: Number = 1.0
    """Factor on the merged delta."""
    rescale: Literal["density", "l1"] = "density"
    """Scale what is left by 1 / (1 - drop), or to the old L1 norm. [density: Yu et al.; l1: mergekit]"""

    works_on = ("products", "factors")

    def merge(self, domains: Sequence[Domain], network: Network | None = None) -> Answer:
        assert network is not None, "DARE draws from the network's seed"
        # Each domain drops by itself, so a domain more or less does not move the others' draw.
        parts = [
            dare([domain.tensors], torch_generator(network.seed, domain.name, "dare"), **asdict(self))
            for domain in domains
        ]
        return Answer({n: sum(part[n] for part in parts) for n in parts[0]})  # type: ignore[misc]
