"""A promptable model as two functions with the names and shapes of SAM's public ONNX runners.

    encoder   image -> image_embeddings                            once per image
    decoder   image_embeddings, prompts -> masks                   once per prompt

An adapter that reads the clicks, or a choice among modules, must come after the tap. Then the encoder is the
trunk, its `image_embeddings` are the tap, and the decoder begins with the tail; to a runner both are the
same, since it only hands them on.

Shape suffixes: N objects of one image, P points, S side of the model's square, Y X token grid.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from everseg.domains.adapters.aug import AugAdaptation, AugConfig
from everseg.domains.adapters.kinds import AnyAdapter
from everseg.domains.heatmap import click_heatmap
from everseg.models.promptable.protocol import TAP, Adaptation, Features
from everseg.models.promptable.sam import Sam
from everseg.models.promptable.sam2 import FINE, Sam2
from everseg.runs.exports.routing import Router

Base: TypeAlias = Sam | Sam2

FRAME = 1024
"""Runners of SAM 1 give clicks in pixels of the image whose longer side was brought to this many pixels,
whatever the model's own size."""
MASK = 256
"""Side of a runner's `mask_input` for SAM 1."""


class Unadapted(nn.Module):
    """The tail of the untouched base, or of one into which everything is folded."""

    reads_clicks = False

    def bind(self, heat: Tensor, tap: Tensor) -> Adaptation | None:
        return None


class Fixed(nn.Module):
    """One adapter for every image."""

    def __init__(self, adapter: AnyAdapter, reads_clicks: bool) -> None:
        super().__init__()
        self.adapter, self.reads_clicks = adapter, reads_clicks

    def bind(self, heat: Tensor, tap: Tensor) -> Adaptation | None:
        return self.adapter.bind(heat)


class Guarded(nn.Module):
    """One adapter for the images that the router lets through, and the untouched base for the others."""

    reads_clicks = True

    def __init__(self, adapter: AnyAdapter, router: Router) -> None:
        super().__init__()
        self.adapter, self.router = adapter, router

    def bind(self, heat: Tensor, tap: Tensor) -> Adaptation | None:
        answer, *_ = self.router(tap[:1].permute(0, 3, 1, 2))
        return Scaled(self.adapter.bind(heat), answer.to(tap.dtype))


class Bank(nn.Module):
    """AugModules of which the router picks one; module 0 adds nothing."""

    reads_clicks = True

    def __init__(
        self,
        modules: Sequence[Mapping[str, Tensor]],
        blocks: Sequence[int],
        config: AugConfig,
        router: Router,
    ) -> None:
        super().__init__()
        self.blocks, self.config, self.router = tuple(blocks), config, router
        self.names = tuple(modules[0])
        for n, name in enumerate(self.names):
            rows = [module[name].detach() for module in modules]
            self.register_buffer(f"bank_{n}", torch.stack([torch.zeros_like(rows[0]), *rows]))

    def bind(self, heat: Tensor, tap: Tensor) -> Adaptation | None:
        answer, *_ = self.router(tap[:1].permute(0, 3, 1, 2))
        index = self.router.module_of(answer)
        weights = {
            name: torch.index_select(self.get_buffer(f"bank_{n}"), 0, index)[0]
            for n, name in enumerate(self.names)
        }
        return AugAdaptation(weights, self.blocks, self.config, heat)


class Scaled(Adaptation):
    """What another adaptation adds, times a number (1,)."""

    def __init__(self, inner: Adaptation, by: Tensor) -> None:
        self.inner, self.by, self.linears = inner, by, inner.linears

    def linear(self, name: str, inputs: Tensor) -> Tensor | None:
        return self._scaled(self.inner.linear(name, inputs))

    def attention(self, block: int, tokens: Tensor, window: int) -> Tensor | None:
        return self._scaled(self.inner.attention(block, tokens, window))

    def neck_in(self) -> Tensor | None:
        return self._scaled(self.inner.neck_in())

    def neck_out(self) -> Tensor | None:
        return self._scaled(self.inner.neck_out())

    def _scaled(self, added: Tensor | None) -> Tensor | None:
        return None if added is None else added * self.by


Adapting: TypeAlias = Unadapted | Fixed | Guarded | Bank


class Encoder(nn.Module):
    """The image until `image_embeddings`: the tap (1, D, Y, X), or with a tail the embedding (1, C, Y, X).

    SAM 1: an image (H, W, 3) of any size, RGB from 0 to 255, as floats. It is stretched to the model's square
    with the rounding that `stretch` has. SAM 2: an image (1, 3, S, S), normalised; beside the embedding, and
    before it, go the two levels of high resolution.
    """

    def __init__(self, base: Base, tail: Unadapted | Fixed | None) -> None:
        super().__init__()
        self.base, self.model, self.with_tail = base, base.model, tail
        self.register_buffer("mean", torch.tensor(base.mean).view(3, 1, 1))
        self.register_buffer("std", torch.tensor(base.std).view(3, 1, 1))

    def forward(self, image: Tensor) -> Tensor | tuple[Tensor, ...]:
        base, side = self.base, self.base.image_size
        if isinstance(base, Sam):
            x = resized(image, side)
            mean, std = self.get_buffer("mean"), self.get_buffer("std")
            features = base.trunk((x / base.unit - mean) / std)
            return self._out(features)
        features = base.trunk(image)
        return features[FINE[0]], features[FINE[1]], self._out(features)

    def _out(self, features: Features) -> Tensor:
        if self.with_tail is None:
            return features[TAP].permute(0, 3, 1, 2)
        tap = features[TAP]
        heat = tap.new_zeros(tap.shape[:3])
        return self.base.tail(features, self.with_tail.bind(heat, tap))["image"]


def resized(image: Tensor, side: int) -> Tensor:
    """An image (H, W, 3) of whole numbers as floats -> (1, 3, S, S), as `stretch` does it.

    torch resizes bytes with weights of 16 bits, so that single values come out one higher or lower.
    """
    x = image.permute(2, 0, 1)[None]
    for size in ((x.shape[2], side), (side, side)):  # As torch does for bytes: across, then down.
        x = F.interpolate(x, size=size, mode="bilinear", antialias=True, align_corners=False)
        x = x.round().clamp(0, 255)
    return x


class Decoder(nn.Module):
    """Prompts on an image whose `image_embeddings` are those of `Encoder` or, with `rows`, each object's.

    point_coords (N, P, 2) and point_labels (N, P): 1 on the object, 0 off it, 2 and 3 the corners of a box,
    -1 padding. Clicks without a box end with a point of padding, as SAM was trained; SAM 2's decoder adds it
    itself. mask_input, has_mask_input: logits of an earlier mask, where has_mask_input is 1.

    SAM 1: coordinates as `FRAME` has them, orig_im_size (2,) the image's height and width; masks (N, 1, H, W)
    in its pixels, iou_predictions (N, 1), low_res_logits (N, 1, h, w) of the model's square.
    SAM 2: coordinates in the model's square; masks (N, 1, h, w) of that square, iou_predictions (N, 1).
    """

    def __init__(self, base: Base, tail: Adapting | None, rows: bool = False) -> None:
        super().__init__()
        self.base, self.model, self.with_tail, self.rows = base, base.model, tail, rows


class SamDecoder(Decoder):
    def forward(
        self,
        image_embeddings: Tensor,
        point_coords: Tensor,
        point_labels: Tensor,
        mask_input: Tensor,
        has_mask_input: Tensor,
        orig_im_size: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:
        points = in_square(point_coords, orig_im_size, self.base.image_size)
        features = {TAP if self.with_tail is not None else "image": image_embeddings}
        logits, iou = _decoded(self, features, points, point_labels, mask_input, has_mask_input)
        height, width = (orig_im_size[i].to(torch.int64).item() for i in range(2))
        for length in (height, width):
            torch._check(length >= 1)
            torch._check(length <= 65536)
        size = (int(height), int(width)) if isinstance(height, int) else (height, width)
        masks = F.interpolate(logits, size=size, mode="bilinear", align_corners=False)  # type: ignore[arg-type]
        return masks, iou, logits


class Sam2Decoder(Decoder):
    def forward(
        self,
        image_embed: Tensor,
        high_res_feats_0: Tensor,
        high_res_feats_1: Tensor,
        point_coords: Tensor,
        point_labels: Tensor,
        mask_input: Tensor,
        has_mask_input: Tensor,
    ) -> tuple[Tensor, Tensor]:
        features = {
            TAP if self.with_tail is not None else "image": image_embed,
            FINE[0]: high_res_feats_0,
            FINE[1]: high_res_feats_1,
        }
        return _decoded(self, features, point_coords, point_labels, mask_input, has_mask_input)


def _decoded(
    decoder: Decoder,
    features: Features,
    points: Tensor,
    labels: Tensor,
    mask_input: Tensor,
    has_mask_input: Tensor,
) -> tuple[Tensor, Tensor]:
    """Logits (N, 1, h, w) and predicted IoU (N, 1), for points in the model's square."""
    base, count = decoder.base, points.shape[0]
    rows = {
        name: level if decoder.rows else level.expand(count, -1, -1, -1) for name, level in features.items()
    }
    if decoder.with_tail is not None:
        tap = rows[TAP].permute(0, 2, 3, 1)
        heat = click_heatmap(points, labels, base.image_size, base.grid)
        embedding = base.tail({**rows, TAP: tap}, decoder.with_tail.bind(heat, tap))
    else:
        embedding = rows
    sparse, dense = clicks(base, points, labels), earlier(base, mask_input, has_mask_input)
    return base.paint(embedding, sparse, dense.expand(count, -1, -1, -1))


class Tail(nn.Module):
    """The tail with an AugModule's weights as inputs: the tap (1, D, Y, X), clicks as in `Decoder` and the
    weights in the order of `names` -> the embedding of each object, (N, C, Y, X).

    Without clicks on an object, as with boxes, its embedding is that of the untouched clicks' map.
    """

    def __init__(self, base: Base, names: Sequence[str], blocks: Sequence[int], config: AugConfig) -> None:
        super().__init__()
        self.base, self.model = base, base.model
        self.names, self.blocks, self.config = tuple(names), tuple(blocks), config

    def embedded(self, tap: Tensor, points: Tensor, labels: Tensor, weights: Sequence[Tensor]) -> Tensor:
        base = self.base
        heat = click_heatmap(points, labels, base.image_size, base.grid)
        named = dict(zip(self.names, weights, strict=True))
        adaptation = AugAdaptation(named, self.blocks, self.config, heat)
        rows = tap.expand(points.shape[0], -1, -1, -1).permute(0, 2, 3, 1)
        # The levels of high resolution go past the tail.
        features = {TAP: rows, **({name: tap for name in FINE} if isinstance(base, Sam2) else {})}
        return base.tail(features, adaptation)["image"]


class SamTail(Tail):
    def forward(
        self,
        image_embeddings: Tensor,
        point_coords: Tensor,
        point_labels: Tensor,
        orig_im_size: Tensor,
        weights: list[Tensor],
    ) -> Tensor:
        points = in_square(point_coords, orig_im_size, self.base.image_size)
        return self.embedded(image_embeddings, points, point_labels, weights)


class Sam2Tail(Tail):
    def forward(
        self, image_embed: Tensor, point_coords: Tensor, point_labels: Tensor, weights: list[Tensor]
    ) -> Tensor:
        return self.embedded(image_embed, point_coords, point_labels, weights)


def in_square(coords: Tensor, size: Tensor, side: int) -> Tensor:
    """Clicks in `FRAME`, of an image of size (H, W), in the square to which everseg stretches the image."""
    longest = size.max()
    return coords * (longest / torch.stack([size[1], size[0]])) * (side / FRAME)


def clicks(base: Base, points: Tensor, labels: Tensor) -> Tensor:
    """The prompt encoder's tokens of clicks and corners: (N, 1, T, C)."""
    encoder, side = base.model.prompt_encoder, base.image_size
    if isinstance(base, Sam2):
        points, labels = F.pad(points, (0, 0, 0, 1)), F.pad(labels, (0, 1), value=-1.0)
        table = encoder.point_embed.weight
    else:
        table = torch.cat([row.weight for row in encoder.point_embed])
    places = encoder.shared_embedding((points + 0.5)[:, None], (side, side))[:, 0]
    places = torch.where(labels[..., None] == -1, encoder.not_a_point_embed.weight, places)
    kinds = table[labels.clamp(min=0).to(torch.int64)] * (labels >= 0)[..., None]
    return (places + kinds)[:, None]


def earlier(base: Base, mask_input: Tensor, has_mask_input: Tensor) -> Tensor:
    """The prompt encoder's map of an earlier mask, or of none: (1 or N, C, Y, X)."""
    encoder, side = base.model.prompt_encoder, 4 * int(base.model.prompt_encoder.image_embedding_size[0])
    if mask_input.shape[-1] != side:
        mask_input = F.interpolate(mask_input, size=(side, side), mode="bilinear", align_corners=False)
    none = encoder.no_mask_embed.weight.view(1, -1, 1, 1)
    given = has_mask_input.view(-1, 1, 1, 1)
    return given * encoder.mask_embed(mask_input) + (1 - given) * none
