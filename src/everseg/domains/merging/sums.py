"""Mergers for rules that add up sums over domains."""

from __future__ import annotations

from typing import Any

from everseg.domains.merging.base import Merged, Roll
from everseg.domains.merging.contribution import Contribution, check_finite
from everseg.domains.merging.rules import MergerConfig
from everseg.domains.merging.space import given_to
from everseg.merge.rule import Summed
from everseg.types import State


class Sums(Roll[Summed]):
    """Float64 sums over domains, order-free, from which a domain can be taken out again."""

    def __init__(self, config: MergerConfig, rule: Summed) -> None:
        super().__init__(config, rule)
        self.sums: Any = rule.sums()

    def add(self, contribution: Contribution, weight: float = 1.0) -> None:
        domain = self.admit(contribution, weight)
        self.sums.add(*self.rule.terms(domain), weight)
        self.enter(contribution)

    def subtract(self, contribution: Contribution, weight: float = 1.0) -> None:
        check_finite(contribution)
        self.drop(contribution)
        self.sums.subtract(*self.rule.terms(given_to(self.rule, self.place, contribution)), weight)

    def solve(self) -> Merged:
        assert self.names, "there is nothing to merge"
        return self.finished(self.rule.answer(self.sums))

    def state_dict(self) -> State:
        return {**self.head(), "sums": self.sums.state_dict()}

    def load_state_dict(self, state: State) -> None:
        self.load_head(state)
        self.sums.load_state_dict(state["sums"])
