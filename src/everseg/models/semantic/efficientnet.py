"""EfficientNet-Lite1: a small backbone that tells classes apart well.

transformers' EfficientNet without squeeze-and-excitation and with ReLU6, as Google's Lite variants are.

Source: Tan and Le, "EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks", ICML 2019; the
shape of Lite1 and its weights, which are Google's (Apache-2.0), are those of the package in `packaged`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from everseg.models.semantic.backbones import Backbone, Maps
from everseg.models.semantic.load import rename
from everseg.models.semantic.packaged import EFFICIENTNET_LITE1
from everseg.models.tensors import read_tensors

if TYPE_CHECKING:
    from transformers.models.efficientnet.modeling_efficientnet import EfficientNetModel

WIDTHS = (16, 24, 40, 80, 112, 192, 320)
"""Channels of each stage."""
DEPTHS = (1, 3, 3, 4, 4, 5, 1)
"""Blocks of each stage; the first and the last are not scaled, unlike EfficientNet-B1's."""
MEAN, STD = 127 / 255, 128 / 255
"""What the pixels were normalised by, in each colour."""
NAMES = (
    (r"^_conv_stem\.", "embeddings.convolution."),
    (r"^_bn0\.", "embeddings.batchnorm."),
    (r"^_blocks\.(\d+)\._expand_conv\.", r"encoder.blocks.\1.expansion.expand_conv."),
    (r"^_blocks\.(\d+)\._bn0\.", r"encoder.blocks.\1.expansion.expand_bn."),
    (r"^_blocks\.(\d+)\._depthwise_conv\.", r"encoder.blocks.\1.depthwise_conv.depthwise_conv."),
    (r"^_blocks\.(\d+)\._bn1\.", r"encoder.blocks.\1.depthwise_conv.depthwise_norm."),
    (r"^_blocks\.(\d+)\._project_conv\.", r"encoder.blocks.\1.projection.project_conv."),
    (r"^_blocks\.(\d+)\._bn2\.", r"encoder.blocks.\1.projection.project_bn."),
)
"""The package's names and transformers'."""
UNUSED = ("_conv_head.", "_bn1.", "_fc.")
"""What serves classification, and is left out."""


class EfficientNetLite(Backbone):
    """EfficientNet-Lite1 up to its last 1x1 convolution, which serves classification, with its last stages
    dilated: 320 channels at stride 16, the only map that it gives. 3,723,520 parameters.

    An image is stretched to sides that are multiples of the stride, so that the map covers all of it.
    It serves the posterior of classes alone; MobileNetV2 is the better base in a few hundred steps.
    """

    convolutional = True

    def __init__(self, model: EfficientNetModel) -> None:
        super().__init__(model)
        model.pooler = nn.Identity()
        for name in ("top_conv", "top_bn", "top_activation"):
            setattr(model.encoder, name, nn.Identity())
        _dilate(model.encoder.blocks)
        self.mean, self.std = (MEAN,) * 3, (STD,) * 3
        self.channels, self.stride, self.widths = WIDTHS[-1], 16, (WIDTHS[-1],)

    def forward(self, pixels_B3HW: Tensor) -> Maps:
        # Without a condition, so that an exported graph takes images of any size, and without a negative
        # number, which ONNX divides towards zero.
        size = [(side + self.stride - 1) // self.stride * self.stride for side in pixels_B3HW.shape[-2:]]
        x = F.interpolate(pixels_B3HW, size=size, mode="bilinear", align_corners=False)
        x = self.model.embeddings(x)
        for block in self.model.encoder.blocks:
            x = block(x)
        return Maps(x, (x,))


def _dilate(blocks: Any) -> None:
    """Take the last stride out, and let the convolutions behind it look twice as far."""
    last = max(i for i, block in enumerate(blocks) if block.depthwise_conv.stride == 2)
    for i, block in enumerate(blocks[last:]):
        layer, dilation = block.depthwise_conv, 2 if i else 1
        conv, layer.stride = layer.depthwise_conv, 1
        conv.stride, conv.dilation = (1, 1), (dilation, dilation)
        conv.padding = (dilation * (conv.kernel_size[0] // 2),) * 2


def load_efficientnet_lite() -> EfficientNetLite:
    """EfficientNet-Lite1 with ImageNet weights.

    Raises:
        UserError: the package with the weights is not installed, or its file is damaged.
    """
    path = EFFICIENTNET_LITE1.path(
        "efficientnet-lite1",
        "; a run that is still to begin needs none with --set tune.posterior_backbone=base",
    )
    tensors = read_tensors(path, "everseg reads EfficientNet-Lite1")
    with torch.device("meta"):
        backbone = EfficientNetLite(_model())
    found = {rename(key, NAMES): value for key, value in tensors.items() if not key.startswith(UNUSED)}
    backbone.model.load_state_dict(found, assign=True)
    return backbone.float()


def _model() -> EfficientNetModel:
    from transformers.models.efficientnet.configuration_efficientnet import EfficientNetConfig
    from transformers.models.efficientnet.modeling_efficientnet import EfficientNetModel

    config = EfficientNetConfig(
        in_channels=[32, *WIDTHS[:-1]],
        out_channels=list(WIDTHS),
        num_block_repeats=list(DEPTHS),
        width_coefficient=1.0,
        depth_coefficient=1.0,
        hidden_act="relu6",
        hidden_dim=1280,
    )
    model = EfficientNetModel(config)
    for block in model.encoder.blocks:
        block.squeeze_excite = nn.Identity()
    return model
