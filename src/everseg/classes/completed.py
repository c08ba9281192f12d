"""Label maps completed by the old model, computed once per image of a step."""

from __future__ import annotations

import io
from collections.abc import Sequence
from operator import itemgetter
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Subset

from everseg.classes.losses import pseudo_labels
from everseg.distributed import gather, shard
from everseg.models.batching import images_at_once
from everseg.models.semantic.segmenter import Segmenter
from everseg.progress import bar
from everseg.types import SemanticSample

TOGETHER = 8
"""Images that are read at a time."""


class CompletedMaps:
    """Completed label maps.

    maps: one PNG per image.
    """

    def __init__(self, maps: Sequence[bytes]) -> None:
        self.maps = maps

    def __call__(self, index: int) -> Tensor:
        """(H, W) uint8."""
        return torch.from_numpy(np.array(Image.open(io.BytesIO(self.maps[index]))))


def complete(
    old: Segmenter, samples: Sequence[SemanticSample], sure: float, *, name: str, workers: int = 0
) -> CompletedMaps:
    """Look at each whole image with the old model and complete its labels (`pseudo_labels`). The images are
    shared out among the processes, and every process has all maps."""
    mine = shard(range(len(samples)))
    loader: DataLoader[Any] = DataLoader(
        Subset(samples, mine),  # type: ignore[arg-type]  # any sequence serves
        batch_size=TOGETHER,
        collate_fn=list,
        num_workers=workers,
    )
    here: list[tuple[int, bytes]] = []
    with bar(f"{name}: what the old model sees", len(mine)) as advance, torch.inference_mode():
        for batch in loader:
            found = _maps(old, batch, sure)
            for labels in found:
                here.append((mine[len(here)], _encoded(labels)))
                advance("")
    every = sorted((pair for part in gather(here) for pair in part), key=itemgetter(0))
    return CompletedMaps([content for _, content in every])


def _maps(old: Segmenter, batch: Sequence[SemanticSample], sure: float) -> list[Tensor]:
    """In the order of the batch; those of one size pass together."""
    sizes: dict[tuple[int, ...], list[int]] = {}
    for i, sample in enumerate(batch):
        sizes.setdefault(tuple(sample.labels.shape), []).append(i)
    found: dict[int, Tensor] = {}
    for size, alike in sizes.items():
        together = images_at_once(TOGETHER, size[0] * size[1], old.device)
        for start in range(0, len(alike), together):
            part = alike[start : start + together]
            scores = old(old.pixels(torch.stack([batch[i].image for i in part]))).full().sigmoid()
            labels = torch.stack([batch[i].labels for i in part]).to(old.device)
            found.update(zip(part, pseudo_labels(labels, scores, sure).cpu(), strict=True))
    return [found[i] for i in range(len(batch))]


def _encoded(labels: Tensor) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(labels.numpy()).save(buffer, format="PNG")
    return buffer.getvalue()
