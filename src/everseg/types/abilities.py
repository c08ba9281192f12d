"""What only some learners can do: protocols of one or two methods each, asked for by `isinstance`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from everseg.types import Going, Learner, Stage, State

if TYPE_CHECKING:
    from pathlib import Path

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

    exact: whether the learner is what it would be had it never learned the domain.
    statement: that, or why it is not, in a sentence for people.
    remaining: sha256 of what is left of each other domain.
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


@dataclass(frozen=True)
class Later:
    """How a learner continues with later images of a domain that it knows.

    of: the domain.
    chosen: what they are segmented with.
    scores: mean IoU on held-out images with each choice.
    images: held-out images.
    moved: share of what is remembered of the domain that now gets another module.
    """

    of: str
    chosen: Going
    scores: Mapping[Going, float]
    images: int
    moved: float


@runtime_checkable
class ChoosesLater(Protocol):
    """An ability: to choose for later images of a known domain (`Stage.later_of`) whether its module is used
    as it is, tuned on, or a new one trained, by held-out images of them."""

    def chosen_later(self) -> Later | None:
        """What was chosen in the last learned stage; None where there was nothing to choose."""


@runtime_checkable
class Exports(Protocol):
    """An ability: to hand out the one adapter through which every image goes, whatever its form."""

    def exports(self) -> nn.Module: ...


@runtime_checkable
class WritesModel(Protocol):
    """An ability: to write what was learned as files that others load without everseg."""

    def write_model(self, form: str, folder: Path, classes: Sequence[str], side: int) -> Mapping[str, Any]:
        """Write to an empty folder; returns what a manifest says of it.

        form: "onnx" or "torch".
        classes: names of the channels.
        side: of the images where only one size is possible.

        Raises:
            UserError: it cannot be written so.
        """


@runtime_checkable
class KnowsNatural(Protocol):
    """An ability: to know natural images, on which the untouched base is right, from the first stage on."""

    def natural_images(self) -> State | None:
        """Their statistics, `Promptable.natural` of the base; None where the learner began without any."""


@runtime_checkable
class LearnsAllAtOnce(Protocol):
    """An ability, or a need: to be given all stages' data as one stage. For the upper bound only."""

    all_at_once: bool


@runtime_checkable
class TakesFirstStage(Protocol):
    """An ability: to continue from the first stage as another learner has trained it."""

    def take_first(self, stage: Stage, other: Learner) -> Mapping[str, float]:
        """`learn` of the first stage, with what `other` has made of it instead of training. Returns figures.

        Raises:
            UserError: the two do not train the same thing in their first stage.
        """
