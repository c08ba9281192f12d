"""Which classes come when: the steps of a stream of classes, the labels each step sees, the images it gets.

Sets as in the literature: C_t are the classes that step t adds, S(x) the classes in the full class map of
image x, at its original size and before any augmentation.

Source: the protocol of MiB (Cermelli et al. 2020), PLOP and DKD, which EIR (CVPR 2025) follows. The published
code of DKD and EIR uses a class's number as its channel, so that only ascending orders work; here a table
says which number is which channel.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from everseg.data.classes.legend import BACKGROUND_NAME, Legend
from everseg.errors import UserError
from everseg.types import VOID, Setting

UnseenAs = Literal["background", "ignore"]
EmptyMaps = Literal["skip", "use"]
"""What becomes of images whose class map shows no class."""
Bools = NDArray[np.bool_]

MOST_CLASSES = 254
"""Labels are 8 bits, of which 0 is background and 255 void."""


@dataclass(frozen=True)
class LabelTable:
    """values: 256 bytes, the channel of each number: 0 background, 1, 2, ... classes, 255 ignore."""

    values: bytes

    def __call__(self, labels: Tensor) -> Tensor:
        """Labels (H, W) uint8 in channels instead of numbers: one look-up a pixel."""
        table = np.frombuffer(self.values, np.uint8)
        return torch.from_numpy(np.take(table, labels.numpy()))

    def channels(self, present: Bools) -> Bools:
        """Which channels occur (N, 256), given which numbers do (N, 256)."""
        out = np.zeros_like(present)
        for number, channel in enumerate(self.values):
            out[:, channel] |= present[:, number]
        return out


@dataclass(frozen=True)
class ClassSteps:
    """The classes of each step, by name: `steps[t]` is C_t.

    The channel of a class is its position in this order, from 1.

    Raises:
        UserError: no step, a step without classes, a class in two steps, or more than 254 classes.
    """

    steps: tuple[tuple[str, ...], ...]

    def __post_init__(self) -> None:
        if not self.steps:
            raise UserError("there are no steps; list the classes of at least one")
        seen: dict[str, int] = {}
        for t, step in enumerate(self.steps):
            if not step:
                raise UserError(f"step {t} adds no classes; list at least one or remove the step")
            for name in step:
                if name in seen:
                    where = f"steps {seen[name]} and {t}" if seen[name] != t else f"step {t} twice"
                    raise UserError(f"class {name!r} is in {where}; keep it in one step")
                seen[name] = t
        if len(seen) > MOST_CLASSES:
            raise UserError(
                f"the steps add {len(seen)} classes; label maps have 8 bits, so add at most {MOST_CLASSES}"
            )

    @classmethod
    def split(cls, name: str, legend: Legend, order: Sequence[str | int] | None = None) -> ClassSteps:
        """The steps of a published split: "15-1" is 15 classes, then one at a time.

        order: classes by name or number; all of the legend in the order of their numbers where None.

        Raises:
            UserError: not two numbers from 1, or the classes after the first do not make whole steps.
        """
        classes = list(legend.names.values()) if order is None else [legend.name(c, "order: ") for c in order]
        first, dash, then = name.partition("-")
        if not (dash and _counts(first) and _counts(then)):
            raise UserError(
                f"steps {name!r} is not of the form A-B, such as 15-1: 15 classes first, then 1 per step"
            )
        base, step = int(first), int(then)
        rest = len(classes) - base
        if rest < step or rest % step:
            left = f"{rest} classes, which is not a multiple of {step}" if rest > 0 else "none"
            raise UserError(
                f"steps {name!r} of {len(classes)} classes leaves {left} after the first {base}; "
                "choose other numbers or list the classes of each stage"
            )
        starts = range(base, len(classes), step)
        return cls((tuple(classes[:base]), *(tuple(classes[i : i + step]) for i in starts)))

    @classmethod
    def of(cls, steps: Sequence[Sequence[str | int]], legend: Legend) -> ClassSteps:
        """Steps listed by a person, classes by name or number.

        Raises:
            UserError: an unknown class, and what the class itself raises.
        """
        return cls(tuple(tuple(legend.name(c, f"step {t}: ") for c in s) for t, s in enumerate(steps)))

    def __len__(self) -> int:
        return len(self.steps)

    def seen(self, step: int) -> tuple[str, ...]:
        """C_0, ..., C_t: the classes that a learner knows after step t, in the order of their channels."""
        return tuple(name for classes in self.steps[: step + 1] for name in classes)

    def columns(self, step: int) -> tuple[str, ...]:
        """Names of the channels after step t: the background, then the classes seen."""
        return (BACKGROUND_NAME, *self.seen(step))

    def train_table(self, step: int, legend: Legend, setting: Setting = "overlapped") -> LabelTable:
        """Labels that step t trains on: its own classes, and everything else background. In the sequential
        setting old classes keep their labels."""
        known = self.seen(step) if setting == "sequential" else self.steps[step]
        return self._table(legend, known, 0)

    def test_table(self, step: int, legend: Legend, unseen_as: UnseenAs = "background") -> LabelTable:
        """Labels that are scored after step t: all classes seen; the others are background (PLOP, DKD and EIR
        on VOC) or ignored (MiB; DKD on ADE20K)."""
        return self._table(legend, self.seen(step), VOID if unseen_as == "ignore" else 0)

    def _table(self, legend: Legend, known: Sequence[str], others: int) -> LabelTable:
        channel: Mapping[str, int] = {n: i for i, n in enumerate(self.seen(len(self)), 1) if n in known}
        values = np.full(256, VOID, np.uint8)
        values[list(legend.background)] = 0
        for number, name in legend.names.items():
            values[number] = channel.get(name, others)
        return LabelTable(values.tobytes())

    def train_images(
        self, step: int, present: Bools, legend: Legend, setting: Setting, *, empty: bool = False
    ) -> NDArray[np.intp]:
        """Places of the images that step t trains on.

        present: (N, 256), which numbers occur in each image.
        empty: whether images of no class are among them, too.

        - overlapped: S(x) and C_t meet. An image may come in several steps.
        - disjoint: also S(x) is within C_0, ..., C_t, so that an image comes once, when its last class does.
        - sequential: as disjoint.

        A class of the legend that no step adds is in S(x), too: otherwise a stage appended later would take
        images away from earlier ones.
        """
        chosen = present[:, _numbers(legend, self.steps[step])].any(1)
        if setting != "overlapped":
            later = set(legend.names.values()) - set(self.seen(step))
            chosen &= ~present[:, _numbers(legend, later)].any(1)
        return np.flatnonzero(chosen | without_class(present, legend) if empty else chosen)

    def test_images(
        self, step: int, present: Bools, legend: Legend, *, empty: bool = False
    ) -> NDArray[np.intp]:
        """Places of the images that are scored after step t: those with a class seen so far, and those of no
        class at all if `empty`."""
        chosen = present[:, _numbers(legend, self.seen(step))].any(1)
        return np.flatnonzero(chosen | without_class(present, legend) if empty else chosen)


def without_class(present: Bools, legend: Legend) -> Bools:
    """Which images show background and no class of the legend, not even one that no step adds."""
    of_class = np.any(present[:, list(legend.names)], axis=1)
    of_background = np.any(present[:, list(legend.background)], axis=1)
    return np.asarray(of_background & ~of_class)


def _numbers(legend: Legend, names: Sequence[str] | set[str]) -> list[int]:
    wanted = set(names)
    return [number for number, name in legend.names.items() if name in wanted]


def _counts(text: str) -> bool:
    """Whether a text is a number of classes, from 1."""
    return text.isdecimal() and len(text) < 10 and int(text) > 0
