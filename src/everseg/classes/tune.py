"""Train a segmenter of classes for one step."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor, nn

from everseg.classes.crops import Batch, Crops, batches, collate
from everseg.classes.nest import pretune
from everseg.classes.settings import ClassTuneConfig
from everseg.fit import Group, fit, steps_of, validation_of
from everseg.models.precision import resolved
from everseg.models.semantic.segmenter import Init, Segmenter
from everseg.types import Scratch, Stage

FASTEST = 0.1
"""The most weight that running statistics give to one batch, unless they have more by themselves."""


class Validate(NamedTuple):
    """Scores a model in training: `score(workers)` on `images` validation images."""

    score: Callable[[int], float]
    images: int


def begin(
    model: Segmenter, stage: Stage, config: ClassTuneConfig, init: Init, *, seed: int
) -> Segmenter | None:
    """Give the model a classifier for the stage's classes; returns a frozen copy of what it was before, None
    before the first step that it learns, whose classifier starts fresh."""
    old = None if model.untaught else model.frozen_copy()
    tuned = old is not None and config.nest > 0 and len(stage.train) > 0
    model.grow(len(stage.classes), init if old is not None and not tuned else "fresh", seed=seed)
    if old is not None and config.freeze_norm:
        model.freeze_norm()
    if old is not None and tuned:
        rows, how = Crops(stage.train, config, seed, stage.name), config.later
        pretune(model, old, rows, batches(rows, how), collate, how, config.nest, config.head_lr)
    return old


def train(
    model: Segmenter,
    crops: Crops,
    loss: Callable[[Batch], Tensor],
    config: ClassTuneConfig,
    *,
    scratch: Scratch,
    groups: Sequence[Group] | None = None,
    validate: Validate | None = None,
) -> dict[str, float]:
    """Minimise `loss` by gradient steps on the model, in place; returns `fit`'s figures.

    loss(batch) is a mean over the pixels of the batch. A batch in parts, or shared out among processes, is
    averaged part by part, as the published code does on several GPUs: void is shared out unevenly then.
    groups: what trains and how fast; by default all of the model that requires a gradient.
    validate: what the best epoch is chosen by; see `ClassLearner.validate`.
    """
    how = config.fit_of(len(crops.samples), first=model.first, began=model.began)
    groups = groups_of(model, config) if groups is None else groups

    def weighed(batch: Batch, size: int) -> Tensor:
        with _drawn(batch.seeds[0], model.device):
            return loss(batch) * (len(batch.images) / size)

    def score() -> float:
        assert validate is not None
        found = validate.score(how.workers)
        model.train()
        return found

    model.train()
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d) and m.training]
    with _following(norms, steps_of(how, len(crops))):
        figures = fit(
            groups,
            crops,
            collate,
            weighed,
            how,
            seed=crops.seed,
            name=crops.name,
            scratch=scratch,
            scaled=resolved(model.precision, model.device) == "fp16",
            buffers=[b for norm in norms for b in norm.buffers()],
            validation=validation_of(config, score, validate.images if validate else 0, crops.name),
        )
    model.eval()
    for group in groups:
        for parameter in group.parameters:
            parameter.grad = None
    return figures | {"trainable_parameters": float(sum(p.numel() for g in groups for p in g.parameters))}


def groups_of(model: Segmenter, config: ClassTuneConfig) -> list[Group]:
    """What of a model trains in its newest step, with the learning rates and the weight decay that go with
    it."""
    first = model.first
    decay = (config.first if first else config.later).weight_decay
    found = model.groups(decay, decay_old=config.decay_old or first)
    return [g if g.name == "backbone" else g._replace(scale=config.head_lr) for g in found]


@contextmanager
def _following(norms: Sequence[nn.BatchNorm2d], steps: int) -> Iterator[None]:
    """Let running statistics forget what was before the last tenth of a training, where that is shorter than
    what they remember by themselves; but no faster than PyTorch's default.

    A backbone's remember the last hundred steps. Those of a short training would be still on their way from
    the pretrained weights' when they are frozen, and a later step would start from noise; those of a handful
    of batches alone would be noise themselves.
    """
    before = [norm.momentum for norm in norms]
    for norm, own in zip(norms, before, strict=True):
        norm.momentum = max(own or 0.0, min(FASTEST, 10 / max(1, steps)))
    try:
        yield
    finally:
        for norm, own in zip(norms, before, strict=True):
            norm.momentum = own


@contextmanager
def _drawn(seed: int, device: torch.device) -> Iterator[None]:
    """Dropout as this seed draws it, and the global generators as they were."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield
