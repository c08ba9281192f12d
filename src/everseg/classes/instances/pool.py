"""A pool of cut-out instances that never outgrows its budget."""

from __future__ import annotations

import hashlib
import io
import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from everseg.errors import UserError, unknown
from everseg.seed import numpy_generator

T = TypeVar("T")


@dataclass(frozen=True)
class Instance:
    """One encoded cut-out. Its size is the size of what is stored.

    picture: JPEG or PNG.
    mask: 1-bit PNG.
    label: its class, as in the label map.
    image: name of the image that it comes from.
    box: (top, left, bottom, right) in that image; may be larger than the picture.
    size: (H, W) of that image.
    step: step in which its class was learned.
    """

    picture: bytes
    mask: bytes
    label: int
    image: str
    box: tuple[int, int, int, int]
    size: tuple[int, int]
    step: int

    @property
    def nbytes(self) -> int:
        return len(self.picture) + len(self.mask)

    @cached_property
    def sha256(self) -> str:
        """Of the picture and the mask."""
        return hashlib.sha256(self.picture + self.mask).hexdigest()

    @cached_property
    def name(self) -> str:
        """Its class and a checksum of what it is and where from, so that it has one name forever."""
        place = f"{self.image}|{self.box}|{self.sha256}".encode(errors="surrogateescape")
        return f"{self.label:03d}-{hashlib.sha256(place).hexdigest()[:12]}"

    @cached_property
    def pixels(self) -> Tensor:
        """(3, h, w) uint8, decoded once."""
        rgb = np.array(Image.open(io.BytesIO(self.picture)).convert("RGB"))
        return torch.from_numpy(np.ascontiguousarray(rgb.transpose(2, 0, 1)))

    @cached_property
    def inside(self) -> Tensor:
        """(h, w) bool, decoded once."""
        return torch.from_numpy(np.array(Image.open(io.BytesIO(self.mask)).convert("1")))

    def record(self) -> dict[str, Any]:
        """All but the bytes, as plain values."""
        return {
            "image": self.image,
            "classes": [self.label],
            "box": list(self.box),
            "size": list(self.size),
            "step": self.step,
            "sha256": self.sha256,
        }

    @classmethod
    def restore(cls, record: Mapping[str, Any], picture: bytes, mask: bytes) -> Instance:
        """From what `record` gave, and the bytes."""
        (label,), box, size = record["classes"], record["box"], record["size"]
        return cls(picture, mask, int(label), record["image"], tuple(box), tuple(size), int(record["step"]))


def balanced(groups: Mapping[int, Sequence[T]], generator: np.random.Generator) -> Iterator[T]:
    """Everything in `groups`, a class in turn in a random order of the classes, each in a random order.

    However many are taken, no class that has more to give is more than one behind another. It ends when all
    are given. Source: EIR's sampler, which never ends if the candidates run out.
    """
    order = generator.permutation(sorted(groups)).tolist()
    queues = {label: [groups[label][i] for i in generator.permutation(len(groups[label]))] for label in order}
    for turn in range(max(map(len, queues.values()), default=0)):
        for label in order:
            if turn < len(queues[label]):
                yield queues[label][turn]


PATIENCE = 3
"""So many candidates of each class may be too large for what is left before a budget counts as used up."""


class Budget:
    """Room for `count` things of `max_bytes` together (0: no limit), kept for so many classes.

    What does not fit is passed over, and the next, which may be smaller, is tried: whatever is stored, images
    or instances, budgets are used up alike.
    """

    def __init__(self, count: int, max_bytes: int, classes: int) -> None:
        self.count, self.max_bytes, self.patience = count, max_bytes, PATIENCE * classes
        self.number = self.used = self.refused = 0

    @property
    def spent(self) -> bool:
        """Whether there is no use in trying further."""
        return self.number >= self.count or self.refused >= self.patience

    def admit(self, nbytes: int) -> bool:
        """Take a thing of this size if it fits."""
        if self.max_bytes and self.used + nbytes > self.max_bytes:
            self.refused += 1
            return False
        self.number, self.used, self.refused = self.number + 1, self.used + nbytes, 0
        return True


class InstancePool:
    """Instances of old classes: at most `count`, and `max_bytes` together (0: as many as they take)."""

    def __init__(self, count: int = 100, max_bytes: int = 0) -> None:
        self.count, self.max_bytes = count, max_bytes
        self.items: dict[str, Instance] = {}

    def __len__(self) -> int:
        return len(self.items)

    @property
    def nbytes(self) -> int:
        return sum(item.nbytes for item in self.items.values())

    def by_class(self) -> dict[int, list[Instance]]:
        """Instances of each class, in the order of the classes and of their names."""
        groups: dict[int, list[Instance]] = {}
        for name in sorted(self.items):
            groups.setdefault(self.items[name].label, []).append(self.items[name])
        return dict(sorted(groups.items()))

    def only(self, labels: Collection[int]) -> InstancePool:
        """The instances of these classes."""
        found = InstancePool(self.count, self.max_bytes)
        found.items = {name: item for name, item in self.items.items() if item.label in labels}
        return found

    def refill(self, found: Sequence[T], cut: Callable[[T], Instance], *, seed: int, step: int) -> None:
        """Share the budget out again among the classes of the pool and those of what was found.

        found: candidates with a `label`.
        cut: makes an instance of one; only what is chosen is cut out. Each class gets the same number, one
            more or less. A class with fewer candidates leaves the rest to the others. Where bytes run out,
            what does not fit is passed over, until nothing did for as many candidates as there are classes.
        """
        groups: dict[int, list[Any]] = {label: list(items) for label, items in self.by_class().items()}
        for candidate in found:
            label = candidate.label  # type: ignore[attr-defined]
            groups.setdefault(label, []).append(candidate)
        kept: dict[str, Instance] = {}
        budget = Budget(self.count, self.max_bytes, len(groups))
        for candidate in balanced(groups, numpy_generator(seed, "pool", step)):
            if budget.spent:
                break
            item = candidate if isinstance(candidate, Instance) else cut(candidate)
            if item.name in kept:
                continue
            if budget.admit(item.nbytes):
                kept[item.name] = item
        self.items = kept

    def with_new(
        self, found: Sequence[T], cut: Callable[[T], Instance], *, seed: int, step: int
    ) -> InstancePool:
        """This pool with instances of the classes found: as many of each, on average, as it has of its own
        classes. Its limits do not hold for them.

        found, cut: as in `refill`.
        """
        classes = {candidate.label for candidate in found}  # type: ignore[attr-defined]
        each = math.ceil(len(self) / max(1, len(self.by_class())))
        new = InstancePool(each * len(classes))
        new.refill(found, cut, seed=seed, step=step)
        both = InstancePool(self.count + new.count)
        both.items = self.items | new.items
        return both

    def remove(self, *, name: str = "", image: str = "", prefix: str = "") -> list[str]:
        """Take out one instance, all of an image, or all of images whose names begin alike (a patient's).
        Returns the instances' names.

        Raises:
            UserError: there is none.
        """
        given = [name, image, prefix]
        assert sum(map(bool, given)) == 1, "one of name, image and prefix"
        if name and name not in self.items:
            raise (
                unknown("instance", name, self.items)
                if self.items
                else UserError("the pool is empty, so there is nothing to remove; check the path")
            )
        gone = [
            key
            for key, item in self.items.items()
            if (name and key == name)
            or (image and item.image == image)
            or (prefix and item.image.startswith(prefix))
        ]
        if not gone:
            images = sorted({item.image for item in self.items.values()})
            what = f"image {image!r}" if image else f"an image whose name begins with {prefix!r}"
            raise UserError(f"the pool has no instance of {what}; it has some of {', '.join(images[:5])}")
        self.items = {key: item for key, item in self.items.items() if key not in gone}
        return gone

    def state_dict(self) -> dict[str, Any]:
        """The pool as a learner remembers it: the bytes as one tensor (uint8), the records beside it."""
        items = [self.items[name] for name in sorted(self.items)]
        content = b"".join(item.picture + item.mask for item in items)
        records = [item.record() | {"picture": len(item.picture), "mask": len(item.mask)} for item in items]
        data = torch.frombuffer(bytearray(content), dtype=torch.uint8) if content else torch.empty(0).byte()
        return {"count": self.count, "max_bytes": self.max_bytes, "instances": data, "records": records}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take back what `state_dict` gave."""
        self.count, self.max_bytes, self.items = state["count"], state["max_bytes"], {}
        content, at = state["instances"].cpu().numpy().tobytes(), 0
        for record in state["records"]:
            middle, end = at + record["picture"], at + record["picture"] + record["mask"]
            item = Instance.restore(record, content[at:middle], content[middle:end])
            self.items[item.name] = item
            at = end
