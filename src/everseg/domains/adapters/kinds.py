"""The kinds of adapters that a method can tune, by name."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Literal, TypeAlias

import torch
from torch import Tensor, nn

from everseg.domains.adapters.aug import AugConfig, AugModule
from everseg.domains.adapters.linear import LinearConfig, LinearLoRA
from everseg.domains.adapters.lora import LoRAConfig, ParallelLoRA
from everseg.errors import UserError
from everseg.merge.truncate import Factors
from everseg.models.promptable.protocol import Promptable

AdapterKind = Literal["aug", "lora", "linear"]
"""aug: SAMCL's module. lora: low-rank, in parallel to the attention. linear: low-rank, on each linear layer
of the blocks, which folds into the base."""

AnyAdapter: TypeAlias = AugModule | ParallelLoRA | LinearLoRA

PROMPT_BRANCH = ("map_layer", "neck_in", "neck_out")
"""The linear layers of an AugModule that read the clicks alone."""


def fresh_adapter(
    kind: AdapterKind, base: Promptable, rank: int, generator: torch.Generator | None, *, mix: bool = False
) -> AnyAdapter:
    """An adapter that is the identity, on the base's device.

    mix: of an AugModule, see `AugConfig`.
    """
    if kind == "aug":
        return AugModule.beside(base, AugConfig(rank=rank, mix=mix), generator)
    if kind == "linear":
        return LinearLoRA.beside(base, LinearConfig(rank=rank), generator)
    return ParallelLoRA.beside(base, LoRAConfig(rank=rank), generator)


def linears(adapter: nn.Module, prompt_branch: bool = True) -> dict[str, nn.Linear]:
    """An adapter's linear layers by name, with or without those that read the clicks alone."""
    found = {name: m for name, m in adapter.named_modules() if isinstance(m, nn.Linear)}
    return {n: m for n, m in found.items() if prompt_branch or n not in PROMPT_BRANCH}


def pairs(weights: Mapping[str, Tensor]) -> list[str]:
    """The X of an adapter's low-rank pairs "down.X", "up.X", in order; none for an AugModule."""
    ends = [n.removeprefix("down.").removesuffix(".weight") for n in weights if n.startswith("down.")]
    return [x for x in dict.fromkeys(ends) if f"down.{x}.weight" in weights and f"up.{x}.weight" in weights]


def factors_of(weights: Mapping[str, Tensor]) -> dict[str, Factors]:
    """An adapter's low-rank pairs by name.

    Raises:
        UserError: it is more than its pairs, as an AugModule with its norms is.
    """
    found = {
        x: Factors(
            weights[f"up.{x}.weight"],
            weights[f"down.{x}.weight"],
            weights.get(f"up.{x}.bias"),
            weights.get(f"down.{x}.bias"),
        )
        for x in pairs(weights)
    }
    if not found or len(weights) != len(from_factors(found)):
        raise UserError(
            "an AugModule is not a product of two matrices, because of its norms: merge it on=factors, or "
            "learn with adapter=lora or adapter=linear"
        )
    return found


def from_factors(factors: Mapping[str, Factors]) -> dict[str, Tensor]:
    """Undo `factors_of`."""
    out: dict[str, Tensor] = {}
    for x, f in factors.items():
        parts = {"down": (f.down, f.down_bias), "up": (f.up, f.up_bias)}
        for part, (weight, bias) in parts.items():
            out[f"{part}.{x}.weight"] = weight
            if bias is not None:
                out[f"{part}.{x}.bias"] = bias
    return out


def block_of(name: str) -> int | None:
    """The number in a tensor's name of the block it belongs to; None for what all blocks share."""
    found = re.search(r"(?<![0-9A-Za-z])\d+(?![0-9A-Za-z])", name)
    return None if found is None else int(found.group())
