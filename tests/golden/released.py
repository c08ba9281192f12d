"""Reading SAMCL's released files as data: an allow-list of inert classes, no code of theirs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from everseg.aug import RELEASED, AugModule, from_released

DOMAINS = ("Kvasir", "camo", "ISTD", "ISIC", "cod")


class Extra(nn.Module):
    """Stands in for the class of the same name that the files were pickled with."""


def released_state(path: Path) -> tuple[dict[str, Tensor], list[int]]:
    """The tensors of a released module under their own names, and the adapted blocks."""
    inert: list[Any] = [
        (Extra, "module.SAMCL.Extra"),
        (Extra, "module.SAMCL_2.Extra"),
        nn.Linear,
        nn.LayerNorm,
        set,
    ]
    with torch.serialization.safe_globals(inert):
        content = torch.load(path, map_location="cpu", weights_only=True)
    blocks = content.pop("lora_layer")
    return {f"{part}.{n}": v for part, m in content.items() for n, v in m.state_dict().items()}, blocks


def load_released(path: Path) -> AugModule:
    """A released module as ours, set to compute as it was trained."""
    state, blocks = released_state(path)
    neck = "extra.upward_.bias" in state
    channels = len(state["extra.upward_.bias"]) if neck else 0
    module = AugModule(state["A.weight"].shape[1], channels, blocks, replace(RELEASED, neck=neck))
    module.load_state_dict(from_released(state))
    return module
