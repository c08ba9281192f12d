"""A domain that ends below the untouched base is said to, in words and not by colour alone."""

import math

import pytest
from rich.text import Text

from everseg.results import (
    Results,
    as_text,
    base_averages,
    beside_base,
    compare_table,
    domains_table,
    is_worse,
    table,
    unseen_average,
    worse_lines,
)


def cells(iou: dict[str, float]) -> dict[str, dict[str, float]]:
    return {name: {"iou": value, "mae": 1 - value} for name, value in iou.items()}


def results(baseline: bool = True) -> Results:
    """Of the learned domains one falls below the base; of the unseen ones, too."""
    found = Results({"iou": False, "mae": True})
    if baseline:
        found = found.with_baseline(cells=cells({"a": 0.4, "b": 0.5, "nuclei": 0.331, "horses": 0.5}))
    found = found.with_stage("a", cells=cells({"a": 0.7, "b": 0.45}))
    return found.with_stage("b", cells=cells({"a": 0.3, "b": 0.8, "nuclei": 0.133, "horses": 0.6}))


@pytest.mark.parametrize("metric", ["iou", "mae"])
def test_every_domain_stands_beside_the_base(metric: str) -> None:
    found = {each.domain: each for each in beside_base(results(), metric)}
    assert list(found) == ["a", "b", "nuclei", "horses"]
    assert [each.worse for each in found.values()] == [True, False, True, False]
    assert [each.learned for each in found.values()] == [True, True, False, False]
    side, ends = ("below", (0.133, 0.331)) if metric == "iou" else ("above", (0.867, 0.669))
    name = {"iou": "IoU", "mae": "MAE"}[metric]
    assert (found["nuclei"].score, found["nuclei"].base) == pytest.approx(ends)
    assert found["nuclei"].sentence() == (
        f"nuclei (never learned) ends {side} the untouched base: {name} {ends[0]:.3f}, "
        f"untouched base {ends[1]:.3f}"
    )


def test_what_was_not_measured_is_not_worse_and_rounding_is_not_either() -> None:
    assert not any(each.worse for each in beside_base(results(baseline=False), "iou"))
    assert not is_worse(math.nan, 0.5, False) and not is_worse(0.5, math.nan, True)
    assert not is_worse(0.4998, 0.5, False) and is_worse(0.499, 0.5, False)
    assert not is_worse(0.5002, 0.5, True) and is_worse(0.501, 0.5, True)
    assert beside_base(Results({"iou": False}), "iou") == []


def test_the_averages_of_the_base() -> None:
    found = base_averages(results().matrix("iou"))
    assert found == pytest.approx({"AA": 0.45, "FT": 0.5, "unseen": (0.331 + 0.5) / 2})
    for bare in (results(baseline=False), Results({"iou": False}), results().without("a").without("b")):
        assert all(map(math.isnan, base_averages(bare.matrix("iou")).values()))


def test_the_tables_mark_it_and_name_the_base() -> None:
    text = as_text(table(results(), "iou"))
    assert "! 0.300" in text and "! 0.133" in text and text.count("! ") == 2
    assert "!: worse than the untouched base" in text
    lines = as_text(domains_table([("one", results()), ("two", results(baseline=False))])).splitlines()
    (nuclei,) = (line for line in lines if "nuclei" in line)
    assert nuclei.split("  ")[1:] and "nuclei, unseen" in nuclei and "! 0.133 (base 0.331)" in nuclei
    assert nuclei.endswith(" 0.133"), "without a base there is nothing to fall below"
    text = as_text(compare_table([("one", results(), {}), ("two", results(baseline=False), {})]))
    assert "! 0.366" in text and "base 0.415" in text, "the mean over unseen domains"
    assert "base 0.450" in text and "!: worse than the untouched base" in text
    plain = as_text(compare_table([("two", results(baseline=False), {})]))
    assert "base" not in plain and "!" not in plain


def test_each_is_a_red_sentence() -> None:
    lines = worse_lines("one", results(), "iou")
    assert all(isinstance(line, Text) and "red" in str(line.style) for line in lines)
    assert [line.plain for line in lines] == [
        "! one: a (learned) ends below the untouched base: IoU 0.300, untouched base 0.400",
        "! one: nuclei (never learned) ends below the untouched base: IoU 0.133, untouched base 0.331",
    ]
    assert worse_lines("", results(baseline=False), "iou") == []


def test_a_forgotten_domain_is_neither_unseen_nor_worse() -> None:
    found = (
        results().without("b").with_stage("(without b)", cells=cells({"a": 0.7, "nuclei": 0.4}), learned=[])
    )
    now = cells({"a": 0.7, "nuclei": 0.4, "horses": 0.6, "b": 0.1})
    later = found.with_stage("(again)", cells=now, learned=[])
    scored = later.with_baseline(cells=cells({"b": 0.5}))
    for each, told in ((later, " 0.100 (forgotten)"), (scored, " 0.100 (forgotten) (base 0.500)")):
        ends = {end.domain: end for end in beside_base(each, "iou")}
        assert [end.state for end in ends.values()] == ["", "unseen", "unseen", "forgotten"]
        assert not any(end.worse for end in ends.values()) and worse_lines("", each, "iou") == []
        (line,) = (line for line in as_text(domains_table([("one", each)])).splitlines() if " b " in line)
        assert line.endswith(told) and "unseen" not in line
        assert "!" not in as_text(table(each, "iou")) and "b (forgotten)" in as_text(table(each, "iou"))
        assert unseen_average(each.matrix("iou")) == pytest.approx((0.4 + 0.6) / 2)
        assert base_averages(each.matrix("iou"))["unseen"] == pytest.approx((0.331 + 0.5) / 2)
    # Beside a run that knows it, and where it was scored nowhere since.
    (line,) = (
        line
        for line in as_text(domains_table([("one", found), ("two", results())])).splitlines()
        if " b " in line
    )
    assert "\u2013 (forgotten)" in line and line.endswith("0.800 (base 0.500)")
