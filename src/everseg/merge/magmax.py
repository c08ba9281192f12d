"""MagMax: of each entry keep what moved furthest."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from everseg.merge.tensors import Tensors, alike, copied


@dataclass(frozen=True)
class MagMax:
    """The entry of largest magnitude of all deltas so far, `furthest`; equal ones: the later wins.

    Sequential, constant memory; the tensors of `merged` are those times the scale.
    """

    furthest: dict[str, Tensor]
    scale: float = 0.5

    @classmethod
    def start(cls, delta: Tensors, scale: float = 0.5) -> MagMax:
        return cls(copied(delta), scale)

    @torch.no_grad()
    def step(self, delta: Tensors) -> MagMax:
        names = alike([self.furthest, delta])
        kept = {
            n: torch.where(delta[n].abs() >= self.furthest[n].abs(), delta[n], self.furthest[n])
            for n in names
        }
        return MagMax(kept, self.scale)

    @property
    def merged(self) -> dict[str, Tensor]:
        return {n: self.scale * value for n, value in self.furthest.items()}


def magmax(deltas: Sequence[Tensors], scale: float = 0.5) -> dict[str, Tensor]:
    """tau*_j = lambda tau_kj with k the model of largest |tau_kj|; of equal ones the last.

    Needs no data. Sequential; order-free but for ties, though meant for models fine-tuned one after another,
    which makes the order matter. On weights' deltas from the common start, or on low-rank products.
    Source: Marczak et al., ECCV 2024; lambda 0.5 (also RegCL's baseline).
    """
    kept = MagMax.start(deltas[0], scale)
    for delta in deltas[1:]:
        kept = kept.step(delta)
    return kept.merged
