"""The trial and the laws of methods that learn domains."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from everseg.data.synthetic.domains import SyntheticDomain
from everseg.files import sha256_tensors
from everseg.testing.bases import micro_base
from everseg.testing.laws import bare, remembers
from everseg.testing.trial import Trial, flat, tensors, written
from everseg.types import MERGED, RESERVED, PromptPrediction, Prompts, PromptSample, Query, Route, Stage

NAMES = ("lesions", "cracks")
MODULES = ("modules", "adapter")
"""Keys of a state under which a method keeps what it has trained for prediction."""


def micro_stage(index: int, count: int = 8, *, background: bool = False) -> Stage:
    """A painted domain of 64 x 64 pixels: "lesions" (index 0), "cracks" (1), or natural images as background.
    `count` images to train on, three to test."""
    name = "natural" if background else NAMES[index]
    train: Sequence[PromptSample] = SyntheticDomain(name, count, size=64) if count else ()
    return Stage(index, name, train, SyntheticDomain(name, 3, size=64, split="test"), background=background)


class DomainTrial(Trial):
    """Two painted domains on the micro SAM."""

    small = ("tune.fit.epochs=2", "tune.fit.batch=4", "selector.size=6", "selector.epochs=3")
    batch_gap = 1e-4
    next_count = 6

    def make_base(self) -> Any:
        return micro_base()

    def weights(self) -> nn.Module:
        model: nn.Module = self.base.model
        return model

    def stage(self, index: int, count: int | None = None) -> Stage:
        return micro_stage(index, 8 if count is None else count)

    def questions(self, keyed: bool = False) -> list[Query]:
        """Clicks in both domains, with the images' keys or without; two boxes; an image that is narrow."""
        samples: list[PromptSample] = [sample for i in range(2) for sample in self.stage(i).test]
        boxes = torch.tensor([[5.0, 5.0, 40.0, 50.0], [1.0, 2.0, 9.0, 9.0]])
        narrow = torch.full((3, 100, 20), 7, dtype=torch.uint8)
        return [
            *[Query(s.image, s.prompts, s.key * keyed) for s in samples],
            Query(samples[0].image, Prompts(boxes=boxes)),
            Query(narrow, Prompts(torch.ones(1, 1, 2), torch.ones(1, 1).long())),
        ]

    def check_shape(self, query: Query, prediction: PromptPrediction) -> None:
        objects, size = len(query.prompts), tuple(query.image.shape[1:])
        kind = type(prediction).__name__
        assert isinstance(prediction, PromptPrediction), f"{kind} is not a PromptPrediction"
        logits = prediction.logits
        assert logits.dtype == torch.float32, f"logits are {logits.dtype}, not float32"
        counts = logits.shape[0], prediction.iou.shape[0]
        assert counts == (objects, objects), f"{objects} objects, {counts} logits and IoUs"
        assert prediction.size == size, f"an image of {size}, a prediction of {prediction.size}"
        masks = tuple(prediction.masks().shape)
        assert masks == (objects, *size), f"masks are {masks}, not {(objects, *size)}"
        assert torch.isfinite(logits).all(), "logits are not finite"
        assert not logits.requires_grad, "logits require a gradient"
        route = prediction.route
        if route is not None:
            assert isinstance(route, Route), f"the route is a {type(route).__name__}"
            known = (*NAMES, MERGED, *RESERVED)
            assert route.name in known, f"the route {route.name!r} is none of the stages {', '.join(NAMES)}"
            assert 0 <= route.probability <= 1, f"the route's probability is {route.probability}"

    def equal(self, ours: PromptPrediction, theirs: PromptPrediction) -> bool:
        return (
            torch.equal(ours.logits, theirs.logits)
            and torch.equal(ours.iou, theirs.iou)
            and ours.route == theirs.route
            and ours.size == theirs.size
        )

    def gap(self, ours: PromptPrediction, theirs: PromptPrediction) -> float:
        """The largest difference of two logits."""
        if ours.logits.shape != theirs.logits.shape:
            return float("inf")
        return float((ours.logits - theirs.logits).abs().max())

    def untouched(self) -> list[PromptPrediction]:
        """What the base answers by itself."""
        from everseg.domains.methods.zero_shot import ZeroShot

        return ZeroShot(self.base).predict(self.questions())


def turned_away(prediction: PromptPrediction) -> bool:
    """Whether the method says that it left the image to the untouched base."""
    return prediction.route is not None and prediction.route.name in RESERVED


def before_it_has_learned_it_predicts_as_the_base_does(trial: DomainTrial) -> None:
    for ours, base in zip(trial.ask(trial.fresh()), trial.untouched(), strict=True):
        assert torch.equal(ours.logits, base.logits), "a fresh learner does not predict what the base does"


def learning_changes_what_it_predicts(trial: DomainTrial) -> None:
    """Exactly where something is remembered, and but for images that it says are outside what it learned."""
    found = trial.ask(trial.two)
    both = zip(found, trial.untouched(), strict=True)
    changed = [not torch.equal(ours.logits, base.logits) for ours, base in both]
    if remembers(trial):
        used = [same for same, ours in zip(changed, found, strict=True) if not turned_away(ours)]
        assert used, "after two stages every image is turned away"
        assert all(used), "after two stages some predictions are those of the untouched base"
    else:
        assert not any(changed), (
            "the state holds nothing, and predictions are not those of the untouched base"
        )


def it_knows_no_more_than_the_query(trial: DomainTrial) -> None:
    """Image and prompts decide; the key, which finds cached features, does not."""
    bare_of_keys = trial.ask(trial.two)
    gap = trial.largest_gap(bare_of_keys, trial.ask(trial.two, trial.questions(keyed=True)))
    assert gap <= 1e-2, (
        f"with the images' keys predictions differ by {gap:g}"
    )  # Cached features: half precision.
    again = trial.all_equal(trial.ask(trial.two), bare_of_keys)
    assert again, "what was asked before changes a prediction"


def the_state_holds_no_pixels(trial: DomainTrial) -> None:
    """Outside what is replayed."""
    for name, value in tensors(bare(trial.two.state_dict())).items():
        assert value.dtype != torch.uint8, f"{name} is of type uint8, as pixels are"


def a_background_stage_leaves_the_modules_alone(trial: DomainTrial) -> None:
    """The untouched base is right on natural images: a method may learn to recognise them, no more."""
    learner = trial.loaded(written(trial.one))
    before = _modules(learner.state_dict())
    trial.learn(learner, micro_stage(1, background=True))
    assert _modules(learner.state_dict()) == before, f"a background stage changed {' or '.join(MODULES)}"
    assert len(trial.ask(learner)) == len(trial.questions()), (
        "after a background stage predictions are missing"
    )


def _modules(state: Any) -> tuple[str, list[str]]:
    held = {kind: state[kind] for kind in MODULES if kind in state}
    return sha256_tensors(tensors(held)), list(flat(held))


LAWS = (
    before_it_has_learned_it_predicts_as_the_base_does,
    learning_changes_what_it_predicts,
    it_knows_no_more_than_the_query,
    the_state_holds_no_pixels,
    a_background_stage_leaves_the_modules_alone,
)
