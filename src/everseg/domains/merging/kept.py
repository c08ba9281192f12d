"""Mergers that keep every contribution, for rules that need all adapters at each merge."""

from __future__ import annotations

from dataclasses import replace

from everseg.domains.merging.base import Merged, Roll
from everseg.domains.merging.contribution import Contribution
from everseg.domains.merging.rules import MergerConfig
from everseg.domains.merging.space import given_to
from everseg.domains.merging.trial import Trial
from everseg.merge.rule import Joint
from everseg.models.promptable.protocol import Promptable
from everseg.types import State


class Kept(Roll[Joint]):
    """Keeps the contributions, without the parts that the rule does not use.

    A domain is removed by dropping its contribution; the result is identical to the bit to never having
    added it.
    """

    def __init__(self, config: MergerConfig, rule: Joint, base: Promptable, seed: int) -> None:
        super().__init__(config, rule)
        self.base, self.seed = base, seed
        self.kept: dict[str, Contribution] = {}
        self.weights: dict[str, float] = {}

    def add(self, contribution: Contribution, weight: float = 1.0) -> None:
        self.admit(contribution, weight)
        self.enter(contribution)
        contribution = replace(contribution, fisher={})
        if "samples" not in self.rule.needs:
            contribution = replace(contribution, samples=None)
            if "moments" not in self.rule.needs:
                contribution = replace(contribution, moments={})
        self.kept[contribution.domain] = contribution
        self.weights[contribution.domain] = weight

    def subtract(self, contribution: Contribution, weight: float = 1.0) -> None:
        self.drop(contribution)
        del self.kept[contribution.domain], self.weights[contribution.domain]

    def solve(self) -> Merged:
        assert self.kept, "there is nothing to merge"
        kept = [self.kept[name] for name in self.names]
        domains = [given_to(self.rule, self.place, c, self.weights[c.domain]) for c in kept]
        return self.finished(self.rule.merge(domains, Trial(self.base, kept, self.seed)))

    def state_dict(self) -> State:
        kept = {name: contribution.to_state() for name, contribution in self.kept.items()}
        return {**self.head(), "kept": kept, "weights": dict(self.weights)}

    def load_state_dict(self, state: State) -> None:
        self.load_head(state)
        self.kept = {name: Contribution.from_state(value) for name, value in state["kept"].items()}
        self.weights = {name: float(value) for name, value in state["weights"].items()}
