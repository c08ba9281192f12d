"""What a promptable base model is to a method: a frozen trunk, an adaptable tail, a decoder.

    features  = base.trunk(base.pixels(images))      once for each image; cached; the selector reads it
    embedding = base.tail(features, adaptation)      the blocks that a method may adapt
    logits    = base.decode(embedding, prompts)      SAM's prompt encoder and mask decoder

Shapes: B rows, N objects of an image, P points, S the side of the square the image is stretched to, Y X the
token grid, D the tokens' width, h w the logits' size. Prompts at this level are in the S x S frame.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from everseg.types import Precision, Prompts, State

Features = dict[str, Tensor]
"""The trunk's output by name, batch first. "tap" (B, Y, X, D) is the residual stream that the tail continues
from; families with a feature pyramid add the levels their decoder needs."""

TAP = "tap"

PADDING = -10
"""Label of the points that fill up objects with fewer clicks than others; see `passes`."""


Observe = Callable[[str, Tensor], None]
"""Told the name of an adapter's linear layer and its input, (..., in), each time the layer is applied."""


class Adaptation(Protocol):
    """A method's additions to the tail for one batch of B rows. A class that derives from this one says only
    where it adds something."""

    linears: Collection[str] = ()
    """The linear layers of the base that it adds to, of those in `Promptable.linears`."""

    def linear(self, name: str, inputs: Tensor) -> Tensor | None:
        """Added to the output of a layer in `linears`: inputs (..., D) -> (..., O), or None."""
        return None

    def attention(self, block: int, tokens: Tensor, window: int) -> Tensor | None:
        """Added to the output of a block's attention.

        tokens: what the attention reads, normalised and cut into windows: (B*V, w, w, D), or (B, Y, X, D)
            where `window` is 0. Returns the same shape, or None.
        """
        return None

    def add_attention(self, out: Tensor, block: int, tokens: Tensor, window: int) -> Tensor:
        """The output of a block's attention with what `attention` adds.

        Without gradients it is added to `out` in place: an addition beside it would be as large, and fresh
        memory costs a CPU more than the product.
        """
        return plus(out, self.attention(block, tokens, window))

    def neck_in(self) -> Tensor | None:
        """Added to the last block's output before the neck: (B, D, Y, X), or None."""
        return None

    def neck_out(self) -> Tensor | None:
        """Added to the image embedding: (B, C, Y, X), or None."""
        return None

    def add_neck_in(self, x: Tensor) -> Tensor:
        """The last block's output (B, D, Y, X) with what `neck_in` adds; as `add_attention`."""
        return plus(x, self.neck_in())

    def add_neck_out(self, x: Tensor) -> Tensor:
        """The image embedding (B, C, Y, X) with what `neck_out` adds; as `add_attention`."""
        return plus(x, self.neck_out())


def plus(out: Tensor, added: Tensor | None) -> Tensor:
    """`out` with what an adaptation adds to it; without gradients it is added in place."""
    if added is None:
        return out
    return out + added if torch.is_grad_enabled() else out.add_(added)


def plus_linear(out: Tensor, low: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """`out` (..., O), contiguous, with a linear layer of `low` (..., r) added to it.

    Without gradients it is added in place, and the product never lies beside it in memory.
    """
    if torch.is_grad_enabled():
        return out + F.linear(low, weight, bias)
    low, weight = _with_bias(low, weight, bias, out.dtype)
    out.view(-1, out.shape[-1]).addmm_(low.reshape(-1, low.shape[-1]), weight.t())
    return out


def plus_channels(out: Tensor, low: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """`out` (B, O, Y, X) with a linear layer of `low` (B, Y, X, r) added to it in place; without gradients.

    The memory of `out` has its channels first or last, and either is written to in the order it lies in.
    """
    last = out.permute(0, 2, 3, 1)
    if last.is_contiguous():
        plus_linear(last, low, weight, bias)
    elif out.is_contiguous():
        # Not len(out), which fixes the number of rows when a graph is exported.
        low, weight = _with_bias(low, weight, bias, out.dtype)
        rows = low.reshape(out.shape[0], -1, low.shape[-1]).transpose(1, 2)
        out.flatten(2).baddbmm_(weight.expand(out.shape[0], -1, -1), rows)
    else:
        last.add_(F.linear(low, weight, bias))
    return out


def _with_bias(low: Tensor, weight: Tensor, bias: Tensor | None, kind: torch.dtype) -> tuple[Tensor, Tensor]:
    """Inputs and weights of one type, the bias as one more column, which saves a pass over the output."""
    if bias is not None:
        low, weight = F.pad(low, (0, 1), value=1.0), torch.cat([weight, bias[:, None]], 1)
    return low.to(kind), weight.to(kind)


@dataclass(frozen=True)
class FramePrompts:
    """Prompts in the model's S x S frame, batched. points (B, N, P, 2), labels (B, N, P), boxes (B, N, 4)."""

    points: Tensor | None
    labels: Tensor | None
    boxes: Tensor | None

    def to(self, device: torch.device) -> FramePrompts:
        def move(x: Tensor | None) -> Tensor | None:
            return None if x is None else x.to(device)

        return FramePrompts(move(self.points), move(self.labels), move(self.boxes))

    def __getitem__(self, rows: slice | Tensor) -> FramePrompts:
        def cut(x: Tensor | None) -> Tensor | None:
            return None if x is None else x[rows]

        return FramePrompts(cut(self.points), cut(self.labels), cut(self.boxes))


class Promptable(Protocol):
    """A base model. It does not affect gradient mode; the caller uses inference mode to predict."""

    name: str
    fingerprint: str  # sha256 of every weight: identifies the base in caches and runs
    image_size: int  # S
    grid: int  # tokens along a side
    depth: int  # blocks of the trunk and the tail together
    width: int  # D
    channels: int  # C, of the image embedding
    adapted: tuple[int, ...]  # the blocks of the tail, which a method may adapt
    has_neck: bool  # whether neck_in and neck_out are honoured
    linears: dict[str, nn.Linear]  # the linear layers of the adapted blocks, by name in the state dict
    precision: Precision
    natural: State | None  # statistics of the taps of natural images, where they are known
    encoded: dict[str, dict[str, Tensor]] | None  # features of images by key; see domains.prepare

    @property
    def device(self) -> torch.device: ...

    def pixels(self, images: Sequence[Tensor]) -> Tensor:
        """Images (3, H, W) uint8 of any sizes -> normalised (B, 3, S, S) on the model's device."""

    def trunk(self, pixels: Tensor) -> Features: ...

    def block(self, index: int, x: Tensor, adaptation: Adaptation | None = None) -> Tensor:
        """One adapted block of the tail by itself: tokens (B, Y, X, D) -> the same."""

    def tail(self, features: Features, adaptation: Adaptation | None = None) -> Features: ...

    def decode(
        self, embedding: Features, prompts: FramePrompts, *, single: bool = False
    ) -> tuple[Tensor, Tensor]:
        """Logits (B, N, h, w) and predicted IoU (B, N).

        single: the decoder's single-mask output whatever it is like, which is what training needs. Without it
            a family that takes the best of its three further masks where the single one is unstable does so
            (SAM 2); SAM 1 has no such rule.
        """


def stretch(images: Sequence[Tensor], side: int) -> Tensor:
    """Stretch images (3, H, W) uint8 to a square, not keeping their shape, as SAMCL does: (B, 3, S, S)
    uint8."""
    out = []
    for image in images:
        if image.shape[-2:] == (side, side):
            out.append(image)
        else:
            out.append(F.interpolate(image[None], size=(side, side), mode="bilinear", antialias=True)[0])
    return torch.stack(out)


def to_frame(prompts: Prompts, size: tuple[int, int], side: int) -> FramePrompts:
    """Prompts of one image of `size` (H, W) -> the S x S frame, with a batch dimension of 1."""
    scale = torch.tensor([side / size[1], side / size[0]])
    points = None if prompts.points is None else (prompts.points.float() * scale)[None]
    labels = None if prompts.labels is None else prompts.labels.long()[None]
    boxes = None if prompts.boxes is None else (prompts.boxes.float() * scale.repeat(2))[None]
    return FramePrompts(points, labels, boxes)


def first_adapted(depth: int) -> int:
    """The first block that a method adapts: floor(7/12 of the depth).

    The paper's choice for ViT-B (blocks 7 to 11 of 12; specs of other depths are not published), kept in
    proportion: 3 of 6, 7 of 12, 14 of 24, 18 of 32. The tap is the output of the block before it.
    """
    return 7 * depth // 12
