"""MagMax: of each entry keep what moved furthest."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from everseg.config import Number
from everseg.merge.rule import Domain, Stepped
from everseg.merge.tensors import Tensors, alike, copied


def magmax(deltas: Sequence[Tensors], scale: float = 0.5) -> dict[str, Tensor]:
    """tau*_j = lambda tau_kj with k the model of largest |tau_kj|; of equal ones the last.

    Needs no data. Sequential; order-free but for ties, though meant for models fine-tuned one after another,
    which makes the order matter. On weights' deltas from the common start, or on low-rank products.
    Source: Marczak et al., ECCV 2024; lambda 0.5 (also RegCL's baseline).
    """
    return dict(MagMax(scale).merge([Domain(delta) for delta in deltas]).tensors)


@dataclass(frozen=True)
class Furthest:
    """The entry of largest magnitude of all deltas so far; `merged` is those times the scale."""

    furthest: dict[str, Tensor]
    scale: float

    @property
    def merged(self) -> dict[str, Tensor]:
        return {n: self.scale * value for n, value in self.furthest.items()}


@dataclass(frozen=True)
class MagMax(Stepped):
    """Of each entry the one that moved furthest.

    Source: Marczak et al., ECCV 2024.
    """

    scale: Number = 0.5
    """Factor on the merged delta. [Marczak et al.; also RegCL's baseline]"""

    State = Furthest

    def start(self, domain: Domain) -> Furthest:
        return Furthest(copied(domain.tensors), self.scale)

    @torch.no_grad()
    def step(self, state: Furthest, domain: Domain) -> Furthest:
        old, new = state.furthest, domain.tensors
        kept = {n: torch.where(new[n].abs() >= old[n].abs(), new[n], old[n]) for n in alike([old, new])}
        return Furthest(kept, state.scale)
