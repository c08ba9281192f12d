"""Task arithmetic: add up what the models learned."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from everseg.config import Number
from everseg.merge.average import RunningMean
from everseg.merge.rule import Answer, Summed
from everseg.merge.tensors import Tensors, weighted_sum


def task_arithmetic(
    deltas: Sequence[Tensors],
    scale: float = 0.3,
    weights: Sequence[float] | None = None,
    normalise: bool = False,
) -> dict[str, Tensor]:
    """tau* = lambda sum_k w_k tau_k.

    scale: lambda.
    weights: w_k, 1 if not given.
    normalise: divide by sum w_k; then lambda = 1 is the mean.

    Needs no data. Sequential with constant memory, order-free. On weights or deltas alike; of low-rank
    factors it has cross terms that no model had: add products.
    Source: Ilharco et al., ICLR 2023. Published settings: lambda 0.3 (fusion_bench), 0.4 (TIES'
    notebook); mergekit has lambda 1 and can normalise.
    """
    given = [1.0] * len(deltas) if weights is None else list(weights)
    factor = scale / sum(given) if normalise else scale
    return weighted_sum(deltas, [factor * w for w in given])


@dataclass(frozen=True)
class Arithmetic(Summed):
    """The sum of what all models have learned, scaled.

    Source: Ilharco et al., ICLR 2023.
    """

    scale: Number = 0.3
    """Factor on the sum of deltas. [fusion_bench; TIES' notebook has 0.4, mergekit 1]"""
    normalise: bool = False
    """Divide by the sum of the domains' weights; then a scale of 1 is the mean. [mergekit]"""

    weighs = True

    def sums(self) -> RunningMean:
        return RunningMean()

    def answer(self, sums: Any) -> Answer:
        factor = self.scale * (1.0 if self.normalise else sums.weight)
        return Answer({n: factor * value for n, value in sums.solve().items()})
