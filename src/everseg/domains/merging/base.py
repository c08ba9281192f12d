"""The base class of mergers: they keep account of the domains and return the merged adapter."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Generic, Protocol, TypeVar

from torch import Tensor

from everseg.domains.merging.contribution import Contribution, check_finite
from everseg.domains.merging.rules import MergerConfig
from everseg.domains.merging.space import back, check_alike, given_to, place_of, start_of
from everseg.errors import UserError
from everseg.merge import RULES, find
from everseg.merge.report import LayerReport
from everseg.merge.rule import Answer, Domain, Place, Rule
from everseg.merge.tensors import applied
from everseg.types import State

R = TypeVar("R", bound=Rule)


@dataclass(frozen=True)
class Merged:
    """One adapter for all domains."""

    weights: dict[str, Tensor]
    """The adapter's tensors."""
    rank: int
    """Its rank."""
    reports: Mapping[str, LayerReport] = field(default_factory=dict)
    """Of RegMean, a report on each layer."""
    figures: Mapping[str, float] = field(default_factory=dict)
    """Numbers for the log."""


class Merger(Protocol):
    """Takes in contributions, gives the merged adapter."""

    @property
    def rule(self) -> Rule:
        """The rule that merges."""

    def add(self, contribution: Contribution, weight: float = 1.0) -> None:
        """Take in a domain.

        Raises:
            UserError: it lacks what the rule needs, holds numbers that are not finite, or is of another kind
                than those before.
        """

    def subtract(self, contribution: Contribution, weight: float = 1.0) -> None:
        """Take a domain out that was added with this weight.

        Raises:
            UserError: the rule cannot, because what it keeps depends on the order of the domains.
        """

    def solve(self) -> Merged: ...

    def state_dict(self) -> State: ...

    def load_state_dict(self, state: State) -> None: ...


class Roll(Generic[R]):
    """Names of the domains merged so far, and the kind of their adapters."""

    def __init__(self, config: MergerConfig, rule: R) -> None:
        self.config, self.rule = config, rule
        # The kind of adapter, as it is before it has learned: nothing of a domain, which may be forgotten.
        self.like: Contribution | None = None
        self.names: list[str] = []

    @property
    def place(self) -> Place:
        """What the rule is given of adapters of this kind."""
        assert self.like is not None, "something was merged"
        return place_of(self.rule, self.config, self.like)

    def admit(self, contribution: Contribution, weight: float) -> Domain:
        """What the rule is given of a contribution; nothing is changed yet.

        Raises:
            UserError: it cannot be merged.
        """
        if contribution.domain in self.names:
            raise UserError(f"two domains are named {contribution.domain!r}; merge each domain once")
        if weight != 1 and not self.rule.weighs:
            able = ", ".join(name for name in RULES if find(name).weighs)
            raise UserError(
                f"rule {self.config.rule} weighs all domains alike; choose a rule that can weigh them: {able}"
            )
        check_finite(contribution)
        if self.like is not None:
            check_alike(self.rule, self.config, self.like, contribution)
        place = place_of(self.rule, self.config, contribution)
        return given_to(self.rule, place, contribution, weight)

    def enter(self, contribution: Contribution) -> None:
        """Note a domain that was merged."""
        if self.like is None:
            self.like = replace(
                contribution,
                domain="",
                weights=contribution.start,
                moments={},
                fisher={},
                samples=None,
                gaussian=None,
            )
        self.names.append(contribution.domain)

    def drop(self, contribution: Contribution) -> None:
        """Strike a domain off.

        Raises:
            UserError: it was not merged here.
        """
        if self.like is None or contribution.domain not in self.names:
            raise UserError(
                f"{contribution.domain!r} was not merged into this run; choose one of its domains"
            )
        self.names.remove(contribution.domain)

    def finished(self, answer: Answer) -> Merged:
        """The adapter that the rule's answer is."""
        assert self.like is not None, "there is nothing to merge"
        tensors = dict(answer.tensors)
        if self.rule.takes == "deltas":
            tensors = applied(start_of(self.like, self.place), tensors)
        weights, rank = back(tensors, self.place, self.like, self.config.rank, answer.second)
        return Merged(weights, rank, answer.reports, answer.figures)

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
