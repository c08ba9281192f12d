"""Rules that want every domain's adapter at each merge, and so keep them all: what is kept grows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from everseg.domains.adapters.kinds import block_of, factors_of, from_factors
from everseg.domains.merging.base import Merged, Roll, regmean_figures
from everseg.domains.merging.calibrate import CALIBRATED, calibrated
from everseg.domains.merging.contribution import Contribution
from everseg.domains.merging.rules import MergerConfig
from everseg.domains.merging.space import back, moments_of, space, view
from everseg.merge import RULES, find
from everseg.merge.dare import dare
from everseg.merge.layerwise import layerwise
from everseg.merge.lorm import lorm
from everseg.merge.regmean import regmean
from everseg.merge.tensors import applied, deltas
from everseg.models.promptable.protocol import Promptable
from everseg.seed import torch_generator
from everseg.types import State


class Kept(Roll):
    """The contributions themselves, without what the rule has no use for. A domain is taken out by dropping
    its own: what remains is as if it had never been there, to the bit."""

    def __init__(self, config: MergerConfig, base: Promptable, seed: int) -> None:
        super().__init__(config)
        self.base, self.seed = base, seed
        self.kept: dict[str, Contribution] = {}
        self.weights: dict[str, float] = {}

    def add(self, contribution: Contribution, weight: float = 1.0) -> None:
        on = self.admit(contribution, weight)
        rule = RULES[self.config.rule]
        if rule.statistics == "gram":
            moments_of(contribution, on)
        elif rule.data == "none":
            contribution = replace(contribution, moments={})
        samples = contribution.samples if self.config.rule in CALIBRATED else None
        self.kept[contribution.domain] = replace(contribution, fisher={}, samples=samples)
        self.weights[contribution.domain] = weight

    def subtract(self, contribution: Contribution, weight: float = 1.0) -> None:
        self.drop(contribution)
        del self.kept[contribution.domain], self.weights[contribution.domain]

    def solve(self) -> Merged:
        assert self.kept, "there is nothing to merge"
        all_of_them = [self.kept[name] for name in self.names]
        weights = [self.weights[name] for name in self.names]
        if self.config.rule in CALIBRATED:
            return calibrated(self.config, all_of_them, self.base, self.seed)
        return self._closed(all_of_them, weights)

    def _closed(self, contributions: Sequence[Contribution], weights: Sequence[float]) -> Merged:
        config, options = self.config, self.config.settings
        first = contributions[0]
        on = space(config, first)
        if config.rule == "regmean":  # In float32, which wants all of them at once.
            if len(contributions) == 1:  # An inverse would blur the first domain's own adapter.
                return Merged(dict(first.weights), first.rank)
            merged, reports = regmean(
                [c.weights for c in contributions],
                [moments_of(c, on) for c in contributions],
                config.regmean,
                weights,
            )
            return Merged(merged, first.rank, reports, regmean_figures(reports))
        if config.rule == "lorm":
            if len(contributions) == 1:
                return Merged(dict(first.weights), first.rank)
            pairs = lorm(
                [factors_of(c.weights) for c in contributions],
                [moments_of(c, on) for c in contributions],
                **options,
            )
            return Merged(from_factors(pairs), first.rank)
        views = [view(c, on) for c in contributions]
        if config.rule == "layerwise":
            positions = {name: block_of(name) for name in first.weights}
            order = sorted({p for p in positions.values() if p is not None})
            # What all blocks share is met first at the first of them.
            depth = {n: 0 if p is None else order.index(p) for n, p in positions.items()}
            merged = layerwise([tensors for tensors, _ in views], depth.__getitem__, **options)
            return Merged(*back(merged, on, first, config.rank))
        parts = [deltas([tensors], start)[0] for tensors, start in views]
        function: Any = find(config.rule)
        if config.rule == "dare":
            # Each domain drops by itself, so a domain more or less does not move the others' draw.
            dropped = [
                dare([part], torch_generator(self.seed, c.domain, "dare"), **options)
                for part, c in zip(parts, contributions, strict=True)
            ]
            merged = {n: sum(d[n] for d in dropped) for n in dropped[0]}  # type: ignore[misc]
        elif config.rule == "ties":
            merged = function(parts, weights=weights, **options)
        else:
            merged = function(parts, **options)
        return Merged(*back(applied(views[0][1], merged), on, first, config.rank))

    def state_dict(self) -> State:
        kept = {name: contribution.to_state() for name, contribution in self.kept.items()}
        return {**self.head(), "kept": kept, "weights": dict(self.weights)}

    def load_state_dict(self, state: State) -> None:
        self.load_head(state)
        self.kept = {name: Contribution.from_state(value) for name, value in state["kept"].items()}
        self.weights = {name: float(value) for name, value in state["weights"].items()}
