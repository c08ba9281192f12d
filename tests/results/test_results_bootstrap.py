import math

import numpy as np
import pytest

from everseg.errors import UserError
from everseg.results import ImageScore, Results, average, forgetting, headline, intervals, paired_difference


def run(rng: np.random.Generator, images: int = 60, loss: float = 0.0, shift: float = 0.0) -> Results:
    """Two domains; after the second stage the first has lost `loss` on every image."""
    first, second = rng.normal(0.7, 0.1, images), rng.normal(0.5, 0.2, images)

    def rows(a: np.ndarray, b: np.ndarray) -> list[ImageScore]:
        return [
            ImageScore(name, str(i), {"iou": float(value)})
            for name, values in [("a", a), ("b", b)]
            for i, value in enumerate(values)
        ]

    results = Results({"iou": False}).with_stage("a", rows(first, second - 0.2))
    return results.with_stage("b", rows(first - loss + shift, second + shift))


def test_an_interval_holds_its_estimate_and_repeats() -> None:
    results = run(np.random.default_rng(0), loss=0.1)
    found = headline(results, "iou", samples=300)
    assert set(found) == {"AA", "FM", "FT", "unseen"}
    for name in ("AA", "FT"):
        assert found[name].low < found[name].estimate < found[name].high
    assert found["AA"].estimate == average(results.matrix("iou"))
    assert headline(results, "iou", samples=300)["AA"] == found["AA"]
    assert headline(results, "iou", samples=300, seed=1)["AA"] != found["AA"]


def test_forgetting_keeps_the_pairing_of_images() -> None:
    """Every image loses the same, so no resampling can change what was lost, however the images differ."""
    found = headline(run(np.random.default_rng(0), loss=0.1), "iou", samples=200)["FM"]
    assert (found.low, found.high) == (pytest.approx(0.05), pytest.approx(0.05))


def test_the_interval_has_the_width_of_the_standard_error() -> None:
    results = run(np.random.default_rng(1), images=400)
    found = intervals(results, "iou", {"AA": average}, samples=3000)["AA"]
    last = results.scores[1]
    variance = sum(np.var([s.values["iou"] for s in last if s.column == c]) / 400 / 4 for c in "ab")
    assert (found.high - found.low) / 2 == pytest.approx(1.96 * math.sqrt(variance), rel=0.08)


def test_another_domain_leaves_an_interval_alone() -> None:
    """Draws are seeded by the domain's name, so that a growing stream does not stir old figures."""
    results = run(np.random.default_rng(0))
    first = {"a": lambda m: float(m.values[0, 0])}
    more = results.with_stage("c", [ImageScore("c", "0", {"iou": 0.5})])
    assert intervals(results, "iou", first)["a"] == intervals(more, "iou", first)["a"]


def test_without_images_there_is_no_interval() -> None:
    results = Results({"iou": False}).with_stage("a", cells={"a": {"iou": 0.5}})
    found = intervals(results, "iou", {"AA": average, "FM": forgetting})["AA"]
    assert found.estimate == 0.5 and math.isnan(found.low)


def test_drawing_in_pieces_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    results = run(np.random.default_rng(0))
    whole = intervals(results, "iou", {"AA": average}, samples=50)
    monkeypatch.setattr("everseg.results.bootstrap.CHUNK", 130)
    pieces = intervals(results, "iou", {"AA": average}, samples=50)
    assert (pieces["AA"].low, pieces["AA"].high) == pytest.approx((whole["AA"].low, whole["AA"].high))


def test_the_paired_test_sees_a_small_steady_gain() -> None:
    """A gain far smaller than the spread between images is certain when it is there on every image."""
    better, plain = run(np.random.default_rng(3), shift=0.01), run(np.random.default_rng(3))
    found = paired_difference(better, plain, "iou")
    assert found.estimate == pytest.approx(0.01) and found.low == pytest.approx(0.01)
    assert found.p_value == pytest.approx(1 / 2001) and found.domains == ("a", "b") and found.images == 120
    turned = paired_difference(plain, better, "iou")
    assert turned.estimate == pytest.approx(-0.01) and turned.p_value == found.p_value


def test_a_run_does_not_differ_from_itself() -> None:
    same = run(np.random.default_rng(3))
    found = paired_difference(same, same, "iou")
    assert (found.estimate, found.low, found.high, found.p_value) == (0.0, 0.0, 0.0, 1.0)


def test_p_values_of_equal_methods_are_spread_evenly() -> None:
    """Under the hypothesis a p-value is uniform: about a tenth of fifty lie below 0.1."""
    found = []
    for seed in range(50):
        rng = np.random.default_rng(seed)
        ours, theirs = (
            Results({"iou": False}).with_stage(
                "a", [ImageScore("a", str(i), {"iou": float(v)}) for i, v in enumerate(rng.random(30))]
            )
            for _ in range(2)
        )
        found.append(paired_difference(ours, theirs, "iou", samples=300).p_value)
    assert sum(p < 0.1 for p in found) <= 11 and 0.3 < float(np.mean(found)) < 0.7


def test_runs_that_cannot_be_compared_are_refused() -> None:
    results = run(np.random.default_rng(0))
    fewer = run(np.random.default_rng(0), images=50)
    with pytest.raises(UserError, match="10 only in the first"):
        paired_difference(results, fewer, "iou")
    other = Results({"iou": False}).with_stage("x", [ImageScore("x", "0", {"iou": 0.5})])
    with pytest.raises(UserError, match="no learned domain"):
        paired_difference(results, other, "iou")
