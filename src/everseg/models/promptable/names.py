"""Names: transformers' for the tensors of SAM 1, SAM 2 and SAM 2.1, and Meta's for the same tensors.

The mapping is a table of patterns, applied in order to transformers' names; its reverse is read off a model's
own names, so that neither direction can say what the other does not. Two layouts differ: the clicks' and
corners' embeddings of SAM 2 are one tensor here and four there, and the Fourier features of positions are
there once.

Source: the state dicts of Meta's `segment_anything` and `sam2`, and of transformers' models.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, TypeAlias, Union

import torch
from torch import Size, Tensor

from everseg.errors import UserError

if TYPE_CHECKING:
    from transformers.models.sam.modeling_sam import SamModel
    from transformers.models.sam2.modeling_sam2 import Sam2Model

Weights: TypeAlias = Union["SamModel", "Sam2Model", Mapping[str, Tensor]]
"""A model, or its state dict with transformers' names."""

FOURIER = "shared_image_embedding.positional_embedding"
TWIN = "prompt_encoder.shared_embedding.positional_embedding"
"""The same values as `FOURIER`; Meta's models have them once."""

ROW = "*"
"""In an original name: the number of a row. Row n of transformers' tensor is Meta's tensor of that number."""

MEMORY = re.compile(
    r"(memory_attention|memory_encoder|mask_downsample|obj_ptr_proj|obj_ptr_tpos_proj)\."
    r"|(maskmem_tpos_enc|no_mem_pos_enc|no_obj_ptr|no_obj_embed_spatial)$"
)
"""Tensors of SAM 2's video memory, which a model of images does without. `no_mem_embed` is none of them: it
stands for the memory that a single image has not. Those of 2.1 that 2.0 has not are all among them
(`obj_ptr_tpos_proj`, `no_obj_embed_spatial`)."""

PIXELS = re.compile(r"pixel_(mean|std)$")
"""Constants that some forks of SAM 1 keep in their files."""

_PROMPTS_AND_MASKS = (
    (rf"^{FOURIER}$", "prompt_encoder.pe_layer.positional_encoding_gaussian_matrix"),
    (r"^prompt_encoder\.point_embed\.weight$", rf"prompt_encoder.point_embeddings.{ROW}.weight"),
    (r"^prompt_encoder\.point_embed\.", "prompt_encoder.point_embeddings."),
    (r"^prompt_encoder\.mask_embed\.conv1\.", "prompt_encoder.mask_downscaling.0."),
    (r"^prompt_encoder\.mask_embed\.layer_norm1\.", "prompt_encoder.mask_downscaling.1."),
    (r"^prompt_encoder\.mask_embed\.conv2\.", "prompt_encoder.mask_downscaling.3."),
    (r"^prompt_encoder\.mask_embed\.layer_norm2\.", "prompt_encoder.mask_downscaling.4."),
    (r"^prompt_encoder\.mask_embed\.conv3\.", "prompt_encoder.mask_downscaling.6."),
    (r"^mask_decoder\.upscale_conv1\.", "mask_decoder.output_upscaling.0."),
    (r"^mask_decoder\.upscale_layer_norm\.", "mask_decoder.output_upscaling.1."),
    (r"^mask_decoder\.upscale_conv2\.", "mask_decoder.output_upscaling.3."),
    (r"\.o_proj\.", ".out_proj."),
)
_NORMS = ((r"\.layer_norm(\d|_final_attn)\.", r".norm\1."),)
_SAM = (
    *_PROMPTS_AND_MASKS,
    (r"^vision_encoder\.patch_embed\.projection\.", "image_encoder.patch_embed.proj."),
    (r"^vision_encoder\.neck\.conv1\.", "image_encoder.neck.0."),
    (r"^vision_encoder\.neck\.layer_norm1\.", "image_encoder.neck.1."),
    (r"^vision_encoder\.neck\.conv2\.", "image_encoder.neck.2."),
    (r"^vision_encoder\.neck\.layer_norm2\.", "image_encoder.neck.3."),
    (r"^vision_encoder\.layers\.", "image_encoder.blocks."),
    (r"^vision_encoder\.", "image_encoder."),
    *_NORMS,
)
_SAM2 = (
    *_PROMPTS_AND_MASKS,
    (r"^(prompt_encoder|mask_decoder)\.", r"sam_\1."),
    (r"^no_memory_embedding$", "no_mem_embed"),
    (r"^vision_encoder\.backbone\.patch_embed\.projection\.", "image_encoder.trunk.patch_embed.proj."),
    (r"^vision_encoder\.backbone\.", "image_encoder.trunk."),
    (r"^vision_encoder\.neck\.convs\.(\d+)\.", r"image_encoder.neck.convs.\1.conv."),
    *_NORMS,
)
_FEED_FORWARD = re.compile(r"(.+)\.(proj_in|proj_out|layers\.(\d+))\.(weight|bias)$")


def original_names(model: Weights) -> dict[str, str]:
    """Meta's name for each tensor of a model, by transformers' name.

    `TWIN` is left out, as it is not a tensor of its own. One name of SAM 2 stands for several (see `ROW`).
    """
    ours = set(_state(model))
    rules = _SAM2 if any(name.startswith("vision_encoder.backbone.") for name in ours) else _SAM
    names = {}
    for name in _state(model):
        if name != TWIN:
            original = _feed_forward(name, ours)
            for pattern, replacement in rules:
                original = re.sub(pattern, replacement, original)
            names[name] = original
    assert len(set(names.values())) == len(names), "two tensors have one original name"
    return names


def original_shapes(model: Weights) -> dict[str, Size]:
    """The shape of each tensor of Meta's model, by Meta's name."""
    return {name: tensor.shape for name, tensor in to_original(model).items()}


def to_original(model: Weights) -> dict[str, Tensor]:
    """A model's state dict in Meta's names and layout. The tensors are views of the model's own.

    Of SAM 2 it holds the model of images; the video memory is not there.
    """
    state = _state(model)
    tensors = {}
    for name, original in original_names(state).items():
        if ROW in original:
            for row in range(len(state[name])):
                tensors[original.replace(ROW, str(row))] = state[name][row : row + 1]
        else:
            tensors[original] = state[name]
    return tensors


def from_original(
    model: Weights, tensors: Mapping[str, Tensor], where: str = "the state dict"
) -> dict[str, Tensor]:
    """A state dict of Meta's as the one that `model`, which may lie on the meta device, loads whole.

    The result is float32 and its own memory. `where` begins the sentences about what is wrong.

    Raises:
        UserError: a tensor is missing, is none of the model's, has another shape or holds no plain floats.
    """
    shapes = original_shapes(model)
    _check(shapes, tensors, where)
    state = {}
    for name, original in original_names(model).items():
        if ROW in original:
            rows = (original.replace(ROW, str(row)) for row in range(len(_state(model)[name])))
            state[name] = _floats([tensors[row] for row in rows])
        else:
            state[name] = _floats([tensors[original]])
    state[TWIN] = state[FOURIER].clone()
    return state


def _check(shapes: Mapping[str, Size], tensors: Mapping[str, Tensor], where: str) -> None:
    missing = [name for name in shapes if name not in tensors]
    if missing:
        raise UserError(
            f"{where} is incomplete: {_and_more(missing)} missing; "
            "fetch it again, or save the state_dict() of the whole model"
        )
    extra = [n for n in tensors if n not in shapes and not MEMORY.match(n) and not PIXELS.match(n)]
    if extra:
        raise UserError(
            f"{where} is a modified model: {_and_more(extra)} not SAM's; give the weights of a plain "
            "SAM 1, SAM 2 or SAM 2.1"
        )
    for name, shape in shapes.items():
        found = tensors[name]
        if found.shape != shape:
            raise UserError(
                f"{where} does not fit together: {name} is {_by(found.shape)}, but the other tensors need "
                f"{_by(shape)}; give the weights of a plain SAM 1, SAM 2 or SAM 2.1"
            )
        if not (found.is_floating_point() and found.layout == torch.strided):
            kind = f"{found.layout} {found.dtype}".replace("torch.", "").removeprefix("strided ")
            raise UserError(
                f"{where} holds {name} as {kind}, not as plain floating-point numbers; "
                "give weights in float32, float16 or bfloat16"
            )


def _floats(rows: Iterable[Tensor]) -> Tensor:
    return torch.cat([row.detach().float() for row in rows])  # A copy of its own even of one.


def _feed_forward(name: str, names: set[str]) -> str:
    """Meta numbers the layers of a feed-forward through: in, those between, out."""
    found = _FEED_FORWARD.match(name)
    if found is None or f"{found[1]}.proj_in.weight" not in names:
        return name
    between = sum(n.startswith(f"{found[1]}.layers.") and n.endswith(".weight") for n in names)
    number = {"proj_in": 0, "proj_out": between + 1}.get(found[2])
    return f"{found[1]}.layers.{int(found[3]) + 1 if number is None else number}.{found[4]}"


def _state(model: Weights) -> Mapping[str, Tensor]:
    return model if isinstance(model, Mapping) else model.state_dict()


def _by(shape: Size) -> str:
    return " x ".join(map(str, shape)) or "a single number"


def _and_more(names: list[str]) -> str:
    return f"{names[0]} is" if len(names) == 1 else f"{names[0]} and {len(names) - 1} more are"
