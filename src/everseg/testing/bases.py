"""Random base models that are built in milliseconds, with nothing downloaded. Their shapes and laws are those
of the real ones; their masks mean nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from everseg.models.promptable.sam import Sam
    from everseg.models.semantic.base import SemanticBase


def micro_sam() -> Any:
    """A `transformers.SamModel` for 64 x 64 pixels: four blocks, windowed and global in turn, of which two
    are adapted."""
    from transformers.models.sam.configuration_sam import (
        SamConfig,
        SamMaskDecoderConfig,
        SamPromptEncoderConfig,
        SamVisionConfig,
    )
    from transformers.models.sam.modeling_sam import SamModel

    vision = SamVisionConfig(
        hidden_size=32,
        output_channels=32,
        num_hidden_layers=4,
        num_attention_heads=2,
        image_size=64,
        patch_size=8,
        window_size=3,  # does not divide the grid of 8 x 8
        global_attn_indexes=[1, 3],
        num_pos_feats=16,
        mlp_ratio=2.0,
        initializer_range=0.2,
    )
    prompt = SamPromptEncoderConfig(hidden_size=32, image_size=64, patch_size=8)
    decoder = SamMaskDecoderConfig(hidden_size=32, mlp_dim=32, num_attention_heads=2, iou_head_hidden_dim=16)
    model = SamModel(
        SamConfig(vision_config=vision, prompt_encoder_config=prompt, mask_decoder_config=decoder)
    )
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(p.new_empty(p.shape).normal_(0.0, 0.15, generator=generator) + (p.ndim == 1) * 0.5)
    return model


def micro_base() -> Sam:
    """The base of a method that learns domains: `micro_sam`, frozen."""
    from everseg.models.promptable.sam import Sam

    return Sam(micro_sam(), "micro")


def micro_sam2() -> Any:
    """A `transformers.Sam2Model` for 128 x 128 pixels: stages of 1, 2, 4 and 1 blocks; stage 3 is a grid of
    8 x 8, which windows of 6 do not divide, and two of its blocks are adapted."""
    from transformers.models.sam2.configuration_sam2 import (
        Sam2Config,
        Sam2HieraDetConfig,
        Sam2MaskDecoderConfig,
        Sam2PromptEncoderConfig,
        Sam2VisionConfig,
    )
    from transformers.models.sam2.modeling_sam2 import Sam2Model

    backbone = Sam2HieraDetConfig(
        hidden_size=8,
        image_size=[128, 128],
        blocks_per_stage=[1, 2, 4, 1],
        embed_dim_per_stage=[8, 16, 32, 48],
        num_attention_heads_per_stage=[1, 2, 2, 4],
        window_size_per_stage=[4, 2, 6, 3],
        window_positional_embedding_background_size=[3, 3],
        global_attention_blocks=[4, 6],
        mlp_ratio=2.0,
    )
    vision = Sam2VisionConfig(
        backbone_config=backbone,
        backbone_channel_list=[48, 32, 16, 8],
        backbone_feature_sizes=[[32, 32], [16, 16], [8, 8]],
        fpn_hidden_size=32,
    )
    prompt = Sam2PromptEncoderConfig(hidden_size=32, image_size=128)
    decoder = Sam2MaskDecoderConfig(hidden_size=32, mlp_dim=32, num_attention_heads=2, iou_head_hidden_dim=16)
    model = Sam2Model(
        Sam2Config(vision_config=vision, prompt_encoder_config=prompt, mask_decoder_config=decoder)
    )
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(0.2 * torch.randn(p.shape, generator=generator) + (p.ndim == 1) * 0.5)
        positions = model.shared_image_embedding.positional_embedding
        positions.copy_(torch.randn(positions.shape, generator=generator))
        model.prompt_encoder.shared_embedding.positional_embedding.copy_(positions)
    return model


def micro_resnet() -> Any:
    """A random `transformers.ResNetModel` of four narrow stages."""
    from transformers.models.resnet.configuration_resnet import ResNetConfig
    from transformers.models.resnet.modeling_resnet import ResNetModel

    narrow = ResNetConfig(
        embedding_size=8, hidden_sizes=[8, 8, 16, 16], depths=[1, 1, 1, 1], layer_type="basic"
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return ResNetModel(narrow)


def micro_backbone() -> SemanticBase:
    """The base of a method that learns classes: `micro_resnet`, frozen, for a narrow head."""
    return _semantic(micro_resnet())


def micro_segformer() -> SemanticBase:
    """A random SegFormer of four narrow stages as a base of methods that learn classes."""
    from transformers.models.segformer.configuration_segformer import SegformerConfig
    from transformers.models.segformer.modeling_segformer import SegformerModel

    narrow = SegformerConfig(
        depths=[1] * 4, hidden_sizes=[8, 8, 16, 16], num_attention_heads=[1, 1, 2, 2], mlp_ratios=[2] * 4
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return _semantic(SegformerModel(narrow))


def micro_dinov3() -> SemanticBase:
    """A random DINOv3 of four narrow blocks as a base of methods that learn classes."""
    from transformers.models.dinov3_vit.configuration_dinov3_vit import DINOv3ViTConfig
    from transformers.models.dinov3_vit.modeling_dinov3_vit import DINOv3ViTModel

    narrow = DINOv3ViTConfig(
        hidden_size=16,
        num_hidden_layers=4,
        num_attention_heads=2,
        intermediate_size=32,
        num_register_tokens=2,
        patch_size=16,
        image_size=64,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return _semantic(DINOv3ViTModel(narrow))


def _semantic(model: Any) -> SemanticBase:
    from everseg.models.semantic.backbones import set_momentum
    from everseg.models.semantic.base import SemanticBase
    from everseg.models.semantic.load import as_backbone

    backbone = as_backbone(model, "micro")
    set_momentum(backbone)
    return SemanticBase(backbone, "micro", width=32)
