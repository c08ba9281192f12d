"""STAR: prototypes by hand, what is drawn from them, the weights of its loss, what a step leaves alone."""

from __future__ import annotations

import copy
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from everseg.classes.methods.star import STAR, Plan
from everseg.classes.prototypes import Prototypes, Sums
from everseg.models.semantic.segmenter import Output
from everseg.testing import micro_step
from everseg.testing.classes import ClassTrial
from everseg.types import NoScratch

pytestmark = pytest.mark.usefixtures("micro_backbone")


def summed(features: torch.Tensor, labels: torch.Tensor, classes: range) -> Sums:
    sums = Sums(classes, features.shape[1], torch.device("cpu"))
    for one in range(len(features)):  # In pieces, as batches come.
        sums.add(features[one : one + 1], labels[one : one + 1])
    return sums


def test_a_prototype_is_made_as_published() -> None:
    """Mean of the normalised features, normalised; deviations around it; lengths."""
    draw = torch.Generator().manual_seed(0)
    features = torch.rand(2, 6, 5, 5, generator=draw)
    labels = torch.randint(0, 4, (2, 5, 5), generator=draw)
    kept = Prototypes(6, torch.device("cpu"))
    kept.append(summed(features, labels, range(1, 4)))
    for place, channel in enumerate((1, 2, 3)):
        mine = torch.stack([features[b, :, y, x] for b, y, x in (labels == channel).nonzero().tolist()])
        unit = mine / mine.norm(dim=1, keepdim=True)
        direction = unit.sum(0) / unit.sum(0).norm()
        assert torch.allclose(kept.direction[place], direction, atol=1e-6)
        spread = (unit - direction).square().mean(0).sqrt()
        assert torch.allclose(kept.spread[place], spread, atol=1e-5)
        lengths = mine.norm(dim=1)
        expected = [float(lengths.mean()), float(lengths.std(correction=0))]
        assert kept.length[place].tolist() == pytest.approx(expected, abs=1e-4)
    assert kept.number.tolist() == [int((labels == c).sum()) for c in (1, 2, 3)]


def test_it_takes_two_thousand_bytes_for_a_class_of_256_features() -> None:
    kept = Prototypes(256, torch.device("cpu"))
    kept.append(summed(torch.rand(1, 256, 4, 4), torch.ones(1, 4, 4).long(), range(1, 21)))
    assert kept.nbytes == 20 * 4 * (2 * 256 + 3) + 4


def test_what_is_drawn_has_the_moments_that_were_kept() -> None:
    torch.manual_seed(0)
    features = torch.rand(4, 8, 20, 20) + torch.arange(8)[:, None, None] / 4
    kept = Prototypes(8, torch.device("cpu"))
    kept.append(summed(features, torch.ones(4, 20, 20).long(), range(1, 3)))
    drawn = kept.draw([20_000, 0])
    assert drawn.shape == (20_000, 8)
    direction = F.normalize(F.normalize(drawn, dim=1).mean(0), dim=0)
    assert torch.allclose(direction, kept.direction[0], atol=0.01)
    assert float(drawn.norm(dim=1).mean()) == pytest.approx(float(kept.length[0, 0]), rel=0.03)


def test_replay_and_background_weigh_as_often_as_they_come() -> None:
    """(1 told + n/P fake + e n_b/P again) / (1 + n/P + e n_b/P), over P places."""
    draw = torch.Generator().manual_seed(2)
    logits = torch.randn(2, 4, 3, 3, generator=draw)
    background = torch.rand(2, 3, 3, generator=draw) < 0.5
    newest = torch.nn.Conv2d(5, 1, 1)
    kept = Prototypes(5, torch.device("cpu"))
    kept.append(summed(torch.rand(1, 5, 4, 4, generator=draw), torch.ones(1, 4, 4).long(), range(1, 3)))
    model = SimpleNamespace(classifiers=[newest], new=lambda: range(3, 4))
    learner: Any = SimpleNamespace(model=model, prototypes=kept)
    plan = Plan(torch.tensor([3.0, 1.0]), 0.4, torch.zeros(3))
    out = Output(logits, torch.zeros(2, 5, 3, 3), (), (3, 3))
    torch.manual_seed(5)
    found = STAR._balanced(learner, torch.tensor(2.0), out, background, plan)
    torch.manual_seed(5)
    torch.rand(2)
    z = F.conv2d(kept.draw([6, 2])[:, :, None, None], newest.weight, newest.bias)
    fake, again = F.softplus(z).mean(), F.softplus(logits[:, 3][background]).mean()
    a, b = 8 / 18, 0.4 * int(background.sum()) / 18
    assert float(found.detach()) == pytest.approx(
        float(((2 + a * fake + b * again) / (1 + a + b)).detach()), rel=1e-5
    )


@pytest.mark.parametrize("overlapped", [True, False])
def test_counts_go_on_from_step_to_step(overlapped: bool) -> None:
    trial = ClassTrial(STAR, (f"overlapped={overlapped}".lower(),))
    learner = trial.taught(micro_step(0))
    before = copy.deepcopy(learner.prototypes)
    assert before.number.min() > 0 and before.background > 0
    learner.learn(micro_step(1), NoScratch())
    after = learner.prototypes
    assert torch.equal(after.direction[:2], before.direction) and len(after) == 3 and after.number[2] > 0
    if overlapped:
        assert torch.equal(after.number[:2], before.number)
        assert float(after.background) >= 0.99 * float(before.background)
    else:
        assert float((after.number[:2] - before.number).min()) >= 0
        assert float(after.background) >= float(before.background)


def test_old_classifiers_rest_and_old_prototypes_are_replayed() -> None:
    learner = ClassTrial(STAR).taught(micro_step(0))
    kept = {name: value.clone() for name, value in learner.model.state_dict().items()}
    figures = learner.learn(micro_step(1), NoScratch())
    now = learner.model.state_dict()
    moved = {name for name in kept if not torch.equal(kept[name], now[name])}
    assert moved and not any(name.startswith("classifiers") for name in moved)
    assert figures["prototype_bytes"] == learner.prototypes.nbytes and figures["memory_bytes"] > 0
    assert all(p.requires_grad for p in learner.model.classifiers.parameters())
