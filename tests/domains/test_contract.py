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
TRAINS = tuple(m for m in METHODS if m != "zero-shot")


@pytest.mark.parametrize("law", [pytest.param(law, id=f"{law}-{m}") for m in METHODS for law in LAWS[m]])
def test_law(law: Law) -> None:
    law()


@pytest.mark.parametrize("method", METHODS)
def test_the_state_is_small_and_replays_nothing(method: str) -> None:
    state = LAWS[method][0].trial.two.state_dict()
    assert state_bytes(state) < 60_000
    assert not {"memory", "pool"} & set(state)
    assert bool(state) == (method in TRAINS)


@pytest.mark.parametrize("method", TRAINS)
def test_figures_tell_of_the_training(method: str) -> None:
    trial: Any = LAWS[method][0].trial
    figures = trial.fresh().learn(trial.stage(0, 4), NoScratch())
    assert figures["steps"] == 2
    assert figures["trainable_parameters"] > 0
