"""The head that goes with a backbone: from its maps to the features that classifiers read, none below zero.

    ResNet, MobileNetV2, Swin, ConvNeXt    DeepLabV3's (`deeplab`), on the last map, at its stride; "fine":
                                           DeepLabV3+'s, which joins the first map, at stride 4
    SegFormer                              its own: an MLP for each of four stages, at stride 4
    ViT, DINOv2, DINOv3                    four blocks joined by a 1x1 convolution and a 3x3 at half the patch

Shape suffixes: B images, C channels, D width of the features, h w the feature map.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from everseg.errors import UserError
from everseg.models.semantic.backbones import Backbone, Maps, Pyramid, Tokens
from everseg.models.semantic.deeplab import DROPOUT, WIDTH, DeepLabHead, DeepLabPlusHead, conv_block

CLASSIFIER = "classifier."
"""What SegFormer's head calls its classifier, which is none of a head's weights here."""


class SegformerHead(nn.Module):
    """SegFormer's decoder without its classifier: each stage through a linear layer, all brought to the first
    one's resolution and joined by a 1x1 convolution, normalisation and ReLU. 394,752 parameters for MiT-B0,
    3,150,336 for MiT-B2 to B5.

    Its module is transformers', so that a checkpoint's weights fit by name.

    width: channels of the features; None: those of the backbone's configuration.

    Source: Xie et al., "SegFormer: Simple and Efficient Design for Semantic Segmentation with Transformers",
    NeurIPS 2021.
    """

    def __init__(self, config: Any, width: int | None = None) -> None:
        super().__init__()
        from transformers.models.segformer.modeling_segformer import SegformerDecodeHead

        config = type(config).from_dict(config.to_dict())
        if width is not None:
            config.decoder_hidden_size = width
        self.width = int(config.decoder_hidden_size)
        self.decode = SegformerDecodeHead(config)
        self.decode.classifier = nn.Identity()

    def forward(self, maps: Maps) -> Tensor:
        return self.decode(maps.stages)


class TokenHead(nn.Module):
    """A light head for a plain vision transformer: (B, C, h, w) of each of its stages -> (B, D, 2h, 2w).

    The stages are joined by a 1x1 convolution; at twice the resolution follows a 3x3. 1,377,280 parameters
    for four stages of 768 channels. Ours; SETR's "naive" head (Zheng et al., CVPR 2021) reads one block.
    """

    def __init__(self, channels: Sequence[int], width: int | None = None) -> None:
        super().__init__()
        self.width = width or WIDTH
        self.join = nn.Sequential(*conv_block(sum(channels), self.width), nn.Dropout(DROPOUT))
        self.last = conv_block(self.width, self.width, 3)

    def forward(self, maps: Maps) -> Tensor:
        joined = self.join(torch.cat([*maps.stages[:-1], maps.last], 1))
        return self.last(F.interpolate(joined, scale_factor=2.0, mode="bilinear", align_corners=False))


def head_of(backbone: Backbone, width: int | None = None, *, fine: bool = False) -> Any:
    """A fresh head for a backbone: a module from `Maps` to features (B, D, h, w), with D as its `width`.

    width: None is the head's own, 256 or what SegFormer's configuration says.
    fine: DeepLabV3+'s head in place of DeepLabV3's.

    Raises:
        UserError: fine, and the backbone's head is not DeepLabV3's.
    """
    if isinstance(backbone, Tokens):
        _check_coarse(fine, "a plain vision transformer has no finer map than the one that it reads")
        return TokenHead(backbone.widths, width)
    if isinstance(backbone, Pyramid) and backbone.model.config.model_type == "segformer":
        _check_coarse(fine, "SegFormer's head reads the first stage anyway")
        return SegformerHead(backbone.model.config, width)
    if fine:
        return DeepLabPlusHead(backbone.widths[0], backbone.channels, backbone.stride, width or WIDTH)
    return DeepLabHead(backbone.channels, backbone.stride, width or WIDTH)


def _check_coarse(fine: bool, why: str) -> None:
    if fine:
        raise UserError(
            f"tune.fine=true adds the backbone's first stage to DeepLabV3's head, and {why}; leave it out"
        )
