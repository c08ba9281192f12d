"""Which objects share a pass through a base: those with the same number of clicks, with or without a box.

They are not padded to one length, because transformers makes padding a token of zeros, which the attention of
the decoder reads: a mask would depend on how many clicks its neighbours in the batch have.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from everseg.models.promptable.protocol import PADDING, Features, FramePrompts

Pass = tuple[list[int], FramePrompts]
"""Places of G objects among those given, and their prompts, (G, 1, ...), without padding."""

Decoded = tuple[Tensor, Tensor]
"""Logits and predicted IoU, as `Promptable.decode` returns them."""


def objects_of(prompts: FramePrompts) -> list[FramePrompts]:
    """Each of the B*N objects by itself, image by image: (1, 1, ...), without padding.

    An object with a box and no click has no points.
    """
    given = prompts.boxes if prompts.points is None else prompts.points
    assert given is not None, "prompts have points or boxes"
    return [_object(prompts, row, n) for row in range(given.shape[0]) for n in range(given.shape[1])]


def passes(objects: Sequence[FramePrompts], most: int = 0) -> Iterator[Pass]:
    """Group objects as `objects_of` gives them into passes, in the order in which their kinds first occur.

    most: objects in one pass; 0 stands for any number.
    """
    kinds: dict[tuple[int, bool], list[int]] = {}
    for place, one in enumerate(objects):
        clicks = 0 if one.points is None else one.points.shape[-2]
        kinds.setdefault((clicks, one.boxes is not None), []).append(place)
    for places in kinds.values():
        size = most or len(places)
        for start in range(0, len(places), size):
            part = places[start : start + size]
            yield part, _stacked([objects[place] for place in part])


def in_passes(
    objects: Sequence[FramePrompts], run: Callable[[list[int], FramePrompts], Decoded], most: int = 0
) -> list[Decoded]:
    """Logits (1, h, w) and predicted IoU (1,) of each object, in order. `run` is called once per pass and
    returns (G, 1, h, w) and (G, 1)."""
    found: dict[int, Decoded] = {}
    for places, prompts in passes(objects, most):
        found.update(zip(places, zip(*run(places, prompts), strict=True), strict=True))
    return [found[place] for place in range(len(objects))]


def without_padding(
    decode: Callable[[Features, FramePrompts], Decoded], embedding: Features, prompts: FramePrompts
) -> Decoded:
    """`decode` of N objects of each of B images, which may be padded: logits (B, N, h, w), IoU (B, N)."""
    if prompts.labels is None or not bool((prompts.labels == PADDING).any()):
        return decode(embedding, prompts)
    shape = prompts.labels.shape[:2]

    def run(places: list[int], group: FramePrompts) -> Decoded:
        images = [place // shape[1] for place in places]
        return decode({name: level[images] for name, level in embedding.items()}, group)

    masks, iou = (torch.cat(column) for column in zip(*in_passes(objects_of(prompts), run), strict=True))
    return masks.unflatten(0, shape), iou.unflatten(0, shape)


def _object(prompts: FramePrompts, row: int, n: int) -> FramePrompts:
    boxes = None if prompts.boxes is None else prompts.boxes[row, n][None, None]
    if prompts.points is None or prompts.labels is None:
        return FramePrompts(None, None, boxes)
    real = prompts.labels[row, n] != PADDING
    if boxes is not None and not real.any():
        return FramePrompts(None, None, boxes)
    return FramePrompts(
        prompts.points[row, n, real][None, None], prompts.labels[row, n, real][None, None], boxes
    )


def _stacked(objects: Sequence[FramePrompts]) -> FramePrompts:
    """Objects of one kind as rows of one object."""

    def column(values: list[Tensor | None]) -> Tensor | None:
        given = [value for value in values if value is not None]
        return torch.cat(given) if given else None

    return FramePrompts(
        column([one.points for one in objects]),
        column([one.labels for one in objects]),
        column([one.boxes for one in objects]),
    )
