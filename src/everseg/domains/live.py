"""A live session: an adapter that learns from each correction while somebody labels, beside a learner that
stays as it is.

    the first correction   the session's adapter begins as a copy of the module that the learner chose for the
                           image, or as a fresh one where it chose the untouched base
    a click                a few gradient steps: the clicks on the object so far are pixels whose label is
                           known, and objects that were accepted before are rehearsed
    an accepted mask       a few more steps, on it and on those before; it is rehearsed from then on
    undo                   the adapter, the optimiser and what is rehearsed are what they were before

Every step computes the adapted blocks and the decoder alone: the trunk's features of an image are kept from
the first click on it. Nothing of the learner changes, and nothing is written. What was accepted becomes part
of a run as any other labelled images do, by learning them as a stage.

That an adapter goes on learning from corrections is from X. Yu et al., "Live Interactive Training for Video
Segmentation" (CVPR 2026, arXiv 2603.26929), where it is a LoRA for one video. Which rows are drawn, and that
clicks alone already teach, is ours.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor, nn
from torch.nn import functional as F

from everseg.config import MACHINE, Amount, Checked, Count, Positive, Size
from everseg.domains.adapters.aug import AugModule
from everseg.domains.cache import FeatureCache
from everseg.domains.losses import LossConfig, reduce_samcl, samcl_terms
from everseg.domains.tune import Adapter, Choice, forward, predict, with_adapter
from everseg.errors import UserError
from everseg.models.promptable.passes import objects_of, passes
from everseg.models.promptable.protocol import Features, FramePrompts, Promptable, to_frame
from everseg.seed import numpy_generator, torch_generator
from everseg.types import PromptPrediction, Query
from everseg.types.pixels import stretched

CLICKS = (1, 1, 2, 3, 5)
"""Of these the number of clicks in a step is drawn."""
NEAR = 0.04
"""Standard deviation of the weight around a click, as a share of the side of the frame."""
RECENT = 8
"""Images whose features are kept beside those of objects that are rehearsed."""
LOSS = LossConfig(upsample="none")
"""As in tuning, at the size of the logits, where a step costs a sixteenth."""


@dataclass(frozen=True)
class LiveConfig(Checked):
    """How a session's adapter learns."""

    lr: Positive = 0.005
    """Learning rate of AdamW, without decay and without a schedule."""
    click_steps: Count = 1
    """Steps after each click on an object that is not accepted yet; 0: only accepted masks teach."""
    accept_steps: Count = 6
    """Steps after each accepted mask."""
    batch: Size = 4
    """Accepted objects in a step; the newest is one of them."""
    click_weight: Amount = 5.0
    """Weight of the loss around the clicks of the object that is being corrected."""
    elsewhere: Amount = 0.05
    """Weight, in that loss, of pixels far from all clicks, which are asked to stay as they were answered."""
    objects: Size = 256
    """Accepted objects that are rehearsed, the newest ones."""
    budget: Count = field(default=2**29, metadata=MACHINE)
    """Bytes of features beyond which the oldest objects are no longer rehearsed."""
    undos: Count = 64
    """Corrections that can be undone."""


@runtime_checkable
class Chooses(Protocol):
    """A learner that picks an adapter for each image from the trunk's output."""

    base: Promptable
    cache: FeatureCache

    def choose(self, features: Features) -> Choice: ...


@dataclass(frozen=True)
class Taught:
    """An accepted object.

    prompts: its prompts, in the frame.
    inside: its pixels in the frame, as packed bits.
    truth: (h, w), share of each logit's pixels that belong to it.
    centre: (x, y), the pixel farthest from its border.
    """

    key: str
    prompts: FramePrompts
    inside: NDArray[np.uint8]
    truth: Tensor
    centre: tuple[float, float]


class Before(NamedTuple):
    """What undoing a correction restores."""

    adapter: nn.Module | None
    optimiser: dict[str, Any]
    taught: tuple[Taught, ...]
    start: str | None
    corrections: int


@dataclass
class Held:
    """Features of the session's images, from the first time that they are asked for."""

    cache: FeatureCache
    entries: dict[str, Features] = field(default_factory=dict)

    def features(self, queries: Sequence[Query]) -> Features:
        """As `FeatureCache.features`."""
        lacking = [query for query in queries if query.key not in self.entries]
        if lacking:
            found = self.cache.features(lacking)
            for row, query in enumerate(lacking):
                entry = {name: value[row].to("cpu", self.cache.dtype) for name, value in found.items()}
                self.entries[query.key] = entry
        for query in queries:  # The newest are the last.
            self.entries[query.key] = self.entries.pop(query.key)
        return self.of([query.key for query in queries])

    def of(self, keys: Sequence[str]) -> Features:
        """Of images that were asked for before."""
        return self.cache.stacked([self.entries[key] for key in keys])

    def keep(self, keys: set[str]) -> None:
        """Forget all others, but for the last few."""
        last = set([key for key in self.entries if key not in keys][-RECENT:])
        self.entries = {key: entry for key, entry in self.entries.items() if key in keys | last}

    @property
    def bytes(self) -> int:
        return sum(v.numel() * v.element_size() for entry in self.entries.values() for v in entry.values())


class LiveSession:
    """Learns from one person's corrections while they label.

    learner: learner that the session starts from; it is never changed.

    Raises:
        UserError: the learner chooses no adapter for an image.
    """

    def __init__(self, learner: Any, config: LiveConfig | None = None, *, seed: int = 0) -> None:
        if not isinstance(learner, Chooses):
            raise UserError(
                "the method chooses no module for an image, so a live session has none to start from; use "
                "a run of samcl, regcl or merged"
            )
        self.learner, self.config, self.seed = learner, config or LiveConfig(), seed
        self.base = learner.base
        self.held = Held(learner.cache)
        self.adapter: Any = None
        self.start: str | None = None
        self.corrections = 0
        self._taught: tuple[Taught, ...] = ()
        self._undo: list[Before] = []
        self._optimiser: torch.optim.Optimizer | None = None

    @property
    def objects(self) -> int:
        """Accepted objects that are rehearsed."""
        return len(self._taught)

    def predict(self, queries: Sequence[Query]) -> list[PromptPrediction]:
        """As `Learner.predict`: by the session's adapter, whatever the image; before the first correction as
        the learner does."""
        choose = self.learner.choose if self.adapter is None else with_adapter(self.adapter)
        return predict(queries, self.base, self.held, choose)

    def correct(self, query: Query, mask: Tensor | None = None) -> None:
        """Learn from a click on an object, or from its accepted mask.

        query: the image, and the prompts of one object; a correction is never asked for its trunk again.
        mask: (H, W) bool, where it is accepted; None where the last click was a correction.

        Raises:
            UserError: prompts of several objects, or a mask of another size or without a pixel.
        """
        size = (int(query.image.shape[-2]), int(query.image.shape[-1]))
        objects = objects_of(to_frame(query.prompts, size, self.base.image_size))
        if len(objects) != 1:
            raise UserError(
                f"a correction is for one object, but there are {len(objects)}; send one at a time"
            )
        if mask is not None and (tuple(mask.shape) != size or not bool(mask.any())):
            raise UserError(
                "an accepted mask must have the size of its image and at least one pixel; correct it"
            )
        features = self.held.features([query])
        optimiser = self._begin(features)
        now = objects[0]
        if mask is not None:
            self._taught = (*self._taught, self._accepted(query.key, now, mask, features))
            self._taught = self._taught[-self.config.objects :]
            for number in range(self.config.accept_steps):
                self._step(optimiser, number, None)
        elif self.config.click_steps and now.points is not None:
            target, weight = self._clicked(now, features)
            for number in range(self.config.click_steps):
                self._step(optimiser, number, (features, now, target, weight))
        self.corrections += 1
        self._keep()

    def undo(self) -> bool:
        """Take the last correction back; whether there was one."""
        if not self._undo:
            return False
        before = self._undo.pop()
        self.adapter, self._taught = before.adapter, before.taught
        self.start, self.corrections = before.start, before.corrections
        self._optimiser = None
        if self.adapter is not None:
            self._optimiser = self._fresh_optimiser()
            self._optimiser.load_state_dict(before.optimiser)
        return True

    # ------------------------------------------------------------ learning

    def _begin(self, features: Features) -> torch.optim.Optimizer:
        """Note what can be undone, and set out where this is the first correction."""
        state = {} if self._optimiser is None else copy.deepcopy(self._optimiser.state_dict())
        before = Before(copy.deepcopy(self.adapter), state, self._taught, self.start, self.corrections)
        self._undo = [*self._undo, before][-self.config.undos :] if self.config.undos else []
        if self.adapter is None:
            with torch.no_grad():
                adapters, routes = self.learner.choose(features)
            chosen, route = adapters[0], routes[0]
            self.start = "" if chosen is None else "module" if route is None else route.name
            generator = torch_generator(self.seed, "live")
            self.adapter = (
                AugModule.beside(self.base, generator=generator) if chosen is None else copy.deepcopy(chosen)
            )
            self._optimiser = self._fresh_optimiser()
        assert self._optimiser is not None
        return self._optimiser

    def _fresh_optimiser(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.adapter.parameters(), self.config.lr, weight_decay=0.0)

    def _keep(self) -> None:
        """Keep the features of what is rehearsed, or may be again when something is undone, in the budget."""
        while True:
            again = {one.key for before in self._undo for one in before.taught}
            self.held.keep({one.key for one in self._taught} | again)
            if self.held.bytes <= self.config.budget or len(self._taught) <= 1:
                return
            oldest, *kept = self._taught
            self._taught = tuple(kept)
            self._undo = [
                one._replace(taught=tuple(each for each in one.taught if each is not oldest))
                for one in self._undo
            ]

    def _step(
        self,
        optimiser: torch.optim.Optimizer,
        number: int,
        clicked: tuple[Features, FramePrompts, Tensor, Tensor] | None,
    ) -> None:
        draw = numpy_generator(self.seed, "live", self.corrections, number)
        total = torch.zeros((), device=self.base.device)
        if self._taught:
            count = int(draw.choice(CLICKS))
            others = draw.integers(0, len(self._taught), min(self.config.batch, len(self._taught)) - 1)
            rows = [self._taught[-1], *(self._taught[i] for i in others)]
            asked = [_drawn(one, count, draw, self.base.image_size) for one in rows]
            for places, prompts in passes(asked):
                features = self.held.of([rows[place].key for place in places])
                logits, iou = self._forward(features, prompts)
                truth = torch.stack([rows[place].truth for place in places]).to(self.base.device)
                terms = samcl_terms(logits, truth, iou, LOSS)
                total = total + reduce_samcl(*terms, len(rows), LOSS.reduction, LOSS.dice_weight)
        if clicked is not None:
            features, now, target, weight = clicked
            logits, _ = self._forward(features, now)
            each = F.binary_cross_entropy_with_logits(logits.float(), target, reduction="none")
            total = total + self.config.click_weight * (each * weight).sum() / weight.sum()
        optimiser.zero_grad()
        total.backward()
        nn.utils.clip_grad_norm_(self.adapter.parameters(), 1.0)
        optimiser.step()

    def _forward(self, features: Features, prompts: FramePrompts) -> tuple[Tensor, Tensor]:
        adapter: Adapter = self.adapter
        logits, iou = forward(self.base, features, prompts.to(self.base.device), adapter.bind, single=True)
        return logits[:, 0], iou[:, 0]

    def _accepted(self, key: str, prompts: FramePrompts, mask: Tensor, features: Features) -> Taught:
        side = self.base.image_size
        inside = stretched(mask[None].cpu(), side)
        if not bool(inside.any()):  # Too thin for the frame: the nearest pixels of its own.
            rows, columns = torch.nonzero(mask.cpu(), as_tuple=True)
            inside[0, rows * side // mask.shape[0], columns * side // mask.shape[1]] = True
        with torch.no_grad():
            logits, _ = self._forward(features, prompts)
        height, width = logits.shape[-2:]
        truth = F.adaptive_avg_pool2d(inside.float(), (height, width))[0]
        depth = ndimage.distance_transform_edt(np.pad(inside[0].numpy(), 1))[1:-1, 1:-1]
        row, column = divmod(int(depth.argmax()), side)
        return Taught(key, prompts, np.packbits(inside.numpy()), truth, (column + 0.5, row + 0.5))

    def _clicked(self, now: FramePrompts, features: Features) -> tuple[Tensor, Tensor]:
        """What the pixels are known to be, and how much each counts: (1, h, w) both."""
        assert now.points is not None and now.labels is not None
        with torch.no_grad():
            answered = self._forward(features, now)[0]
        height, width = answered.shape[-2:]
        rows = (torch.arange(height) + 0.5)[:, None] / height
        columns = (torch.arange(width) + 0.5)[None] / width
        target, weight = (answered > 0).float().cpu(), torch.full((1, height, width), self.config.elsewhere)
        for (x, y), label in zip(
            (now.points[0, 0] / self.base.image_size).tolist(), now.labels[0, 0].tolist(), strict=True
        ):
            near = torch.exp(-((columns - x).square() + (rows - y).square()) / (2 * NEAR**2))[None]
            weight = torch.maximum(weight, near)
            target = torch.where(near > 0.3, float(label), target)
        return target.to(self.base.device), weight.to(self.base.device)


def _drawn(one: Taught, count: int, draw: np.random.Generator, side: int) -> FramePrompts:
    """Prompts for an accepted object: its own, the first `count` clicks of them, or drawn ones, of which the
    first may be the pixel deepest inside and a late one may be off the object."""
    own = one.prompts
    given = 0 if own.points is None else own.points.shape[-2]
    if draw.random() < 0.5 and (own.boxes is not None or given >= count):
        if own.points is None or own.labels is None or own.boxes is not None:
            return own
        return FramePrompts(own.points[:, :, :count], own.labels[:, :, :count], None)
    inside = np.unpackbits(one.inside, count=side * side).astype(bool)
    places = draw.choice(np.flatnonzero(inside), count)
    labels = np.ones(count, np.int64)
    outside = np.flatnonzero(~inside)
    if count > 2 and len(outside) and draw.random() < 0.5:
        places[-1], labels[-1] = draw.choice(outside), 0
    points = np.stack([places % side + 0.5, places // side + 0.5], 1).astype(np.float32)
    if draw.random() < 0.5:
        points[0] = one.centre
    return FramePrompts(torch.from_numpy(points)[None, None], torch.from_numpy(labels)[None, None], None)
