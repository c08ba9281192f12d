"""Averages of models: the floor that every other rule has to beat, and the centre that RegMean shrinks to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from everseg.errors import UserError
from everseg.merge.rule import Answer, Summed
from everseg.merge.tensors import Tensors, alike, weighted_sum


def average(models: Sequence[Tensors], weights: Sequence[float] | None = None) -> dict[str, Tensor]:
    """theta* = sum w_k theta_k / sum w_k; equal weights unless given.

    Needs nothing but the models. Order-free; sequential with constant memory as `RunningMean`.
    Source: common; model soups (Wortsman et al., ICML 2022).
    """
    given = [1.0] * len(models) if weights is None else list(weights)
    assert sum(given) > 0, "weights add up to more than zero"
    return weighted_sum(models, [w / sum(given) for w in given])


class RunningMean:
    """The mean of the models seen, of constant size: float64 sums, not means, so that a model can be removed.

    After `add`s and `subtract`s in any order `solve` gives the mean of what is left, to rounding (1e-16 of
    the largest model ever added); of a single model it gives that model to the bit. Order-free.
    """

    def __init__(self) -> None:
        self.total: dict[str, Tensor] = {}
        self.kinds: dict[str, torch.dtype] = {}
        self.weight = 0.0
        self.count = 0

    def add(self, model: Tensors, weight: float = 1.0) -> None:
        """Count a model in.

        Raises:
            UserError: it has other names or shapes than those before, or numbers that are not finite.
        """
        names = alike([self.total, model] if self.count else [model])
        for name in names:
            if not bool(torch.isfinite(model[name]).all()):
                raise UserError(f"{name!r} holds numbers that are not finite; leave this model out")
        if not self.count:
            self.total = {n: torch.zeros(model[n].shape, dtype=torch.float64) for n in names}
            self.kinds = {n: model[n].dtype for n in names}
            self.weight = 0.0
        self._change(model, weight)
        self.count += 1

    def subtract(self, model: Tensors, weight: float = 1.0) -> None:
        """Count out a model that was added with this weight."""
        assert self.count, "nothing was added"
        alike([self.total, model])
        self._change(model, -weight)
        self.count -= 1
        if not self.count:
            self.total, self.kinds, self.weight = {}, {}, 0.0

    def _change(self, model: Tensors, weight: float) -> None:
        for name, total in self.total.items():
            total += weight * model[name].detach().double().cpu()
        self.weight += weight

    def mean(self) -> dict[str, Tensor]:
        """The mean in float64."""
        assert self.count, "there is no mean of no models"
        return {n: total / self.weight for n, total in self.total.items()}

    def solve(self) -> dict[str, Tensor]:
        """The mean, with the models' types, on the CPU."""
        return self.cast(self.mean())

    def cast(self, tensors: Tensors) -> dict[str, Tensor]:
        return {n: value.to(self.kinds[n]) for n, value in tensors.items()}

    def state_dict(self) -> dict[str, Any]:
        kinds = {n: str(kind).removeprefix("torch.") for n, kind in self.kinds.items()}
        return {"total": dict(self.total), "kinds": kinds, "weight": self.weight, "count": self.count}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.total = {n: value.clone() for n, value in state["total"].items()}
        self.kinds = {n: getattr(torch, kind) for n, kind in state["kinds"].items()}
        self.weight, self.count = float(state["weight"]), int(state["count"])


@dataclass(frozen=True)
class Average(Summed):
    """The mean of all models.

    Source: common; model soups (Wortsman et al., ICML 2022).
    """

    takes = "weights"
    weighs = True

    def sums(self) -> RunningMean:
        return RunningMean()

    def answer(self, sums: Any) -> Answer:
        return Answer(sums.solve())
