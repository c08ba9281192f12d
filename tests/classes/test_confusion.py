"""One confusion matrix: the published numbers, and that it does not matter how its pixels come."""

from __future__ import annotations

import math

import pytest
import torch

from everseg.classes.confusion import Confusion

GOLDEN = torch.tensor([[50, 3, 2], [4, 20, 1], [0, 5, 15]])
"""Rows are the truth. IoU worked out by hand: 50 / 59, 20 / 33, 15 / 23."""


def pixels(counts: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(predicted, truth) pixels that have these counts, in a mixed order, with void among them."""
    pairs = [(p, t) for t, row in enumerate(counts.tolist()) for p, n in enumerate(row) for _ in range(n)]
    pairs += [(0, 255), (2, 255)]
    order = torch.randperm(len(pairs), generator=torch.Generator().manual_seed(0))
    predicted, truth = torch.tensor(pairs)[order].T
    return predicted.to(torch.uint8), truth.to(torch.uint8)


def test_golden_iou() -> None:
    confusion = Confusion(("background", "cat", "dog"))
    confusion.add(*pixels(GOLDEN))
    assert torch.equal(confusion.counts, GOLDEN)
    assert [round(100 * v, 4) for v in confusion.iou().tolist()] == [84.7458, 60.6061, 65.2174]
    assert round(100 * float(confusion.iou().mean()), 4) == 70.1897


def test_batches_types_and_shapes_do_not_matter() -> None:
    predicted, truth = (part.view(6, 17) for part in pixels(GOLDEN))
    whole, parts = Confusion("abc"), Confusion("abc")
    whole.add(predicted, truth)
    for row in range(6):
        parts.add(predicted[row].long(), truth[row])
    parts.add(predicted[:0], truth[:0])
    assert torch.equal(whole.counts, parts.counts) and torch.equal(whole.counts, GOLDEN)


def test_alone_the_sum_over_processes_is_a_copy() -> None:
    confusion = Confusion("abc")
    confusion.add(*pixels(GOLDEN))
    total = confusion.everywhere()
    confusion.add(*pixels(GOLDEN))
    assert torch.equal(total.counts, GOLDEN) and total.classes == ("a", "b", "c")


def test_absent_classes_are_zero_or_left_out() -> None:
    confusion = Confusion("abcd")
    confusion.add(
        torch.tensor([0, 0, 2, 1]), torch.tensor([0, 0, 1, 1]).byte()
    )  # c is only ever said, d never
    assert confusion.iou("zero").tolist() == [1.0, 0.5, 0.0, 0.0]
    assert [math.isnan(v) for v in confusion.iou("exclude").tolist()] == [False, False, True, True]
    assert confusion.iou("exclude").nanmean() == 0.75
    assert confusion.scores() == {"a": 1.0, "b": 0.5, "c": 0.0, "d": 0.0}


def test_the_iou_of_two_classes_is_that_of_masks() -> None:
    from everseg.results.metrics import binary_scores

    generator = torch.Generator().manual_seed(1)
    predicted, truth = (torch.rand(2, 9, 9, generator=generator) < 0.4).unbind()
    confusion = Confusion(("background", "object"))
    confusion.add(predicted, truth.to(torch.uint8))
    assert float(confusion.iou()[1]) == pytest.approx(
        float(binary_scores(predicted[None], truth[None])["iou"])
    )


@pytest.mark.parametrize("predicted", [3, -1])
def test_a_channel_that_does_not_exist_is_no_pixel_of_another(predicted: int) -> None:
    with pytest.raises(AssertionError, match="channels beyond 0 to 2"):
        Confusion("abc").add(torch.tensor([predicted]), torch.tensor([1]).byte())
    Confusion("abc").add(torch.tensor([predicted]), torch.tensor([255]).byte())
