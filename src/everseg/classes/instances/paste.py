"""Paste kept instances into an image and its labels.

Shapes: image (3, H, W) uint8; labels (H, W), 0 background, 255 void; L layers of a soft label.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from everseg.classes.instances.place import best_window, filling_size, native_size, ranked_cells
from everseg.classes.instances.pool import Instance, InstancePool
from everseg.config import Amount, Checked, Count, Positive, Share, Size, ascending, before
from everseg.data.resize import resized
from everseg.types import VOID


@dataclass(frozen=True)
class PasteConfig(Checked):
    """How old instances are pasted into new images. The defaults are the `paper` preset."""

    most: Count = 3
    """Maximum number of instances per image, one for each old class that the old model sees in it. [EIR's
    code]"""
    rows: Share = field(default=0.5, metadata=before(1.0))
    """Share of the training rows that get pastes at all; the others stay as they are. [EIR's code: 1]"""
    fill_below: Count = 3
    """Fill up to `most` with random classes of the pool where the old model sees fewer classes than this.
    [EIR's code: 2 on VOC, 1 on ADE20K]"""
    filler_skips_last: bool = False
    """Never fill with the highest class. [EIR's code on VOC: yes, by an index off by one]"""
    place: Literal["window", "cell"] = "window"
    """How a place is chosen: "window", the freest place for the instance's own box; or "cell", one of four
    fixed cells. [EIR's code: cell]"""
    size: Literal["native", "cell"] = "native"
    """How large a paste is: "native", the instance's size in its own image, times a factor from `jitter`; or
    "cell", filling the cell. [EIR's code: cell]"""
    jitter: tuple[Positive, Positive] = (0.5, 1.5)
    """Range of the random factor on the native size. [ours]"""
    upscale: Amount = 2.0
    """Maximum factor by which a kept cut-out is enlarged. [ours]"""
    largest: Positive = 0.5
    """Maximum side of a paste, as a share of the image's. [ours]"""
    grid: Size = 8
    """Step of the search for the freest window, in pixels. [ours]"""
    cell: Size = 250
    """Side of a cell, in pixels. [EIR's code: 250 on VOC, 200 on ADE20K]"""
    rank: Literal["most_free", "least_free"] = "most_free"
    """Order of the cells; random classes all go into the first. [EIR's code: most_free on VOC, least_free on
    ADE20K]"""
    strict: bool = True
    """Never cover foreground, and count what is pasted as foreground from then on. [EIR's code: no]"""
    visible: Share = 0.25
    """Skip a paste of which less than this share would be visible, if `strict`. [ours]"""
    void_is_free: bool = False
    """Allow pasting on void pixels. [EIR's code: yes]"""
    blend: Literal["mixup", "hard"] = "mixup"
    """How a paste is blended in: "mixup" mixes image and label by a factor uniform in 0..1, "hard" replaces
    them. [EIR's code: mixup]"""
    resample: Literal["bilinear", "nearest"] = "bilinear"
    """Resampling of the picture; masks always use nearest. [EIR's code: nearest]"""
    flip: Share = 0.5
    """Probability that an instance is mirrored."""

    def __post_init__(self) -> None:
        super().__post_init__()
        ascending(self, "jitter")

    @property
    def layers(self) -> int:
        """Layers of the labels: pastes that may lie on each other need one each, hard ones none."""
        if self.blend == "hard":
            return 0
        return 1 if self.strict else self.most

    @classmethod
    def presets(cls) -> dict[str, PasteConfig]:
        """`reference`: EIR's published routine on VOC. `reference_ade`: that of its ADE20K trainer."""
        reference = cls(
            rows=1.0,
            fill_below=2,
            filler_skips_last=True,
            place="cell",
            size="cell",
            strict=False,
            void_is_free=True,
            resample="nearest",
        )
        ade = replace(reference, fill_below=1, filler_skips_last=False, cell=200, rank="least_free")
        return {"paper": cls(), "reference": reference, "reference_ade": ade}


class Pasted(NamedTuple):
    """An image with pastes; batches of these are the input of `everseg.classes.losses.soft_bce`.

    image: (3, H, W).
    under: (H, W), labels below the pastes.
    over: (L, H, W), class of each layer.
    share: (L, H, W) float32, share of each pixel that belongs to the layer's class; 0 where there is none.
    pastes: number of pastes.
    """

    image: Tensor
    under: Tensor
    over: Tensor
    share: Tensor
    pastes: int


def seen_classes(completed: Tensor, labels: Tensor) -> list[int]:
    """Classes that the old model sees in an image and its labels do not have, ascending.

    completed: the labels with the old model's pseudo-labels in the background.
    """
    counts = [torch.bincount(x.flatten().long(), minlength=256) for x in (completed, labels)]
    found = (counts[0] > 0) & (counts[1] == 0)
    found[[0, VOID]] = False
    return found.nonzero()[:, 0].tolist()


def choose_classes(
    seen: Sequence[int], stored: Sequence[int], config: PasteConfig, generator: np.random.Generator
) -> list[tuple[int, int]]:
    """Which classes to paste, each with its rank among the places: those seen in the image, in order, then
    random ones, which rank first (0).

    seen: by the old model in the image.
    stored: the classes that the pool has.
    """
    stored = sorted(stored)
    chosen = [(label, rank) for rank, label in enumerate([c for c in seen if c in stored][: config.most])]
    fillers = stored[:-1] if config.filler_skips_last else stored
    if len(chosen) < config.fill_below and fillers:
        more = generator.integers(len(fillers), size=config.most - len(chosen))
        chosen += [(fillers[i], 0) for i in more]
    return chosen


def paste(
    image: Tensor,
    labels: Tensor,
    pool: InstancePool,
    generator: np.random.Generator,
    config: PasteConfig | None = None,
    *,
    seen: Sequence[int] = (),
) -> Pasted:
    """Paste instances of old classes into a copy of an image and its labels.

    labels: as they are trained on, with the old model's pseudo-labels, if it was asked: they are foreground
        too.
    seen: the classes that it sees in the image (`seen_classes`).

    The same generator state gives the same bytes. Source: EIR, "class combination", "instance selection" and
    "position calculation"; for what the published code does see the preset `reference`.
    """
    config = config or PasteConfig()
    height, width = labels.shape
    out = Pasted(
        image.clone(),
        labels.clone(),
        torch.zeros(config.layers, height, width, dtype=labels.dtype),
        torch.zeros(config.layers, height, width),
        0,
    )
    if config.rows < 1 and generator.random() >= config.rows:
        return out
    taken = _taken(labels, config)
    groups = pool.by_class()
    cells = ranked_cells(taken, config.cell, config.rank) if config.place == "cell" else []
    count = 0
    for label, rank in choose_classes(seen, list(groups), config, generator):
        instance = groups[label][int(generator.integers(len(groups[label])))]
        size = _size(instance, (height, width), config, generator)
        if size is None:
            continue
        if cells:
            corner = cells[rank]
        else:
            corner = best_window(taken, size, config.grid, generator)
        pixels, inside = _resized(instance, size, config, generator)
        share = float(generator.random())  # drawn in any case, so that switches compare the same pastes
        window = (slice(corner[0], corner[0] + size[0]), slice(corner[1], corner[1] + size[1]))
        if config.strict:
            free = inside & torch.from_numpy(~taken[window])
            if int(free.sum()) < max(1.0, config.visible * int(inside.sum())):
                continue
            inside = free
            taken[window] |= inside.numpy()
        amount = 1.0 if config.blend == "hard" else share
        _blend(out, label, pixels, inside, amount, window, 0 if config.strict else count)
        count += 1
    return out._replace(pastes=count)


def _taken(labels: Tensor, config: PasteConfig) -> NDArray[np.bool_]:
    array = labels.numpy()
    return (array != 0) & (array != VOID) if config.void_is_free else array != 0


def _size(
    instance: Instance, image: tuple[int, int], config: PasteConfig, generator: np.random.Generator
) -> tuple[int, int] | None:
    top, left, bottom, right = instance.box
    box = (bottom - top, right - left)
    if config.size == "cell":
        return filling_size(box, config.cell)
    crop = (int(instance.inside.shape[0]), int(instance.inside.shape[1]))
    scale = float(generator.uniform(*config.jitter))
    return native_size(box, crop, image, scale, config.upscale, config.largest)


def _resized(
    instance: Instance, size: tuple[int, int], config: PasteConfig, generator: np.random.Generator
) -> tuple[Tensor, Tensor]:
    """Pixels (3, h, w) uint8 and mask (h, w) bool at the size they are pasted in."""
    if config.resample == "bilinear":
        pixels = resized(instance.pixels[None], size)[0]
    else:
        pixels = F.interpolate(instance.pixels[None], size=size, mode="nearest")[0]
    inside = F.interpolate(instance.inside[None, None].byte(), size=size, mode="nearest")[0, 0].bool()
    if generator.random() < config.flip:
        return pixels.flip(-1), inside.flip(-1)
    return pixels, inside


def _blend(
    out: Pasted,
    label: int,
    pixels: Tensor,
    inside: Tensor,
    amount: float,
    window: tuple[slice, slice],
    layer: int,
) -> None:
    """Lay one instance upon what is there, in place."""
    place = out.image[:, window[0], window[1]]
    mixed = torch.lerp(place.float(), pixels.float(), amount)
    if not place.is_floating_point():
        mixed = mixed.round_()
    place.copy_(torch.where(inside, mixed.to(place.dtype), place))
    if not len(out.over):  # hard: the label is replaced
        out.under[window].masked_fill_(inside, label)
        return
    out.over[layer][window].masked_fill_(inside, label)
    out.share[layer][window].masked_fill_(inside, amount)
