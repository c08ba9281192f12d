"""What a rule of merging is: an object that owns its options, its needs, its fold and how it forgets.

Summed     adds up float64 sums, from which a domain can be subtracted again
Stepped    folds one domain after another into what is merged so far; forgets by folding the others again
Joint      merges all domains at once, which are kept; forgets by dropping one
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, Protocol

import torch
from torch import Tensor, nn

from everseg.config import Checked
from everseg.merge.report import LayerReport
from everseg.merge.tensors import Tensors

Need = Literal["moments", "fisher", "samples"]
Place = Literal["factors", "products", "pairs"]
Forgets = Literal["subtract", "refold", "drop"]


@dataclass(frozen=True)
class Domain:
    """What one domain gives to a merge."""

    tensors: Tensors
    """Its model, or its delta where the rule takes deltas."""
    name: str = ""
    """Its name, from which random draws are derived."""
    weight: float = 1.0
    """How much it counts."""
    start: Tensors = field(default_factory=dict)
    """The model that it was trained from."""
    moments: Tensors = field(default_factory=dict)
    """The second moment of each measured layer's inputs, by the layer's name."""
    fisher: Tensors = field(default_factory=dict)
    """The diagonal Fisher information of the tensors."""


@dataclass(frozen=True)
class Answer:
    """What a rule makes of its domains."""

    tensors: Mapping[str, Tensor]
    """The merged model, or the merged delta where the rule takes deltas."""
    reports: Mapping[str, LayerReport] = field(default_factory=dict)
    """Of RegMean, a report on each layer that was solved."""
    figures: Mapping[str, float] = field(default_factory=dict)
    """Numbers for the log."""
    second: Tensors | None = None
    """The inputs' second moment for each layer, to cut products back to a rank by what inputs see."""


@dataclass(frozen=True)
class Chain:
    """A network as layers that follow one another, with what its first layer is given."""

    layers: Sequence[nn.Module]
    """The layers in order."""
    inputs: Sequence[Tensor]
    """Each domain's samples, as the first layer takes them."""
    names: Mapping[str, str]
    """The name of each linear layer in the chain, by its name in the model."""


class Network(Protocol):
    """What a rule may ask of the network that its tensors belong to."""

    @property
    def seed(self) -> int:
        """What random draws are derived from."""

    @property
    def blocks(self) -> Mapping[str, int | None]:
        """The block that each tensor belongs to; None for what all blocks share."""

    def chain(self) -> Chain:
        """The network as a chain of blocks, with the kept samples."""

    def entropy(self, draw: torch.Generator) -> Callable[[dict[str, Tensor]], Tensor]:
        """The mean entropy of a model's predictions on batches of kept samples."""

    def score(self) -> Callable[[dict[str, Tensor]], float]:
        """The score of a model on all kept samples; larger is better."""


@dataclass(frozen=True)
class Rule(Checked, ABC):
    """A rule of merging. Its fields are its options."""

    needs: ClassVar[frozenset[Need]] = frozenset()
    """What it merges by, beside the tensors: statistics of every domain's data, or kept samples."""
    works_on: ClassVar[tuple[Place, ...]] = ("factors", "products")
    """What it may be given of a low-rank adapter: its factors, each by itself; the products B A; or the pairs
    of factors that belong together. The first one is what it is given unless the user says otherwise."""
    takes: ClassVar[Literal["weights", "deltas"]] = "deltas"
    """Whether it merges models or what they have learned."""
    weighs: ClassVar[bool] = False
    """Whether one domain can count more than another."""
    order_free: ClassVar[bool] = True
    """Whether the result is the same for every order of the domains, to rounding."""
    forgets: ClassVar[Forgets]
    """How a domain is taken out again."""

    def resolved(self) -> Rule:
        """The rule that does the work with these options."""
        return self

    @abstractmethod
    def merge(self, domains: Sequence[Domain], network: Network | None = None) -> Answer:
        """Merge domains that are all at hand, in the order given."""


class Summed(Rule):
    """A rule whose state is sums over domains: constant in size, free of the order, and removable."""

    forgets = "subtract"

    @abstractmethod
    def sums(self) -> Any:
        """Empty sums, with `add`, `subtract`, `state_dict` and `load_state_dict`."""

    def terms(self, domain: Domain) -> tuple[Any, ...]:
        """What a domain adds to the sums, before its weight."""
        return (domain.tensors,)

    @abstractmethod
    def answer(self, sums: Any) -> Answer:
        """The merge of what the sums hold."""

    def merge(self, domains: Sequence[Domain], network: Network | None = None) -> Answer:
        sums = self.sums()
        for domain in domains:
            sums.add(*self.terms(domain), domain.weight)
        return self.answer(sums)


@dataclass(frozen=True)
class Folded:
    """The tensors merged so far."""

    merged: dict[str, Tensor]


class Stepped(Rule):
    """A rule that folds one domain after another into a state of constant size."""

    forgets = "refold"
    order_free = False
    State: ClassVar[type[Any]] = Folded
    """The frozen dataclass of what is kept between domains."""

    @abstractmethod
    def start(self, domain: Domain) -> Any:
        """The state after the first domain."""

    @abstractmethod
    def step(self, state: Any, domain: Domain) -> Any:
        """The state after one more domain."""

    def answer(self, state: Any) -> Answer:
        """The merge of the domains folded so far."""
        return Answer(state.merged)

    def merge(self, domains: Sequence[Domain], network: Network | None = None) -> Answer:
        state = self.start(domains[0])
        for domain in domains[1:]:
            state = self.step(state, domain)
        return self.answer(state)


class Joint(Rule):
    """A rule that needs all domains at each merge, so that what is kept grows with them."""

    forgets = "drop"


def tensors_of(domains: Sequence[Domain]) -> list[Tensors]:
    return [domain.tensors for domain in domains]
