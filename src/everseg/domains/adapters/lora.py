"""A plain low-rank adapter beside the attention: what SAMCL's baselines adapt the base with.

Shape suffixes: B rows, V windows of a row, w window side, Y X token grid, D token width, r rank.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from everseg.config import Checked, Size
from everseg.models.promptable.protocol import Adaptation, Observe, Promptable, plus_linear


@dataclass(frozen=True)
class LoRAConfig(Checked):
    """The shape of a low-rank adapter beside the attention."""

    rank: Size = 10
    """Rank r of the low-rank product. [SAMCL, baselines]"""


class ParallelLoRA(nn.Module):
    """attention_i(x) + B_i A_i x, with a pair of matrices for each adapted block. Fresh, it is the identity.

    width D; blocks: the adapted ones. `generator` draws the initial weights.

    Source: SAMCL's baseline "LoRA" (Hu et al., ICLR 2022). The paper writes of the QKV projection; its
    parameter counts (80,690 for SAM ViT-B at rank 10) are those of this layout with biases.
    """

    def __init__(
        self,
        width: int,
        blocks: Sequence[int],
        config: LoRAConfig | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        self.config = config or LoRAConfig()
        self.width, self.blocks = width, tuple(blocks)
        self.down = nn.ModuleList([nn.Linear(width, self.config.rank) for _ in self.blocks])
        self.up = nn.ModuleList([nn.Linear(self.config.rank, width) for _ in self.blocks])
        self.reset(generator)

    @classmethod
    def beside(
        cls, base: Promptable, config: LoRAConfig | None = None, generator: torch.Generator | None = None
    ) -> ParallelLoRA:
        """A fresh adapter for a base, on its device."""
        return cls(base.width, base.adapted, config, generator).to(base.device)

    @torch.no_grad()
    def reset(self, generator: torch.Generator | None = None) -> None:
        """Draw fresh weights: A_i uniform in 1/sqrt(D), the rest zero."""
        for down, up in zip(self.down, self.up, strict=True):
            weight, bias = down.parameters()
            nn.init.kaiming_uniform_(weight, a=math.sqrt(5), generator=generator)
            nn.init.zeros_(bias)
            for parameter in up.parameters():
                nn.init.zeros_(parameter)

    @property
    def total_parameters(self) -> int:
        """All trainable numbers; there are no norms, so the paper's count is the same."""
        return sum(p.numel() for p in self.parameters())

    def bind(self, heat_BYX: Tensor | None = None, observe: Observe | None = None) -> LoRAAdaptation:
        """The adapter for one batch of rows; it ignores clicks.

        observe: called with the name of each linear layer and its input, as they are met.
        """
        return LoRAAdaptation(self, observe)


class LoRAAdaptation(Adaptation):
    """A ParallelLoRA bound to a batch."""

    def __init__(self, module: ParallelLoRA, observe: Observe | None = None) -> None:
        self.module, self.observe = module, observe

    def attention(self, block: int, tokens: Tensor, window: int) -> Tensor | None:
        """B_i A_i x: tokens (B*V, w, w, D), or (B, Y, X, D) where `window` is 0 -> the same."""
        low = self._low(block, tokens)
        if low is None:
            return None
        out: Tensor = self.module.up[self.module.blocks.index(block)](low)
        return out

    def add_attention(self, out: Tensor, block: int, tokens: Tensor, window: int) -> Tensor:
        low = self._low(block, tokens)
        if low is None:
            return out
        weight, bias = self.module.up[self.module.blocks.index(block)].parameters()
        return plus_linear(out, low, weight, bias)

    def _low(self, block: int, tokens: Tensor) -> Tensor | None:
        """A_i x: (..., D) -> (..., r)."""
        if block not in self.module.blocks:
            return None
        i = self.module.blocks.index(block)
        low: Tensor = self.module.down[i](tokens)
        if self.observe is not None:
            self.observe(f"down.{i}", tokens)
            self.observe(f"up.{i}", low)
        return low
