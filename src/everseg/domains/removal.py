"""Take one stage out of a learner with a module per domain and a selector, as if it had never learned it.

The stage's module and what is remembered of its images are dropped, and the selector is trained again on the
rest, one stage after another with the same random draws. No image is needed.
"""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import nn

from everseg.domains.remembered import Remembered
from everseg.domains.selector import ModuleSelector, SelectorConfig, draw_rows, train_selector
from everseg.errors import UserError
from everseg.files import sha256_tensors
from everseg.types import NATURAL
from everseg.types.abilities import Forgotten


class Selects(Protocol):
    """A learner that selects one of several modules per image; only the members used here."""

    selector: ModuleSelector
    remembered: Remembered
    later: dict[str, str]

    @property
    def modules(self) -> dict[str, Any]: ...

    @property
    def config(self) -> Any: ...

    def fresh_selector(self) -> ModuleSelector: ...
    def draw(self, name: str) -> torch.Generator: ...


def forget_stage(learner: Selects, domain: str) -> Forgotten:
    """Forget a stage that was learned.

    Raises:
        UserError: something learned later builds on it, or what it takes was not kept. Nothing is changed
            then.
    """
    _check_nothing_later(learner, domain)
    remembered, counts = learner.remembered, learner.remembered.counts
    # A part of a class is not a class, and the count of an imported domain is unknown.
    stages = [*(name for name in learner.selector.names if name not in counts), *counts]
    others = [name for name in stages if name not in (domain, NATURAL)]
    if bare := [name for name in others if name not in remembered]:
        raise UserError(
            f"the buffer holds no embeddings of {', '.join(bare)}, from which the selector would be "
            "trained again; import the modules again with --stream and their training images"
        )
    known = all(name in counts for name in others)
    learner.modules.pop(domain, None)
    learner.later.pop(domain, None)
    remembered.drop(domain)
    _select_anew(learner, others)
    modules: dict[str, nn.Module] = learner.modules
    remaining = {name: sha256_tensors(dict(module.state_dict())) for name, module in modules.items()}
    gone = (
        f"the module of {domain!r}, its embeddings and the statistics by which its images were known are "
        "deleted, the other modules are unchanged to the bit, and the selector was learned again from the "
        "other domains' embeddings"
    )
    if known:
        statement = f"{gone}: the run is what it would be had it never learned {domain!r}"
    else:
        statement = (
            f"{gone}, but it was imported or learned by an earlier version, so it is not the one that "
            "would be had the domain never been"
        )
    return Forgotten(known, statement, remaining)


def _check_nothing_later(learner: Selects, domain: str) -> None:
    of = learner.later.get(domain, domain)
    later = [name for name, whose in learner.later.items() if whose == of]
    after = later[later.index(domain) + 1 if domain in later else 0 :]
    if after:
        raise UserError(
            f"{after[-1]!r} was learned later, from images of {of!r} as well, and builds on "
            f"{domain!r}; forget {after[-1]!r} first"
        )


def _select_anew(learner: Selects, stages: list[str]) -> None:
    """Learn the selector from what is remembered of these stages, one after another."""
    remembered, config = learner.remembered, learner.config.selector
    assert isinstance(config, SelectorConfig)
    learner.selector = learner.fresh_selector()
    for place, name in enumerate(stages):
        draw = learner.draw(name)
        lessons = remembered.lessons({NATURAL, *stages[: place + 1]})
        draw_rows(remembered.counts.get(name, len(lessons.get(name, ()))), config.size, draw)
        learner.selector.grow([remembered.part_of.get(name, name)], draw)
        train_selector(learner.selector, lessons, config, draw)
