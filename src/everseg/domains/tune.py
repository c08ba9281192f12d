"""Train an adapter on the frozen base, and predict through adapters; shared by the promptable methods.

Shapes: B rows, one object each; Y X token grid, D its width; h w the logits' size; S the frame's side.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Protocol

import torch
from torch import Tensor, nn

from everseg.config import Checked, Count, Share
from everseg.distributed import shard
from everseg.domains.adapters.grouped import Grouped
from everseg.domains.heatmap import click_heatmap
from everseg.domains.losses import REFERENCE, LossConfig, reduce_samcl, samcl_terms
from everseg.domains.prepare import PREDICT_BATCH, Example, Prepared
from everseg.domains.scoring import ScoreConfig, score
from everseg.fit import FitConfig, check_validation, fit, validation_of
from everseg.models.batching import images_at_once
from everseg.models.precision import resolved
from everseg.models.promptable.passes import in_passes, objects_of, passes
from everseg.models.promptable.protocol import (
    TAP,
    Adaptation,
    Features,
    FramePrompts,
    Observe,
    Promptable,
    to_frame,
)
from everseg.progress import bar
from everseg.types import PromptPrediction, PromptSample, Query, Route, Scratch


@dataclass(frozen=True)
class TuneConfig(Checked):
    """How an adapter is trained."""

    fit: FitConfig = field(default_factory=FitConfig)
    """The gradient steps."""
    loss: LossConfig = field(default_factory=LossConfig)
    """The loss that the steps minimise."""
    val: Share = 0.0
    """Share of a stage's training images held out to choose the best epoch by; 0: none, unless the stream has
    val:. [ours]"""
    patience: Count = 0
    """Stop after this many epochs without a better score on held-out images; 0: train to the end. [ours]"""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_validation(self)

    @classmethod
    def paper(cls) -> TuneConfig:
        """SAMCL as its text has it: AdamW, a cosine over the whole run, 20 epochs of batches of 8 at
        0.005."""
        return cls(fit=FitConfig(optimiser="adamw", schedule="total"))

    @classmethod
    def reference(cls) -> TuneConfig:
        """The published code: Adam, a cosine that swings every 40 iterations, nearest upsampling, summed
        losses."""
        return cls(fit=FitConfig(optimiser="adam", schedule="per_iter_T20"), loss=REFERENCE)


class Adapter(Protocol):
    """A module that adapts the tail once it is bound to a batch's click maps (B, Y, X).

    `observe` is shown the inputs of its linear layers.
    """

    def bind(self, heat: Tensor, /, observe: Observe | None = None) -> Adaptation: ...

    def parameters(self) -> Iterator[nn.Parameter]: ...


def fit_adapter(
    adapter: Adapter,
    base: Promptable,
    prepared: Prepared,
    config: TuneConfig,
    *,
    seed: int,
    name: str,
    scratch: Scratch,
    val: Sequence[PromptSample] = (),
) -> dict[str, float]:
    """Tune `adapter` in place on a prepared stage; the base stays frozen. Returns `fit`'s figures.

    val: samples by whose IoU the best epoch is chosen.
    """

    def loss(examples: list[Example], size: int) -> Tensor:
        return batch_loss(adapter, base, prepared, examples, config.loss, size)

    def score_val() -> float:
        how = ScoreConfig(workers=config.fit.workers)
        choose = with_adapter(adapter)
        found = score(lambda asked: predict(asked, base, prepared.cache, choose), val, name, how)
        return sum(one.values["iou"] for one in found) / len(found)

    parameters = [p for p in adapter.parameters() if p.requires_grad]
    figures = fit(
        parameters,
        prepared,
        list,
        loss,
        config.fit,
        seed=seed,
        name=name,
        scratch=scratch,
        scaled=resolved(base.precision, base.device) == "fp16",
        validation=validation_of(config, score_val, len(val), name),
    )
    return figures | {"trainable_parameters": float(sum(p.numel() for p in parameters))}


def batch_loss(
    adapter: Adapter,
    base: Promptable,
    prepared: Prepared,
    examples: Sequence[Example],
    config: LossConfig,
    size: int,
) -> Tensor:
    """The training loss of some rows, as their share of a step of `size` rows."""
    total = torch.zeros((), device=base.device)
    for features, prompts, truth in batches(examples, prepared):
        logits, iou = forward(base, features, prompts, adapter.bind, single=True)
        terms = samcl_terms(logits[:, 0], truth, iou[:, 0], config)
        total = total + reduce_samcl(*terms, size, config.reduction, config.dice_weight)
    return total


def batches(
    examples: Sequence[Example], prepared: Prepared
) -> Iterator[tuple[Features, FramePrompts, Tensor]]:
    """Features, prompts and truth (B, S, S) bool, on the base's device, of the rows that share a pass."""
    device = prepared.base.device
    for rows, prompts in passes([e.prompts for e in examples]):
        features = prepared.cache.features([examples[row].query for row in rows])
        truth = torch.cat([examples[row].truth for row in rows])
        yield features, prompts.to(device), truth.to(device)


def commonest(examples: Sequence[Example]) -> list[Example]:
    """As many rows as possible that share a pass."""
    found = passes([e.prompts for e in examples])
    return [examples[row] for row in max((rows for rows, _ in found), key=len, default=[])]


def observe_inputs(
    adapter: Adapter, base: Promptable, prepared: Prepared, observe: Observe, name: str
) -> None:
    """Run the tail over every row of a prepared stage and show `observe` what the adapter's linear layers are
    given. Without gradients; the rows are shared out among the processes."""
    rows = shard(range(len(prepared)))
    with torch.inference_mode(), bar(f"{name}: statistics", len(rows)) as advance:
        for start in range(0, len(rows), PREDICT_BATCH):
            examples = [prepared[i] for i in rows[start : start + PREDICT_BATCH]]
            features = prepared.cache.features([e.query for e in examples])
            for places, prompts in passes([e.prompts for e in examples]):
                heat = _heat(base, prompts.to(base.device), len(places))
                base.tail({k: v[places] for k, v in features.items()}, adapter.bind(heat, observe))
            for _ in examples:
                advance("")


Bind = Callable[[Tensor], Adaptation | None]
"""From a batch's click maps (B, Y, X) to what is added to the tail; None leaves the base as it is."""

Choice = tuple[Sequence[Adapter | None], Sequence[Route | None]]
"""The adapter of each image, None where the base stays as it is, and the route of each image."""

Choose = Callable[[Features], Choice]
"""How a method picks what to add to each image of a batch, from the trunk's output alone."""


def forward(
    base: Promptable, features: Features, prompts: FramePrompts, bind: Bind, *, single: bool = False
) -> tuple[Tensor, Tensor]:
    """Logits (B, 1, h, w) and predicted IoU (B, 1) of rows that hold one object each; `single` as in
    `Promptable.decode`."""
    embedding = base.tail(features, bind(_heat(base, prompts, len(features[TAP]))))
    return base.decode(embedding, prompts, single=single)


class Source(Protocol):
    """Source of the trunk's output for a batch, such as a `FeatureCache`."""

    def features(self, queries: Sequence[Query]) -> Features: ...


def predict(
    queries: Sequence[Query],
    base: Promptable,
    cache: Source,
    choose: Choose,
) -> list[PromptPrediction]:
    """Masks for queries of any sizes and kinds of prompts, one trunk pass for each batch of images."""
    out: list[PromptPrediction] = []
    together = images_at_once(PREDICT_BATCH, base.image_size**2, base.device)
    with torch.inference_mode():
        for start in range(0, len(queries), together):
            out += _predict_batch(queries[start : start + together], base, cache, choose)
    return out


def _predict_batch(
    queries: Sequence[Query], base: Promptable, cache: Source, choose: Choose
) -> Iterator[PromptPrediction]:
    features = cache.features(queries)
    adapters, routes = choose(features)
    sizes = [(q.image.shape[-2], q.image.shape[-1]) for q in queries]
    # Images that share an adapter stand side by side, so that its products are as few as there are adapters.
    first = {id(adapter): place for place, adapter in reversed(list(enumerate(adapters)))}
    order = sorted(range(len(queries)), key=lambda i: first[id(adapters[i])])
    objects = [
        (i, one) for i in order for one in objects_of(to_frame(queries[i].prompts, sizes[i], base.image_size))
    ]

    def run(rows: list[int], prompts: FramePrompts) -> tuple[Tensor, Tensor]:
        images = [objects[row][0] for row in rows]
        taken = {k: v[torch.tensor(images, device=base.device)] for k, v in features.items()}
        bind = bind_rows([adapters[image] for image in images])
        logits, iou = forward(base, taken, prompts.to(base.device), bind)
        return logits.float().cpu(), iou.float().cpu()

    # The tail's activations are as large as a sixteenth of the pixels, by and large.
    together = images_at_once(PREDICT_BATCH, base.image_size**2 // 16, base.device)
    found: list[list[tuple[Tensor, Tensor]]] = [[] for _ in queries]
    for (i, _), decoded in zip(objects, in_passes([one for _, one in objects], run, together), strict=True):
        found[i].append(decoded)
    for own, size, route in zip(found, sizes, routes, strict=True):
        logits, iou = zip(*own, strict=True)
        yield PromptPrediction(torch.cat(logits), torch.cat(iou), size, route)


def bind_rows(adapters: Sequence[Adapter | None]) -> Bind:
    """The `Bind` of a batch in which each row has its own adapter; None leaves a row as it is.

    Neighbours with the same adapter share its products, so rows are best sorted by adapter.
    """
    runs = [(adapter, len(list(rows))) for adapter, rows in groupby(adapters)]

    def bind(heat: Tensor) -> Adaptation | None:
        pieces = heat.split([rows for _, rows in runs])
        parts = [
            (rows, None if adapter is None else adapter.bind(piece))
            for (adapter, rows), piece in zip(runs, pieces, strict=True)
        ]
        return parts[0][1] if len(parts) == 1 else Grouped(parts)

    return bind


def with_adapter(adapter: Adapter | None) -> Choose:
    """The choice of one adapter for every image; None: the untouched base."""

    def choose(features: Features) -> Choice:
        images = len(features[TAP])
        return [adapter] * images, [None] * images

    return choose


def with_adapter_where(
    adapter: Adapter, wanted: Sequence[bool], routes: Sequence[Route | None] | None = None
) -> Choice:
    """The choice of one adapter for some images of a batch and of the untouched base for the others.

    wanted: whether an image gets the adapter.
    """
    return [adapter if yes else None for yes in wanted], routes or [None] * len(wanted)


def _heat(base: Promptable, prompts: FramePrompts, rows: int) -> Tensor:
    """The click maps (B, Y, X) of rows that hold one object each."""
    points, labels = _only(prompts.points), _only(prompts.labels)
    return click_heatmap(points, labels, base.image_size, base.grid, rows=rows, device=base.device)


def _only(x: Tensor | None) -> Tensor | None:
    """(B, 1, ...) -> (B, ...)."""
    return None if x is None else x[:, 0]
