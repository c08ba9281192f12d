"""Rules that look at kept samples of every domain while they merge."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from everseg.domains.adapters.kinds import block_of, fresh_adapter
from everseg.domains.merging.base import Merged, regmean_figures
from everseg.domains.merging.chain import merge_along
from everseg.domains.merging.contribution import Contribution, Samples
from everseg.domains.merging.rules import MergerConfig
from everseg.domains.tune import forward
from everseg.errors import UserError
from everseg.merge.average import average
from everseg.merge.blockwise import blockwise
from everseg.merge.concrete import adamerging, concrete
from everseg.merge.regmean import regmean
from everseg.merge.tensors import Tensors, applied, deltas
from everseg.merge.ties import ties
from everseg.models.promptable.protocol import Features, FramePrompts, Promptable
from everseg.seed import torch_generator

CALIBRATED = ("regmean++", "concrete", "adamerging", "blockwise")
BATCH = 16
"""Samples in one step, as the published settings have it."""


def calibrated(
    config: MergerConfig, contributions: Sequence[Contribution], base: Promptable, seed: int
) -> Merged:
    """Merge by a rule that calibrates.

    Raises:
        UserError: a domain kept no samples.
    """
    options, first = config.settings, contributions[0]
    samples = [_kept(c) for c in contributions]
    models: list[Tensors] = [c.weights for c in contributions]
    if len(models) == 1:
        return Merged(dict(first.weights), first.rank)
    trial = Trial(base, first)
    if config.rule == "regmean++":
        merged, reports = merge_along(trial.adapter, base, models, samples, options)
        return Merged(merged, first.rank, reports, regmean_figures(reports))
    if config.rule == "blockwise":
        found = blockwise(_candidates(contributions), _block, trial.score_on(samples), **options)
        figures = {"search_score": found.score, "search_evaluations": float(found.evaluations)}
        return Merged(found.tensors, first.rank, figures=figures | {"search_best_whole": found.start})
    draw = torch_generator(seed, config.rule)
    loss = trial.entropy_on(samples, draw)
    if config.rule == "concrete":
        merged, _ = concrete(first.start, models, loss, draw, **options)
    else:
        merged, _ = adamerging(first.start, models, loss, **options)
    return Merged({n: value.detach().cpu() for n, value in merged.items()}, first.rank)


def _kept(contribution: Contribution) -> Samples:
    if contribution.samples is None or not len(contribution.samples):
        raise UserError(
            f"{contribution.domain!r} kept no samples, on which this rule calibrates; learn it with "
            "--method merged --set measure=all (it then keeps the features, clicks and truth of some images)"
        )
    return contribution.samples


def _block(name: str) -> str:
    block = block_of(name)
    return "shared" if block is None else str(block)


def _candidates(contributions: Sequence[Contribution]) -> list[dict[str, Tensor]]:
    """The domains' own adapters and the merges that cost nothing."""
    models = [dict(c.weights) for c in contributions]
    start = contributions[0].start
    found = [*models, average(models), applied(start, ties(deltas(models, start)))]
    if all(c.moments for c in contributions):
        found.append(regmean(models, [c.moments for c in contributions])[0])
    return found


class _Adapted(nn.Module):
    """A base with an adapter whose tensors can be swapped for others for the length of a call."""

    def __init__(self, base: Promptable, adapter: nn.Module) -> None:
        super().__init__()
        self.base, self.adapter = base, adapter

    def forward(self, features: Features, prompts: FramePrompts) -> Tensor:
        bind = self.adapter.bind
        return forward(self.base, features, prompts, bind, single=True)[0]  # type: ignore[arg-type]


class Trial:
    """Tries adapters' weights on samples, on the base's device."""

    def __init__(self, base: Promptable, like: Contribution) -> None:
        self.base = base
        self.adapter = fresh_adapter(like.adapter, base, like.rank, None, mix=like.mix)
        self.adapted = _Adapted(base, self.adapter)

    def logits(self, weights: Tensors, samples: Samples, rows: Sequence[int]) -> Tensor:
        """(rows, 1, h, w), with a graph where the weights have one."""
        device = self.base.device
        features = {n: v[list(rows)].float().to(device) for n, v in samples.features.items()}
        prompts = samples.prompts[torch.tensor(list(rows))].to(device)
        moved = {f"adapter.{n}": value.to(device) for n, value in weights.items()}
        out: Tensor = functional_call(self.adapted, moved, (features, prompts))
        return out

    def entropy_on(
        self, samples: Sequence[Samples], draw: torch.Generator
    ) -> Callable[[dict[str, Tensor]], Tensor]:
        """The mean entropy of each pixel's prediction, on a batch of one domain after another. Segmentation's
        counterpart of a classifier's entropy; ours."""
        turn = 0

        def loss(weights: dict[str, Tensor]) -> Tensor:
            nonlocal turn
            own = samples[turn % len(samples)]
            turn += 1
            rows = torch.randperm(len(own), generator=draw)[:BATCH].tolist()
            z = self.logits(weights, own, rows)
            return (F.softplus(z) - z * torch.sigmoid(z)).mean()

        return loss

    def score_on(self, samples: Sequence[Samples]) -> Callable[[dict[str, Tensor]], float]:
        """The mean IoU over domains, each the mean over its samples in the base's frame."""

        @torch.inference_mode()
        def score(weights: dict[str, Tensor]) -> float:
            return sum(self._iou(weights, own) for own in samples) / len(samples)

        return score

    def _iou(self, weights: Tensors, samples: Samples) -> float:
        found = []
        for start in range(0, len(samples), BATCH):
            rows = range(start, min(start + BATCH, len(samples)))
            truth = samples.truth[start : start + BATCH].to(self.base.device)
            z = self.logits(weights, samples, rows)
            mask = F.interpolate(z, size=truth.shape[-2:], mode="bilinear", align_corners=False)[:, 0] >= 0
            both, either = (mask & truth).sum((1, 2)), (mask | truth).sum((1, 2))
            found.append(torch.where(either > 0, both / either.clamp(min=1), 1.0))
        return float(torch.cat(found).mean())
