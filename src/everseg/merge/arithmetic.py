"""Task arithmetic: add up what the models learned."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from everseg.merge.tensors import Tensors, weighted_sum


def task_arithmetic(
    deltas: Sequence[Tensors],
    scale: float = 0.3,
    weights: Sequence[float] | None = None,
    normalise: bool = False,
) -> dict[str, Tensor]:
    """tau* = lambda sum_k w_k tau_k.

    scale: lambda. weights: w_k, 1 if not given. normalise: divide by sum w_k; then lambda = 1 is the mean.

    Needs no data. Sequential with constant memory (`ContinualArithmetic`), order-free. On weights or deltas
    alike; of low-rank factors it has cross terms that no model had: add products.
    Source: Ilharco et al., ICLR 2023. Published settings: lambda 0.3 (fusion_bench), 0.4 (TIES'
    notebook); mergekit has lambda 1 and can normalise.
    """
    given = [1.0] * len(deltas) if weights is None else list(weights)
    factor = scale / sum(given) if normalise else scale
    return weighted_sum(deltas, [factor * w for w in given])


@dataclass(frozen=True)
class ContinualArithmetic:
    """theta <- theta + lambda tau_t, one model at a time: the same sum as `task_arithmetic`."""

    merged: dict[str, Tensor]

    @classmethod
    def start(cls, delta: Tensors, scale: float = 0.3) -> ContinualArithmetic:
        return cls(task_arithmetic([delta], scale))

    def step(self, delta: Tensors, scale: float = 0.3) -> ContinualArithmetic:
        return ContinualArithmetic(weighted_sum([self.merged, delta], [1.0, scale]))
