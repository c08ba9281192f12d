"""Memory of whole images for replay, with the labels that their step saw."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from everseg.classes.crops import random_crop
from everseg.classes.instances import Budget, balanced
from everseg.classes.settings import ClassTuneConfig
from everseg.data.described import described
from everseg.progress import remark
from everseg.seed import numpy_generator, torch_generator
from everseg.types import SemanticSample

QUALITY = 90
"""Of the JPEG: about what the data sets themselves have."""


@dataclass(frozen=True)
class KeptImage:
    """picture: JPEG.
    labels: PNG.
    label: the class that it was drawn for.
    name: of the image.
    """

    picture: bytes
    labels: bytes
    label: int
    name: str

    @property
    def nbytes(self) -> int:
        return len(self.picture) + len(self.labels)

    @cached_property
    def key(self) -> str:
        return hashlib.sha256(self.picture + self.labels).hexdigest()

    @cached_property
    def sample(self) -> tuple[Tensor, Tensor]:
        """image (3, H, W) uint8 and labels (H, W) uint8, decoded once."""
        rgb = np.array(Image.open(io.BytesIO(self.picture)).convert("RGB"))
        return (
            torch.from_numpy(np.ascontiguousarray(rgb.transpose(2, 0, 1))),
            torch.from_numpy(np.array(Image.open(io.BytesIO(self.labels)))),
        )


class ImageMemory:
    """At most `count` images and `max_bytes` bytes (0: no limit), shared evenly among the classes seen; rows
    of training as `Memory` has them."""

    def __init__(self, count: int, config: ClassTuneConfig, max_bytes: int = 0) -> None:
        self.count, self.config, self.max_bytes = count, config, max_bytes
        self.items: list[KeptImage] = []

    def __len__(self) -> int:
        return len(self.items)

    @property
    def nbytes(self) -> int:
        """Bytes of all pictures and labels."""
        return sum(item.nbytes for item in self.items)

    def only(self, labels: Collection[int]) -> ImageMemory:
        """The images that were drawn for these classes."""
        found = ImageMemory(self.count, self.config, self.max_bytes)
        found.items = [item for item in self.items if item.label in labels]
        return found

    def draw(self, index: int, side: int, seed: int) -> tuple[Tensor, Tensor]:
        """One image, cropped and mirrored as a step's own."""
        assert side == self.config.crop, "of one side with the crops"
        return random_crop(*self.items[index].sample, self.config, torch_generator(seed, "crop"))

    def refill(self, samples: Sequence[SemanticSample], classes: range, *, seed: int, step: int) -> None:
        """Share the room out again among the classes of what is kept and `classes` of what was just learned.

        An image is kept for one class, whatever else it shows. Source: the memory of SSUL-M and DKD-M.
        """
        if not self.count:
            return
        groups: dict[int, list[Any]] = {}
        for item in self.items:
            groups.setdefault(item.label, []).append(item)
        present = described(samples).presence()
        for label in classes:
            groups[label] = [(label, int(i)) for i in np.flatnonzero(present[:, label])]
        kept: list[KeptImage] = []
        taken: set[int] = set()
        budget = Budget(self.count, self.max_bytes, len(groups))
        for candidate in balanced(groups, numpy_generator(seed, "memory", step)):
            if budget.spent:
                break
            if not isinstance(candidate, KeptImage):
                label, place = candidate
                if place in taken:
                    continue
                taken.add(place)
                candidate = _encoded(samples[place], label)
            if budget.admit(candidate.nbytes):
                kept.append(candidate)
        if not kept and budget.refused:
            remark(f"no image is kept for replay: none fits into max_bytes={self.max_bytes}; raise it")
        self.items = sorted(kept, key=lambda item: (item.label, item.name, item.key))

    def state_dict(self) -> dict[str, Any]:
        """The bytes as one tensor, the records beside it."""
        content = b"".join(item.picture + item.labels for item in self.items)
        data = torch.frombuffer(bytearray(content), dtype=torch.uint8) if content else torch.empty(0).byte()
        records = [
            {"label": i.label, "name": i.name, "picture": len(i.picture), "labels": len(i.labels)}
            for i in self.items
        ]
        return {"images": data, "records": records}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take back what `state_dict` gave."""
        content, at = state["images"].cpu().numpy().tobytes(), 0
        self.items = []
        for record in state["records"]:
            middle = at + record["picture"]
            end = middle + record["labels"]
            self.items.append(
                KeptImage(content[at:middle], content[middle:end], record["label"], record["name"])
            )
            at = end


def _encoded(sample: SemanticSample, label: int) -> KeptImage:
    picture, labels = io.BytesIO(), io.BytesIO()
    Image.fromarray(np.ascontiguousarray(sample.image.permute(1, 2, 0).numpy())).save(
        picture, format="JPEG", quality=QUALITY
    )
    Image.fromarray(sample.labels.numpy()).save(labels, format="PNG", optimize=True)
    return KeptImage(picture.getvalue(), labels.getvalue(), label, sample.name)
