"""Base models from the files that Meta publishes, as `sam_vit_b_01ec64.pth` and `sam2.1_hiera_tiny.pt`.

A file is recognised by its content, not by its name. The architecture follows from the tensors' shapes; what
leaves no trace in them is in `HIERA` and in the constants that all of Meta's models share.

Source: the builders and configurations of Meta's `segment_anything` and `sam2`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from transformers.models.sam.configuration_sam import (
    SamConfig,
    SamMaskDecoderConfig,
    SamPromptEncoderConfig,
    SamVisionConfig,
)
from transformers.models.sam.modeling_sam import SamModel
from transformers.models.sam2.configuration_sam2 import (
    Sam2Config,
    Sam2HieraDetConfig,
    Sam2MaskDecoderConfig,
    Sam2PromptEncoderConfig,
    Sam2VisionConfig,
)
from transformers.models.sam2.modeling_sam2 import Sam2Model

from everseg.errors import UserError
from everseg.models.promptable.names import from_original
from everseg.models.promptable.stored import KNOWN, find_sam
from everseg.models.tensors import first_line

DECODER_HEADS = 8
DECODER_NORM_EPS = 1e-5
"""torch's default, which Meta's decoder leaves as it is. The default of transformers' SAM 1 is 1e-6."""

SAM2_IMAGE_SIZE = 1024


@dataclass(frozen=True)
class Hiera:
    """What a SAM 2 image encoder's tensors do not tell.

    heads: of the first stage.
    windows: of each stage.
    global_blocks: those without windows, counted through all stages.
    """

    name: str
    heads: int
    windows: tuple[int, int, int, int]
    global_blocks: tuple[int, ...]


HIERA: dict[tuple[int, tuple[int, ...]], Hiera] = {
    (96, (1, 2, 7, 2)): Hiera("tiny", 1, (8, 4, 14, 7), (5, 7, 9)),
    (96, (1, 2, 11, 2)): Hiera("small", 1, (8, 4, 14, 7), (7, 10, 13)),
    (112, (2, 3, 16, 3)): Hiera("base+", 2, (8, 4, 14, 7), (12, 16, 20)),
    (144, (2, 6, 36, 4)): Hiera("large", 2, (8, 4, 16, 8), (23, 33, 43)),
}
"""By the width of the first stage and the number of blocks of each."""


def load_checkpoint(path: Path, key: str = "") -> SamModel | Sam2Model:
    """The model in a file of Meta's, or in a training checkpoint with Meta's names, in float32.

    key: where in the file the model is, if there are several; see `stored`.

    Raises:
        UserError: the file cannot be read, holds more than tensors or less than a model, or another model.
    """
    tensors, where = find_sam(path, key)
    shapes = Shapes(tensors, where)
    if any(name.startswith("image_encoder.trunk.") for name in tensors):
        kind, configure = Sam2Model, sam2_config
    else:
        kind, configure = SamModel, sam_config
    try:
        config = configure(shapes)
        with torch.device("meta"):  # Neither memory nor random numbers for what is replaced at once.
            model = kind(config)
    except UserError:
        raise
    except Exception as error:  # transformers and torch refuse impossible sizes each in their own way.
        raise UserError(
            f"{where} has the tensor names of a SAM, but shapes that fit no SAM ({first_line(error)}); "
            f"{KNOWN}"
        ) from error
    model.load_state_dict(from_original(model, tensors, where), assign=True)
    model.tie_weights()
    return model


# ---------------------------------------------------------------- the architecture


@dataclass(frozen=True)
class Shapes:
    """The shapes of a file's tensors; `where` begins the sentence about one that is not there."""

    tensors: Mapping[str, Tensor]
    where: str

    def __call__(self, name: str, dims: int) -> tuple[int, ...]:
        if name not in self.tensors:
            raise UserError(f"{self.where} is incomplete: {name} is missing; fetch it again")
        shape = tuple(self.tensors[name].shape)
        if len(shape) != dims:
            raise UserError(f"{self.where} holds {name} with {len(shape)} dimensions, not {dims}; {KNOWN}")
        return shape

    def count(self, prefix: str) -> int:
        """How many different numbers follow a prefix."""
        found = (re.match(rf"{re.escape(prefix)}\.(\d+)\.", name) for name in self.tensors)
        return len({match[1] for match in found if match})


def sam_config(shape: Shapes) -> SamConfig:
    """SAM 1 of any width and depth. The relative positions' shapes tell heads, windows and global blocks."""
    width, _, patch, _ = shape("image_encoder.patch_embed.proj.weight", 4)
    grid = shape("image_encoder.pos_embed", 4)[1]
    blocks = range(shape.count("image_encoder.blocks"))
    # Positions of two tokens of a window, or of the whole grid, differ by -(side - 1) to side - 1.
    spans, head = zip(*(shape(f"image_encoder.blocks.{i}.attn.rel_pos_h", 2) for i in blocks), strict=True)
    windows = {(span + 1) // 2 for span in spans if span != 2 * grid - 1}
    mlp = shape("image_encoder.blocks.0.mlp.lin1.weight", 2)[0]
    decoder = _decoder(shape, "mask_decoder", "lin1")
    vision = SamVisionConfig(
        hidden_size=width,
        output_channels=shape("image_encoder.neck.0.weight", 4)[0],
        num_hidden_layers=len(blocks),
        num_attention_heads=width // head[0],
        image_size=grid * patch,
        patch_size=patch,
        qkv_bias="image_encoder.blocks.0.attn.qkv.bias" in shape.tensors,
        mlp_ratio=mlp / width,
        mlp_dim=mlp,
        window_size=min(windows, default=grid),
        global_attn_indexes=[i for i in blocks if spans[i] == 2 * grid - 1],
        num_pos_feats=shape("prompt_encoder.pe_layer.positional_encoding_gaussian_matrix", 2)[1],
    )
    prompt = SamPromptEncoderConfig(
        image_size=grid * patch, patch_size=patch, **_prompts(shape, "prompt_encoder")
    )
    return SamConfig(
        vision_config=vision,
        prompt_encoder_config=prompt,
        mask_decoder_config=SamMaskDecoderConfig(layer_norm_eps=DECODER_NORM_EPS, **decoder),
    )


def sam2_config(shape: Shapes) -> Sam2Config:
    """SAM 2 or 2.1, which on images are one architecture, of a size that is in `HIERA`."""
    trunk = "image_encoder.trunk"
    depth = shape.count(f"{trunk}.blocks")
    widths = [shape(f"{trunk}.blocks.{i}.norm2.weight", 1)[0] for i in range(depth)]
    # A stage begins with a block that changes the width.
    starts = [i for i in range(depth) if i == 0 or f"{trunk}.blocks.{i}.proj.weight" in shape.tensors]
    stages = tuple(end - start for start, end in zip(starts, [*starts[1:], depth], strict=True))
    size = HIERA.get((widths[0], stages))
    if size is None:
        known = [f"{hiera.name} ({_size(*key)})" for key, hiera in HIERA.items()]
        raise UserError(
            f"{shape.where} is a SAM 2 of an unknown size ({_size(widths[0], stages)}), whose window "
            f"sizes everseg does not know; give one of the sizes {', '.join(known)}"
        )
    backbone = Sam2HieraDetConfig(
        hidden_size=widths[0],
        num_attention_heads=size.heads,
        image_size=[SAM2_IMAGE_SIZE, SAM2_IMAGE_SIZE],
        window_positional_embedding_background_size=list(shape(f"{trunk}.pos_embed", 4)[2:]),
        blocks_per_stage=list(stages),
        embed_dim_per_stage=[widths[start] for start in starts],
        num_attention_heads_per_stage=[size.heads * 2**stage for stage in range(4)],
        window_size_per_stage=list(size.windows),
        global_attention_blocks=list(size.global_blocks),
        mlp_ratio=shape(f"{trunk}.blocks.0.mlp.layers.0.weight", 2)[0] / widths[0],
    )
    vision = Sam2VisionConfig(
        backbone_config=backbone,
        backbone_channel_list=[widths[start] for start in reversed(starts)],
        backbone_feature_sizes=[[SAM2_IMAGE_SIZE // stride] * 2 for stride in (4, 8, 16)],
        fpn_hidden_size=shape("image_encoder.neck.convs.0.conv.weight", 4)[0],
    )
    prompt = Sam2PromptEncoderConfig(image_size=SAM2_IMAGE_SIZE, **_prompts(shape, "sam_prompt_encoder"))
    decoder = Sam2MaskDecoderConfig(**_decoder(shape, "sam_mask_decoder", "layers.0"))
    return Sam2Config(vision_config=vision, prompt_encoder_config=prompt, mask_decoder_config=decoder)


def _size(width: int, stages: tuple[int, ...]) -> str:
    return f"width {width}, stages of {'-'.join(map(str, stages))} blocks"


def _prompts(shape: Shapes, at: str) -> dict[str, int]:
    return {
        "hidden_size": shape(f"{at}.no_mask_embed.weight", 2)[1],
        "mask_input_channels": shape(f"{at}.mask_downscaling.3.weight", 4)[0],
        "num_point_embeddings": shape.count(f"{at}.point_embeddings"),
    }


def _decoder(shape: Shapes, at: str, first_linear: str) -> dict[str, int]:
    masks, width = shape(f"{at}.mask_tokens.weight", 2)
    layer = f"{at}.transformer.layers.0"
    return {
        "hidden_size": width,
        "mlp_dim": shape(f"{layer}.mlp.{first_linear}.weight", 2)[0],
        "num_hidden_layers": shape.count(f"{at}.transformer.layers"),
        "num_attention_heads": DECODER_HEADS,
        "attention_downsample_rate": width // shape(f"{layer}.cross_attn_token_to_image.q_proj.weight", 2)[0],
        "num_multimask_outputs": masks - 1,
        "iou_head_depth": shape.count(f"{at}.iou_prediction_head.layers"),
        "iou_head_hidden_dim": shape(f"{at}.iou_prediction_head.layers.0.weight", 2)[0],
    }
