"""Objects of one image, all at once and each in a window: by a model whose answer is known."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor
from torch.nn import functional as F

from everseg.data.tiling import Tiling
from everseg.domains.segment import joined, segment
from everseg.models.promptable.protocol import PADDING
from everseg.types import PromptPrediction, Prompts, Query

SIDE = 64


class Bright:
    """Sees an image in SIDE x SIDE and gives the bright patch at the first click, or what is bright in the
    box."""

    def __init__(self) -> None:
        self.asked: list[Query] = []

    def __call__(self, queries: Sequence[Query]) -> list[PromptPrediction]:
        self.asked += queries
        return [self._one(query) for query in queries]

    def _one(self, query: Query) -> PromptPrediction:
        height, width = query.image.shape[-2:]
        grey = F.interpolate(query.image[None, :1].float(), size=(SIDE, SIDE), mode="area")[0, 0]
        bright = (grey > 127).numpy()
        patches, _ = ndimage.label(bright)
        logits = []
        for n in range(len(query.prompts)):
            if query.prompts.boxes is not None:
                x0, y0, x1, y1 = query.prompts.boxes[n].tolist()
                mask = np.zeros_like(bright)
                rows = slice(int(y0 * SIDE / height), int(y1 * SIDE / height) + 1)
                columns = slice(int(x0 * SIDE / width), int(x1 * SIDE / width) + 1)
                mask[rows, columns] = bright[rows, columns]
            else:
                assert query.prompts.points is not None
                x, y = query.prompts.points[n, 0].tolist()
                mask = patches == (patches[int(y * SIDE / height), int(x * SIDE / width)] or -1)
            logits.append(torch.from_numpy(np.where(mask, 1.0, -1.0)).float())
        return PromptPrediction(torch.stack(logits), torch.ones(len(logits)), (height, width))


def click(x: float, y: float) -> Prompts:
    return Prompts(torch.tensor([[[x, y]]]), torch.tensor([[1]]))


def discs(height: int, width: int, *at: tuple[int, int, int]) -> tuple[Tensor, list[np.ndarray]]:
    """A dark image with bright discs (x, y, radius), and their masks."""
    y, x = np.mgrid[:height, :width]
    masks = [(x - a) ** 2 + (y - b) ** 2 <= r**2 for a, b, r in at]
    image = np.where(np.any(masks, axis=0), 250, 5).astype(np.uint8)
    return torch.from_numpy(np.repeat(image[None], 3, 0)), masks


def iou(a: np.ndarray, b: np.ndarray) -> float:
    return float((a & b).sum() / (a | b).sum())


def test_every_object_of_a_large_image_is_found_whole_wherever_it_lies() -> None:
    at = [(40, 50, 20), (300, 200, 25), (128, 256, 22), (560, 480, 30), (420, 150, 90)]
    image, truth = discs(512, 600, *at)
    model = Bright()
    found = segment(model, image, [click(x, y) for x, y, _ in at], Tiling(128, 16), "")
    for one, mask in zip(found, truth, strict=True):
        assert one.region.size == (512, 600)
        assert iou(one.region.full(), mask) > 0.9
    # The last one reaches beyond a tile.
    assert [q.image.shape[-1] for q in model.asked] == [128, 128, 128, 128, 128, 256]


def test_the_place_in_the_image_changes_nothing() -> None:
    for dx, dy in ((1, 0), (37, 21), (64, 128)):
        at = [(200, 210, 33), (320, 200, 70)]
        moved = [(x + dx, y + dy, r) for x, y, r in at]
        results = []
        for these in (at, moved):
            image, _ = discs(700, 800, *these)
            results.append(segment(Bright(), image, [click(x, y) for x, y, _ in these], Tiling(128, 16), ""))
        for here, there in zip(*results, strict=True):
            assert np.array_equal(here.region.pixels, there.region.pixels)
            assert (there.region.x - here.region.x, there.region.y - here.region.y) == (dx, dy)


def test_a_box_lies_in_its_window_with_a_halo() -> None:
    image, (mask,) = discs(600, 600, (300, 280, 100))
    box = Prompts(boxes=torch.tensor([[200.0, 180.0, 400.0, 380.0]]))
    model = Bright()
    (one,) = segment(model, image, [box], Tiling(128, 20), "")
    assert iou(one.region.full(), mask) > 0.95
    (query,) = model.asked
    assert query.image.shape[-2:] == (240, 240)
    assert query.prompts.boxes is not None
    assert query.prompts.boxes.tolist() == [[20, 20, 220, 220]]


def test_an_image_no_larger_than_a_tile_is_seen_whole() -> None:
    image, masks = discs(64, 64, (20, 20, 9), (45, 40, 12))
    objects = [click(20, 20), click(45, 40)]
    model = Bright()
    found = segment(model, image, objects, Tiling(64, 8), "key")
    assert len(model.asked) == 1 and model.asked[0].key == "key" and not model.asked[0].lasting
    for one, mask, plain in zip(found, masks, segment(Bright(), image, objects, None, ""), strict=True):
        assert iou(one.region.full(), mask) > 0.95
        assert np.array_equal(one.region.full(), plain.region.full())


def test_objects_with_and_without_boxes_keep_their_order() -> None:
    image, masks = discs(64, 64, (20, 20, 9), (45, 40, 12), (15, 50, 7))
    objects = [click(20, 20), Prompts(boxes=torch.tensor([[33.0, 28.0, 57.0, 52.0]])), click(15, 50)]
    model = Bright()
    found = segment(model, image, objects, None, "key")
    assert [iou(one.region.full(), mask) > 0.95 for one, mask in zip(found, masks, strict=True)] == [True] * 3
    assert [len(query.prompts) for query in model.asked] == [2, 1]


def test_an_object_that_is_not_found_has_no_pixel() -> None:
    image, _ = discs(64, 64, (20, 20, 9))
    (one,) = segment(Bright(), image, [click(50, 50)], None, "")
    assert one.region.count == 0 and not one.region.full().any()


def test_objects_of_one_query_are_padded() -> None:
    two = Prompts(torch.tensor([[[1.0, 2.0], [3.0, 4.0]]]), torch.tensor([[1, 0]]))
    found = joined([click(5, 6), two])
    assert found.points is not None and found.labels is not None and found.boxes is None
    assert found.points.tolist() == [[[5, 6], [0, 0]], [[1, 2], [3, 4]]]
    assert found.labels.tolist() == [[1, PADDING], [1, 0]]
