"""One pass through a stage before it is trained: every image is decoded and encoded once, and what training
needs of it is kept.

With several processes each encodes its share of the batches, and all keep what all have found. The batches
are the same whatever was interrupted and however many processes there are, so that the features are the same
to the bit. Images that were encoded ahead, to discover their domains, are not encoded again.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader

from everseg.data.described import described
from everseg.distributed import gather, wait, world
from everseg.domains.cache import CacheConfig, FeatureCache
from everseg.errors import UserError
from everseg.fit import FitConfig
from everseg.models.promptable.passes import objects_of
from everseg.models.promptable.protocol import TAP, Features, FramePrompts, Promptable, to_frame
from everseg.progress import bar
from everseg.types import PromptSample, Query
from everseg.types.pixels import stretched

PREDICT_BATCH = 16
"""Images in one trunk pass where no gradient is taken."""


def pool(features: Features) -> Tensor:
    """The selector's input: the mean over the positions of the tap, not normalised: (B, Y, X, D) -> (B,
    D)."""
    return features[TAP].mean((1, 2))


@dataclass(frozen=True)
class Example:
    """One training row: an index into its features, its prompts and its truth in the S x S frame (bool)."""

    query: Query
    prompts: FramePrompts
    truth: Tensor


@dataclass(frozen=True)
class Kept:
    """An `Example` without its features and pixels; its truth has one bit per pixel."""

    query: Query
    prompts: FramePrompts
    truth: NDArray[np.uint8]

    @classmethod
    def of(cls, example: Example) -> Kept:
        query = example.query
        stub = Query(query.image[:, :1, :1].clone(), query.prompts, query.key)
        return cls(stub, example.prompts, np.packbits(example.truth.numpy()))

    def example(self, side: int) -> Example:
        bits = np.unpackbits(self.truth, count=side * side).astype(bool)
        return Example(self.query, self.prompts, torch.from_numpy(bits).view(1, side, side))


class Prepared:
    """A stage's samples as training rows, one for each object, decoded once and kept while they fit the
    budget.

    `embeddings` (n, D) are pooled taps of images, which the Module Selector learns from.
    """

    def __init__(self, samples: Sequence[PromptSample], base: Promptable, cache: FeatureCache) -> None:
        self.samples = samples
        self.base = base
        self.cache = cache
        self.embeddings = torch.empty(0, base.width)
        self._images, self._objects = array("q"), array("q")  # of each row
        self._kept: dict[int, Kept] = {}
        self._kept_bytes = 0

    def __len__(self) -> int:
        return len(self._images)

    @property
    def rows(self) -> list[tuple[int, int]]:
        """The sample of each row, and which of its objects."""
        return list(zip(self._images, self._objects, strict=True))

    def __getitem__(self, index: int) -> Example:
        if (kept := self._kept.get(index)) is not None:
            return kept.example(self.base.image_size)
        return examples(self.samples[self._images[index]], self.base)[self._objects[index]]

    def keep(self, position: int, objects: int, key: str, kept: Sequence[Kept]) -> None:
        """Note one sample's rows; keep those of features in memory, within the budget and without the pixels.

        Features on a disk may be gone when they are asked for; then the pixels are needed again.
        """
        cached = self.cache.holds(key)
        for n in range(objects):
            if cached and self._kept_bytes + kept[n].truth.nbytes <= self.cache.config.budget:
                self._kept_bytes += kept[n].truth.nbytes
                self._kept[len(self._images)] = kept[n]
            self._images.append(position)
            self._objects.append(n)


def examples(sample: PromptSample, base: Promptable) -> list[Example]:
    """The rows of one sample, one for each of its objects."""
    side = base.image_size
    frame = to_frame(sample.prompts, (sample.image.shape[-2], sample.image.shape[-1]), side)
    truth = stretched(sample.masks, side)
    return [
        Example(sample.query(), prompts, truth[n : n + 1].clone())
        for n, prompts in enumerate(objects_of(frame))
    ]


@dataclass(frozen=True)
class Row:
    """One sample, as decoded by the current process.

    kept: its training rows; empty if features are not kept in memory.
    pooled: (D,), its embedding; None if another process encodes the same image.
    """

    key: str
    objects: int
    kept: Sequence[Kept]
    pooled: NDArray[np.float32] | None


@dataclass(frozen=True)
class Share:
    """What one process has found in a batch: its samples, and the features that are to be kept in memory.

    written: bytes of features that it has kept on the disk.
    """

    rows: Sequence[Row]
    features: Mapping[str, Mapping[str, NDArray[Any]]]
    written: int


def prepare(
    samples: Sequence[PromptSample],
    base: Promptable,
    config: CacheConfig,
    fit: FitConfig,
    name: str,
    *,
    embedded: Sequence[int] | None = None,
) -> Prepared:
    """Read a stage once: decode in workers, run the trunk in batches, keep features and rows.

    embedded: samples whose embeddings are wanted, in this order; all of them by default.

    Raises:
        UserError: a sample cannot be read, by whichever process.
    """
    here, cache = world(), FeatureCache(base, config)
    wait()  # A process that counts what lies on the disk must not count what another has just written there.
    prepared = Prepared(samples, base, cache)
    rounds = range(0, len(samples), PREDICT_BATCH * here.size)
    mine = [range(start, len(samples))[PREDICT_BATCH * here.rank :][:PREDICT_BATCH] for start in rounds]
    loader: DataLoader[Any] = DataLoader(
        samples,  # type: ignore[arg-type]  # any sequence serves
        batch_sampler=[list(batch) for batch in mine if len(batch)],
        collate_fn=list,
        num_workers=fit.workers,
    )
    batches = iter(loader)
    wanted = range(len(samples)) if embedded is None else frozenset(embedded)
    pooled: dict[int, NDArray[np.float32]] = {}
    with bar(f"{name}: features", len(rounds)) as advance:
        for start, batch in zip(rounds, mine, strict=True):
            others = _shown(samples, range(start, batch.start)) if config.where != "off" else frozenset()
            parts = _exchanged(partial(_share, samples, batch, batches, others, cache))
            of_key: dict[str, NDArray[np.float32]] = {}
            position = start
            for rank, part in enumerate(parts):
                for key, entry in part.features.items():
                    cache.put(key, {n: torch.from_numpy(v) for n, v in entry.items()})
                cache.bytes += part.written if rank != here.rank else 0
                for row in part.rows:
                    embedding = of_key[row.key] if row.pooled is None else row.pooled
                    of_key[row.key] = embedding
                    prepared.keep(position, row.objects, row.key, row.kept)
                    if position in wanted:
                        pooled[position] = embedding.copy()  # Not its batch with it.
                    position += 1
            advance("")
    chosen = [pooled[i] for i in (wanted if embedded is None else embedded)]
    if chosen:
        prepared.embeddings = torch.from_numpy(np.stack(chosen))
    return prepared


def _shown(samples: Sequence[PromptSample], places: range) -> frozenset[str]:
    """The images of some samples."""
    told = described(samples)
    return frozenset(told.file(place) for place in places)


def _share(
    samples: Sequence[PromptSample],
    places: range,
    batches: Iterator[list[PromptSample]],
    others: frozenset[str],
    cache: FeatureCache,
) -> Share:
    """Decode and encode one batch. An image of `others`, which the processes before this one encode at the
    same time, would be in the cache if there were one process: it is left to them."""
    batch = next(batches) if len(places) else []
    told = described(samples)
    own = [not (s.key and others and told.file(i) in others) for i, s in zip(places, batch, strict=True)]
    new = _encoded(batch, cache)
    found = list(new.values())
    if not new:
        found, new = cache.find([s.query() for s, ours in zip(batch, own, strict=True) if ours])
    pooled = iter(pool(cache.stacked(found)).cpu().numpy() if found else ())
    in_memory, before = cache.config.where == "memory", cache.bytes
    if not in_memory:
        for key, entry in new.items():
            cache.put(key, entry)
        new = {}
    rows = []
    for sample, ours in zip(batch, own, strict=True):
        found_in_it = examples(sample, cache.base)
        kept = [Kept.of(e) for e in found_in_it] if in_memory and sample.key else []
        rows.append(Row(sample.key, len(found_in_it), kept, next(pooled) if ours else None))
    sent = {key: {n: v.cpu().numpy() for n, v in entry.items()} for key, entry in new.items()}
    return Share(rows, sent, cache.bytes - before)


def encode_ahead(cache: FeatureCache, queries: Sequence[Query]) -> Tensor:
    """The embeddings (N, D) of a batch. Its features are kept where `prepare` will find them: on the disk or,
    where the base has a place for them and they fit the budget, in memory."""
    found, new = cache.find(queries)
    kept = cache.base.encoded
    if cache.config.where == "disk":
        for key, entry in new.items():
            cache.put(key, entry)
    elif cache.config.where == "memory" and kept is not None and len(new) == PREDICT_BATCH:
        size = sum(v.numel() * v.element_size() for entry in new.values() for v in entry.values())
        if (len(kept) // PREDICT_BATCH + 1) * size <= cache.config.budget:
            kept |= {key: {n: v.cpu() for n, v in entry.items()} for key, entry in new.items()}
    return pool(cache.stacked(found))


def _encoded(batch: Sequence[PromptSample], cache: FeatureCache) -> dict[str, Features]:
    """The features of a batch that were encoded ahead, which are taken from where they were.

    Only where none of the batch is known otherwise, and only from whole batches for whole batches: in a batch
    of another size the last bits differ, and a run must not depend on what came before it.
    """
    known, keys = cache.base.encoded, [sample.key for sample in batch]
    if not known or world().size > 1 or len(set(keys)) < PREDICT_BATCH:
        return {}
    if any(key not in known or cache.holds(key) for key in keys):
        return {}
    if any(v.dtype != cache.dtype for v in known[keys[0]].values()):
        return {}
    return {key: known.pop(key) for key in keys}


def _exchanged(share: Callable[[], Share]) -> list[Share]:
    """The shares of all processes, by rank. A sample that one of them cannot read ends all."""
    mine: Share | UserError
    try:
        mine = share()
    except UserError as error:
        mine = error
    parts = [part for one in gather([mine]) for part in one]
    for part in parts:
        if isinstance(part, UserError):
            raise part
    return [part for part in parts if isinstance(part, Share)]
