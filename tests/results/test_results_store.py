import json
import math
from pathlib import Path

import pytest

from everseg.errors import UserError
from everseg.files import read_json, write_json
from everseg.results import ImageScore, Results, average, forgetting


def scores(**domains: list[float]) -> list[ImageScore]:
    return [
        ImageScore(name, f"{i}.png", {"iou": value, "mae": 1 - value}, route=name, probability=0.75)
        for name, values in domains.items()
        for i, value in enumerate(values)
    ]


EMPTY = Results({"iou": False, "mae": True})


def grown() -> Results:
    return (
        EMPTY.with_baseline(scores(a=[0.2, 0.4], b=[0.5, 0.5], z=[0.6, 0.8]))
        .with_stage("a", scores(a=[0.8, 1.0], b=[0.4, 0.6], z=[0.5, 0.5]))
        .with_stage("b", scores(a=[0.6, 0.8], b=[0.9, 0.9], z=[0.4, 0.6]))
    )


def test_a_cell_is_the_mean_over_its_images() -> None:
    matrix = grown().matrix("iou")
    assert matrix.values.tolist() == [pytest.approx([0.9, 0.5, 0.5]), pytest.approx([0.7, 0.9, 0.5])]
    assert matrix.baseline.tolist() == pytest.approx([0.3, 0.5, 0.7])
    assert matrix.learned_at.tolist() == [0, 1, 2]
    assert not matrix.lower_is_better and grown().matrix("mae").lower_is_better
    assert average(matrix) == pytest.approx(0.8) and forgetting(matrix) == pytest.approx(0.1)


def test_an_appended_stage_grows_rows_and_columns_by_name() -> None:
    """Learned columns come in the order of learning, then unseen ones; old rows have no value."""
    more = grown().with_stage("c", scores(c=[0.7], a=[0.5]))
    matrix = more.matrix("iou")
    assert more.columns == ("a", "b", "c", "z") and more.stages == ("a", "b", "c")
    assert matrix.learned_at.tolist() == [0, 1, 2, 3]
    assert matrix.values[:2].tolist()[0] == pytest.approx([0.9, 0.5, math.nan, 0.5], nan_ok=True)
    assert matrix.values[2].tolist() == pytest.approx([0.5, math.nan, 0.7, math.nan], nan_ok=True)
    assert math.isnan(average(matrix)), "b was learned and not measured"
    wider = more.with_baseline(scores(c=[0.1]))
    assert wider.matrix("iou").baseline.tolist() == pytest.approx([0.3, 0.5, 0.1, 0.7])
    assert len(wider.scores[-1]) == 7


def test_columns_taught_out_of_the_order_they_were_met_are_sorted() -> None:
    results = EMPTY.with_stage("b", scores(a=[0.1], b=[0.2])).with_stage("a", scores(b=[0.3], a=[0.4]))
    assert results.columns == ("b", "a")
    assert results.matrix("iou").values.tolist() == [[0.2, 0.1], [0.3, 0.4]]


def test_classes_bring_cells_instead_of_images() -> None:
    cells = {"cat": {"iou": 0.5, "mae": 0.1}, "dog": {"iou": 0.7, "mae": 0.2}}
    results = EMPTY.with_stage("first", cells=cells, learned=("cat", "dog"))
    assert results.columns == ("cat", "dog") and average(results.matrix("iou")) == pytest.approx(0.6)
    assert not results.scores


def test_background_is_remembered() -> None:
    results = grown().with_stage("natural", scores(a=[0.6], b=[0.8], natural=[0.9]), background=True)
    assert results.matrix("iou").background.tolist() == [False, False, True, False]
    assert average(results.matrix("iou")) == pytest.approx(0.7)


def test_json_round_trip() -> None:
    results = grown().with_stage("natural", scores(a=[0.6], natural=[0.9]), background=True)
    text = json.dumps(results.to_json(), allow_nan=False)
    again = Results.from_json(json.loads(text))
    assert again.to_json() == results.to_json()
    assert again.scores == results.scores and again.cells == results.cells
    assert again.background == {"natural"}
    unrouted = EMPTY.with_stage("a", [ImageScore("a", "0", {"iou": 0.5, "mae": 0.5})])
    back = Results.from_json(json.loads(json.dumps(unrouted.to_json(), allow_nan=False)))
    assert back.scores[0][0].route == "" and math.isnan(back.scores[0][0].probability)


@pytest.mark.parametrize("value", [None, [], {}, {"format": 1}, {"format": 99}, "text"])
def test_other_json_is_refused_in_a_sentence(value: object) -> None:
    with pytest.raises(UserError, match="results"):
        Results.from_json(value)


def test_mistakes_of_ours_are_assertions() -> None:
    with pytest.raises(AssertionError, match="already"):
        grown().with_stage("a")
    with pytest.raises(AssertionError, match="twice"):
        EMPTY.with_stage("a", scores(a=[0.1]) * 2)
    with pytest.raises(UserError, match="did you mean 'iou'"):
        grown().matrix("iuo")


def test_one_stage_can_teach_tasks_and_background_together() -> None:
    """Joint training learns all domains in one stage, of which some are no tasks."""
    rows = scores(a=[0.6], b=[0.8], natural=[0.2])
    results = EMPTY.with_stage("all", rows, learned=("a", "b", "natural"), background=("natural",))
    assert average(results.matrix("iou")) == pytest.approx(0.7)
    with pytest.raises(AssertionError, match="own"):
        EMPTY.with_stage("a", rows, background=("natural",))


def test_metrics_keep_their_order_through_a_file_with_sorted_keys(tmp_path: Path) -> None:
    """The first metric is what a report opens with."""
    results = Results({"iou": False, "f1": False, "mae": True})
    write_json(tmp_path / "results.json", results.to_json())
    again = Results.from_json(read_json(tmp_path / "results.json"))
    assert list(again.lower_is_better) == ["iou", "f1", "mae"]
