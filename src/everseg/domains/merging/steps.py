"""EMA, MagMax, OPCM, DOP and BECAME: a domain is folded into what is merged so far; the order counts."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from everseg.domains.merging.base import Merged, Roll
from everseg.domains.merging.contribution import Contribution
from everseg.domains.merging.rules import MergerConfig
from everseg.domains.merging.space import back, fisher_of, space, view
from everseg.errors import UserError
from everseg.merge import find
from everseg.merge.dop import DopConfig
from everseg.merge.tensors import applied, deltas
from everseg.types import State

STEPS = ("ema", "magmax", "opcm", "dop", "became")
ON_WEIGHTS = ("ema", "became")
"""The others fold deltas."""


class Steps(Roll):
    """The rule's state after the domains so far, of constant size. Nothing can be taken out of it."""

    def __init__(self, config: MergerConfig) -> None:
        super().__init__(config)
        self.kind: Any = find(config.rule, step=True)
        self.folded: Any = None

    def add(self, contribution: Contribution, weight: float = 1.0) -> None:
        tensors, start = view(contribution, self.admit(contribution, weight))
        given: tuple[Any, ...] = (tensors if self.config.rule in ON_WEIGHTS else deltas([tensors], start)[0],)
        if self.config.rule == "became":
            given = (*given, fisher_of(contribution))
        if self.folded is None:
            started = {"scale": self.config.settings["scale"]} if self.config.rule == "magmax" else {}
            self.folded = self.kind.start(*given, **started)
        else:
            self.folded = self.folded.step(*given, **self._how())

    def _how(self) -> dict[str, Any]:
        """The rule's options as its step takes them."""
        if self.config.rule == "dop":
            return {"config": DopConfig(**self.config.settings)}
        return {} if self.config.rule == "magmax" else self.config.settings

    def subtract(self, contribution: Contribution, weight: float = 1.0) -> None:
        raise UserError(
            f"rule {self.config.rule} folds one domain into the others, and {contribution.domain!r} cannot "
            "be taken out of what it keeps; merge the other domains anew with everseg merge"
        )

    def solve(self) -> Merged:
        assert self.like is not None, "there is nothing to merge"
        on, merged = space(self.config, self.like), self.folded.merged
        if self.config.rule not in ON_WEIGHTS:
            merged = applied(view(self.like, on)[1], merged)
        figures = {"became_share": self.folded.share} if self.config.rule == "became" else {}
        weights, rank = back(merged, on, self.like, self.config.rank)
        return Merged(weights, rank, figures=figures)

    def state_dict(self) -> State:
        folded = None
        if self.folded is not None:
            folded = {f.name: getattr(self.folded, f.name) for f in fields(self.folded)}
        return {**self.head(), "folded": folded}

    def load_state_dict(self, state: State) -> None:
        self.load_head(state)
        self.folded = None if state["folded"] is None else self.kind(**state["folded"])
