"""Two predictors of classes on the same images."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from torch import Tensor

from everseg.classes.confusion import Confusion
from everseg.classes.gate import IMAGES, measure
from everseg.classes.scoring import ClassScoreConfig, Label
from everseg.results.bootstrap import Interval
from everseg.results.gate import Comparison
from everseg.results.paired import Kind, Pairs
from everseg.runs.verdict import lacking
from everseg.types import ImageQuery, SemanticSample

CLASSES = ("background", "cat", "dog")
HOW = ClassScoreConfig(size="original", batch=3)


def samples(count: int = 5, side: int = 8) -> list[SemanticSample]:
    generator = torch.Generator().manual_seed(0)
    found = []
    for n in range(count):
        labels = torch.randint(0, 3, (side, side), dtype=torch.uint8, generator=generator)
        labels[0, 0] = 255
        found.append(SemanticSample(torch.full((3, side, side), n, dtype=torch.uint8), labels, f"{n}.png"))
    found[0] = SemanticSample(found[0].image, found[0].labels.where(found[0].labels != 2, 0), "0.png")
    return found


def predictor(given: Sequence[SemanticSample], wrong: int, seed: int, classes: int = 3) -> Label:
    """The truth with so many pixels of each image at random."""
    generator = torch.Generator().manual_seed(seed)
    said = []
    for one in given:
        labels = one.labels.where(one.labels != 255, 0).flatten().clone()
        places = torch.randperm(labels.numel(), generator=generator)[:wrong]
        labels[places] = torch.randint(0, classes, (wrong,), dtype=torch.uint8, generator=generator)
        said.append(labels.view_as(one.labels))

    def predict(queries: Sequence[ImageQuery]) -> list[Tensor]:
        return [said[int(query.image[0, 0, 0])] for query in queries]

    return predict


def by_column(pairs: Sequence[Pairs]) -> dict[str, Pairs]:
    return {p.column: p for p in pairs}


@pytest.mark.parametrize(
    ("kind", "column", "said"),
    [
        ("all", IMAGES, "test images"),
        ("class", "cat", "test images that show cat"),
        ("learned", "site-a", "test images of site-a"),
    ],
)
def test_which_images_a_comparison_lacks(kind: Kind, column: str, said: str) -> None:
    wide = Interval(0.0, -0.1, 0.1)
    unsure = Comparison(column, kind, "", 9, 9, 0.5, 0.5, wide, 1, 1, 0, 0, 1, 1, 1, 99, "cannot tell", "")
    assert lacking(unsure) == said


def test_what_images_add_to_a_class_has_its_iou_for_a_mean() -> None:
    given = samples()
    old, new = predictor(given, 5, 1), predictor(given, 20, 2)
    found = by_column(measure(old, new, given, CLASSES, HOW))
    assert list(found) == [*CLASSES, IMAGES]
    for predict, side in ((old, "old"), (new, "new")):
        confusion = Confusion(CLASSES)
        for sample, labels in zip(given, predict([s.query() for s in given]), strict=True):
            confusion.add(labels, sample.labels)
        for name, iou in confusion.scores().items():
            assert getattr(found[name], side).mean() == pytest.approx(iou)
            assert not found[name].flips
    assert found[IMAGES].flips and found[IMAGES].units == tuple(f"{n}.png" for n in range(5))
    assert (found[IMAGES].new < found[IMAGES].old).all()


def test_the_same_predictor_changes_nothing() -> None:
    given = samples()
    old = predictor(given, 5, 1)
    for new in (old, predictor(given, 5, 1)):
        assert all(not p.difference.any() for p in measure(old, new, given, CLASSES, HOW))


def test_classes_that_only_one_run_knows_are_void_and_wrong_where_they_are_said() -> None:
    given = samples()
    old, new = predictor(given, 0, 1), predictor(given, 0, 2)
    found = by_column(measure(old, new, given, CLASSES[:2], HOW))
    assert list(found) == ["background", "cat", IMAGES]
    assert all(p.new == pytest.approx(np.ones(len(p.new))) for p in found.values())
    dogs = lambda queries: [torch.full_like(one, 2) for one in old(queries)]  # noqa: E731
    found = by_column(measure(old, dogs, given, CLASSES[:2], HOW))
    assert not found[IMAGES].new.any()
