"""SAM 2 and 2.1 on images (Ravi et al., 2024) through `transformers.Sam2Model`, as trunk, tail and decoder.

The weights and their names stay transformers'. A block is spelled out here because an adaptation stands
beside its attention, inside the window partition; the decoder's choice among its masks, because transformers
ties it to whether the model is in training.

Shapes as in `models.promptable`; V windows of all rows, T tokens of the decoder, K its mask tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
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
)
from everseg.models.promptable.windows import partition, unpartition

if TYPE_CHECKING:
    from transformers.models.sam2.modeling_sam2 import Sam2Model

FINE = ("s0", "s1")
"""The decoder's high-resolution levels, (B, C/8, 4Y, 4X) and (B, C/4, 2Y, 2X): the ends of stages 1 and 2."""


class Sam2(Frozen):
    """A frozen SAM 2. `first` is the first adapted block (default: `after_first_global`).

    The tap lies in stage 3 and the adapted blocks are the rest of that stage, all of one width; stage 4 and
    the neck follow them unadapted. In Hiera-tiny the tap is the output of block 5, and blocks 6 to 9 are
    adapted.

    Source: SAMCL, whose published code adapts these blocks of Hiera-tiny and leaves the neck as it is.
    """

    unit = 255
    mean = (0.485, 0.456, 0.406)
    std = (0.229, 0.224, 0.225)
    layer = "vision_encoder.backbone.blocks.{}"
    has_neck = False

    def __init__(self, model: Sam2Model, name: str, first: int | None = None) -> None:
        vision = model.config.vision_config
        backbone: Any = vision.backbone_config
        assert len(backbone.blocks_per_stage) == 4 and vision.num_feature_levels == 3, (
            "SAM 2 has four stages and three feature levels"
        )
        # Else the high-resolution levels would hang on the adapted blocks.
        assert 2 in vision.fpn_top_down_levels and not {0, 1} & set(vision.fpn_top_down_levels), (
            f"the neck's top-down path ends at level 2, not {vision.fpn_top_down_levels}"
        )
        self.backbone: Any = model.vision_encoder.backbone
        self.image_size = int(model.config.prompt_encoder_config.image_size)
        self.grid = int(model.prompt_encoder.image_embedding_size[0])
        self.depth = sum(backbone.blocks_per_stage)
        self.width = int(backbone.embed_dim_per_stage[2])
        self.channels = int(vision.fpn_hidden_size)
        self.ends = tuple(sum(backbone.blocks_per_stage[: stage + 1]) for stage in range(4))
        start, end = self.ends[1], self.ends[2]
        if first is None:
            first = after_first_global(start, end, backbone.global_attention_blocks)
        assert start < first < end, (
            f"the first adapted block is {start + 1}..{end - 1}, within stage 3, not {first}"
        )
        super().__init__(model, name, range(first, end))

    @mixed
    def trunk(self, pixels: Tensor) -> Features:
        """The tap and the two `FINE` levels, which no adapted block touches, as the decoder takes them."""
        x = self.backbone.patch_embed(pixels)
        x = x + self.backbone._get_pos_embed(x.shape[1:3])
        decoder, convs = self.model.mask_decoder, self.model.vision_encoder.neck.convs
        fine = []
        for index in range(self.first):
            x = _block(self.backbone.blocks[index], x)
            if index + 1 == self.ends[0]:
                fine.append(_in_one(convs[3], decoder.conv_s0, x))
            elif index + 1 == self.ends[1]:
                fine.append(_in_one(convs[2], decoder.conv_s1, x))
        return {TAP: x, **dict(zip(FINE, fine, strict=True))}

    def block(self, index: int, x: Tensor, adaptation: Adaptation | None = None) -> Tensor:
        layer = adapted(self.backbone.blocks[index], self.layer.format(index), adaptation)
        return _block(layer, x, adaptation, index)

    @mixed
    def tail(self, features: Features, adaptation: Adaptation | None = None) -> Features:
        x = features[TAP]
        for index in self.adapted:
            x = self.block(index, x, adaptation)
        deep = x
        for layer in self.backbone.blocks[self.ends[2] :]:
            deep = _block(layer, deep)
        lowest, low, *_ = self.model.vision_encoder.neck.convs
        top_down = F.interpolate(lowest(deep.permute(0, 3, 1, 2)), scale_factor=2.0, mode="nearest")
        # An image is a video's first frame: what stands for the memory of earlier ones is one vector.
        no_memory = self.model.no_memory_embedding.view(1, -1, 1, 1)
        image = low(x.permute(0, 3, 1, 2)) + top_down + no_memory
        return {"image": image, **{name: features[name] for name in FINE}}

    @mixed
    def decode(
        self, embedding: Features, prompts: FramePrompts, *, single: bool = False
    ) -> tuple[Tensor, Tensor]:
        """As `Promptable.decode`.

        An object's single mask is unstable if less than 98 % of the pixels with logits above -0.05 have them
        above 0.05. Then the further mask with the highest predicted IoU takes its place.

        Source: SAM 2's code, which does so outside of training. SAMCL's code happens to train with it from
        epoch 6 on.
        """
        return without_padding(partial(self._decode, single=single), embedding, prompts)

    def _decode(self, embedding: Features, prompts: FramePrompts, *, single: bool) -> tuple[Tensor, Tensor]:
        sparse, dense = self.model.prompt_encoder(prompts.points, prompts.labels, prompts.boxes, None)
        return self.paint(embedding, sparse, dense, single=single)

    def paint(
        self, embedding: Features, sparse: Tensor, dense: Tensor, *, single: bool = False
    ) -> tuple[Tensor, Tensor]:
        """As `decode`, for prompts that are embedded already: sparse (B, N, T, C), dense (B, C, Y, X)."""
        decoder: Any = self.model.mask_decoder
        position = self.model.get_image_wide_positional_embeddings()
        b, n = sparse.shape[:2]
        image = embedding["image"] + dense
        y, x = image.shape[-2:]
        if n > 1:
            image = image.repeat_interleave(n, 0)
        own = torch.cat(
            [decoder.obj_score_token.weight, decoder.iou_token.weight, decoder.mask_tokens.weight]
        )
        tokens_BNTC = torch.cat([own.expand(b, n, -1, -1), sparse], 2)
        tokens_BNTC, image = decoder.transformer(tokens_BNTC, image, position, None)
        iou_BNK = decoder.iou_prediction_head(tokens_BNTC[:, :, 1])
        masks_BNKC = tokens_BNTC[:, :, 2 : 2 + decoder.num_mask_tokens]

        fine = image.transpose(2, 3).reshape(b * n, -1, y, x)
        fine = _beside(decoder.upscale_conv1(fine), embedding["s1"])
        fine = decoder.activation(decoder.upscale_layer_norm(fine))
        fine = decoder.activation(_beside(decoder.upscale_conv2(fine), embedding["s0"]))
        h, w = fine.shape[-2:]
        fine = fine.reshape(b, n, -1, h * w)

        heads = decoder.output_hypernetworks_mlps
        if single or not decoder.dynamic_multimask_via_stability:
            logits = heads[0](masks_BNKC[:, :, :1]) @ fine
            return logits.view(b, n, h, w), iou_BNK[:, :, 0]
        # Of the further masks only the best one is painted.
        filters_BNKC = torch.stack([head(masks_BNKC[:, :, k]) for k, head in enumerate(heads)], 2)
        best = 1 + iou_BNK[:, :, 1:].argmax(-1, keepdim=True)
        pair = torch.cat([torch.zeros_like(best), best], -1)
        both = filters_BNKC.gather(2, pair[..., None].expand(-1, -1, -1, filters_BNKC.shape[-1])) @ fine
        delta = decoder.dynamic_multimask_stability_delta
        inner, outer = (both[:, :, 0] > delta).sum(-1), (both[:, :, 0] > -delta).sum(-1)
        stable = (outer == 0) | (inner / outer >= decoder.dynamic_multimask_stability_thresh)
        logits = torch.where(stable[..., None], both[:, :, 0], both[:, :, 1])
        iou_BN2 = iou_BNK.gather(2, pair)
        return logits.view(b, n, h, w), torch.where(stable, iou_BN2[..., 0], iou_BN2[..., 1])


def after_first_global(start: int, end: int, global_blocks: Sequence[int]) -> int:
    """The first block that a method adapts: the one after the first global block of stage 3, whose blocks are
    `start` to `end` - 1; the middle of the stage if it has no such block.

    SAMCL's choice for Hiera-tiny (6 to 9 of 12; specs of other sizes are not published) read as a rule: the
    tap is the first feature for which every token has seen the whole image. 8 to 13 of 16 in small, 13 to 20
    of 24 in base+, 24 to 43 of 48 in large: about the second half of the stage in each.
    """
    seen = [block for block in global_blocks if start <= block < end - 1]
    return min(seen) + 1 if seen else (start + end) // 2


def _block(layer: Any, x: Tensor, adaptation: Adaptation | None = None, index: int = -1) -> Tensor:
    """One Hiera block: x (B, Y, X, D) -> the same, with an adaptation beside the attention. The first block
    of a stage halves the grid and changes the width."""
    normed = layer.layer_norm1(x)
    if layer.dim != layer.dim_out:
        x = _pool(layer.proj(normed), layer.query_stride)
    window = layer.window_size
    tokens = partition(normed, window)
    out = _attend(layer.attn, tokens)
    if adaptation is not None:
        out = adaptation.add_attention(out, index, tokens, window)
    if layer.query_stride is not None:
        window //= layer.query_stride[0]
    x = x + unpartition(out, window, (x.shape[1], x.shape[2]))
    return x + layer.mlp(layer.layer_norm2(x))


def _attend(attention: Any, tokens: Tensor) -> Tensor:
    """Attention within windows: (V, w, w, D) -> the same; a stage's first pools its queries.

    transformers' own also multiplies the queries with the keys by hand, and throws the product away.
    """
    v, h, w, _ = tokens.shape
    qkv = attention.qkv(tokens).view(v, h * w, 3, attention.num_attention_heads, -1)
    query, key, value = qkv.unbind(2)
    if attention.query_stride is not None:
        pooled = _pool(query.reshape(v, h, w, -1), attention.query_stride)
        h, w = pooled.shape[1:3]
        query = pooled.reshape(v, h * w, attention.num_attention_heads, -1)
    out = F.scaled_dot_product_attention(
        query.transpose(1, 2), key.transpose(1, 2), value.transpose(1, 2), scale=attention.scale
    )
    return attention.proj(out.transpose(1, 2).reshape(v, h, w, -1))


def _pool(x: Tensor, stride: Sequence[int] | None) -> Tensor:
    """The largest of each cell of `stride`: (B, Y, X, D) -> (B, Y/2, X/2, D)."""
    if stride is None:
        return x
    return F.max_pool2d(x.permute(0, 3, 1, 2), tuple(stride), tuple(stride)).permute(0, 2, 3, 1)


def _in_one(neck: Any, narrow: Any, x: Tensor) -> Tensor:
    """The neck's convolution and the decoder's 1 x 1 after it as the one that they amount to: (B, Y, X, D) ->
    (B, C', Y, X). A fifth to a tenth of the work, and never all of the neck's channels at this resolution."""
    by = narrow.weight[:, :, 0, 0]
    weight = torch.einsum("oc,cikl->oikl", by, neck.weight)
    return F.conv2d(x.permute(0, 3, 1, 2), weight, narrow.bias + by @ neck.bias, neck.stride, neck.padding)


def _beside(x: Tensor, level: Tensor) -> Tensor:
    """Each image's level (B, C, h, w) added to all of its objects (B*N, C, h, w)."""
    return (x.unflatten(0, (level.shape[0], -1)) + level[:, None]).flatten(0, 1)
