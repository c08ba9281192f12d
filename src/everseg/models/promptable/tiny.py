"""The embedded tiny SAM: SAM's own architecture at 256x256 with a convolutional stem for patch embedding.

The vision transformer, neck, prompt encoder and mask decoder are `transformers.SamModel`'s. Only the patch
embedding
differs: a MobileNetV2 pyramid (Sandler et al., CVPR 2018) whose stride-4, 8, 16 and 32 features are resized
to the stride-16 token grid and summed. Convolutions early in a vision transformer make it learn from few
images (Xiao et al., "Early Convolutions Help Transformers See Better", NeurIPS 2021).

Shape suffixes: B batch, C channels, H W pixels, Y X tokens (H/16, W/16), D token width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.models.sam.configuration_sam import (
    SamConfig,
    SamMaskDecoderConfig,
    SamPromptEncoderConfig,
    SamVisionConfig,
)
from transformers.models.sam.modeling_sam import SamModel

IMAGE_SIZE = 256
WIDTH = 192

# MobileNetV2: (expansion, output channels, repeats, stride of the first) for each stage after the first
# convolution.
_STAGES = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)


def _conv_norm(c_in: int, c_out: int, kernel: int, stride: int = 1, groups: int = 1) -> list[nn.Module]:
    conv = nn.Conv2d(c_in, c_out, kernel, stride, kernel // 2, groups=groups, bias=False)
    return [conv, nn.BatchNorm2d(c_out)]


class InvertedResidual(nn.Module):
    """MobileNetV2's block: expand 1x1, depthwise 3x3, project 1x1. Parameter names are torchvision's."""

    def __init__(self, c_in: int, c_out: int, stride: int, expansion: int) -> None:
        super().__init__()
        hidden = c_in * expansion
        layers: list[nn.Module] = []
        if expansion > 1:
            layers.append(nn.Sequential(*_conv_norm(c_in, hidden, 1), nn.ReLU6()))
        layers.append(nn.Sequential(*_conv_norm(hidden, hidden, 3, stride, groups=hidden), nn.ReLU6()))
        layers.extend(_conv_norm(hidden, c_out, 1))
        self.conv = nn.Sequential(*layers)
        self.residual = stride == 1 and c_in == c_out

    def forward(self, x_BCHW: Tensor) -> Tensor:
        out = self.conv(x_BCHW)
        return x_BCHW + out if self.residual else out


class ConvStem(nn.Module):
    """MobileNetV2 features as SAM's patch embedding: (B, 3, H, W) -> (B, H/16, W/16, D).

    `features` has torchvision's names, so that `mobilenet_v2-*.pth` loads into it as it is. BatchNorm always
    uses its
    stored statistics: the stem is an embedding, its output for one image must not depend on the others of the
    batch.
    """

    # Index in `features` of the last block of each stride, and its channels.
    LEVELS = ((3, 24), (6, 32), (13, 96), (17, 320))

    def __init__(self, width: int = WIDTH) -> None:
        super().__init__()
        blocks: list[nn.Module] = [nn.Sequential(*_conv_norm(3, 32, 3, 2), nn.ReLU6())]
        c_in = 32
        for expansion, c_out, repeats, stride in _STAGES:
            for i in range(repeats):
                blocks.append(InvertedResidual(c_in, c_out, stride if i == 0 else 1, expansion))
                c_in = c_out
        self.features = nn.ModuleList(blocks)
        (_, c4), (_, c8), (_, c16), (_, c32) = self.LEVELS
        self.from4 = nn.Conv2d(c4, width, 4, 4)
        self.from8 = nn.Conv2d(c8, width, 2, 2)
        self.from16 = nn.Conv2d(c16, width, 1)
        self.from32 = nn.Conv2d(c32, width, 1)

    def train(self, mode: bool = True) -> ConvStem:
        super().train(mode)
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eval()
        return self

    def forward(self, pixels_BCHW: Tensor) -> Tensor:
        levels = []
        x = pixels_BCHW
        ends = {index for index, _ in self.LEVELS}
        for i, block in enumerate(self.features):
            x = block(x)
            if i in ends:
                levels.append(x)
        x4, x8, x16, x32 = levels
        tokens = self.from4(x4) + self.from8(x8) + self.from16(x16)
        tokens = tokens + F.interpolate(
            self.from32(x32), scale_factor=2.0, mode="bilinear", align_corners=False
        )
        return tokens.permute(0, 2, 3, 1)


def tiny_config() -> SamConfig:
    """Every number of the embedded base. Windowed and global blocks alternate, so that both kinds are
    exercised."""
    vision = SamVisionConfig(
        hidden_size=WIDTH,
        output_channels=128,
        num_hidden_layers=6,
        num_attention_heads=6,
        image_size=IMAGE_SIZE,
        patch_size=16,
        window_size=8,
        global_attn_indexes=[1, 3, 5],
        num_pos_feats=64,
        mlp_ratio=4.0,
        initializer_range=0.02,
    )
    prompt = SamPromptEncoderConfig(hidden_size=128, image_size=IMAGE_SIZE, patch_size=16)
    decoder = SamMaskDecoderConfig(hidden_size=128, mlp_dim=512, iou_head_hidden_dim=128)
    return SamConfig(vision_config=vision, prompt_encoder_config=prompt, mask_decoder_config=decoder)


def build_tiny_sam() -> SamModel:
    """The embedded architecture with fresh weights. Draws from torch's global generator: seed it before."""
    model = SamModel(tiny_config())
    model.vision_encoder.patch_embed = ConvStem(WIDTH)
    # transformers draws the positional Fourier features with a deviation of width/2, far too fine a pattern
    # to learn from; Segment Anything's own default is 1.
    torch.nn.init.normal_(model.shared_image_embedding.positional_embedding, std=1.0)
    return model
