"""Negative flips by hand: good once, bad now, whatever the mean does."""

import math

import pytest

from everseg.results import ImageScore, Results, negative_flips


def scores(**domains: list[float]) -> list[ImageScore]:
    return [
        ImageScore(name, f"{i}.png", {"iou": value, "mae": 1 - value})
        for name, values in domains.items()
        for i, value in enumerate(values)
    ]


EMPTY = Results({"iou": False, "mae": True})


def grown() -> Results:
    """Of a, one of four images turns bad and two turn good, so that its mean rises; b is learned last."""
    found = EMPTY.with_baseline(scores(a=[0.9, 0.1, 0.1, 0.1], b=[0.6, 0.6], z=[0.5, 0.7, 0.2]))
    found = found.with_stage("a", scores(a=[0.6, 0.4, 0.49, 0.5], b=[0.1, 0.1]))
    return found.with_stage("b", scores(a=[0.49, 0.9, 0.9, 0.5], b=[0.8, 0.9], z=[0.49, 0.7, 0.1]))


def test_flips_since_a_domain_was_learned() -> None:
    found = negative_flips(grown(), "learned")
    assert list(found) == ["a", "b"], "a domain that was never learned has no stage of its own"
    assert (found["a"].flipped, found["a"].rate) == (("0.png",), 0.25)
    assert (found["b"].flipped, found["b"].rate) == ((), 0.0), "what came last cannot have flipped"
    matrix = grown().matrix("iou")
    assert matrix.last[0] > matrix.values[0, 0], "the mean rises all the same"


def test_flips_to_the_base_count_unseen_domains_too() -> None:
    found = negative_flips(grown(), "base")
    assert {domain: each.flipped for domain, each in found.items()} == {
        "a": ("0.png",),
        "b": (),
        "z": ("0.png",),
    }
    assert found["z"].rate == pytest.approx(1 / 3), "of all images, as in the paper, not of the good ones"


def test_what_counts_as_good_can_be_chosen() -> None:
    """From that value on an image is good, and just below it is bad."""
    assert negative_flips(grown(), "learned", good=0.6)["a"].flipped == ("0.png",)
    assert negative_flips(grown(), "learned", good=0.61)["a"].flipped == ()
    assert negative_flips(grown(), "learned", good=0.49)["a"].flipped == ()


def test_other_images_say_nothing_about_a_flip() -> None:
    again = grown().retested(scores(a=[0.1]))
    assert set(negative_flips(again, "learned")) == {"b"} and set(negative_flips(again, "base")) == {"b", "z"}
    bare = EMPTY.with_stage("a", cells={"a": {"iou": 0.9, "mae": 0.1}})
    for results in (
        bare,
        EMPTY,
        Results({"mae": True}).with_stage("a", [ImageScore("a", "0", {"mae": 0.5})]),
    ):
        assert negative_flips(results, "learned") == negative_flips(results, "base") == {}


def test_no_images_are_no_rate() -> None:
    from everseg.results import Flips

    assert math.isnan(Flips((), ()).rate)
