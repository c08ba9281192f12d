"""Mergers for rules that fold one domain after another into the result."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from everseg.domains.merging.base import Merged, Roll
from everseg.domains.merging.contribution import Contribution
from everseg.domains.merging.rules import MergerConfig
from everseg.errors import UserError
from everseg.merge.rule import Stepped
from everseg.types import State


class Steps(Roll[Stepped]):
    """The rule's state after the domains so far, of constant size. Nothing can be taken out of it."""

    def __init__(self, config: MergerConfig, rule: Stepped) -> None:
        super().__init__(config, rule)
        self.folded: Any = None

    def add(self, contribution: Contribution, weight: float = 1.0) -> None:
        rule, domain = self.rule, self.admit(contribution, weight)
        self.folded = rule.start(domain) if self.folded is None else rule.step(self.folded, domain)
        self.enter(contribution)

    def subtract(self, contribution: Contribution, weight: float = 1.0) -> None:
        raise UserError(
            f"rule {self.config.rule} folds one domain into the others, and {contribution.domain!r} cannot "
            "be taken out of what it keeps; merge the other domains again with everseg merge"
        )

    def solve(self) -> Merged:
        return self.finished(self.rule.answer(self.folded))

    def state_dict(self) -> State:
        folded = None
        if self.folded is not None:
            folded = {f.name: getattr(self.folded, f.name) for f in fields(self.folded)}
        return {**self.head(), "folded": folded}

    def load_state_dict(self, state: State) -> None:
        self.load_head(state)
        self.folded = None if state["folded"] is None else self.rule.State(**state["folded"])
