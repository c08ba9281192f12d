"""The SAM 1 family (Kirillov et al., ICCV 2023) through `transformers.SamModel`, as trunk, tail and decoder.

The weights and their names stay transformers'. A block is spelled out here because an adaptation stands
beside its attention, inside the window partition.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional as F

from everseg.models.precision import mixed
from everseg.models.promptable.frozen import Frozen
from everseg.models.promptable.linears import adapted
from everseg.models.promptable.passes import without_padding
from everseg.models.promptable.protocol import (
    TAP,
    Adaptation,
    Features,
    FramePrompts,
    first_adapted,
)
from everseg.models.promptable.windows import partition, unpartition

if TYPE_CHECKING:
    from transformers.models.sam.modeling_sam import SamModel

PIECE = 2**27
"""Bytes of relative positions that an attention makes at a time; see `_attention`."""


class Sam(Frozen):
    """A frozen SAM. `first` is the first adapted block (default: `first_adapted(depth)`)."""

    mean = (123.675, 116.28, 103.53)
    std = (58.395, 57.12, 57.375)
    layer = "vision_encoder.layers.{}"
    has_neck = True

    def __init__(self, model: SamModel, name: str, first: int | None = None) -> None:
        vision = model.config.vision_config
        self.encoder = model.vision_encoder
        self.image_size = int(vision.image_size)
        self.grid = self.image_size // int(vision.patch_size)
        self.depth = int(vision.num_hidden_layers)
        self.width = int(vision.hidden_size)
        self.channels = int(vision.output_channels)
        first = first_adapted(self.depth) if first is None else first
        assert 0 < first < self.depth, f"the first adapted block is 1..{self.depth - 1}, not {first}"
        super().__init__(model, name, range(first, self.depth))

    @mixed
    def trunk(self, pixels: Tensor) -> Features:
        x = self.encoder.patch_embed(pixels)
        if self.encoder.pos_embed is not None:
            x = x + self.encoder.pos_embed
        for layer in self.encoder.layers[: self.first]:
            x = _block(layer, x)
        return {TAP: x}

    def block(self, index: int, x: Tensor, adaptation: Adaptation | None = None) -> Tensor:
        layer = adapted(self.encoder.layers[index], self.layer.format(index), adaptation)
        return _block(layer, x, adaptation, index)

    @mixed
    def tail(self, features: Features, adaptation: Adaptation | None = None) -> Features:
        x = features[TAP]
        for index in self.adapted:
            x = self.block(index, x, adaptation)
        if adaptation is None:
            return {"image": self.encoder.neck(x)}
        x = adaptation.add_neck_in(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        return {"image": adaptation.add_neck_out(self.encoder.neck(x))}

    @mixed
    def decode(
        self, embedding: Features, prompts: FramePrompts, *, single: bool = False
    ) -> tuple[Tensor, Tensor]:
        return without_padding(self._decode, embedding, prompts)

    def _decode(self, embedding: Features, prompts: FramePrompts) -> tuple[Tensor, Tensor]:
        sparse, dense = self.model.prompt_encoder(prompts.points, prompts.labels, prompts.boxes, None)
        return self.paint(embedding, sparse, dense)

    def paint(
        self, embedding: Features, sparse: Tensor, dense: Tensor, *, single: bool = False
    ) -> tuple[Tensor, Tensor]:
        """As `decode`, for prompts that are embedded already: sparse (B, N, T, C), dense (B, C, Y, X)."""
        image = embedding["image"]
        position = self.model.get_image_wide_positional_embeddings()
        masks, iou = self.model.mask_decoder(
            image_embeddings=image,
            image_positional_embeddings=position.expand(image.shape[0], -1, -1, -1),
            sparse_prompt_embeddings=sparse,
            dense_prompt_embeddings=dense,
            multimask_output=False,
        )
        return masks[:, :, 0], iou[:, :, 0]


def _block(layer: Any, x: Tensor, adaptation: Adaptation | None = None, index: int = -1) -> Tensor:
    """One transformer block: x (B, Y, X, D) -> the same, with an adaptation beside the attention."""
    tokens = partition(layer.layer_norm1(x), layer.window_size)
    out = _attention(layer.attn, tokens)
    if adaptation is not None:
        out = adaptation.add_attention(out, index, tokens, layer.window_size)
    x = x + unpartition(out, layer.window_size, (x.shape[1], x.shape[2]))
    return x + layer.mlp(layer.layer_norm2(x))


def _attention(attention: Any, tokens_BYXD: Tensor) -> Tensor:
    """transformers' attention to the bit. Where no gradient needs them, the relative positions are made
    in pieces: whole, they are a number for each head and pair of tokens, 805 MB for one image in a global
    block of ViT-B. A graph for any number of images is cut by their tokens alone."""
    b, y, x, _ = tokens_BYXD.shape
    heads = attention.num_attention_heads
    one = 4 * heads * (y * x) ** 2
    learning = torch.is_grad_enabled() and tokens_BYXD.requires_grad
    exporting = torch.compiler.is_compiling()
    if learning or not attention.use_rel_pos or (one if exporting else b * one) <= PIECE:
        return attention(hidden_states=tokens_BYXD)[0]
    qkv = attention.qkv(tokens_BYXD).reshape(b, y * x, 3, heads, -1).permute(2, 0, 3, 1, 4)
    down = attention.get_rel_pos(y, y, attention.rel_pos_h)
    along = attention.get_rel_pos(x, x, attention.rel_pos_w)
    windows, rows = max(1, PIECE // one), min(y, max(1, PIECE // (one // y)))
    joined = []
    parts = [(part,) if exporting else part.split(windows) for part in qkv]
    for query, key, value in zip(*parts, strict=True):  # (b, heads, Y*X, c)
        grid, pieces = query.unflatten(2, (y, x)), []
        for first in range(0, y, rows):
            part = grid[:, :, first : first + rows]
            bias = torch.einsum("bnywc,ykc->bnywk", part, down[first : first + rows])[..., :, None]
            bias = bias + torch.einsum("bnywc,wkc->bnywk", part, along)[..., None, :]
            here = part.flatten(2, 3)
            mask = bias.reshape(*here.shape[:3], y * x)
            pieces.append(F.scaled_dot_product_attention(here, key, value, attn_mask=mask))
        joined.append(torch.cat(pieces, 2))
    return attention.proj(torch.cat(joined).permute(0, 2, 1, 3).reshape(b, y, x, -1))
