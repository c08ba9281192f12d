"""Encoders of `transformers` as a feature map and the maps on the way to it.

Convolutional ones (ResNet, MobileNetV2) are dilated: the last stages keep the resolution and look further
apart instead. Transformers give the maps that they have.

Shape suffixes: B images, C channels, H W pixels, h w the feature map.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

if TYPE_CHECKING:
    from transformers.modeling_utils import PreTrainedModel

MOMENTUM = 0.01
"""Of the backbone's running statistics, as in MiB's descendants. transformers' MobileNetV2 has TensorFlow's
0.997, which to torch means that only the last batch counts."""


MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)
"""ImageNet's, of values from 0 to 1."""


class Maps(NamedTuple):
    """last (B, C, h, w): the end of the backbone.

    stages: the output of each stage, before its last activation, where it has one; unless the backbone is a
        plain transformer, coarser from one to the next.
    """

    last: Tensor
    stages: tuple[Tensor, ...]


class Backbone(nn.Module):
    """channels, stride: of the last map.
    widths: channels of each stage. mean, std: what its pixels were normalised by. Calling it on normalised
        pixels (B, 3, H, W) gives `Maps`.

    decoder: weights of the head that a checkpoint of segmentation brought along, by the head's names; empty
    where there were none. They are not part of the backbone's own state.
    """

    channels: int
    stride: int
    widths: tuple[int, ...]
    convolutional = False

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.model = model
        self.mean, self.std = MEAN, STD
        self.decoder: dict[str, Tensor] = {}

    def __call__(self, pixels_B3HW: Tensor) -> Maps:
        return super().__call__(pixels_B3HW)

    @torch.no_grad()
    def _probe(self) -> None:
        """Read off the last map what no configuration tells alike."""
        side = 224
        weight = next(self.model.parameters())
        probe = torch.zeros(1, 3, side, side, device=weight.device, dtype=weight.dtype)
        training = self.training
        last, stages = self.eval()(probe)
        self.train(training)
        self.channels, self.stride = last.shape[1], side // last.shape[2]
        self.widths = tuple(stage.shape[1] for stage in stages)


def dilate(layers: Iterable[nn.Module], before: int) -> int:
    """Take the stride out of a stage, in place, and return the dilation that the next one starts from.

    The convolution that had the stride keeps the dilation `before`; the 3x3 after it get twice as much. So
    each weight meets the pixels that it was trained on. Source: torchvision's `replace_stride_with_dilation`.
    """
    for layer in layers:
        for conv in layer.modules():
            if not isinstance(conv, nn.Conv2d):
                continue
            strided = conv.stride != (1, 1)
            conv.stride = (1, 1)
            if conv.kernel_size == (3, 3):
                step = before if strided else 2 * before
                conv.dilation = (step, step)
                if conv.padding != (0, 0):  # transformers' `tf_padding` pads by the dilation itself
                    conv.padding = (step, step)
    return 2 * before


class ResNet(Backbone):
    """transformers' ResNet. 42,500,160 parameters for ResNet-101, torchvision's without its classifier."""

    convolutional = True

    def __init__(self, model: PreTrainedModel, stride: int = 16) -> None:
        super().__init__(model)
        model.pooler = nn.Identity()
        stages: Sequence[Any] = model.encoder.stages
        for stage in stages:
            stage.layers[-1].activation = nn.Identity()  # forward applies it, after the stage was noted
        _reduce_stride([stage.layers for stage in stages], stride)
        self.channels, self.stride = model.config.hidden_sizes[-1], stride
        self.widths = tuple(model.config.hidden_sizes)

    def forward(self, pixels_B3HW: Tensor) -> Maps:
        x, maps = self.model.embedder(pixels_B3HW), []
        for stage in self.model.encoder.stages:
            maps.append(stage(x))
            x = F.relu(maps[-1])
        return Maps(x, tuple(maps))


class MobileNetV2(Backbone):
    """transformers' MobileNetV2 without its last 1x1 convolution, which serves classification: 320 channels.

    A block ends without an activation, so that what a stage gives and what is noted of it are the same.
    """

    convolutional = True

    def __init__(self, model: PreTrainedModel, stride: int = 16) -> None:
        super().__init__(model)
        model.conv_1x1, model.pooler = nn.Identity(), nn.Identity()
        layers = list(model.layer)
        starts = [i for i, layer in enumerate(layers) if layer.conv_3x3.convolution.stride != (1, 1)]
        ends = [*starts[1:], len(layers)]
        self.ends = frozenset(end - 1 for end in ends)
        _reduce_stride([layers[a:b] for a, b in zip(starts, ends, strict=True)], stride)
        self.channels = layers[-1].reduce_1x1.convolution.out_channels
        self.stride = stride
        self.widths = tuple(layers[end].reduce_1x1.convolution.out_channels for end in sorted(self.ends))

    def forward(self, pixels_B3HW: Tensor) -> Maps:
        x, maps = self.model.conv_stem(pixels_B3HW), []
        for i, layer in enumerate(self.model.layer):
            x = layer(x)
            if i in self.ends:
                maps.append(x)
        return Maps(x, tuple(maps))


def _reduce_stride(stages: Sequence[Iterable[nn.Module]], stride: int) -> None:
    """Dilate the last stages of four, of which the last has stride 32, until it has `stride`."""
    assert stride in (8, 16, 32), f"a convolutional backbone has stride 8, 16 or 32, not {stride}"
    dilation = 1
    for stage in stages[len(stages) - (32 // stride).bit_length() + 1 :]:
        dilation = dilate(stage, dilation)


class Tokens(Backbone):
    """A plain vision transformer (ViT, DINOv2, DINOv3): its patch tokens as a map, without class token and
    registers; four blocks, evenly spaced, are the stages.

    An image whose sides are not multiples of the patch is stretched to the next ones, so that the map covers
    all of it.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__(model)
        size = model.config.patch_size
        self.patch = int(size if isinstance(size, int) else size[0])
        # ViT alone must be asked to fit its position embeddings to the image; the others do it anyway.
        self.asked = {"interpolate_pos_encoding": True} if model.config.model_type == "vit" else {}
        self._probe()
        self.stride = self.patch

    def forward(self, pixels_B3HW: Tensor) -> Maps:
        rows, columns = (-(-side // self.patch) for side in pixels_B3HW.shape[-2:])
        size = (rows * self.patch, columns * self.patch)
        if size != tuple(pixels_B3HW.shape[-2:]):
            pixels_B3HW = F.interpolate(pixels_B3HW, size=size, mode="bilinear", align_corners=False)
        out = self.model(pixels_B3HW, output_hidden_states=True, **self.asked)
        blocks = out.hidden_states[1:]
        picked = [blocks[(i + 1) * len(blocks) // 4 - 1] for i in range(4)] if len(blocks) >= 4 else blocks

        def as_map(tokens: Tensor) -> Tensor:
            patches = tokens[:, tokens.shape[1] - rows * columns :]
            return patches.transpose(1, 2).unflatten(2, (rows, columns))

        return Maps(as_map(out.last_hidden_state), tuple(map(as_map, picked)))


class Pyramid(Backbone):
    """Whatever gives maps by itself: SegFormer's encoder and the models of transformers' `AutoBackbone`."""

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__(model)
        self._probe()

    def forward(self, pixels_B3HW: Tensor) -> Maps:
        if hasattr(self.model, "stage_names"):  # a backbone of transformers
            maps = tuple(self.model(pixels_B3HW).feature_maps)
            return Maps(maps[-1], maps)
        out = self.model(pixels_B3HW, output_hidden_states=True)
        return Maps(out.last_hidden_state, tuple(out.hidden_states)[-len(self.model.config.depths) :])


def set_momentum(module: nn.Module, momentum: float = MOMENTUM) -> None:
    """Let running statistics of every batch normalisation follow with this weight of the newest batch."""
    for norm in module.modules():
        if isinstance(norm, nn.BatchNorm2d):
            norm.momentum = momentum
