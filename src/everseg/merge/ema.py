"""The exponential moving average of models: each model counts more than those before it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from everseg.config import Share
from everseg.merge.rule import Domain, Folded, Stepped
from everseg.merge.tensors import Tensors, weighted_sum


def ema(models: Sequence[Tensors], beta: float = 0.9) -> dict[str, Tensor]:
    """Fold theta <- beta theta + (1 - beta) theta_t over models in the order given.

    Needs nothing but the models. Constant memory; order-dependent. With beta_t = t / (t + 1) it is the
    running mean.
    """
    return dict(Ema(beta).merge([Domain(model) for model in models]).tensors)


@dataclass(frozen=True)
class Ema(Stepped):
    """An average in which each model counts more than those before it.

    Source: common.
    """

    beta: Share = 0.9
    """Share of what is merged so far in the next merge."""

    takes = "weights"

    def start(self, domain: Domain) -> Folded:
        return Folded(weighted_sum([domain.tensors], [1.0]))

    def step(self, state: Folded, domain: Domain) -> Folded:
        return Folded(weighted_sum([state.merged, domain.tensors], [self.beta, 1 - self.beta]))
