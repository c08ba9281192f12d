"""A head that reads the backbone's first stage, too, in every method that learns classes."""

from __future__ import annotations

import copy

import pytest
import torch

from everseg.errors import UserError
from everseg.methods import METHODS as ALL
from everseg.methods import find
from everseg.testing import micro_image, micro_step
from everseg.testing.classes import ClassTrial

METHODS = tuple(m for m in ALL if getattr(find(m), "learns", "domains") == "classes")
SHORT = (
    *("tune.first.epochs=1", "tune.later.epochs=1"),
    # Decay alone would move weights that have no gradient.
    *("tune.first.weight_decay=0", "tune.later.weight_decay=0"),
)

pytestmark = pytest.mark.usefixtures("micro_backbone")


@pytest.mark.parametrize("method", [m for m in METHODS if m != "joint-classes"])
def test_every_method_trains_it_and_keeps_it(method: str) -> None:
    trial = ClassTrial(find(method), ("tune.fine=true", *SHORT))
    learner = trial.taught(micro_step(0), micro_step(1))
    first = trial.fresh().model.head.early[0].weight
    assert not torch.equal(learner.model.head.early[0].weight, first), "the new branch was not trained"
    again = trial.fresh()
    again.load_state_dict(copy.deepcopy(learner.state_dict()))
    query = micro_image(50, (1, 3)).query()
    assert torch.equal(again.scores(query), learner.scores(query))
    assert again.scores(query).shape == (learner.model.channels, *query.image.shape[1:])


def test_a_first_step_with_the_other_head_is_refused() -> None:
    fine = ClassTrial(find("eir"), ("tune.fine=true", *SHORT)).taught(micro_step(0))
    with pytest.raises(UserError, match=r"with tune\.fine=true, .* add --set tune\.fine=true"):
        ClassTrial(find("dkd"), SHORT).fresh().take_first(micro_step(0), fine)
