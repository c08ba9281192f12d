"""Which ends of a run of classes ask for attention."""

from __future__ import annotations

import pytest

from everseg.config import plain
from everseg.methods import configure
from everseg.results import Results, class_alarms, setting_names, with_class_row

NAMES = setting_names(plain(configure("eir")))


def results(*rows: dict[str, float]) -> Results:
    """A row per step; each step teaches what the row before did not have, the first the background, too."""
    found, known = Results({"iou": False}), list[str]()
    for number, row in enumerate(rows):
        taught = [name for name in row if name not in known]
        known += taught
        found = with_class_row(found, f"step {number}", taught, {"iou": row})
    return found


def alarms(*rows: dict[str, float]) -> list[tuple[str, str]]:
    return [(a.kind, a.column) for a in class_alarms(results(*rows).matrix("iou"))]


def test_a_good_run_is_quiet() -> None:
    assert alarms({"background": 0.9, "cat": 0.5}, {"background": 0.86, "cat": 0.26, "dog": 0.02}) == []
    assert class_alarms(Results({"iou": False}).matrix("iou")) == []


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        (({"background": 0.9, "cat": 0.0},), ("nothing", "cat")),
        (
            ({"background": 0.9, "cat": 0.5}, {"background": 0.9, "cat": 0.5, "dog": 0.004}),
            ("nothing", "dog"),
        ),
        (({"background": 0.9, "cat": 0.5}, {"background": 0.9, "cat": 0.24, "dog": 0.3}), ("half", "cat")),
        (
            ({"background": 0.9, "cat": 0.5}, {"background": 0.84, "cat": 0.5, "dog": 0.3}),
            ("background",) * 2,
        ),
    ],
)
def test_each_kind_is_found(rows: tuple[dict[str, float], ...], expected: tuple[str, str]) -> None:
    assert alarms(*rows) == [expected]


def test_the_background_is_held_against_its_best() -> None:
    rows = [
        {"background": b, "cat": 0.5, **{f"c{k}": 0.4 for k in range(i)}}
        for i, b in enumerate((0.8, 0.9, 0.84))
    ]
    (alarm,) = class_alarms(results(*rows).matrix("iou"))
    assert (alarm.kind, alarm.stage, alarm.was) == ("background", "step 1", 0.9)


def test_only_a_class_at_zero_may_lack_test_images() -> None:
    never, hardly = class_alarms(results({"background": 0.9, "cat": 0.0, "dog": 0.004}).matrix("iou"))
    assert "IoU 0.000: it is not recognised, or no test image shows it;" in never.sentence(NAMES)
    assert "IoU 0.004: it is not recognised;" in hardly.sentence(NAMES)


def test_a_sentence_says_what_to_try_with_this_method() -> None:
    rows = ({"background": 0.9, "cat": 0.5}, {"background": 0.9, "cat": 0.1, "dog": 0.0})
    lost, none = class_alarms(results(*rows).matrix("iou"))
    assert lost.sentence(NAMES).startswith(
        "cat fell from IoU 0.500 (after step 0) to 0.100; try to keep more inst"
    )
    assert "tune.later.steps" in none.sentence(NAMES) and "gamma_later" in none.sentence(NAMES)
    plop = setting_names(plain(configure("plop")))
    assert "gamma_later" not in none.sentence(plop) and lost.sentence({"x"}).endswith("to 0.100")
    assert none.sentence() == (
        "dog ends at IoU 0.000: it is not recognised, or no test image shows it; try to add test images that "
        "show it, if there are none, or look at its labels (everseg data check)"
    )
