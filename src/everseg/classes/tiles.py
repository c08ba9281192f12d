"""A class map of an image that is larger than a segmenter should see at once, tile by tile.

Neighbouring tiles overlap, and where they do their scores are averaged with weights that rise smoothly from a
tile's edge. Only the overlaps are kept in memory, so that it grows with the image's width and not its area.

Shape suffixes: K channels, h w a tile, H W the image.
"""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from everseg.data.tiling import Tiling
from everseg.types import ImageQuery


@runtime_checkable
class ScoresPixels(Protocol):
    """Ability of a learner of classes: return the score of every channel for each pixel."""

    def scores(self, query: ImageQuery) -> Tensor:
        """(K, H, W) float32, which may be averaged with those of an overlapping tile."""

    def decide(self, scores: Tensor) -> Tensor:
        """The channel of each pixel, (H, W) uint8, by scores (K, H, W)."""


def tiled(learner: ScoresPixels, image: Tensor, tiling: Tiling) -> Tensor:
    """The channel of each pixel (H, W) uint8 of an image (3, H, W)."""
    height, width = int(image.shape[-2]), int(image.shape[-1])
    tops, down = tiling.weights(height)
    lefts, along = tiling.weights(width)
    h, w = down.shape[1], along.shape[1]
    labels = torch.empty(height, width, dtype=torch.uint8)
    below = torch.empty(0)  # Rows that the tiles of the next row see again: (K, rows, W).
    for i, top in enumerate(tops):
        finished = (tops[i + 1] if i + 1 < len(tops) else height) - top
        kept = torch.empty(0)
        beside = torch.empty(0)  # Columns that the next tile sees again: (K, h, columns).
        for j, left in enumerate(lefts):
            weight = torch.from_numpy(down[i])[:, None] * torch.from_numpy(along[j])
            scores = learner.scores(ImageQuery(image[:, top : top + h, left : left + w])) * weight
            if j == 0:
                kept = scores.new_empty(len(scores), h - finished, width)
            scores[:, :, : beside.shape[-1]] += beside
            step = (lefts[j + 1] if j + 1 < len(lefts) else width) - left
            beside = scores[:, :, step:].clone()
            done = scores[:, :, :step]
            if i:
                done[:, : below.shape[1]] += below[:, :, left : left + step]
            labels[top : top + finished, left : left + step] = learner.decide(done[:, :finished])
            kept[:, :, left : left + step] = done[:, finished:]
        below = kept
    return labels
