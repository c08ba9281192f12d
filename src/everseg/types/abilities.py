"""What only some learners can do: protocols of one or two methods each, asked for by `isinstance`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from everseg.types import Learner, Stage, State

if TYPE_CHECKING:
    from torch import nn


@runtime_checkable
class PredictsAs(Protocol):
    """An ability: predict with a named stage's module, as if an oracle had routed. For the upper bound
    only."""

    def predict_as(self, queries: Sequence[Any], stage_name: str) -> list[Any]: ...


@runtime_checkable
class Contributes(Protocol):
    """An ability: to hand out what the last learned stage brought, so that it can be merged elsewhere or
    taken away again. A run keeps it beside the state, which need not grow with it."""

    def contribution(self) -> State | None: ...


Archive = Callable[[str], State | None]
"""From a stage's name to what it brought, as `Contributes` handed it out; None where that was not kept."""


@dataclass(frozen=True)
class Forgotten:
    """How a domain was taken out.

    exact: whether the learner is what it would be had it never learned the domain. statement: that, or why it
    is not, in a sentence for people. remaining: sha256 of what is left of each other domain.
    """

    exact: bool
    statement: str
    remaining: Mapping[str, str]


@runtime_checkable
class Forgets(Protocol):
    """An ability: to take one learned stage out again, leaving the others."""

    def forget(self, domain: str, archive: Archive) -> Forgotten:
        """Forget a stage that was learned.

        Raises:
            UserError: what it takes was not kept; the learner is as it was.
        """


@runtime_checkable
class Reweighs(Protocol):
    """An ability: to let one learned stage count more or less in what serves them all."""

    def reweigh(self, domain: str, weight: float, archive: Archive) -> None:
        """Let a learned stage count `weight`, where others count what they did.

        Raises:
            UserError: what it takes was not kept, or the method weighs all alike.
        """


@runtime_checkable
class Exports(Protocol):
    """An ability: to hand out the one adapter through which every image goes, whatever its form."""

    def exports(self) -> nn.Module: ...


@runtime_checkable
class LearnsAllAtOnce(Protocol):
    """An ability, or a need: to be given all stages' data as one stage. For the upper bound only."""

    all_at_once: bool


@runtime_checkable
class TakesFirstStage(Protocol):
    """An ability: to go on from the first stage as another learner has trained it."""

    def take_first(self, stage: Stage, other: Learner) -> Mapping[str, float]:
        """`learn` of the first stage, with what `other` has made of it instead of training. Returns figures.

        Raises:
            UserError: the two do not train the same thing in their first stage.
        """
