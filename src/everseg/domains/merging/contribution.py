"""What one domain brings to a merge: its adapter and what was measured of its data. It holds no image unless
samples were asked for, and says so.

This is what a run keeps of each domain beside its own state, what sites exchange, and what is taken away when
a domain is to be forgotten.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from everseg.config import Checked, Count
from everseg.domains.adapters.kinds import AdapterKind, AnyAdapter, linears
from everseg.domains.cache import CacheConfig
from everseg.domains.plausible import FEWEST, Gaussian
from everseg.domains.prepare import Prepared, prepare
from everseg.domains.selector import draw_rows
from everseg.domains.tune import (
    TuneConfig,
    batch_loss,
    batches,
    commonest,
    fit_adapter,
    observe_inputs,
)
from everseg.errors import UserError
from everseg.files import load_state, sha256_tensors
from everseg.merge.collect import GramCollector
from everseg.merge.fisher import diagonal_fisher
from everseg.merge.gram import GramConfig, add_up_grams
from everseg.models.promptable.protocol import Features, FramePrompts, Promptable
from everseg.seed import torch_generator
from everseg.types import Scratch, Stage, State, Weighting

FORMAT = 1

EMBEDDINGS = 300
"""Number of images whose embeddings identify a domain."""


@dataclass(frozen=True)
class MeasureConfig(Checked):
    """What is measured of a domain beside its adapter, for the rules of merging that need it."""

    grams: bool = True
    """Measure the second moments of the adapter's inputs."""
    gram: GramConfig = field(default_factory=GramConfig)
    """How they are measured."""
    prompt_branch: bool = False
    """Measure them also for the layers that read the clicks alone."""
    fisher: Count = 0
    """Training rows for the diagonal Fisher information, one backward pass each; 0 measures none."""
    samples: Count = 0
    """Training rows whose features, clicks and truth are kept for rules that calibrate; 0 keeps none."""


@dataclass(frozen=True)
class Samples:
    """Training rows kept for calibration: features (n, ...) in half precision, prompts in the base's frame,
    truth (n, S, S) bool."""

    features: Features
    prompts: FramePrompts
    truth: Tensor

    def __len__(self) -> int:
        return len(self.truth)


@dataclass(frozen=True)
class Contribution:
    """One domain's adapter and statistics, on the CPU."""

    domain: str
    """Name of the domain."""
    base: str
    """Fingerprint of the base that the adapter belongs to."""
    adapter: AdapterKind
    """Kind of the adapter."""
    rank: int
    """Rank of the adapter."""
    mix: bool
    """Whether an AugModule has its matrices C."""
    start: Mapping[str, Tensor]
    """The weights that every domain of the run set out from, or would have."""
    after: tuple[str, ...]
    """The domains on whose adapters this one was built, in order; empty for a start of its own."""
    images: int
    """Training images."""
    objects: int
    """Training objects."""
    weights: Mapping[str, Tensor]
    """The adapter's weights."""
    moments: Mapping[str, Tensor] = field(default_factory=dict)
    """E[x x^T] of each measured layer's input, float64."""
    fisher: Mapping[str, Tensor] = field(default_factory=dict)
    """The diagonal Fisher information of the weights."""
    samples: Samples | None = None
    """Training rows that were kept for calibration."""
    gaussian: Gaussian | None = None
    """The Gaussian of its images' embeddings; None for fewer than five images."""

    @property
    def fingerprint(self) -> str:
        """sha256 of the adapter and its moments: what a certificate calls this contribution by."""
        moments = {f"moment of {name}": value for name, value in self.moments.items()}
        return sha256_tensors({**self.weights, **moments})

    def to_state(self) -> State:
        kept = None
        if self.samples is not None:
            p = self.samples.prompts
            kept = {
                "features": dict(self.samples.features),
                "prompts": {"points": p.points, "labels": p.labels, "boxes": p.boxes},
                "truth": self.samples.truth,
            }
        known = {} if self.gaussian is None else {"gaussian": self.gaussian.to_state()}
        return {
            **known,
            "format": FORMAT,
            "domain": self.domain,
            "base": self.base,
            "adapter": self.adapter,
            "rank": self.rank,
            "mix": self.mix,
            "after": list(self.after),
            "images": self.images,
            "objects": self.objects,
            "start": dict(self.start),
            "weights": dict(self.weights),
            "moments": {name: packed(value) for name, value in self.moments.items()},
            "fisher": dict(self.fisher),
            "samples": kept,
        }

    @classmethod
    def from_state(cls, state: State, where: str = "the contribution") -> Contribution:
        """What `to_state` gave.

        Raises:
            UserError: it is something else, or of another version.
        """
        if state.get("format") != FORMAT or "weights" not in state:
            raise UserError(
                f"{where} is not a contribution of a domain, or another version of everseg wrote it; learn "
                "the domain again with this version"
            )
        try:
            samples = state["samples"]
            if samples is not None:
                samples = Samples(
                    samples["features"], FramePrompts(**samples["prompts"]), samples["truth"].bool()
                )
            return cls(
                domain=state["domain"],
                base=state["base"],
                adapter=state["adapter"],
                rank=int(state["rank"]),
                mix=bool(state["mix"]),
                start=state["start"],
                after=tuple(state["after"]),
                images=int(state["images"]),
                objects=int(state["objects"]),
                weights=state["weights"],
                moments={name: unpacked(value) for name, value in state["moments"].items()},
                fisher=state["fisher"],
                samples=samples,
                gaussian=Gaussian.from_state(state["gaussian"]) if "gaussian" in state else None,
            )
        except (KeyError, TypeError, AttributeError) as error:
            raise UserError(f"{where} is damaged ({type(error).__name__}: {error}); get it again") from error


def read_contribution(path: Path) -> Contribution:
    """A contribution's file.

    Raises:
        UserError: it is missing, damaged, something else, or holds numbers that are not finite.
    """
    found = Contribution.from_state(load_state(path), str(path))
    check_finite(found, str(path))
    return found


def check_finite(contribution: Contribution, where: str = "") -> None:
    """Refuse NaN and infinity, which some rules would merge without a word.

    Raises:
        UserError: a tensor holds one.
    """
    samples = {} if contribution.samples is None else contribution.samples.features
    parts: dict[str, Mapping[str, Tensor]] = {
        "start": contribution.start,
        "weights": contribution.weights,
        "moments": contribution.moments,
        "Fisher information": contribution.fisher,
        "samples": samples,
        "Gaussian": {} if contribution.gaussian is None else contribution.gaussian.to_state(),
    }
    told = where or f"the contribution of {contribution.domain!r}"
    for part, tensors in parts.items():
        for name, value in tensors.items():
            if not bool(torch.isfinite(value).all()):
                raise UserError(
                    f"{told} cannot be merged: {name!r} of its {part} holds numbers that are not finite; "
                    "learn the domain again, with a lower learning rate, or leave it out"
                )


def tune_domain(
    adapter: AnyAdapter,
    base: Promptable,
    stage: Stage,
    measure: MeasureConfig,
    tune: TuneConfig,
    cache: CacheConfig,
    *,
    kind: AdapterKind,
    start: Mapping[str, Tensor],
    after: tuple[str, ...] = (),
    seed: int,
    scratch: Scratch,
) -> tuple[dict[str, float], Contribution | None]:
    """Tune `adapter` in place on a stage, then measure the stage with it: one more pass over its rows for the
    moments. Returns the figures of the fit and what the domain brings; None where it has no images.

    start, after: as in `Contribution`.
    """
    draw = torch_generator(seed, stage.name, "embeddings")
    drawn = draw_rows(len(stage.train), EMBEDDINGS, draw)
    prepared = prepare(stage.train, base, cache, tune.fit, stage.name, embedded=drawn)
    figures = fit_adapter(
        adapter, base, prepared, tune, seed=seed, name=stage.name, scratch=scratch, val=stage.val
    )
    if not len(prepared):
        return figures, None
    began = time.perf_counter()
    measured = (adapter, base, prepared, measure, stage.name, seed)
    brought = Contribution(
        domain=stage.name,
        base=base.fingerprint,
        adapter=kind,
        rank=adapter.config.rank,
        mix=getattr(adapter.config, "mix", False),
        start=on_cpu(start),
        after=after,
        images=len(stage.train),
        objects=len(prepared),
        weights=on_cpu(dict(adapter.state_dict())),
        moments=_moments(*measured) if measure.grams else {},
        fisher=_fisher(*measured, tune) if measure.fisher else {},
        samples=_samples(prepared, measure.samples, stage.name, seed) if measure.samples else None,
        gaussian=_gaussian(prepared, base),
    )
    return figures | {"statistics_seconds": time.perf_counter() - began}, brought


def _gaussian(prepared: Prepared, base: Promptable) -> Gaussian | None:
    if len(prepared.embeddings) < FEWEST:
        return None
    natural = None if base.natural is None else Gaussian.from_state(base.natural)
    return Gaussian.fit(prepared.embeddings, natural)


def on_cpu(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A copy of an adapter's weights that nothing changes."""
    return {name: value.detach().to("cpu", copy=True) for name, value in weights.items()}


def _moments(
    adapter: AnyAdapter, base: Promptable, prepared: Prepared, measure: MeasureConfig, domain: str, seed: int
) -> dict[str, Tensor]:
    collector = GramCollector(linears(adapter, measure.prompt_branch), measure.gram, seed=seed)

    def observe(layer: str, inputs: Tensor) -> None:
        if layer in collector.modules:
            collector.see(layer, inputs)

    observe_inputs(adapter, base, prepared, observe, domain)
    grams = collector.result()
    add_up_grams(list(grams.values()))
    # The mean over rows: every domain weighs the same, whatever its size.
    return {layer: gram.mean().cpu() for layer, gram in grams.items()}


def _fisher(
    adapter: AnyAdapter,
    base: Promptable,
    prepared: Prepared,
    measure: MeasureConfig,
    domain: str,
    seed: int,
    tune: TuneConfig,
) -> dict[str, Tensor]:
    """Of the training loss of one row at a time, in single precision: it is not a likelihood, and its scale
    counts."""
    examples = [prepared[i] for i in _drawn(len(prepared), measure.fisher, seed, domain, "fisher")]

    def losses() -> Iterator[Tensor]:
        for example in examples:
            yield batch_loss(adapter, base, prepared, [example], tune.loss, 1)

    found = diagonal_fisher(dict(adapter.named_parameters()), losses())
    return {name: value.float().cpu() for name, value in found.items()}


def _samples(prepared: Prepared, count: int, domain: str, seed: int) -> Samples:
    """Rows of the commonest kind of prompts only, so that they are one batch."""
    drawn = [prepared[i] for i in _drawn(len(prepared), 4 * count, seed, domain, "samples")]
    [(features, prompts, truth)] = batches(commonest(drawn)[:count], prepared)
    return Samples(
        {name: value.half().cpu() for name, value in features.items()},
        prompts.to(torch.device("cpu")),
        truth.cpu(),
    )


def _drawn(rows: int, count: int, seed: int, domain: str, purpose: str) -> list[int]:
    order = torch.randperm(rows, generator=torch_generator(seed, domain, purpose)).tolist()
    return order[:count]


def packed(moment: Tensor) -> Tensor:
    """The upper triangle of a symmetric matrix, row by row: (D, D) -> (D (D + 1) / 2,)."""
    upper = torch.triu_indices(len(moment), len(moment))
    return moment[upper[0], upper[1]]


def unpacked(triangle: Tensor) -> Tensor:
    """Undo `packed`."""
    side = int(((8 * len(triangle) + 1) ** 0.5 - 1) / 2)
    i, j = torch.triu_indices(side, side)
    moment = torch.zeros(side, side, dtype=triangle.dtype)
    moment[i, j] = triangle
    moment[j, i] = triangle
    return moment


def weight_of(contribution: Contribution, weighting: Weighting) -> float:
    """A domain's weight."""
    return {"equal": 1.0, "images": float(contribution.images), "objects": float(contribution.objects)}[
        weighting
    ]
