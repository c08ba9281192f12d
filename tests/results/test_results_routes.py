import math

import pytest

from everseg.results import ImageScore, Results, routing
from everseg.types import MERGED, OUTSIDE


def score(column: str, image: str, route: str) -> ImageScore:
    return ImageScore(column, image, {"iou": 0.5}, route, 0.9)


def test_counts_and_accuracy() -> None:
    """Learned domains have their module, background has the base, unseen domains have no right answer."""
    results = (
        Results({"iou": False})
        .with_stage("a", [score("a", "0", "a")])
        .with_stage("b", [score("a", "0", "a")])
        .with_stage(
            "natural",
            [score("a", str(i), "a" if i else "b") for i in range(4)]
            + [score("b", str(i), "b") for i in range(2)]
            + [score("natural", "0", "base"), score("natural", "1", "a")]
            + [score("unseen", "0", "a")],
            background=True,
        )
    )
    found = routing(results)
    assert found is not None
    assert found.domains == ("a", "b", "natural", "unseen") and found.modules == ("a", "b", "base")
    assert found.counts.tolist() == [[3, 1, 0], [0, 2, 0], [1, 0, 1], [1, 0, 0]]
    assert found.right.tolist() == pytest.approx([0.75, 1.0, 0.5, float("nan")], nan_ok=True)
    assert found.accuracy == pytest.approx((0.75 + 1.0 + 0.5) / 3)
    first = routing(results, row=0)
    assert first is not None and first.accuracy == 1.0


def test_a_method_that_does_not_route_has_no_table() -> None:
    assert routing(Results({"iou": False}).with_stage("a", [ImageScore("a", "0", {"iou": 0.5})])) is None
    assert routing(Results({"iou": False})) is None


def away(column: str, image: str, route: str, p_value: float) -> ImageScore:
    return ImageScore(column, image, {"iou": 0.5}, route, 0.9, p_value)


def test_images_that_were_turned_away_are_counted_apart() -> None:
    results = Results({"iou": False}).with_stage(
        "a",
        [away("a", "0", "a", 0.5), away("a", "1", OUTSIDE, 1e-4)]
        + [away("new", str(i), OUTSIDE, 1e-9) for i in range(3)]
        + [away("new", "3", "a", 0.01)],
    )
    found = routing(results)
    assert found is not None and found.modules == ("a", OUTSIDE)
    assert found.counts.tolist() == [[1, 1], [1, 3]]
    assert (found.outside(learned=True), found.outside(learned=False)) == (0.5, 0.75)
    assert Results.from_json(results.to_json()).scores == results.scores
    none = routing(Results({"iou": False}).with_stage("a", [away("a", "0", "a", 0.5)]))
    assert none is not None and none.modules == ("a", OUTSIDE) and none.outside(learned=True) == 0
    unable = routing(Results({"iou": False}).with_stage("a", [score("a", "0", "a")]))
    assert unable is not None and math.isnan(unable.outside(learned=True))


def test_one_adapter_for_all_is_right_for_each() -> None:
    results = Results({"iou": False}).with_stage(
        "a", [away("a", "0", MERGED, 0.5), away("a", "1", OUTSIDE, 1e-4)]
    )
    found = routing(results)
    assert found is not None and found.right.tolist() == [0.5]
