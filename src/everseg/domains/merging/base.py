"""What every merger does: keep account of the domains, and give the merged adapter."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Protocol

from torch import Tensor

from everseg.domains.merging.contribution import Contribution
from everseg.domains.merging.rules import WEIGHED, MergerConfig
from everseg.domains.merging.space import check_alike, space
from everseg.errors import UserError
from everseg.merge import LayerReport
from everseg.types import State


@dataclass(frozen=True)
class Merged:
    """One adapter for all domains: its weights and rank, RegMean's report on each layer, figures for the
    log."""

    weights: dict[str, Tensor]
    rank: int
    reports: Mapping[str, LayerReport] = field(default_factory=dict)
    figures: Mapping[str, float] = field(default_factory=dict)


class Merger(Protocol):
    """Takes in contributions, gives the merged adapter."""

    def add(self, contribution: Contribution, weight: float = 1.0) -> None:
        """Take in a domain.

        Raises:
            UserError: it lacks what the rule wants, or is of another kind than those before.
        """

    def subtract(self, contribution: Contribution, weight: float = 1.0) -> None:
        """Take a domain out that was added with this weight.

        Raises:
            UserError: the rule cannot, because what it keeps depends on the order of the domains.
        """

    def solve(self) -> Merged: ...

    def state_dict(self) -> State: ...

    def load_state_dict(self, state: State) -> None: ...


class Roll:
    """The domains merged so far, by name, and what kind of adapter theirs is."""

    def __init__(self, config: MergerConfig) -> None:
        self.config = config
        # The kind of adapter, as it is before it has learned: nothing of a domain, which may be forgotten.
        self.like: Contribution | None = None
        self.names: list[str] = []

    def admit(self, contribution: Contribution, weight: float) -> str:
        if contribution.domain in self.names:
            raise UserError(f"two domains are named {contribution.domain!r}; each is merged once")
        if weight != 1 and self.config.rule not in WEIGHED:
            raise UserError(f"rule {self.config.rule} weighs all domains alike; {', '.join(WEIGHED)} do not")
        if self.like is not None:
            check_alike(self.config, self.like, contribution)
        on = space(self.config, contribution)
        if self.like is None:
            self.like = replace(
                contribution, domain="", weights=contribution.start, moments={}, fisher={}, samples=None
            )
        self.names.append(contribution.domain)
        return on

    def drop(self, contribution: Contribution) -> str:
        if self.like is None or contribution.domain not in self.names:
            raise UserError(f"{contribution.domain!r} was not merged here")
        self.names.remove(contribution.domain)
        return space(self.config, self.like)

    def head(self) -> State:
        like = None
        if self.like is not None:  # Its weights are its start.
            like = {**self.like.to_state(), "weights": {}}
        return {"names": list(self.names), "like": like}

    def load_head(self, state: State) -> None:
        self.names = list(state["names"])
        self.like = None
        if state["like"] is not None:
            self.like = Contribution.from_state({**state["like"], "weights": state["like"]["start"]})


def regmean_figures(reports: Mapping[str, LayerReport]) -> dict[str, float]:
    """The worst condition of the layers merged, their objective against that of the plain mean, and for how
    many of them the mean would have been better."""
    solved = [r for r in reports.values() if r.path != "single"]
    if not solved:
        return {}
    ours, mean = sum(r.objective for r in solved), sum(r.objective_of_mean for r in solved)
    return {
        "merge_condition": max(r.condition for r in solved),
        "merge_objective": ours / mean if mean else 1.0,
        "merge_worse_than_mean": float(sum(r.worse_than_mean for r in solved)),
    }
