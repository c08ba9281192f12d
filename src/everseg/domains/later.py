"""Later images of a domain that is known already: which module they are segmented with.

    known    the domain's module as it is
    tuned    a copy of it that was tuned on with the new images, beside it
    new      a module of their own, beside it

Each choice is tried out on images that are held out of the new ones: on them the learner predicts as it would
with that choice, its routing included. The best one is kept, of equally good ones the first. A module that is
there never changes, whatever is chosen, so that earlier domains can lose by routing alone; how much of the
domain's images would be routed to another module is measured on what is remembered of them.

This is ours.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Protocol, Self, TypeVar, get_args

import torch

from everseg.data.held_out import hold_out
from everseg.distributed import world
from everseg.domains.cache import FeatureCache
from everseg.domains.prepare import Prepared
from everseg.domains.remembered import Remembered
from everseg.domains.scoring import ScoreConfig, score
from everseg.domains.tune import TuneConfig
from everseg.models.promptable.protocol import TAP, Features, Promptable
from everseg.progress import remark
from everseg.types import Going, PromptPrediction, Query, Route, Scratch, Stage
from everseg.types.abilities import Later

SHARE = 0.25
"""Share of the new images that is held out to choose by."""
CHOICES: tuple[Going, ...] = get_args(Going)


class LaterConfig(Protocol):
    """Fields that the configuration of a learner with later images has."""

    @property
    def tune(self) -> TuneConfig: ...


class Selects(Protocol):
    """A learner that selects one of several modules per image; only the members used here."""

    base: Promptable
    cache: FeatureCache
    later: dict[str, str]
    remembered: Remembered

    @property
    def config(self) -> LaterConfig: ...

    @property
    def modules(self) -> Mapping[str, object]: ...

    def copy(self) -> Self: ...
    def prepare(self, stage: Stage) -> Prepared: ...
    def train(
        self, stage: Stage, prepared: Prepared, scratch: Scratch, start: str = ""
    ) -> dict[str, float]: ...
    def take_in(self, stage: Stage, prepared: Prepared) -> dict[str, float]: ...
    def route(self, features: Features) -> list[Route]: ...
    def predict(self, queries: Sequence[Query]) -> list[PromptPrediction]: ...


L = TypeVar("L", bound=Selects)


def go_on(learner: L, stage: Stage, scratch: Scratch) -> tuple[L, dict[str, float], Later]:
    """Continue with later images of `stage.later_of`, of which the learner has a module.

    Returns: the learner that has learned them, the figures of that, and what was chosen. `learner` itself
    stays as it is.
    """
    tried, scores = try_out(learner, stage, scratch)
    chosen = best(scores)
    found, figures = tried[chosen]
    before, after = (_served(one, learner, stage.later_of) for one in (learner, found))
    moved = sum(a != b for a, b in zip(before, after, strict=True)) / max(1, len(before))
    images = len(held_out(stage)[1])
    if world().main:
        told = ", ".join(f"{name} {scores[name]:.3f}" for name in CHOICES)
        remark(
            f"{stage.name}: IoU on {images} held-out later images of {stage.later_of}, by module: {told}; "
            f"chosen: {chosen}"
        )
    return found, figures, Later(stage.later_of, chosen, scores, images, moved)


def best(scores: Mapping[Going, float]) -> Going:
    """The choice with the highest score, of equally good ones the one that changes least."""
    return max(CHOICES, key=lambda name: (scores[name], -CHOICES.index(name)))


def held_out(stage: Stage) -> tuple[Stage, Sequence[object]]:
    """The stage with what is trained on, and the images to choose by."""
    kept, held = hold_out(stage.train, SHARE, "later")
    return replace(stage, train=kept), held


def try_out(
    learner: L, stage: Stage, scratch: Scratch
) -> tuple[dict[Going, tuple[L, dict[str, float]]], dict[Going, float]]:
    """The learner with each choice and the figures of its training, and the mean IoU on the held-out
    images."""
    taught, held = held_out(stage)
    prepared = learner.prepare(taught)
    tried: dict[Going, tuple[L, dict[str, float]]] = {}
    scores: dict[Going, float] = {}
    how = ScoreConfig(workers=learner.config.tune.fit.workers)
    for choice in CHOICES:
        candidate, figures = learner.copy(), {}
        candidate.cache = prepared.cache
        if choice != "known":
            start = _nearest(learner, stage.later_of, prepared) if choice == "tuned" else ""
            figures = candidate.train(taught, prepared, scratch, start)
        figures |= candidate.take_in(taught, prepared)
        told = score(candidate.predict, held, stage.name, how)  # type: ignore[arg-type]  # of samples
        tried[choice] = candidate, figures
        scores[choice] = sum(s.values["iou"] for s in told) / max(1, len(told))
    return tried, scores


def _nearest(learner: Selects, domain: str, prepared: Prepared) -> str:
    """The module of the domain, among those of earlier later images, that most of the new ones are given."""
    own = [domain, *(s for s, of in learner.later.items() if of == domain and s in learner.modules)]
    routes = _routes(learner, prepared.embeddings)
    return max(own, key=lambda name: (routes.count(name), -own.index(name)))


def _served(learner: Selects, knows: Selects, domain: str) -> list[str]:
    """The module that is used for what `knows` remembers of a domain."""
    return _routes(learner, knows.remembered.lessons()[domain])


def _routes(learner: Selects, e_BD: torch.Tensor) -> list[str]:
    with torch.inference_mode():
        routes = learner.route({TAP: e_BD.to(learner.base.device, torch.float32)[:, None, None]})
    return [route.name if route.name in learner.modules else "" for route in routes]
