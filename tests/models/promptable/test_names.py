"""The mapping to Meta's names, tensor by tensor, and what is said where tensors do not fit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import Sam2Config, Sam2Model, SamConfig, SamModel

from everseg.errors import UserError
from everseg.models.promptable.names import (
    FOURIER,
    MEMORY,
    TWIN,
    from_original,
    original_names,
    original_shapes,
    to_original,
)

SAM2_NAMES = Path(__file__).parents[2] / "golden" / "sam2_hiera_tiny.txt"


def on_meta(kind: Any, config: Any) -> Any:
    with torch.device("meta"):
        return kind(config)


# ---------------------------------------------------------------- names


def test_the_names_of_sam() -> None:
    model = on_meta(SamModel, SamConfig())
    names = original_names(model)
    assert set(names) == set(model.state_dict()) - {TWIN}
    assert len(set(names.values())) == 314
    for ours, theirs in {
        FOURIER: "prompt_encoder.pe_layer.positional_encoding_gaussian_matrix",
        "vision_encoder.pos_embed": "image_encoder.pos_embed",
        "vision_encoder.layers.11.attn.rel_pos_w": "image_encoder.blocks.11.attn.rel_pos_w",
        "vision_encoder.neck.layer_norm2.bias": "image_encoder.neck.3.bias",
        "prompt_encoder.point_embed.3.weight": "prompt_encoder.point_embeddings.3.weight",
        "prompt_encoder.mask_embed.conv3.weight": "prompt_encoder.mask_downscaling.6.weight",
    }.items():
        assert names[ours] == theirs
    for ours, theirs in {
        "transformer.layers.1.layer_norm4.weight": "transformer.layers.1.norm4.weight",
        "transformer.layer_norm_final_attn.bias": "transformer.norm_final_attn.bias",
        "iou_prediction_head.proj_out.bias": "iou_prediction_head.layers.2.bias",
        "output_hypernetworks_mlps.2.layers.0.bias": "output_hypernetworks_mlps.2.layers.1.bias",
    }.items():
        assert names[f"mask_decoder.{ours}"] == f"mask_decoder.{theirs}"


def test_the_names_and_shapes_of_sam2() -> None:
    """All 471 of the published model: ours, and those of the video memory."""
    lines = (line.split() for line in SAM2_NAMES.read_text().splitlines())
    theirs = {name: tuple(map(int, shape.split("x"))) for name, shape in lines}
    ours = {name: tuple(shape) for name, shape in original_shapes(on_meta(Sam2Model, Sam2Config())).items()}
    memory = {name for name in theirs if MEMORY.match(name)}
    assert (len(theirs), len(ours), len(memory)) == (471, 311, 160)
    assert theirs == ours | {name: theirs[name] for name in memory}
    assert not memory & set(ours)
    assert "no_mem_embed" in ours


def test_a_deeper_head_is_numbered_through() -> None:
    config = SamConfig(mask_decoder_config={"iou_head_depth": 5})
    names = set(original_names(on_meta(SamModel, config)).values())
    assert {f"mask_decoder.iou_prediction_head.layers.{n}.bias" for n in range(5)} <= names


def test_there_and_back(micro_model: Any) -> None:
    theirs = to_original(micro_model)
    back = from_original(micro_model, theirs)
    state = micro_model.state_dict()
    assert set(back) == set(state)
    for name, value in state.items():
        assert torch.equal(back[name], value), name
        assert back[name].data_ptr() != value.data_ptr()
    # Those of `to_original` are the model's own.
    name, original = next(iter(original_names(micro_model).items()))
    assert theirs[original].data_ptr() == state[name].data_ptr()


def test_there_and_back_with_rows() -> None:
    model = Sam2Model(small_sam2())
    model.prompt_encoder.shared_embedding.positional_embedding.copy_(
        model.shared_image_embedding.positional_embedding
    )
    theirs = to_original(model)
    points = model.prompt_encoder.point_embed.weight
    for row in range(4):
        assert torch.equal(theirs[f"sam_prompt_encoder.point_embeddings.{row}.weight"], points[row : row + 1])
    back = from_original(model, theirs)
    assert {k: v.shape for k, v in back.items()} == {k: v.shape for k, v in model.state_dict().items()}
    assert all(torch.equal(back[name], value) for name, value in model.state_dict().items())
    assert len({value.data_ptr() for value in back.values()}) == len(back)  # `save_pretrained` wants that.


def small_sam2() -> Sam2Config:
    backbone = {"hidden_size": 8, "blocks_per_stage": [1, 1, 1, 1], "embed_dim_per_stage": [8, 16, 32, 64]}
    vision = {"backbone_channel_list": [64, 32, 16, 8], "fpn_hidden_size": 16}
    return Sam2Config(
        vision_config={**vision, "backbone_config": {"model_type": "sam2_hiera_det_model", **backbone}},
        prompt_encoder_config={"hidden_size": 16},
        mask_decoder_config={"hidden_size": 16},
    )


# ---------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            lambda t: t.pop("image_encoder.pos_embed"),
            r"the file is incomplete: image_encoder\.pos_embed is missing",
        ),
        (
            lambda t: [t.pop(f"image_encoder.blocks.{n}.norm1.bias") for n in (0, 1, 2)],
            r"incomplete: image_encoder\.blocks\.0\.norm1\.bias and 2 more are missing; fetch it again",
        ),
        (
            lambda t: t.update({"adapter.weight": torch.zeros(1)}),
            "modified model: adapter.weight is not SAM's",
        ),
        (
            lambda t: t.update({"image_encoder.pos_embed": torch.zeros(1, 8, 8, 31)}),
            r"not fit together: image_encoder\.pos_embed is 1 x 8 x 8 x 31, but .* need 1 x 8 x 8 x 32",
        ),
        (
            lambda t: t.update({"image_encoder.neck.1.bias": torch.zeros(32, dtype=torch.int8)}),
            r"holds image_encoder\.neck\.1\.bias as int8, not as plain floating-point numbers",
        ),
        (
            lambda t: t.update({"image_encoder.neck.1.bias": torch.zeros(32).to_sparse()}),
            r"holds image_encoder\.neck\.1\.bias as sparse_coo float32",
        ),
    ],
)
def test_what_does_not_fit_is_said(micro_model: Any, change: Any, said: str) -> None:
    tensors = dict(to_original(micro_model))
    change(tensors)
    with pytest.raises(UserError, match=said):
        from_original(micro_model, tensors, "the file")


def test_the_constants_that_forks_keep_are_passed_over(micro_model: Any) -> None:
    tensors = {
        **to_original(micro_model),
        "pixel_mean": torch.zeros(3, 1, 1),
        "pixel_std": torch.ones(3, 1, 1),
    }
    assert set(from_original(micro_model, tensors)) == set(micro_model.state_dict())
