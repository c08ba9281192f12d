import pytest

from everseg.results import ImageScore, Results, routing


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
