"""Plasticity, generalisation, insensitivity and flips: by hand, and every gap in a sentence."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial

import pytest

from everseg.results import (
    ImageScore,
    Interval,
    Results,
    Summary,
    as_text,
    further_lines,
    further_table,
)
from everseg.results.further import MEANINGS
from everseg.results.further import further as whole

further = partial(whole, samples=100)

EMPTY = Results({"iou": False, "mae": True})


def scores(moved: float = math.nan, **domains: list[float]) -> list[ImageScore]:
    return [
        ImageScore(name, f"{i}.png", {"iou": value, "mae": 1 - value}, insensitivity=moved * (i + 1))
        for name, values in domains.items()
        for i, value in enumerate(values)
    ]


def grown(baseline: bool = True, moved: float = 0.2) -> Results:
    """Two domains learned, one met unseen; z comes after the last stage only."""
    found = EMPTY
    if baseline:
        found = found.with_baseline(scores(0.1, a=[0.4, 0.4], b=[0.5, 0.3], z=[0.7, 0.7]))
    found = found.with_stage("a", scores(a=[0.8, 0.6], b=[0.5, 0.4]))
    return found.with_stage("b", scores(moved, a=[0.4, 0.6], b=[0.9, 0.7], z=[0.6, 0.4]))


ALONE: Summary = {"alone": {"a": {"iou": 0.7, "mae": 0.3}, "b": {"iou": 0.9, "mae": 0.1}}}


def test_by_hand() -> None:
    found = further(grown(), "iou", ALONE)
    value = {name: figure.estimate for name, figure in found.figures.items()}
    assert list(value) == list(MEANINGS)
    # a: 0.7 - 0.7, b: 0.8 - 0.9.
    assert value["plasticity"] == pytest.approx(-0.05)
    # b before its stage: 0.45 - 0.4; z: 0.5 - 0.7.
    assert value["generalisation"] == pytest.approx((0.05 - 0.2) / 2)
    assert value["insensitivity"] == pytest.approx(0.3) and found.base == pytest.approx(
        {"insensitivity": 0.15}
    )
    assert value["flips"] == pytest.approx((0.5 + 0.0) / 2)
    assert value["flips_to_base"] == pytest.approx((0.0 + 0.0 + 0.5) / 3), "a and b learned, z never"
    assert found.missing == {}
    assert found.domains["z"] == pytest.approx(
        {"generalisation": -0.2, "insensitivity": 0.3, "base_insensitivity": 0.15, "flips_to_base": 0.5}
    )
    assert (
        found.domains["a"]["plasticity"] == pytest.approx(0.0) and "generalisation" not in found.domains["a"]
    )


def test_an_error_has_the_same_differences() -> None:
    """Plasticity and generalisation: positive is better for every metric. Masks are good or bad by IoU."""
    iou, mae = (further(grown(), metric, ALONE).figures for metric in ("iou", "mae"))
    for name in MEANINGS:
        assert mae[name].estimate == pytest.approx(iou[name].estimate), name


def test_intervals_hold_the_estimate() -> None:
    found = further(grown(), "iou", ALONE).figures
    for name in ("generalisation", "insensitivity", "flips", "flips_to_base"):
        assert found[name].low <= found[name].estimate <= found[name].high, name
        assert found[name].low < found[name].high, name
    assert math.isnan(found["plasticity"].low), "the reference has no scores of single images"
    none = further(grown(), "iou", good=0.05).figures["flips"]
    assert none.estimate == 0 and math.isnan(none.low), "no image flips: drawing them again says nothing"
    assert further(grown(), "iou", samples=0).figures["flips"] == Interval(
        0.25, pytest.approx(math.nan, nan_ok=True), pytest.approx(math.nan, nan_ok=True)
    )


def test_what_is_not_known_is_said_and_not_guessed() -> None:
    found = further(grown(baseline=False, moved=math.nan), "iou", {"alone": {"a": {"iou": 0.7, "mae": 0.3}}})
    told = found.missing
    assert set(told) == {"plasticity", "generalisation", "insensitivity", "flips_to_base"}
    assert "no score of b learned alone is known" in told["plasticity"]
    assert "untouched base was not scored on b, z" in told["generalisation"]
    assert "no prompt of a, b was moved: the state is not the last of a command" in told["insensitivity"]
    assert "the images of a, b, z have no scores of the untouched base" in told["flips_to_base"]
    assert found.domains["a"] == pytest.approx({"plasticity": 0.0, "flips": 0.5})
    one = further(EMPTY.with_baseline(scores(a=[0.5])).with_stage("a", scores(a=[0.9])), "iou")
    assert one.missing["generalisation"] == "no domain was scored that had not been learned"
    assert set(further(EMPTY, "iou").missing.values()) == {"nothing was learned"}
    other = grown().retested(scores(0.1, a=[0.9]))
    assert (
        "the images of a have no scores from right after their stage"
        in further(other, "iou").missing["flips"]
    )
    assert "a was not scored right after its stage" == further(other, "iou", ALONE).missing["plasticity"]


def test_the_background_is_no_task() -> None:
    more = grown().with_stage(
        "natural", scores(0.5, a=[0.4, 0.6], b=[0.9, 0.7], z=[0.6, 0.4], natural=[0.9]), background=True
    )
    more = more.with_baseline(scores(natural=[0.1]))
    found, before = further(more, "iou", ALONE), further(grown(), "iou", ALONE)
    assert found.figures["plasticity"] == before.figures["plasticity"]
    for name in ("flips", "flips_to_base"):
        assert found.figures[name].estimate == pytest.approx(before.figures[name].estimate)
    assert found.domains["natural"] == pytest.approx(
        {"insensitivity": 0.5, "flips": 0.0, "flips_to_base": 0.0}
    )


def test_scores_come_back_from_a_file_and_earlier_files_are_read() -> None:
    told = grown().to_json()
    again = Results.from_json(told)
    assert further(again, "iou", ALONE) == further(grown(), "iou", ALONE)
    assert "insensitivity" in told["scores"]["1"] and "insensitivity" not in told["scores"]["0"]
    for table in told["scores"].values():
        table.pop("insensitivity", None)
    earlier = further(Results.from_json(told), "iou", ALONE)
    assert set(earlier.missing) == {"insensitivity"}
    assert earlier.figures["flips"] == further(grown(), "iou").figures["flips"]


def test_classes_have_flips_of_the_images_that_show_a_stages_classes() -> None:
    def parts(**stages: list[float]) -> tuple[ImageScore, ...]:
        return tuple(
            ImageScore(stage, f"{i}", {"iou": v}) for stage, own in stages.items() for i, v in enumerate(own)
        )

    results = Results({"iou": False})
    for stage, taught, seen in (("one", ["background", "cat"], 2), ("two", ["cow"], 3)):
        values = dict(zip(["background", "cat", "cow"], [0.9, 0.6, 0.5], strict=True))
        cells = {name: {"iou": v} for name, v in list(values.items())[:seen]}
        results = results.with_stage(stage, cells=cells, learned=taught)
    known = replace(results, parts={0: parts(one=[0.6, 0.7, 0.2]), 1: parts(one=[0.1, 0.7, 0.9], two=[0.5])})
    again = Results.from_json(known.to_json())
    for found in (further(known, "iou", kinds=("flips",)), further(again, "iou", kinds=("flips",))):
        assert found.figures["flips"].estimate == pytest.approx((1 / 3 + 0) / 2)
        assert found.domains == {"one": {"flips": pytest.approx(1 / 3)}, "two": {"flips": 0.0}}
    earlier = further(results, "iou", kinds=("flips",))
    assert earlier.domains == {} and "have no scores from right after their stage" in earlier.missing["flips"]


def test_the_table_and_its_sentences() -> None:
    known, bare = further(grown(), "iou", ALONE), further(grown(baseline=False, moved=math.nan), "iou")
    text = as_text(further_table([("one", known), ("two", bare)]))
    assert "-0.050" in text and "! -0.075" in text and "base 0.150" in text
    (two,) = (line for line in text.splitlines() if line.strip().startswith("two"))
    assert two.count("\N{EN DASH}") == 4
    lines = [line.plain for line in further_lines([("one", known), ("two", bare)], 0.5)]
    assert [line.partition(":")[0] for line in lines[:6]] == [
        *(name.replace("_", " ") for name in MEANINGS),
        "good",
    ]
    assert any(line.startswith("insensitivity of two is not known: no prompt of a, b") for line in lines)
    assert not any("of one is not known" in line for line in lines)
    borrowed = further(grown(), "iou", {**ALONE, "alone_from": {"b": "apart"}})
    lines = [line.plain for line in further_lines([("one", borrowed)], 0.5)]
    assert "plasticity of one: modules trained alone are taken from apart" in lines
