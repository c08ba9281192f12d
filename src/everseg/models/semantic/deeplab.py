"""DeepLabV3's head, which sees one feature map at several scales; and DeepLabV3+'s, which adds an early map.

Shape suffixes: B images, C channels, h w the feature map.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from everseg.errors import UserError
from everseg.models.semantic.backbones import Maps

WIDTH = 256
EARLY_WIDTH = 48
"""Channels that DeepLabV3+ takes of the early map."""
DROPOUT = 0.1
REACH = (96, 192, 288)
"""The atrous convolutions' dilations in pixels of the image: 6, 12, 18 at stride 16, twice as many at 8."""


def conv_block(c_in: int, c_out: int, kernel: int = 1, dilation: int = 1) -> nn.Sequential:
    """A convolution that keeps the resolution, normalisation, ReLU."""
    padding = dilation * (kernel // 2)
    return nn.Sequential(
        nn.Conv2d(c_in, c_out, kernel, padding=padding, dilation=dilation, bias=False),
        nn.BatchNorm2d(c_out),
        nn.ReLU(),
    )


class DeepLabHead(nn.Module):
    """Atrous spatial pyramid pooling: (B, C, h, w) -> (B, 256, h, w), no smaller than zero.

    A 1x1 convolution, three 3x3 with dilation, and the mean over the whole map, side by side; joined by 1x1
    and a last 3x3. 16,125,440 parameters on 2,048 channels.

    stride: pixels of the image for one of the map; the dilations reach equally far in the image whatever it
    is.

    Source: Chen et al., "Rethinking Atrous Convolution for Semantic Image Segmentation" (2017); dropout and
    the last 3x3 are torchvision's and DKD's, MiB's head has no such convolution.
    """

    def __init__(self, channels: int, stride: int, width: int = WIDTH) -> None:
        super().__init__()
        self.width = width
        dilations = [max(1, reach // stride) for reach in REACH]
        wide = [conv_block(channels, width, 3, dilation) for dilation in dilations]
        self.branches = nn.ModuleList([conv_block(channels, width), *wide])
        self.pool = conv_block(channels, width)
        self.join = nn.Sequential(*conv_block(5 * width, width), nn.Dropout(DROPOUT))
        self.last = conv_block(width, width, 3)

    def forward(self, maps: Maps) -> Tensor:
        x_BChw = maps.last
        if self.pool[1].training and len(x_BChw) == 1:
            raise UserError(
                "one image at a time cannot train the head's batch normalisation (it pools an image to one "
                "value); train on at least 2 in a micro-batch"
            )
        pooled = self.pool(x_BChw.mean((2, 3), keepdim=True))
        seen = [branch(x_BChw) for branch in self.branches]
        seen.append(pooled.expand(-1, -1, *x_BChw.shape[-2:]))
        return self.last(self.join(torch.cat(seen, 1)))


class DeepLabPlusHead(nn.Module):
    """DeepLabV3's head, joined with the first stage's map at that map's resolution, a quarter of the image's:
    (B, D, h, w), no smaller than zero. 82,400 parameters more with MobileNetV2.

    early: channels of the first stage. channels, stride: of the last map.

    Source: Chen et al., "Encoder-Decoder with Atrous Separable Convolution for Semantic Image Segmentation",
    ECCV 2018, with one depthwise 3x3 convolution in place of two 3x3, which on a CPU would take longer than
    everything else.
    """

    def __init__(self, early: int, channels: int, stride: int, width: int = WIDTH) -> None:
        super().__init__()
        self.width = width
        self.late = DeepLabHead(channels, stride, width)
        self.early = conv_block(early, EARLY_WIDTH)
        self.join = conv_block(width + EARLY_WIDTH, width)
        depthwise = nn.Conv2d(width, width, 3, padding=1, groups=width, bias=False)
        self.last = nn.Sequential(depthwise, nn.BatchNorm2d(width), nn.ReLU())

    def forward(self, maps: Maps) -> Tensor:
        early = self.early(maps.stages[0])
        late = F.interpolate(self.late(maps), size=early.shape[-2:], mode="bilinear", align_corners=False)
        return self.last(self.join(torch.cat([late, early], 1)))
