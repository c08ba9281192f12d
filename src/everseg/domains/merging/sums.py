"""Average, task arithmetic, RegMean and Fisher merging: sums over domains."""

from __future__ import annotations

from typing import Any

from everseg.domains.merging.base import Merged, Roll, regmean_figures
from everseg.domains.merging.contribution import Contribution
from everseg.domains.merging.rules import MergerConfig
from everseg.domains.merging.space import back, fisher_of, moments_of, space, view
from everseg.merge import RegMeanSums, RunningMean
from everseg.merge.fisher import FisherSums
from everseg.merge.tensors import applied, deltas
from everseg.types import State

SUMS = ("average", "arithmetic", "regmean", "regmean-products", "fisher")


class Sums(Roll):
    """Average, task arithmetic, RegMean and Fisher merging: float64 sums over domains, order-free, from which
    a domain can be taken out again."""

    def __init__(self, config: MergerConfig) -> None:
        super().__init__(config)
        self.sums: Any = RunningMean()
        if config.rule.startswith("regmean"):
            r = config.regmean
            self.sums = RegMeanSums(r.affine, shrinkable=r.offdiag < 1)
        elif config.rule == "fisher":
            self.sums = FisherSums(**config.settings)

    def add(self, contribution: Contribution, weight: float = 1.0) -> None:
        self.sums.add(*self._terms(contribution, self.admit(contribution, weight)), weight)

    def subtract(self, contribution: Contribution, weight: float = 1.0) -> None:
        self.sums.subtract(*self._terms(contribution, self.drop(contribution)), weight)

    def _terms(self, contribution: Contribution, on: str) -> tuple[Any, ...]:
        tensors, start = view(contribution, on)
        if self.config.rule == "arithmetic":
            return (deltas([tensors], start)[0],)
        if self.config.rule.startswith("regmean"):
            return tensors, moments_of(contribution, on)
        return (tensors, fisher_of(contribution)) if self.config.rule == "fisher" else (tensors,)

    def solve(self) -> Merged:
        assert self.like is not None and self.names, "there is nothing to merge"
        on, how = space(self.config, self.like), self.config
        if how.rule.startswith("regmean"):
            r = how.regmean
            merged, reports = self.sums.solve(ridge=r.ridge, offdiag=r.offdiag, centre=r.centre)
            seconds = {x: layer.second for x, layer in self.sums.layers.items()} if how.metric else None
            weights, rank = back(merged, on, self.like, how.rank, seconds)
            return Merged(weights, rank, reports, regmean_figures(reports))
        merged = self.sums.solve()
        if how.rule == "arithmetic":
            factor = how.settings["scale"] * (1.0 if how.settings["normalise"] else self.sums.weight)
            start = view(self.like, on)[1]
            merged = applied(start, {n: factor * value for n, value in merged.items()})
        return Merged(*back(merged, on, self.like, how.rank))

    def state_dict(self) -> State:
        return {**self.head(), "sums": self.sums.state_dict()}

    def load_state_dict(self, state: State) -> None:
        self.load_head(state)
        self.sums.load_state_dict(state["sums"])
