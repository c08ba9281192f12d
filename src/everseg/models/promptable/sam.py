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
from everseg.models.promptable.frozen import Frozen, attended
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
        before = None if adaptation is None else adaptation.neck_in()
        if before is not None:
            x = x + before.permute(0, 2, 3, 1)
        embedding = self.encoder.neck(x)
        after = None if adaptation is None else adaptation.neck_out()
        return {"image": embedding if after is None else embedding + after}

    @mixed
    def decode(
        self, embedding: Features, prompts: FramePrompts, *, single: bool = False
    ) -> tuple[Tensor, Tensor]:
        return without_padding(self._decode, embedding, prompts)

    def _decode(self, embedding: Features, prompts: FramePrompts) -> tuple[Tensor, Tensor]:
        image = embedding["image"]
        sparse, dense = self.model.prompt_encoder(prompts.points, prompts.labels, prompts.boxes, None)
        position = self.model.get_image_wide_positional_embeddings()
        masks, iou = self.model.mask_decoder(
            image_embeddings=image,
            image_positional_embeddings=position.expand(len(image), -1, -1, -1),
            sparse_prompt_embeddings=sparse,
            dense_prompt_embeddings=dense,
            multimask_output=False,
        )
        return masks[:, :, 0], iou[:, :, 0]


def _block(layer: Any, x: Tensor, adaptation: Adaptation | None = None, index: int = -1) -> Tensor:
    """One transformer block: x (B, Y, X, D) -> the same, with an adaptation beside the attention."""
    tokens = partition(layer.layer_norm1(x), layer.window_size)
    out = attended(_attention(layer.attn, tokens), tokens, layer.window_size, adaptation, index)
    x = x + unpartition(out, layer.window_size, (x.shape[1], x.shape[2]))
    return x + layer.mlp(layer.layer_norm2(x))


def _attention(attention: Any, tokens_BYXD: Tensor) -> Tensor:
    """transformers' attention to the bit. Where no gradient wants them kept, the relative positions are made
    in pieces: whole, they are a number for each head and pair of tokens, 805 MB for one image in a global
    block of ViT-B."""
    b, y, x, _ = tokens_BYXD.shape
    heads = attention.num_attention_heads
    one = 4 * heads * (y * x) ** 2
    learning = torch.is_grad_enabled() and tokens_BYXD.requires_grad
    if learning or not attention.use_rel_pos or b * one <= PIECE:
        return attention(hidden_states=tokens_BYXD)[0]
    if one <= PIECE:
        return torch.cat([attention(hidden_states=part)[0] for part in tokens_BYXD.split(PIECE // one)])
    qkv = attention.qkv(tokens_BYXD).reshape(b, y * x, 3, heads, -1).permute(2, 0, 3, 1, 4)
    down = attention.get_rel_pos(y, y, attention.rel_pos_h)
    along = attention.get_rel_pos(x, x, attention.rel_pos_w)
    rows = max(1, PIECE // (one // y))
    images = []
    for query, key, value in zip(*qkv, strict=True):  # (heads, Y*X, c) of one image
        grid, pieces = query.reshape(heads, y, x, -1), []
        for first in range(0, y, rows):
            part = grid[:, first : first + rows]
            bias = torch.einsum("nywc,ykc->nywk", part, down[first : first + rows])[..., :, None]
            bias = bias + torch.einsum("nywc,wkc->nywk", part, along)[..., None, :]
            here = part.flatten(1, 2)
            mask = bias.reshape(1, heads, here.shape[1], y * x)
            pieces.append(F.scaled_dot_product_attention(here[None], key[None], value[None], attn_mask=mask))
        images.append(torch.cat(pieces, 2))
    joined = torch.cat(images).permute(0, 2, 1, 3)
    return attention.proj(joined.reshape(b, y, x, -1))
