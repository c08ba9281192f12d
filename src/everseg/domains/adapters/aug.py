"""SAMCL's AugModule: a low-rank adapter beside the attention that also reads where the user clicked.

    attention_i(x) + B_i C_i [ LN1_i(A x) + LN2_i(P) ]      P = ReLU(LN(L h)), h the click heat map
    neck(X + U P) + V P

Shape suffixes: B rows, V windows of a row, w window side, M = V*w*w tokens of a row, Y X token grid, D token
width, C channels of the image embedding, r rank.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from everseg.config import Checked, Size
from everseg.errors import UserError
from everseg.models.promptable.protocol import (
    Adaptation,
    Observe,
    Promptable,
    plus,
    plus_channels,
    plus_linear,
)
from everseg.models.promptable.windows import partition


@dataclass(frozen=True)
class AugConfig(Checked):
    """The shape of an AugModule. The defaults are the `paper` preset."""

    rank: Size = 10
    """Rank r of the low-rank product. [SAMCL]"""
    mix: bool = False
    """Put a trained r by r matrix C_i between A and B_i in each block. [RegCL's adapter and SAMCL's first
    version: yes]"""
    neck: bool = True
    """Also add the prompt map before and after the neck, where the base has one. [SAMCL's code]"""
    prompt_map: bool = True
    """Add a map of the clicks to the low-rank product; false gives the paper's SLoRA, without norms and neck.
    [SAMCL, eq. 3]"""
    neck_transposed: bool = False
    """Swap x and y of the map in the neck, as the released modules were trained. [SAMCL's code: yes]"""
    window_heatmap: Literal["partition", "thumbnail"] = "partition"
    """What a windowed block sees of the map: "partition" its own window, "thumbnail" the whole map shrunk to
    the window's size. [SAMCL's code: thumbnail]"""


RELEASED = AugConfig(neck_transposed=True, window_heatmap="thumbnail")
"""How the released modules compute."""


class AugModule(nn.Module):
    """The trainable part of SAMCL for one domain. Fresh, it is the identity: what it adds is exactly zero.

    width D, channels C (unused without a neck), blocks: the adapted ones. `generator` draws the
    initial weights.

    Parameters, with the released files' names: `down` (A), `up.i` (B_i), `norm_tokens.i` (norm1_i),
    `norm_map.i` (norm2_i), with `mix` also `mix.i` (C_i) for the i-th adapted block, `map_layer`
    (extra.layer, L), `map_norm` (extra.norm), `neck_in` (extra.upward, U) and `neck_out` (extra.upward_, V).

    The ten inputs of L are equal, so P(h) = ReLU(LN(u h + b)) with u the sums of L's rows: that is what is
    computed, and all columns of L get one gradient. L is kept square to fit the released files.

    Cost: 4 r D FLOPs a token and block, 0.2 % of a ViT-B block at r = 10; the prompt map is r channels and
    free.

    Source: SAMCL eqs. 1-4. The equations have neither biases nor LayerNorms; the published code and files do.
    """

    def __init__(
        self,
        width: int,
        channels: int,
        blocks: Sequence[int],
        config: AugConfig | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        self.config = config or AugConfig()
        self.width, self.channels, self.blocks = width, channels, tuple(blocks)
        r, count = self.config.rank, len(self.blocks)
        self.down = nn.Linear(width, r)
        self.up = nn.ModuleList([nn.Linear(r, width) for _ in range(count)])
        if self.config.mix:
            self.mix = nn.ModuleList([nn.Linear(r, r) for _ in range(count)])
        if self.config.prompt_map:
            self.norm_tokens = nn.ModuleList([nn.LayerNorm(r) for _ in range(count)])
            self.norm_map = nn.ModuleList([nn.LayerNorm(r) for _ in range(count)])
            self.map_layer = nn.Linear(r, r)
            self.map_norm = nn.LayerNorm(r)
            if self.config.neck:
                self.neck_in = nn.Linear(r, width)
                self.neck_out = nn.Linear(r, channels)
        self.reset(generator)

    @classmethod
    def beside(
        cls, base: Promptable, config: AugConfig | None = None, generator: torch.Generator | None = None
    ) -> AugModule:
        """A fresh module for a base, on its device; without a neck where the base has none."""
        config = config or AugConfig()
        config = replace(config, neck=config.neck and base.has_neck)
        return cls(base.width, base.channels, base.adapted, config, generator).to(base.device)

    @torch.no_grad()
    def reset(self, generator: torch.Generator | None = None) -> None:
        """Draw fresh weights: A uniform in 1/sqrt(D), L as PyTorch's Linear; all that leads out is zero."""
        for layer in (self.down, *(self.mix if self.config.mix else ())):
            _uniform(layer.weight, generator)
            nn.init.zeros_(layer.bias)
        outward = list(self.up)
        if self.config.prompt_map:
            _uniform(self.map_layer.weight, generator)
            bound = 1 / math.sqrt(self.config.rank)
            nn.init.uniform_(self.map_layer.bias, -bound, bound, generator=generator)
            outward += [self.neck_in, self.neck_out] if self.config.neck else []
        for layer in outward:
            for parameter in layer.parameters():
                nn.init.zeros_(parameter)

    @property
    def total_parameters(self) -> int:
        """All trainable numbers."""
        return sum(p.numel() for p in self.parameters())

    @property
    def counted_parameters(self) -> int:
        """The paper's count, which leaves out the LayerNorms: 61,304 of 61,524 for SAM ViT-B."""
        norms = [m for m in self.modules() if isinstance(m, nn.LayerNorm)]
        return self.total_parameters - sum(p.numel() for m in norms for p in m.parameters())

    def bind(self, heat_BYX: Tensor, observe: Observe | None = None) -> AugAdaptation:
        """The module for one batch of rows with their heat maps (`heatmap.click_heatmap`, not transposed).

        observe: called with the name of each linear layer and its input, as they are met.
        """
        return AugAdaptation(dict(self.named_parameters()), self.blocks, self.config, heat_BYX, observe)


class AugAdaptation(Adaptation):
    """An AugModule bound to a batch."""

    def __init__(
        self,
        weights: Mapping[str, Tensor],
        blocks: tuple[int, ...],
        config: AugConfig,
        heat_BYX: Tensor,
        observe: Observe | None = None,
    ) -> None:
        self.observe = observe
        self.weights = weights
        self.blocks = blocks
        self.config = config
        self.rows, *self.grid = heat_BYX.shape
        self.map_BYXr = self._prompt_map(heat_BYX) if config.prompt_map else None

    def attention(self, block: int, tokens: Tensor, window: int) -> Tensor | None:
        """B_i C_i [ LN1_i(A x) + LN2_i(P) ]: (B*V, w, w, D), or (B, Y, X, D) if not `window` -> the same."""
        if block not in self.blocks:
            return None
        i = self.blocks.index(block)
        return self._linear(f"up.{i}", self._low(i, tokens, window)).view_as(tokens)

    def add_attention(self, out: Tensor, block: int, tokens: Tensor, window: int) -> Tensor:
        if block not in self.blocks:
            return out
        name = f"up.{self.blocks.index(block)}"
        low_BMr = self._low(self.blocks.index(block), tokens, window)
        if self.observe is not None:
            self.observe(name, low_BMr)
        low = low_BMr.view(*tokens.shape[:-1], -1)
        return plus_linear(out, low, self.weights[f"{name}.weight"], self.weights[f"{name}.bias"])

    def _low(self, i: int, tokens: Tensor, window: int) -> Tensor:
        """C_i [ LN1_i(A x) + LN2_i(P) ]: (B, M, r)."""
        low_BMr = self._linear("down", tokens.reshape(self.rows, -1, tokens.shape[-1]))
        if self.map_BYXr is not None:
            low_BMr = self._norm(f"norm_tokens.{i}", low_BMr) + self._map_tokens(i, window, low_BMr.shape[1])
        return self._linear(f"mix.{i}", low_BMr) if self.config.mix else low_BMr

    def neck_in(self) -> Tensor | None:
        """U P: (B, D, Y, X)."""
        return self._neck("neck_in")

    def neck_out(self) -> Tensor | None:
        """V P: (B, C, Y, X)."""
        return self._neck("neck_out")

    def add_neck_in(self, x: Tensor) -> Tensor:
        return self._add_neck("neck_in", x)

    def add_neck_out(self, x: Tensor) -> Tensor:
        return self._add_neck("neck_out", x)

    def _prompt_map(self, heat_BYX: Tensor) -> Tensor:
        """P = ReLU(LN(L (h, ..., h))): (B, Y, X) -> (B, Y, X, r)."""
        weight, bias = self.weights["map_layer.weight"], self.weights["map_layer.bias"]
        heat_BM1 = heat_BYX.reshape(self.rows, -1, 1)
        if self.observe is not None:
            self.observe("map_layer", heat_BM1.expand(-1, -1, weight.shape[-1]))
        raw_BMr = heat_BM1 * weight.sum(-1) + bias
        return F.relu(self._norm("map_norm", raw_BMr)).view(*heat_BYX.shape, -1)

    def _map_tokens(self, i: int, window: int, count: int) -> Tensor:
        """LN2_i(P) for each of a row's tokens, (B, M, r), laid out as the block's tokens are."""
        assert self.map_BYXr is not None
        if window and self.config.window_heatmap == "thumbnail":
            # nearest, as torch and OpenCV have it: the source of cell i is floor(i * Y / w)
            small = F.interpolate(self.map_BYXr.permute(0, 3, 1, 2), size=(window, window), mode="nearest")
            small_BMr = self._norm(f"norm_map.{i}", small.flatten(2).transpose(1, 2))
            return small_BMr.repeat(1, count // (window * window), 1)
        r = self.map_BYXr.shape[-1]
        normed = self._norm(f"norm_map.{i}", self.map_BYXr.reshape(self.rows, -1, r))
        # Padding stays zero here; whatever becomes of it is cut off with the tokens' padding.
        return partition(normed.view_as(self.map_BYXr), window).reshape(self.rows, -1, r)

    def _neck(self, name: str) -> Tensor | None:
        if self.map_BYXr is None or not self.config.neck:
            return None
        added = self._linear(name, self.map_BYXr.reshape(self.rows, -1, self.config.rank))
        added = added.view(self.rows, *self.grid, -1)
        return added.permute(0, 3, 2, 1) if self.config.neck_transposed else added.permute(0, 3, 1, 2)

    def _add_neck(self, name: str, x: Tensor) -> Tensor:
        if self.map_BYXr is None or not self.config.neck:
            return x
        if torch.is_grad_enabled():
            return plus(x, self._neck(name))
        if self.observe is not None:
            self.observe(name, self.map_BYXr.reshape(self.rows, -1, self.config.rank))
        low_BYXr = self.map_BYXr.transpose(1, 2) if self.config.neck_transposed else self.map_BYXr
        return plus_channels(x, low_BYXr, self.weights[f"{name}.weight"], self.weights[f"{name}.bias"])

    def _linear(self, name: str, x_BMi: Tensor) -> Tensor:
        if self.observe is not None:
            self.observe(name, x_BMi)
        weight, bias = self.weights[f"{name}.weight"], self.weights[f"{name}.bias"]
        return F.linear(x_BMi, weight, bias)

    def _norm(self, name: str, x_BMr: Tensor) -> Tensor:
        weight, bias = self.weights[f"{name}.weight"], self.weights[f"{name}.bias"]
        return F.layer_norm(x_BMr, weight.shape, weight, bias)


def from_released(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of a released SAMCL module under our names: a state dict for `AugModule.load_state_dict`.

    state: the file's entries flattened to `A.weight`, `B_000.bias`, `norm1_000.weight`, `extra.layer.weight`,
        ...; `lora_layer`, the list of adapted blocks, is not a tensor and stays out. The module needs the
        `RELEASED` config.

    Raises:
        UserError: an entry has a name that released modules do not have.
    """
    part = {
        "A": "down",
        "extra.layer": "map_layer",
        "extra.norm": "map_norm",
        "extra.upward": "neck_in",
        "extra.upward_": "neck_out",
    }
    numbered = {"B": "up", "norm1": "norm_tokens", "norm2": "norm_map"}
    out = {}
    for name, value in state.items():
        owner, _, kind = name.rpartition(".")
        family, _, number = owner.rpartition("_")
        if owner in part:
            out[f"{part[owner]}.{kind}"] = value
        elif family in numbered and number.isdigit():
            out[f"{numbered[family]}.{int(number)}.{kind}"] = value
        else:
            raise UserError(f"{name!r} is not a tensor of a released SAMCL module, such as A.weight")
    return out


def _uniform(weight: Tensor, generator: torch.Generator | None) -> None:
    nn.init.kaiming_uniform_(weight, a=math.sqrt(5), generator=generator)
