"""Instances kept as features: a few places of each, what the classifiers read there, in 8 bits, and no pixel.

A place is a vector of D numbers that are not below zero, kept as whole numbers from 0 to 255 and one scale.
Which place of which image it was is not kept.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from everseg.classes.instances.harvest import Found
from everseg.classes.instances.pool import balanced
from everseg.seed import fold, numpy_generator, torch_generator

STEPS = 255


@dataclass(frozen=True, eq=False)
class KeptFeatures:
    """vectors (n, D) uint8 of one instance of a class.

    scale: what 255 stands for.
    label: the class's channel.
    image: the name of the image.
    """

    vectors: Tensor
    scale: float
    label: int
    image: str

    @property
    def nbytes(self) -> int:
        """The vectors, a byte a number, and the scale."""
        return self.vectors.numel() + 4

    @cached_property
    def key(self) -> str:
        return hashlib.sha256(self.vectors.numpy().tobytes()).hexdigest()


def kept_features(
    features_Dhw: Tensor, mask_HW: Tensor, label: int, image: str, *, count: int, seed: int
) -> KeptFeatures:
    """At most `count` places of an instance, drawn from those of the map that its mask covers most.

    mask: of the instance, bool, at the image's size. An instance that covers half of no place has the one
    that it covers most.
    """
    size = features_Dhw.shape[-2:]
    cover = (
        F.interpolate(mask_HW[None, None].float(), size=size, mode="area").flatten().to(features_Dhw.device)
    )
    places = (cover >= min(0.5, float(cover.max()))).nonzero()[:, 0]
    order = torch.randperm(len(places), generator=torch_generator(seed, image, label))[:count]
    vectors = features_Dhw.float().flatten(1)[:, places[order.to(places.device)]].T.clamp(min=0).cpu()
    scale = max(float(vectors.max()), 1e-6)
    return KeptFeatures((vectors * (STEPS / scale)).round().to(torch.uint8), scale, label, image)


class FeaturePool:
    """At most `count` instances and `max_bytes` bytes (0: no limit), shared evenly among the classes seen."""

    def __init__(self, count: int, max_bytes: int = 0) -> None:
        self.count, self.max_bytes = count, max_bytes
        self.items: list[KeptFeatures] = []

    def __len__(self) -> int:
        return len(self.items)

    @property
    def nbytes(self) -> int:
        return sum(item.nbytes for item in self.items)

    def refill(
        self, found: Iterable[Found], look: Callable[[Found], KeptFeatures], *, seed: int, step: int
    ) -> None:
        """Share the room out again among the classes of what is kept and of what was just found; `look` reads
        the features of those that are taken."""
        groups: dict[int, list[Any]] = {}
        candidates: list[Any] = [*self.items, *found]
        for candidate in candidates:
            groups.setdefault(candidate.label, []).append(candidate)
        kept: list[KeptFeatures] = []
        used = refused = 0
        for candidate in balanced(groups, numpy_generator(seed, "features", step)):
            if len(kept) >= self.count or refused >= len(groups):
                break
            item = candidate if isinstance(candidate, KeptFeatures) else look(candidate)
            if self.max_bytes and used + item.nbytes > self.max_bytes:
                refused += 1
                continue
            kept.append(item)
            used, refused = used + item.nbytes, 0
        self.items = sorted(kept, key=lambda item: (item.label, item.image, item.key))

    def draw(self, count: int, seed: int) -> tuple[Tensor, Tensor]:
        """So many vectors (N, D) float32 and their channels (N,), each class as often as another: a class,
        one of its instances and one of its places in turn."""
        by_class: dict[int, list[KeptFeatures]] = {}
        for item in self.items:
            by_class.setdefault(item.label, []).append(item)
        labels = sorted(by_class)
        u_N3 = torch.rand(count, 3, generator=torch_generator(fold(seed, "features"))).tolist()
        rows, channels = [], []
        for a, b, c in u_N3:
            of = by_class[labels[int(a * len(labels))]]
            item = of[int(b * len(of))]
            rows.append(item.vectors[int(c * len(item.vectors))].float() * (item.scale / STEPS))
            channels.append(item.label)
        return torch.stack(rows), torch.tensor(channels)

    def state_dict(self) -> dict[str, Any]:
        """The vectors as one tensor, the records beside it."""
        vectors = [item.vectors for item in self.items]
        data = torch.cat(vectors) if vectors else torch.empty(0, 0, dtype=torch.uint8)
        records = [
            {"label": i.label, "image": i.image, "scale": i.scale, "places": len(i.vectors)}
            for i in self.items
        ]
        return {"vectors": data, "records": records}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take back what `state_dict` gave."""
        self.items, at = [], 0
        vectors = state["vectors"].cpu()
        for record in state["records"]:
            mine = vectors[at : at + record["places"]].clone()
            self.items.append(KeptFeatures(mine, record["scale"], record["label"], record["image"]))
            at += record["places"]
