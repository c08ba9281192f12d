"""Fisher merging: average each parameter by how sure each model is of it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from everseg.config import Amount
from everseg.merge.average import RunningMean
from everseg.merge.rule import Answer, Domain, Summed
from everseg.merge.tensors import Tensors, alike, norm

__all__ = [
    "Fisher",
    "FisherSums",
    "diagonal_fisher",
    "fisher_merge",
]


def diagonal_fisher(parameters: Tensors, losses: Iterable[Tensor]) -> dict[str, Tensor]:
    """F = mean over samples of the squared gradient: the empirical diagonal Fisher information, float64.

    losses: one scalar for each sample, with its graph, computed from `parameters`. One sample each, because
        the gradient of a batch's mean loss, squared, is the square of a mean and not the mean of squares. The
        loss should be a negative log-likelihood; F of others depends on their scale.

    Source: Matena and Raffel, NeurIPS 2022, with the true label instead of a sampled one.
    """
    total = {n: torch.zeros_like(p, dtype=torch.float64) for n, p in parameters.items()}
    count = 0
    for loss in losses:
        gradients = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True)
        for sums, gradient in zip(total.values(), gradients, strict=True):
            if gradient is not None:
                sums += gradient.double().square()
        count += 1
    return {n: sums / max(1, count) for n, sums in total.items()}


class FisherSums:
    """sum_k w_k F_k and sum_k w_k F_k theta_k, in float64: constant size, any order, and removable.

    floor: least value of an F, below which division is noise.
    normalise: divide each floored F_k by the norm of F_k, so that models whose losses differ in scale count
        alike.
    """

    def __init__(self, floor: float = 1e-6, normalise: bool = False) -> None:
        self.floor, self.normalise = floor, normalise
        self.information = RunningMean()
        self.weighted = RunningMean()

    def add(self, model: Tensors, fisher: Tensors, weight: float = 1.0, *, floored: bool = True) -> None:
        """Take in a model and the diagonal of its Fisher information, of the same shapes."""
        f = self._prepared(model, fisher, floored)
        self.information.add(f, weight)
        self.weighted.add({n: f[n] * model[n].detach().double().cpu() for n in f}, weight)
        if self.weighted.count == 1:
            self.weighted.kinds = {n: model[n].dtype for n in f}

    def subtract(self, model: Tensors, fisher: Tensors, weight: float = 1.0, *, floored: bool = True) -> None:
        """Forget a model that was added with these arguments; exact to rounding."""
        f = self._prepared(model, fisher, floored)
        self.information.subtract(f, weight)
        self.weighted.subtract({n: f[n] * model[n].detach().double().cpu() for n in f}, weight)

    def solve(self) -> dict[str, Tensor]:
        """theta* = sum w_k F_k theta_k / sum w_k F_k, with the models' types."""
        above, below = self.weighted.total, self.information.total
        return self.weighted.cast({n: above[n] / below[n] for n in above})

    def _prepared(self, model: Tensors, fisher: Tensors, floored: bool) -> dict[str, Tensor]:
        names = alike([model, fisher])
        size = norm(fisher) if self.normalise else 1.0
        f = {n: fisher[n].detach().double().cpu() for n in names}
        if floored:
            f = {n: value.clamp(min=self.floor) for n, value in f.items()}
        return {n: value / (size or 1.0) for n, value in f.items()}

    def state_dict(self) -> dict[str, Any]:
        return {"information": self.information.state_dict(), "weighted": self.weighted.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.information.load_state_dict(state["information"])
        self.weighted.load_state_dict(state["weighted"])


def fisher_merge(
    models: Sequence[Tensors],
    fishers: Sequence[Tensors],
    weights: Sequence[float] | None = None,
    *,
    floor: float = 1e-6,
    normalise: bool = False,
    floor_first_only: bool = False,
) -> dict[str, Tensor]:
    """theta* = sum c_k F_k theta_k / sum c_k F_k, with F the diagonal of the Fisher information.

    weights: c_k, 1 if not given.
    floor_first_only: floor only the first ("target") model, as the published code does; others' zeros then
        leave a parameter to those who know it.

    Data: each model's own, while it is trained (256 samples and more); none at the merge. Sequential with
    constant memory (`FisherSums`), order-free. On weights or deltas.
    Source: Matena and Raffel, NeurIPS 2022, whose code floors the Fisher information before it normalises;
    floor 1e-6 (1e-10 in dataless-model-merging).
    """
    sums = FisherSums(floor, normalise)
    given = [1.0] * len(models) if weights is None else list(weights)
    for k, (model, fisher, weight) in enumerate(zip(models, fishers, given, strict=True)):
        sums.add(model, fisher, weight, floored=k == 0 or not floor_first_only)
    return sums.solve()


@dataclass(frozen=True)
class Fisher(Summed):
    """An average of each parameter by how sure each model is of it.

    Source: Matena and Raffel, NeurIPS 2022.
    """

    floor: Amount = 1e-6
    """Least value of the Fisher information. [Matena and Raffel; dataless-model-merging has 1e-10]"""
    normalise: bool = False
    """Divide each model's Fisher information by its norm, after the floor. [Matena and Raffel]"""

    needs = frozenset({"fisher"})
    works_on = ("factors",)
    takes = "weights"
    weighs = True

    def sums(self) -> FisherSums:
        return FisherSums(**asdict(self))

    def terms(self, domain: Domain) -> tuple[Any, ...]:
        return domain.tensors, domain.fisher

    def answer(self, sums: Any) -> Answer:
        return Answer(sums.solve())
