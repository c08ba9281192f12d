"""Low-rank additions to the base's own linear layers: the one adapter whose result folds into the base.

Shape suffixes: O width of a layer's output, D of its input, r rank.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from everseg.config import Amount, Checked, Size
from everseg.models.promptable.protocol import Adaptation, Observe, Promptable


@dataclass(frozen=True)
class LinearConfig(Checked):
    """The shape of a low-rank adapter on linear layers."""

    rank: Size = 10
    """Rank r of the low-rank product."""
    alpha: Amount = 0.0
    """The product is multiplied by alpha / rank; 0: by 1."""

    @property
    def scale(self) -> float:
        """alpha / r."""
        return self.alpha / self.rank if self.alpha else 1.0


class LinearLoRA(nn.Module):
    """W x + (alpha / r) B A x for each adapted linear layer W of the base. Fresh, it is the identity.

    shapes: (D, O) of each layer, by its name in the base's state dict. `generator` draws the initial weights.

    Parameters, without biases: `down.KEY.weight` (A, (r, D)) and `up.KEY.weight` (B, (O, r)), where KEY is
    the layer's name with dashes for its dots (see `key`). Queries, keys and values of SAM are one layer, and
    so they share an A: 614,400 parameters for ViT-B at rank 10, where `ParallelLoRA` has 80,690.

    Source: Hu et al., ICLR 2022, on every linear layer of a block as in QLoRA (Dettmers et al., NeurIPS
    2023).
    """

    def __init__(
        self,
        shapes: Mapping[str, tuple[int, int]],
        config: LinearConfig | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        self.config = config or LinearConfig()
        self.names = tuple(shapes)
        rank = self.config.rank
        self.down = nn.ModuleDict({key(n): nn.Linear(d, rank, bias=False) for n, (d, _) in shapes.items()})
        self.up = nn.ModuleDict({key(n): nn.Linear(rank, o, bias=False) for n, (_, o) in shapes.items()})
        self.reset(generator)

    @classmethod
    def beside(
        cls, base: Promptable, config: LinearConfig | None = None, generator: torch.Generator | None = None
    ) -> LinearLoRA:
        """A fresh adapter for a base, on its device."""
        shapes = {name: (layer.in_features, layer.out_features) for name, layer in base.linears.items()}
        return cls(shapes, config, generator).to(base.device)

    @torch.no_grad()
    def reset(self, generator: torch.Generator | None = None) -> None:
        """Draw fresh weights: A uniform in 1/sqrt(D), B zero."""
        for weight in self.down.parameters():
            nn.init.kaiming_uniform_(weight, a=math.sqrt(5), generator=generator)
        for weight in self.up.parameters():
            nn.init.zeros_(weight)

    @property
    def total_parameters(self) -> int:
        """All trainable numbers."""
        return sum(p.numel() for p in self.parameters())

    def factors(self, name: str) -> tuple[Tensor, Tensor]:
        """A (r, D) and B (O, r) of a layer of the base; what is added is config.scale * B A x."""
        (down,), (up,) = self.down[key(name)].parameters(), self.up[key(name)].parameters()
        return down, up

    @torch.no_grad()
    def folded(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The base's state dict with the adapter in its weights, W + (alpha / r) B A, added up in float64.
        The other tensors are the ones given."""
        out = dict(weights)
        for name in self.names:
            weight = weights[f"{name}.weight"]
            down, up, plain = (x.cpu().double() for x in (*self.factors(name), weight))
            out[f"{name}.weight"] = (plain + self.config.scale * (up @ down)).to(weight)
        return out

    def bind(self, heat_BYX: Tensor | None = None, observe: Observe | None = None) -> LinearAdaptation:
        """The adapter for one batch of rows; it ignores clicks.

        observe: called with the name of each linear layer of the adapter and its input, as they are met.
        """
        return LinearAdaptation(self, observe)


class LinearAdaptation(Adaptation):
    """A LinearLoRA bound to a batch."""

    def __init__(self, module: LinearLoRA, observe: Observe | None = None) -> None:
        self.module, self.observe = module, observe
        self.linears = frozenset(module.names)

    def linear(self, name: str, inputs: Tensor) -> Tensor:
        """(alpha / r) B A x: (..., D) -> (..., O)."""
        part = key(name)
        low: Tensor = self.module.down[part](inputs)
        if self.module.config.scale != 1:
            low = low * self.module.config.scale
        if self.observe is not None:
            self.observe(f"down.{part}", inputs)
            self.observe(f"up.{part}", low)
        out: Tensor = self.module.up[part](low)
        return out


def key(name: str) -> str:
    """A layer's name as a child of a module may be called. Names have no dashes, so it can be read back."""
    return name.replace(".", "-")
