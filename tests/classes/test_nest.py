"""NeST's start of new classifiers: its formulas by hand, what it changes and what it leaves alone."""

from __future__ import annotations

import copy
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from everseg.classes import nest
from everseg.methods import METHODS as ALL
from everseg.methods import find
from everseg.models.semantic.segmenter import Output
from everseg.testing import micro_step
from everseg.testing.classes import ClassTrial
from everseg.types import NoScratch

METHODS = tuple(m for m in ALL if getattr(find(m), "learns", "domains") == "classes" and m != "joint-classes")

pytestmark = pytest.mark.usefixtures("micro_backbone")


class Fixed:
    """An old model that answers with given features, (B, D, h, w), none below zero."""

    def __init__(self, weight_OD: torch.Tensor, features: torch.Tensor) -> None:
        self.w, self.features, self.device = weight_OD, features, torch.device("cpu")

    def weight(self) -> torch.Tensor:
        return self.w

    def pixels(self, images: torch.Tensor) -> torch.Tensor:
        return images

    def __call__(self, pixels: torch.Tensor) -> Output:
        logits = torch.einsum("od,bdhw->bohw", self.w, self.features)
        return Output(logits, self.features, (), (pixels.shape[-2], pixels.shape[-1]))


def test_importance_is_the_mean_over_the_pixels_of_a_class() -> None:
    """Pixel by pixel, as the paper writes it: the softmax of the row sums of H, where H is above zero."""
    draw = torch.Generator().manual_seed(0)
    w = torch.randn(3, 5, generator=draw)
    features = torch.randn(2, 5, 4, 4, generator=draw).relu()
    labels = torch.randint(0, 5, (2, 4, 4), generator=draw).to(torch.uint8)
    batch = SimpleNamespace(images=torch.zeros(2, 3, 4, 4), labels=labels)
    found = nest.importance(Fixed(w, features), [batch], range(3, 6))  # type: ignore[arg-type]
    for place, channel in enumerate((3, 4)):
        total, count = torch.zeros(3, 5), 0
        for b, y, x in (labels == channel).nonzero().tolist():
            h = w * features[b, :, y, x]
            total += (h > 0).float() * h.sum(1).softmax(0)[:, None]
            count += 1
        assert torch.allclose(found[place], total / count, atol=1e-6)
    assert torch.equal(found[2], torch.full((3, 5), 1 / 3)), "a class that is nowhere counts all alike"


def test_a_mix_is_the_weighted_sum_of_old_classifiers() -> None:
    draw = torch.Generator().manual_seed(1)
    m, w = torch.rand(2, 3, 4, generator=draw), torch.randn(3, 4, generator=draw)
    mix = nest.Mix(m, -0.5)
    with torch.no_grad():
        for c in range(2):
            p = m[c].sum(1).softmax(0)
            assert torch.allclose(mix.weight(w)[c], sum(p[o] * m[c, o] * w[o] for o in range(3)), atol=1e-6)
        assert torch.equal(mix.background(w), w[0]) and mix.bias.tolist() == [-0.5, -0.5]


def learned(method: str, *settings: str) -> tuple[Any, Any]:
    """A learner after its first step, and with later settings at the start of its second."""
    trial = ClassTrial(find(method), ("tune.later.epochs=0", *settings))
    one = trial.taught(micro_step(0))
    two = trial.fresh()
    two.load_state_dict(copy.deepcopy(one.state_dict()))
    two.learn(micro_step(1), NoScratch())
    return one, two


@pytest.mark.parametrize("method", METHODS)
def test_every_method_starts_from_it(method: str) -> None:
    """It alone moves the newest classifier, with a softmax the background's as well, and nothing else."""
    one, two = learned(method, "tune.nest=2", "tune.later.lr=0.01")
    before, after = one.model.state_dict(), two.model.state_dict()
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert moved == ({"classifiers.0.weight"} if two.model.rule == "softmax" else set())
    plain = learned(method)[1].model.state_dict()
    assert not torch.equal(plain["classifiers.2.weight"], after["classifiers.2.weight"])
    again = learned(method, "tune.nest=2", "tune.later.lr=0.01")[1].model.state_dict()
    assert torch.equal(again["classifiers.2.weight"], after["classifiers.2.weight"])


def test_it_says_more_of_the_new_class_than_the_background_does() -> None:
    """Where the new class is, its channel has a higher share than with MiB's start."""

    def share(found: Any) -> float:
        model, total, count = found.model.eval(), 0.0, 0
        for sample in micro_step(1).train:
            with torch.no_grad():
                p = model(model.pixels(sample.image[None])).full().softmax(1)[0, 3]
            mine = sample.labels == 3
            total, count = total + float(p[mine].sum()), count + int(mine.sum())
        return total / count

    plain = share(learned("mib")[1])
    assert share(learned("mib", "tune.nest=20", "tune.later.lr=0.05")[1]) > 1.2 * plain
