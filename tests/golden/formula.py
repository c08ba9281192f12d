"""A SAM whose weights follow from their names: golden values of whole networks without pretrained ones."""

from __future__ import annotations

import re
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

# transformers' names -> Segment Anything's, applied in order.
_NAMES = (
    (
        r"^shared_image_embedding\.positional_embedding$",
        "prompt_encoder.pe_layer.positional_encoding_gaussian_matrix",
    ),
    (r"^vision_encoder\.", "image_encoder."),
    (r"^image_encoder\.layers\.", "image_encoder.blocks."),
    (r"^image_encoder\.patch_embed\.projection\.", "image_encoder.patch_embed.proj."),
    (r"^image_encoder\.neck\.conv1\.", "image_encoder.neck.0."),
    (r"^image_encoder\.neck\.layer_norm1\.", "image_encoder.neck.1."),
    (r"^image_encoder\.neck\.conv2\.", "image_encoder.neck.2."),
    (r"^image_encoder\.neck\.layer_norm2\.", "image_encoder.neck.3."),
    (r"^prompt_encoder\.point_embed\.", "prompt_encoder.point_embeddings."),
    (r"^prompt_encoder\.mask_embed\.conv1\.", "prompt_encoder.mask_downscaling.0."),
    (r"^prompt_encoder\.mask_embed\.layer_norm1\.", "prompt_encoder.mask_downscaling.1."),
    (r"^prompt_encoder\.mask_embed\.conv2\.", "prompt_encoder.mask_downscaling.3."),
    (r"^prompt_encoder\.mask_embed\.layer_norm2\.", "prompt_encoder.mask_downscaling.4."),
    (r"^prompt_encoder\.mask_embed\.conv3\.", "prompt_encoder.mask_downscaling.6."),
    (r"^mask_decoder\.upscale_conv1\.", "mask_decoder.output_upscaling.0."),
    (r"^mask_decoder\.upscale_layer_norm\.", "mask_decoder.output_upscaling.1."),
    (r"^mask_decoder\.upscale_conv2\.", "mask_decoder.output_upscaling.3."),
    (r"layer_norm_final_attn\.", "norm_final_attn."),
    (r"(mlps\.\d|prediction_head)\.layers\.0\.", r"\1.layers.1."),
    (r"(mlps\.\d|prediction_head)\.proj_in\.", r"\1.layers.0."),
    (r"(mlps\.\d|prediction_head)\.proj_out\.", r"\1.layers.2."),
    (r"\.layer_norm(\d)\.", r".norm\1."),
)

TIED = "prompt_encoder.shared_embedding.positional_embedding"
"""The same tensor as `shared_image_embedding.positional_embedding`; the original has it once."""


def original_name(name: str) -> str:
    """Segment Anything's name for a tensor of `transformers.SamModel`."""
    for pattern, replacement in _NAMES:
        name = re.sub(pattern, replacement, name)
    return name


def original_names(state: Mapping[str, Tensor]) -> dict[str, str]:
    """transformers' name -> the original name, for each tensor of the original state dict."""
    return {name: original_name(name) for name in state if name != TIED}


def formula(name: str, position: int, shape: torch.Size) -> Tensor:
    """A tensor's values: a hash of flat index and the tensor's position, around 0, or 1 for norms."""
    h = np.arange(shape.numel(), dtype=np.uint64) + np.uint64(position * 0x9E3779B9)
    h = (h & np.uint64(0xFFFFFFFF)).astype(np.uint32)
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35)):
        h ^= h >> np.uint32(shift)
        h *= np.uint32(factor)
    h ^= h >> np.uint32(16)
    u = h.astype(np.float64) / 2**32 - 0.5
    if len(shape) >= 2:
        values = 0.1 * u
    elif name.endswith("weight"):
        values = 1 + 0.2 * u
    else:
        values = 0.2 * u
    return torch.from_numpy(values.astype(np.float32)).view(shape)


@torch.no_grad()
def fill(state: Mapping[str, Tensor]) -> None:
    """Fill a `SamModel.state_dict()` in place; positions are those among the sorted original names."""
    names = original_names(state)
    position = {original: n for n, original in enumerate(sorted(names.values()))}
    for name, original in names.items():
        state[name].copy_(formula(original, position[original], state[name].shape))
    if TIED in state:
        state[TIED].copy_(state["shared_image_embedding.positional_embedding"])


def image() -> Tensor:
    """The test image (3, 1024, 1024), float32 on the scale of 0..255."""
    c, y, x = np.meshgrid(np.arange(3.0), np.arange(1024.0), np.arange(1024.0), indexing="ij")
    value = 127.5 + 100 * np.sin(2 * np.pi * x * (c + 1) / 256) * np.cos(2 * np.pi * y * (c + 2) / 512)
    return torch.from_numpy(value.astype(np.float32))
