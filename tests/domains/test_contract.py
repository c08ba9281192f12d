"""The contract of every method that learns domains: the laws of `everseg.testing`, and some more."""

from __future__ import annotations

from typing import Any

import pytest

from everseg.files import state_bytes
from everseg.methods import METHODS as ALL
from everseg.methods import find
from everseg.testing import Law, laws
from everseg.types import NoScratch

METHODS = tuple(m for m in ALL if getattr(find(m), "learns", "domains") == "domains")
LAWS = {method: laws(method) for method in METHODS}
pytestmark = pytest.mark.usefixtures("micro")
CHIEF = ("samcl", "regcl")
COSTLY = ("stages_of_hardly_any_images_are_learned", "memory_does_not_grow_with_the_images")
"""Laws that take a third of the time; those of methods but the chief ones follow with the slow tests."""
TRAINS = tuple(m for m in METHODS if m != "zero-shot")


def cases(quick: bool) -> list[object]:
    return [
        pytest.param(law, id=f"{law}-{method}")
        for method, found in LAWS.items()
        for law in found
        if (method in CHIEF or law.name not in COSTLY) == quick
    ]


@pytest.mark.parametrize("law", cases(quick=True))
def test_law(law: Law) -> None:
    law()


@pytest.mark.slow
@pytest.mark.parametrize("law", cases(quick=False))
def test_costly_law(law: Law) -> None:
    law()


@pytest.mark.parametrize("method", METHODS)
def test_the_state_is_small_and_replays_nothing(method: str) -> None:
    state = LAWS[method][0].trial.two.state_dict()
    assert state_bytes(state) < 70_000
    assert not {"memory", "pool"} & set(state)
    assert bool(state) == (method in TRAINS)


@pytest.mark.parametrize("method", TRAINS)
def test_figures_tell_of_the_training(method: str) -> None:
    trial: Any = LAWS[method][0].trial
    figures = trial.fresh().learn(trial.stage(0, 4), NoScratch())
    assert figures["steps"] == 2
    assert figures["trainable_parameters"] > 0
