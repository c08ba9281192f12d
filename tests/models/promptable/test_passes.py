"""Objects with the same number of clicks share a pass, and each gets its own result."""

from __future__ import annotations

import torch
from torch import Tensor

from everseg.models.promptable.passes import in_passes, objects_of, passes, without_padding
from everseg.models.promptable.protocol import PADDING, Features, FramePrompts

LABELS = torch.tensor([[[1, 0], [1, PADDING]], [[PADDING, PADDING], [0, 1]]])
POINTS = torch.arange(16.0).view(2, 2, 2, 2)
BOXES = 100 + torch.arange(16.0).view(2, 2, 4)
BOTH = FramePrompts(POINTS, LABELS, BOXES)


def test_each_object_by_itself_has_no_padding() -> None:
    objects = objects_of(BOTH)
    assert [one.labels.tolist() if one.labels is not None else None for one in objects] == [
        [[[1, 0]]],
        [[[1]]],
        None,  # A box without a click.
        [[[0, 1]]],
    ]
    assert [one.points is None for one in objects] == [False, False, True, False]
    assert torch.cat([one.boxes for one in objects if one.boxes is not None]).tolist() == (
        BOXES.view(4, 1, 4).tolist()
    )
    assert [one.points for one in objects_of(FramePrompts(None, None, BOXES))] == [None] * 4
    clicks = objects_of(FramePrompts(POINTS, LABELS, None))
    assert [one.points.shape for one in clicks if one.points is not None] == [
        (1, 1, 2, 2),
        (1, 1, 1, 2),
        (1, 1, 0, 2),
        (1, 1, 2, 2),
    ]


def test_passes_hold_one_kind_in_the_order_of_the_first() -> None:
    objects = [*objects_of(BOTH), *objects_of(FramePrompts(POINTS, LABELS, None))]
    found = list(passes(objects))
    assert [places for places, _ in found] == [[0, 3], [1], [2], [4, 7], [5], [6]]
    _, first = found[0]
    assert first.points is not None and torch.equal(first.points, POINTS[[0, 1], [0, 1]][:, None])
    assert first.boxes is not None and first.boxes.shape == (2, 1, 4)
    assert found[2][1].points is None and found[3][1].boxes is None
    assert [places for places, _ in passes(objects, most=1)] == [[0], [3], [1], [2], [4], [7], [5], [6]]


def sums(prompts: FramePrompts) -> tuple[Tensor, Tensor]:
    """A result that belongs to an object: the sum of its clicks and their number."""
    assert prompts.points is not None
    count = torch.full(prompts.points.shape[:2], float(prompts.points.shape[-2]))
    return prompts.points.sum((2, 3))[..., None, None], count


def test_results_come_back_in_order_one_pass_per_kind() -> None:
    objects = objects_of(FramePrompts(POINTS, LABELS, None))
    calls = []

    def run(places: list[int], prompts: FramePrompts) -> tuple[Tensor, Tensor]:
        calls.append(places)
        return sums(prompts)

    found = in_passes(objects, run)
    assert calls == [[0, 3], [1], [2]]
    assert [(float(m), float(v)) for m, v in found] == [(6, 2), (9, 1), (0, 0), (54, 2)]
    assert in_passes([], run) == []


def test_a_padded_batch_gets_its_images_features_object_by_object() -> None:
    embedding = {"image": torch.tensor([[1000.0], [2000.0]])}
    calls = []

    def decode(embedding: Features, prompts: FramePrompts) -> tuple[Tensor, Tensor]:
        masks, iou = sums(prompts)
        calls.append(len(masks))
        return masks + embedding["image"][:, :, None, None], iou

    masks, iou = without_padding(decode, embedding, FramePrompts(POINTS, LABELS, None))
    assert masks.shape == (2, 2, 1, 1) and masks.flatten().tolist() == [1006, 1009, 2000, 2054]
    assert iou.tolist() == [[2, 1], [0, 2]] and calls == [2, 1, 1]
    calls.clear()
    without_padding(decode, embedding, FramePrompts(POINTS, LABELS.clamp(min=0), None))
    assert calls == [2]  # As many rows as images: the objects stay together.
