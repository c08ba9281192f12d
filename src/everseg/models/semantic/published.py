"""Transformers with published weights, by their names on the hub: their shapes, built without weights."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers.modeling_utils import PreTrainedModel

MIT = {
    "b0": ([32, 64, 160, 256], [2, 2, 2, 2], 256),
    "b1": ([64, 128, 320, 512], [2, 2, 2, 2], 256),
    "b2": ([64, 128, 320, 512], [3, 4, 6, 3], 768),
    "b3": ([64, 128, 320, 512], [3, 4, 18, 3], 768),
    "b4": ([64, 128, 320, 512], [3, 8, 27, 3], 768),
    "b5": ([64, 128, 320, 512], [3, 6, 40, 3], 768),
}
"""Channels and blocks of each stage, and the decoder's width (SegFormer, table 6)."""

DINO = {"small": (384, 12, 6), "base": (768, 12, 12), "large": (1024, 24, 16)}
"""Channels, blocks, attention heads."""


def _mit(size: str) -> Callable[[], PreTrainedModel]:
    def build() -> PreTrainedModel:
        from transformers.models.segformer.configuration_segformer import SegformerConfig
        from transformers.models.segformer.modeling_segformer import SegformerModel

        widths, depths, decoder = MIT[size]
        return SegformerModel(
            SegformerConfig(hidden_sizes=widths, depths=depths, decoder_hidden_size=decoder)
        )

    return build


def _dinov2(size: str) -> Callable[[], PreTrainedModel]:
    def build() -> PreTrainedModel:
        from transformers.models.dinov2.configuration_dinov2 import Dinov2Config
        from transformers.models.dinov2.modeling_dinov2 import Dinov2Model

        return Dinov2Model(Dinov2Config(**_shape(size), image_size=518, patch_size=14))

    return build


def _dinov3(size: str) -> Callable[[], PreTrainedModel]:
    def build() -> PreTrainedModel:
        from transformers.models.dinov3_vit.configuration_dinov3_vit import DINOv3ViTConfig
        from transformers.models.dinov3_vit.modeling_dinov3_vit import DINOv3ViTModel

        shape = _shape(size)
        return DINOv3ViTModel(
            DINOv3ViTConfig(**shape, intermediate_size=4 * shape["hidden_size"], num_register_tokens=4)
        )

    return build


def _shape(size: str) -> dict[str, Any]:
    width, depth, heads = DINO[size]
    return {"hidden_size": width, "num_hidden_layers": depth, "num_attention_heads": heads}


def _vit() -> PreTrainedModel:
    from transformers.models.vit.configuration_vit import ViTConfig
    from transformers.models.vit.modeling_vit import ViTModel

    return ViTModel(ViTConfig(), add_pooling_layer=False)


PUBLISHED: dict[str, Callable[[], PreTrainedModel]] = {
    **{f"nvidia/mit-{size}": _mit(size) for size in MIT},
    "google/vit-base-patch16-224": _vit,
    **{f"facebook/dinov2-{size}": _dinov2(size) for size in DINO},
    **{f"facebook/dinov3-vit{size[0]}16-pretrain-lvd1689m": _dinov3(size) for size in DINO},
}
"""Each by its name on the hub; what has other weights in one of these shapes loads as well."""
