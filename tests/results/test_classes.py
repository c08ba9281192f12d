"""Old, new and all classes from a matrix whose columns are classes, and the averages of any stream on it."""

from __future__ import annotations

import math

import pytest

from everseg.classes.confusion import Confusion
from everseg.results import (
    ResultMatrix,
    Results,
    average,
    average_over_steps,
    backward_transfer,
    class_means,
    forgetting,
    with_class_row,
)

NAN = math.nan
# Columns: background, cat, dog | cow | pig.
VALUES = [[0.9, 0.6, 0.3, NAN, NAN], [0.8, 0.5, 0.2, 0.5, NAN], [0.7, 0.4, 0.1, 0.3, 0.5]]


def matrix() -> ResultMatrix:
    return ResultMatrix.of(VALUES, [0, 0, 0, 1, 2])


def test_golden_means() -> None:
    """Of the confusion [[50, 3, 2], [4, 20, 1], [0, 5, 15]], rows the truth, with the first two old."""
    values = [[NAN, NAN, NAN], [50 / 59, 20 / 33, 15 / 23]]
    means = class_means(ResultMatrix.of(values, [0, 0, 1]))
    found = [round(100 * v, 4) for v in (means.old, means.new, means.all)]
    assert found == [72.6759, 65.2174, 70.1897]
    old, new = 50 / 59 / 2 + 20 / 33 / 2, 15 / 23
    assert means.harmonic == pytest.approx(2 / (1 / old + 1 / new))


def test_means_after_each_stage() -> None:
    first, second, last = (class_means(matrix(), row) for row in range(3))
    assert first.old == first.all == pytest.approx(0.6) and math.isnan(first.new)
    assert math.isnan(first.harmonic)
    assert (second.old, second.new, second.all) == pytest.approx((0.5, 0.5, 0.5))
    assert (last.old, last.new, last.all) == pytest.approx((0.4, 0.4, 0.4))
    assert last == class_means(matrix()) and last.harmonic == pytest.approx(0.4)
    assert average_over_steps(matrix()) == pytest.approx((0.6 + 0.5 + 0.4) / 3)


def test_all_and_forgetting_are_those_of_any_stream() -> None:
    assert class_means(matrix()).all == average(matrix())
    assert forgetting(matrix()) == pytest.approx((0.2 * 3 + 0.2 + 0) / 5)
    assert forgetting(matrix(), "chaudhry") == pytest.approx((0.2 * 4) / 4)
    assert backward_transfer(matrix()) == pytest.approx(-0.2)


def test_nothing_learned_and_nothing_right() -> None:
    empty = ResultMatrix.of([[0.0, 0.0], [0.0, 0.0]], [0, 1])
    assert class_means(empty).harmonic == 0
    none = Results({"iou": False}).matrix("iou")
    assert math.isnan(class_means(none).all) and math.isnan(average_over_steps(none))


def test_rows_of_classes_in_the_results_and_their_file() -> None:
    results = Results({"iou": False, "iou_full": False})
    taught = [["background", "cat"], ["cow"]]
    for stage, columns, values in (("a", taught[0], [0.9, 0.6]), ("b", taught[1], [0.8, 0.4, 0.3])):
        names = [*taught[0], *taught[1]][: len(values)]
        of_class = dict(zip(names, values, strict=True))
        scores = {"iou": of_class, "iou_full": {c: v / 2 for c, v in of_class.items()}}
        results = with_class_row(results, stage, columns, scores)
    found = results.matrix("iou")
    assert found.columns == ("background", "cat", "cow") and found.learned_at.tolist() == [0, 0, 1]
    assert class_means(found).old == pytest.approx(0.6) and class_means(found).new == pytest.approx(0.3)
    assert average(results.matrix("iou_full")) == pytest.approx(0.25)
    again = Results.from_json(results.to_json()).matrix("iou")
    assert class_means(again) == class_means(found) and again.columns == found.columns


def test_an_absent_class_that_is_excluded_is_in_no_mean() -> None:
    import torch

    confusion = Confusion(("background", "cat", "dog"))
    confusion.add(torch.tensor([0, 1, 0, 2]), torch.tensor([0, 1, 1, 0]).byte())
    scores = {(1 / 3 + 0.5 + 0) / 3: confusion.scores("zero"), (1 / 3 + 0.5) / 2: confusion.scores("exclude")}
    for expected, values in scores.items():
        results = with_class_row(Results({"iou": False}), "a", confusion.classes, {"iou": values})
        assert class_means(results.matrix("iou")).all == pytest.approx(expected)
        assert results.matrix("iou").columns[:2] == ("background", "cat")
