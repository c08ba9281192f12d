"""Try adapters on the kept samples of every domain, for rules that calibrate while they merge."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from everseg.domains.adapters.kinds import AnyAdapter, block_of, fresh_adapter
from everseg.domains.merging.chain import chain_of
from everseg.domains.merging.contribution import Contribution, Samples
from everseg.domains.tune import forward
from everseg.merge.rule import Chain
from everseg.merge.tensors import Tensors
from everseg.models.promptable.protocol import Features, FramePrompts, Promptable

BATCH = 16
"""Samples in one step, as the published settings have it."""


class _Adapted(nn.Module):
    """A base with an adapter whose tensors can be swapped for others for the length of a call."""

    def __init__(self, base: Promptable, adapter: nn.Module) -> None:
        super().__init__()
        self.base, self.adapter = base, adapter

    def forward(self, features: Features, prompts: FramePrompts) -> Tensor:
        bind = self.adapter.bind
        return forward(self.base, features, prompts, bind, single=True)[0]  # type: ignore[arg-type]


class Trial:
    """What rules may ask of the adapted base: `everseg.merge.rule.Network`. It runs on the base's device."""

    def __init__(self, base: Promptable, contributions: Sequence[Contribution], seed: int = 0) -> None:
        self.base, self.contributions, self.seed = base, contributions, seed

    @property
    def blocks(self) -> Mapping[str, int | None]:
        return {name: block_of(name) for name in self.contributions[0].weights}

    @property
    def samples(self) -> list[Samples]:
        """Those of each domain; a rule that needs them is given none without."""
        kept = [c.samples for c in self.contributions if c.samples is not None]
        assert len(kept) == len(self.contributions), "every domain has kept samples"
        return kept

    @cached_property
    def adapter(self) -> AnyAdapter:
        like = self.contributions[0]
        return fresh_adapter(like.adapter, self.base, like.rank, None, mix=like.mix)

    @cached_property
    def adapted(self) -> _Adapted:
        return _Adapted(self.base, self.adapter)

    def chain(self) -> Chain:
        return chain_of(self.adapter, self.base, self.samples)

    def logits(self, weights: Tensors, samples: Samples, rows: Sequence[int]) -> Tensor:
        """(rows, 1, h, w), with a graph where the weights have one."""
        device = self.base.device
        features = {n: v[list(rows)].float().to(device) for n, v in samples.features.items()}
        prompts = samples.prompts[torch.tensor(list(rows))].to(device)
        moved = {f"adapter.{n}": value.to(device) for n, value in weights.items()}
        out: Tensor = functional_call(self.adapted, moved, (features, prompts))
        return out

    def entropy(self, draw: torch.Generator) -> Callable[[dict[str, Tensor]], Tensor]:
        """The mean entropy of each pixel's prediction, on a batch of one domain after another. Segmentation's
        counterpart of a classifier's entropy; ours."""
        samples, turn = self.samples, 0

        def loss(weights: dict[str, Tensor]) -> Tensor:
            nonlocal turn
            own = samples[turn % len(samples)]
            turn += 1
            rows = torch.randperm(len(own), generator=draw)[:BATCH].tolist()
            z = self.logits(weights, own, rows)
            return (F.softplus(z) - z * torch.sigmoid(z)).mean()

        return loss

    def score(self) -> Callable[[dict[str, Tensor]], float]:
        """The mean IoU over domains, each the mean over its samples in the base's frame."""
        samples = self.samples

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
