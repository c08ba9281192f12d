"""Tune an adapter on the frozen base, and predict through adapters: what the promptable methods have in
common.

Shapes: B rows, one object each; Y X token grid, D its width; h w the logits' size; S the frame's side.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader

from everseg.distributed import shard
from everseg.domains.cache import CacheConfig, FeatureCache
from everseg.domains.heatmap import click_heatmap
from everseg.domains.losses import REFERENCE, LossConfig, reduce_samcl, samcl_terms
from everseg.fit import FitConfig, fit
from everseg.models.precision import resolved
from everseg.models.promptable.protocol import (
    TAP,
    Adaptation,
    Features,
    FramePrompts,
    Observe,
    Promptable,
    stack_prompts,
    to_frame,
)
from everseg.progress import bar
from everseg.types import PromptPrediction, PromptSample, Query, Route, Scratch


@dataclass(frozen=True)
class TuneConfig:
    """How an adapter is trained."""

    fit: FitConfig = field(default_factory=FitConfig)
    """The gradient steps."""
    loss: LossConfig = field(default_factory=LossConfig)
    """The loss that the steps minimise."""

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


@dataclass(frozen=True)
class Example:
    """One training row: an index into its features, its prompts and its truth in the S x S frame (bool)."""

    query: Query
    prompts: FramePrompts
    truth: Tensor


class Prepared:
    """A stage's samples as training rows, one for each object, decoded once and kept while they fit the
    budget.

    `embeddings` (n, D) are the pooled taps of the images, which the Module Selector learns from.
    """

    def __init__(self, samples: Sequence[PromptSample], base: Promptable, cache: FeatureCache) -> None:
        self.samples = samples
        self.base = base
        self.cache = cache
        self.rows: list[tuple[int, int]] = []
        self.embeddings = torch.empty(0, base.width)
        self._kept: dict[tuple[int, int], Example] = {}
        self._kept_bytes = 0

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Example:
        row = self.rows[index]
        kept = self._kept.get(row)
        return kept if kept is not None else self._examples(self.samples[row[0]])[row[1]]

    def _examples(self, sample: PromptSample) -> list[Example]:
        """The rows of one sample, one for each of its objects."""
        side = self.base.image_size
        frame = to_frame(sample.prompts, (sample.image.shape[-2], sample.image.shape[-1]), side)
        truth = F.interpolate(sample.masks[None].float(), size=(side, side), mode="nearest")[0] > 0.5
        return [
            Example(sample.query(), _object(frame, n), truth[n : n + 1].clone())
            for n in range(len(sample.prompts))
        ]

    def keep(self, position: int, sample: PromptSample) -> None:
        """Note one sample's rows; keep those of features in memory, within the budget and without the pixels.

        Features on a disk may be gone when they are asked for; then the pixels are needed again.
        """
        cached = self.cache.holds(sample.key)
        for n, example in enumerate(self._examples(sample)):
            self.rows.append((position, n))
            if cached and self._kept_bytes + example.truth.numel() <= self.cache.config.budget:
                self._kept_bytes += example.truth.numel()
                query = Query(
                    example.query.image[:, :1, :1].clone(), example.query.prompts, example.query.key
                )
                self._kept[(position, n)] = Example(query, example.prompts, example.truth)


def prepare(
    samples: Sequence[PromptSample], base: Promptable, config: CacheConfig, tune: TuneConfig, name: str
) -> Prepared:
    """Read a stage once: decode in workers, run the trunk in batches, keep features and rows.

    The batches are the same whatever was interrupted, so that the features are the same to the bit.
    """
    cache = FeatureCache(base, config)
    prepared = Prepared(samples, base, cache)
    pooled, position = [], 0
    loader: DataLoader[Any] = DataLoader(
        samples,  # type: ignore[arg-type]  # any sequence serves
        batch_size=PREDICT_BATCH,
        collate_fn=list,
        num_workers=tune.fit.workers,
    )
    with bar(f"{name}: features", len(loader)) as advance:
        for batch in loader:
            features = cache.features([s.query() for s in batch])
            pooled.append(pool(features).cpu())
            for sample in batch:
                prepared.keep(position, sample)
                position += 1
            advance("")
    prepared.embeddings = torch.cat([prepared.embeddings, *pooled])
    return prepared


PREDICT_BATCH = 16
"""Images in one trunk pass where no gradient is taken."""


def pool(features: Features) -> Tensor:
    """The selector's input: the mean over the positions of the tap, not normalised: (B, Y, X, D) -> (B,
    D)."""
    return features[TAP].mean((1, 2))


def fit_adapter(
    adapter: Adapter,
    base: Promptable,
    prepared: Prepared,
    config: TuneConfig,
    *,
    seed: int,
    name: str,
    scratch: Scratch,
) -> dict[str, float]:
    """Tune `adapter` in place on a prepared stage; the base stays frozen. Returns `fit`'s figures."""

    def collate(examples: list[Example]) -> list[Example]:
        return examples

    def loss(examples: list[Example], size: int) -> Tensor:
        return batch_loss(adapter, base, prepared, examples, config.loss, size)

    parameters = [p for p in adapter.parameters() if p.requires_grad]
    figures = fit(
        parameters,
        prepared,
        collate,
        loss,
        config.fit,
        seed=seed,
        name=name,
        scratch=scratch,
        scaled=resolved(base.precision, base.device) == "fp16",
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
    for rows in _kinds([e.prompts for e in examples]):
        features, prompts, truth = batch_of([examples[row] for row in rows], prepared)
        logits, iou = forward(base, features, prompts, adapter.bind, single=True)
        terms = samcl_terms(logits[:, 0], truth, iou[:, 0], config)
        total = total + reduce_samcl(*terms, size, config.reduction, config.dice_weight)
    return total


def batch_of(examples: Sequence[Example], prepared: Prepared) -> tuple[Features, FramePrompts, Tensor]:
    """Features, prompts and truth (B, S, S) bool, on the base's device, of rows with one kind of prompts."""
    device = prepared.base.device
    features = prepared.cache.features([e.query for e in examples])
    prompts = stack_prompts([e.prompts for e in examples]).to(device)
    return features, prompts, torch.cat([e.truth for e in examples]).to(device)


def commonest(examples: Sequence[Example]) -> list[Example]:
    """Those rows that have the commonest kind of prompts, so that they can share a pass."""
    kinds = _kinds([e.prompts for e in examples])
    return [examples[row] for row in max(kinds, key=len, default=[])]


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
            for kind in _kinds([e.prompts for e in examples]):
                prompts = stack_prompts([examples[i].prompts for i in kind]).to(base.device)
                heat = _heat(base, prompts, len(kind))
                base.tail({k: v[kind] for k, v in features.items()}, adapter.bind(heat, observe))
            for _ in examples:
                advance("")


Bind = Callable[[Tensor], Adaptation | None]
"""From a batch's click maps (B, Y, X) to what is added to the tail; None leaves the base as it is."""

Choice = tuple[Callable[[Tensor], Bind], Sequence[Route | None]]
"""From image indices (rows,) to the `Bind` for those rows, and the route of each image."""

Choose = Callable[[Features], Choice]
"""How a method picks what to add to each image of a batch, from the trunk's output alone."""


def forward(
    base: Promptable, features: Features, prompts: FramePrompts, bind: Bind, *, single: bool = False
) -> tuple[Tensor, Tensor]:
    """Logits (B, 1, h, w) and predicted IoU (B, 1) of rows that hold one object each; `single` as in
    `Promptable.decode`."""
    embedding = base.tail(features, bind(_heat(base, prompts, len(features[TAP]))))
    return base.decode(embedding, prompts, single=single)


def predict(
    queries: Sequence[Query],
    base: Promptable,
    cache: FeatureCache,
    choose: Choose,
) -> list[PromptPrediction]:
    """Masks for queries of any sizes and kinds of prompts, one trunk pass for each batch of images."""
    out: list[PromptPrediction | None] = [None] * len(queries)
    with torch.inference_mode():
        for start in range(0, len(queries), PREDICT_BATCH):
            chunk = queries[start : start + PREDICT_BATCH]
            features = cache.features(chunk)
            bind_rows, routes = choose(features)
            # One row for each object: (image, object, its prompts).
            frames = [
                to_frame(q.prompts, (q.image.shape[-2], q.image.shape[-1]), base.image_size) for q in chunk
            ]
            rows = [(i, n, _object(frames[i], n)) for i, q in enumerate(chunk) for n in range(len(q.prompts))]
            masks: dict[tuple[int, int], tuple[Tensor, Tensor]] = {}
            for kind in _kinds([prompts for _, _, prompts in rows]):
                for first in range(0, len(kind), PREDICT_BATCH):
                    part = [rows[row] for row in kind[first : first + PREDICT_BATCH]]
                    images = torch.tensor([i for i, _, _ in part], device=base.device)
                    prompts = stack_prompts([p for _, _, p in part]).to(base.device)
                    taken = {k: v[images] for k, v in features.items()}
                    logits, iou = forward(base, taken, prompts, bind_rows(images))
                    logits, iou = logits.float().cpu(), iou.float().cpu()
                    masks.update({(i, n): (logits[k], iou[k]) for k, (i, n, _) in enumerate(part)})
            for i, q in enumerate(chunk):
                own = [masks[(i, n)] for n in range(len(q.prompts))]
                size = (q.image.shape[-2], q.image.shape[-1])
                out[start + i] = PromptPrediction(
                    torch.cat([m for m, _ in own]), torch.cat([v for _, v in own]), size, routes[i]
                )
    return [p for p in out if p is not None]


def with_adapter(adapter: Adapter | None) -> Choose:
    """The choice of one adapter for every image; None: the untouched base."""

    def bind(heat: Tensor) -> Adaptation | None:
        return None if adapter is None else adapter.bind(heat)

    def choose(features: Features) -> Choice:
        return (lambda rows: bind), [None] * len(features[TAP])

    return choose


def _object(prompts: FramePrompts, n: int) -> FramePrompts:
    """The n-th object's prompts, N = 1, without the clicks (label -10) that pad it to the others' length."""
    boxes = None if prompts.boxes is None else prompts.boxes[:, n : n + 1]
    if prompts.points is None or prompts.labels is None:
        return FramePrompts(None, None, boxes)
    real = prompts.labels[0, n] != -10
    if boxes is not None and not real.any():
        return FramePrompts(None, None, boxes)
    return FramePrompts(prompts.points[:, n : n + 1, real], prompts.labels[:, n : n + 1, real], boxes)


def _kinds(rows: Sequence[FramePrompts]) -> list[list[int]]:
    """Indices of rows that can share a pass: as many clicks, and with or without a box.

    Rows are not padded to one length, because SAM's decoder attends to a padding click too: an image's mask
    would depend on its neighbours in the batch.
    """
    kinds: dict[tuple[int, bool], list[int]] = {}
    for index, row in enumerate(rows):
        clicks = 0 if row.points is None else row.points.shape[-2]
        kinds.setdefault((clicks, row.boxes is not None), []).append(index)
    return list(kinds.values())


def _heat(base: Promptable, prompts: FramePrompts, rows: int) -> Tensor:
    """The click maps (B, Y, X) of rows that hold one object each."""
    points, labels = _only(prompts.points), _only(prompts.labels)
    return click_heatmap(points, labels, base.image_size, base.grid, rows=rows, device=base.device)


def _only(x: Tensor | None) -> Tensor | None:
    """(B, 1, ...) -> (B, ...)."""
    return None if x is None else x[:, 0]
