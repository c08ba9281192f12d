"""Pages of runs of classes: the right numbers, the same colours everywhere, pictures that show errors."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from everseg.classes.confusion import Confusion
from everseg.classes.problem import Classes
from everseg.data import Stream, SyntheticClasses
from everseg.pictures.palette import COLOURS, VOID_COLOUR, class_colour
from everseg.report import MapExample, ReportData, map_examples, write_report
from everseg.report.cells import css
from everseg.report.panels.maps import ERRORS, MISSED, coloured, wrong_pixels
from everseg.report.panels.means import class_table, means_table, step_means
from everseg.results import Results, average_over_steps, class_means, with_class_row
from everseg.types import VOID, ImageQuery

NAN = float("nan")


@pytest.fixture(scope="module")
def stream() -> Stream:
    made = SyntheticClasses(24, "train", size=48), SyntheticClasses(16, "test", size=48)
    return Stream.of_classes(*made, "4-2")


class Forgetful:
    """A learner that knows the truth of a test set, and calls the first two classes background."""

    def __init__(self, stream: Stream) -> None:
        self.truth = {s.key: s.labels for s in stream.stages[-1].test}
        self.asked = 0

    def predict(self, queries: Sequence[ImageQuery]) -> list[Tensor]:
        self.asked += len(queries)
        truths = [self.truth[query.key] for query in queries]
        return [torch.where((truth == VOID) | (truth <= 2), 0, truth) for truth in truths]


def results(stream: Stream) -> Results:
    """After each step the classes so far: the first fall, the others stand."""
    found, seen = Results({"iou": False}), ["background"]
    for t, stage in enumerate(stream.stages):
        seen += stage.classes
        values = {name: 0.9 - 0.1 * k - (0.2 * t if 0 < k < 5 else 0) for k, name in enumerate(seen)}
        taught = (["background"] if t == 0 else []) + [*stage.classes]
        found = with_class_row(found, stage.name, taught, {"iou": values})
    return found


def test_the_page_has_every_number_and_picture(stream: Stream, tmp_path: Path) -> None:
    learner = Forgetful(stream)
    shown = map_examples(learner.predict, stream.stages, 2, "original")
    found = results(stream)
    data = ReportData("run", {}, found, {"stored_bytes": {"pool": 2048}}, Classes.panels, maps=shown)
    text = write_report(data, tmp_path).read_text(encoding="utf-8")
    assert learner.asked == len(shown) == 6 and text.count("<img") == 24
    means = class_means(found.matrix("iou"))
    for value in (means.all, means.old, means.new, means.harmonic, average_over_steps(found.matrix("iou"))):
        assert f'<dd class="value">{value:.3f}</dd>' in text
    for part in ("Old and new classes", "classes of each step", "Each class", "Examples", "2.0 KiB"):
        assert part in text
    assert "<dt>AA" not in text and text.count("<svg") == 1 and 'type="radio"' not in text
    for k, name in enumerate(found.columns):
        (row,) = re.findall(rf'<th scope="row">{name}</th>.*', text)
        assert (f'style="background:{css(class_colour(k))}"' in row) == (k > 0)
    assert [text.index(f"<h3>{s.name}</h3>") for s in stream.stages] == sorted(
        text.index(f"<h3>{s.name}</h3>") for s in stream.stages
    )
    assert write_report(data, tmp_path / "again.html").read_text(encoding="utf-8") == text
    without = write_report(replace(data, maps=()), tmp_path / "short.html")
    assert "Examples" not in without.read_text(encoding="utf-8")


def test_tables_hold_what_was_measured(stream: Stream) -> None:
    matrix = results(stream).matrix("iou")
    table = dict(means_table(matrix))
    for row, stage in enumerate(matrix.stages):
        means = class_means(matrix, row)
        old, new, everything, harmonic = table[f"after {stage}"]
        assert (old.shown, everything.shown) == (f"{means.old:.3f}", f"{means.all:.3f}")
        assert (new.kind == "none") == (harmonic.kind == "none") == (row == 0)
    classes = class_table(matrix)
    assert [row["name"] for row in classes] == list(matrix.columns)
    assert [[cell.kind for cell in row["cells"]].count("learned") for row in classes] == [1] * 9
    assert classes[1]["cells"][-1].shown == "-0.400", "ball since the first step"


def test_one_step_has_nothing_to_follow(stream: Stream, tmp_path: Path) -> None:
    """As of joint training: neither curves of one point, nor forgetting, nor an average of one."""
    found = Results({"iou": False})
    names = ["background", *(c for s in stream.stages for c in s.classes)]
    found = with_class_row(found, "all-classes", names, {"iou": {name: 0.5 for name in names}})
    text = write_report(ReportData("run", {}, found, {}, Classes.panels), tmp_path).read_text(
        encoding="utf-8"
    )
    assert "Each class" in text and "<dt>All" in text
    for part in ("<svg", "<dt>FM", "<dt>Avg", "average over steps"):
        assert part not in text


def test_the_classes_of_a_step_are_one_column(stream: Stream) -> None:
    found = results(stream)
    matrix, steps = found.matrix("iou"), step_means(found, "iou").matrix("iou")
    assert steps.columns == steps.stages == found.stages and steps.learned_at.tolist() == [0, 1, 2]
    assert steps.values[2, 0] == pytest.approx(class_means(matrix).old)
    assert steps.values[1, 1] == pytest.approx(class_means(matrix, 1).new)
    assert np.isnan(steps.values[0, 1:]).all()


def test_columns_are_channels_even_where_a_class_is_absent() -> None:
    confusion = Confusion(("background", "cat", "dog"))
    confusion.add(torch.tensor([0, 2, 0]), torch.tensor([0, 2, 2]).byte())
    found = with_class_row(
        Results({"iou": False}), "a", confusion.classes, {"iou": confusion.scores("exclude")}
    )
    assert found.columns == confusion.classes


def test_images_are_chosen_by_their_step_and_none_twice(stream: Stream) -> None:
    learner = Forgetful(stream)
    shown = map_examples(learner.predict, stream.stages, 3, "original")
    assert len({e.name for e in shown}) == len(shown) == 9
    first = 1
    for stage in stream.stages:
        own = range(first, first + len(stage.classes))
        first += len(stage.classes)
        members = [e for e in shown if e.step == stage.name]
        assert len(members) == 3 and all(np.isin(e.truth.numpy(), own).any() for e in members)
    assert all(not np.isin(e.predicted.numpy(), (1, 2)).any() for e in shown)
    known = map_examples(learner.predict, stream.stages[:1], 3, "original")
    assert {int(v) for e in known for v in e.truth.unique()} <= {0, 1, 2, 3, 4}, "nothing is asked too early"
    assert map_examples(learner.predict, [], 3) == []
    cropped = map_examples(lambda qs: [torch.zeros(64, 64) for _ in qs], stream.stages, 1, 64)
    assert cropped[0].image.shape == (3, 64, 64)


def test_pictures_show_classes_void_and_errors() -> None:
    image = torch.full((3, 2, 4), 100, dtype=torch.uint8)
    truth = torch.tensor([[0, 1, 1, VOID], [0, 2, 2, 0]], dtype=torch.uint8)
    said = torch.tensor([[0, 1, 0, 1], [3, 2, 1, 0]])
    grey = np.asarray(coloured(image, torch.zeros(2, 4)))[0, 0].astype(float)

    def over(colour: Sequence[int]) -> list[int]:
        return [round(v) for v in 0.12 * grey + 0.88 * np.array(colour, float)]

    shown = np.asarray(coloured(image, truth))
    assert shown[0, 0].tolist() == grey.astype(int).tolist() and len(set(grey)) == 1
    assert shown[0, 1].tolist() == over(class_colour(1)) and shown[1, 1].tolist() == over(class_colour(2))
    assert shown[0, 3].tolist() == over(VOID_COLOUR)
    missed, invented, mixed = (over(colour) for colour in ERRORS.values())
    wrong = np.asarray(wrong_pixels(image, truth, said)).tolist()
    plain = grey.astype(int).tolist()
    assert wrong == [[plain, plain, missed, plain], [invented, plain, mixed, plain]]
    assert list(MISSED) not in COLOURS[:21].tolist()
    with pytest.raises(AssertionError, match="one size"):
        MapExample("a", "x", image, truth, said[:1])
