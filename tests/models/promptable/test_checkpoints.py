"""Files of Meta's: how a model is read off one, and the sentence about each that does not make one."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save, save_file
from torch import Tensor, nn
from transformers import Sam2Config, Sam2Model, SamConfig, SamModel
from transformers.models.sam.configuration_sam import SamVisionConfig

from everseg.errors import UserError
from everseg.models.promptable import checkpoints
from everseg.models.promptable.checkpoints import (
    HIERA,
    Hiera,
    Shapes,
    load_checkpoint,
    sam2_config,
    sam_config,
)
from everseg.models.promptable.names import TWIN, original_shapes, to_original

STAGES = (1, 2, 3, 1)


@pytest.fixture
def theirs(micro_model: SamModel) -> dict[str, Tensor]:
    """A small SAM 1 in Meta's layout. Its decoder has two heads, which the shapes do not tell, and eight are
    taken: nothing here runs it."""
    return to_original(micro_model)


@pytest.fixture
def theirs2(monkeypatch: pytest.MonkeyPatch) -> dict[str, Tensor]:
    """A small SAM 2 in Meta's layout, with three tensors of the video memory."""
    monkeypatch.setitem(HIERA, (8, STAGES), Hiera("micro", 1, (4, 2, 6, 3), (4,)))
    monkeypatch.setattr(checkpoints, "SAM2_IMAGE_SIZE", 128)
    backbone = {"hidden_size": 8, "blocks_per_stage": list(STAGES), "embed_dim_per_stage": [8, 16, 32, 64]}
    backbone |= {"window_size_per_stage": [4, 2, 6, 3], "model_type": "sam2_hiera_det_model"}
    vision = {"backbone_channel_list": [64, 32, 16, 8], "fpn_hidden_size": 32, "backbone_config": backbone}
    model = Sam2Model(
        Sam2Config(
            vision_config=vision,
            prompt_encoder_config={"hidden_size": 32},
            mask_decoder_config={"hidden_size": 32, "mlp_dim": 40, "iou_head_hidden_dim": 24},
        )
    )
    return {
        **to_original(model),
        "maskmem_tpos_enc": torch.zeros(7, 1, 1, 4),
        "memory_attention.norm.weight": torch.ones(32),
        "obj_ptr_tpos_proj.bias": torch.zeros(4),
    }


def same(model: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Each tensor of the model is the file's, in float32, and no random number is left in it."""
    found = to_original(model)  # type: ignore[arg-type]
    assert set(found) <= set(tensors)
    for name, value in found.items():
        assert value.dtype == torch.float32
        assert torch.equal(value, tensors[name].float()), name
    state = model.state_dict()
    assert torch.equal(state[TWIN], state["shared_image_embedding.positional_embedding"])
    assert not any(value.is_meta for value in [*state.values(), *model.buffers()])


# ---------------------------------------------------------------- what is read


SAVED: dict[str, Callable[[dict[str, Tensor], Path], object]] = {
    "plain": lambda t, p: torch.save(t, p),
    "the format before 1.6": lambda t, p: torch.save(t, p, _use_new_zipfile_serialization=False),
    "safetensors": lambda t, p: save_file(t, p),
    "under a key, with other things": lambda t, p: torch.save({"model": t, "epoch": 3, "scaler": None}, p),
    "of a training framework": lambda t, p: torch.save({"state_dict": t, "lr": 0.1}, p),
    "of data-parallel training": lambda t, p: torch.save({f"module.{k}": v for k, v in t.items()}, p),
    "wrapped twice": lambda t, p: torch.save({"model": {f"module.sam.{k}": v for k, v in t.items()}}, p),
    "in half precision": lambda t, p: torch.save({k: v.half() for k, v in t.items()}, p),
    "in bfloat16": lambda t, p: torch.save({k: v.bfloat16() for k, v in t.items()}, p),
    "in double precision": lambda t, p: torch.save({k: v.double() for k, v in t.items()}, p),
    "as parameters": lambda t, p: torch.save({k: nn.Parameter(v) for k, v in t.items()}, p),
    "not contiguous": lambda t, p: torch.save({k: turned(v) for k, v in t.items()}, p),
}


def turned(value: Tensor) -> Tensor:
    """The same values, laid out the other way round in memory."""
    return value.mT.contiguous().mT if value.ndim > 1 else value


@pytest.mark.parametrize("how", SAVED)
def test_sam_is_read_however_it_was_saved(theirs: dict[str, Tensor], tmp_path: Path, how: str) -> None:
    path = tmp_path / "sam.pth"
    SAVED[how](theirs, path)
    if "half" in how or "bfloat16" in how:
        kind = torch.half if "half" in how else torch.bfloat16
        theirs = {k: v.to(kind) for k, v in theirs.items()}
    model = load_checkpoint(path)
    assert isinstance(model, SamModel)
    same(model, theirs)
    assert all(value.is_contiguous() for value in model.state_dict().values())


def test_sam_keeps_its_tie(theirs: dict[str, Tensor], tmp_path: Path) -> None:
    torch.save(theirs, tmp_path / "sam.pth")
    model = load_checkpoint(tmp_path / "sam.pth")
    shared = model.shared_image_embedding.positional_embedding
    assert model.prompt_encoder.shared_embedding.positional_embedding is shared
    model.save_pretrained(tmp_path / "folder")  # Refuses tensors that share memory and are not tied.


def test_the_file_may_change_later(theirs: dict[str, Tensor], tmp_path: Path) -> None:
    """It is mapped into memory while it is read, and not longer."""
    torch.save(theirs, tmp_path / "sam.pth")
    model = load_checkpoint(tmp_path / "sam.pth")
    (tmp_path / "sam.pth").write_bytes(b"")
    same(model, theirs)


@pytest.mark.parametrize("version", ["2.0", "2.1"])
def test_sam2_is_read_without_its_memory(theirs2: dict[str, Tensor], tmp_path: Path, version: str) -> None:
    if version == "2.0":
        del theirs2["obj_ptr_tpos_proj.bias"]
    torch.save({"model": theirs2}, tmp_path / "sam2.pt")
    model = load_checkpoint(tmp_path / "sam2.pt")
    assert isinstance(model, Sam2Model)
    same(model, theirs2)
    model.save_pretrained(tmp_path / "folder")
    assert model.mask_decoder.dynamic_multimask_via_stability


def test_nothing_random_is_drawn(theirs: dict[str, Tensor], tmp_path: Path) -> None:
    torch.save(theirs, tmp_path / "sam.pth")
    before = torch.get_rng_state()
    load_checkpoint(tmp_path / "sam.pth")
    assert torch.equal(torch.get_rng_state(), before)


# ---------------------------------------------------------------- the architecture


def shapes_of(model: Any) -> Shapes:
    return Shapes({k: torch.empty(v, device="meta") for k, v in original_shapes(model).items()}, "the file")


@pytest.mark.parametrize(
    ("width", "depth", "heads", "global_blocks"),
    [
        (768, 12, 12, [2, 5, 8, 11]),
        (1024, 24, 16, [5, 11, 17, 23]),
        (1280, 32, 16, [7, 15, 23, 31]),
        (168, 12, 12, [2, 5, 8, 11]),  # pruned, as SlimSAM is
    ],
)
def test_sam_is_known_by_its_shapes(width: int, depth: int, heads: int, global_blocks: list[int]) -> None:
    vision = SamVisionConfig(
        hidden_size=width,
        num_hidden_layers=depth,
        num_attention_heads=heads,
        global_attn_indexes=global_blocks,
    )
    with torch.device("meta"):
        model = SamModel(SamConfig(vision_config=vision))
    found = sam_config(shapes_of(model))
    wanted, given = vision.to_dict(), found.vision_config.to_dict()
    assert {k: given[k] for k in wanted} == wanted
    assert found.prompt_encoder_config.to_dict() == model.config.prompt_encoder_config.to_dict()
    decoder = model.config.mask_decoder_config.to_dict()
    assert found.mask_decoder_config.to_dict() == {**decoder, "layer_norm_eps": 1e-5}


def test_other_sizes_are_known_too(micro_model: SamModel) -> None:
    found, wanted = sam_config(shapes_of(micro_model)), micro_model.config
    vision = wanted.vision_config
    for name in (
        "image_size",
        "patch_size",
        "window_size",
        "global_attn_indexes",
        "mlp_dim",
        "num_pos_feats",
    ):
        assert getattr(found.vision_config, name) == getattr(vision, name), name
    assert found.prompt_encoder_config.image_embedding_size == 8
    for name in ("hidden_size", "mlp_dim", "iou_head_hidden_dim", "attention_downsample_rate"):
        assert getattr(found.mask_decoder_config, name) == getattr(wanted.mask_decoder_config, name), name


def test_blocks_without_windows(theirs: dict[str, Tensor]) -> None:
    for n in (0, 2):
        for side in "hw":
            theirs[f"image_encoder.blocks.{n}.attn.rel_pos_{side}"] = torch.zeros(15, 16)
    assert sam_config(Shapes(theirs, "the file")).vision_config.global_attn_indexes == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("width", "stages", "heads", "windows", "global_blocks", "background"),
    [
        (96, [1, 2, 7, 2], 1, [8, 4, 14, 7], [5, 7, 9], 7),
        (96, [1, 2, 11, 2], 1, [8, 4, 14, 7], [7, 10, 13], 7),
        (112, [2, 3, 16, 3], 2, [8, 4, 14, 7], [12, 16, 20], 14),
        (144, [2, 6, 36, 4], 2, [8, 4, 16, 8], [23, 33, 43], 7),
    ],
)
def test_sam2_is_known_by_its_shapes(
    width: int, stages: list[int], heads: int, windows: list[int], global_blocks: list[int], background: int
) -> None:
    """Sizes as Meta's configurations have them."""
    widths = [width, 2 * width, 4 * width, 8 * width]
    backbone = {
        "model_type": "sam2_hiera_det_model",
        "hidden_size": width,
        "blocks_per_stage": stages,
        "embed_dim_per_stage": widths,
        "num_attention_heads": heads,
        "num_attention_heads_per_stage": [heads, 2 * heads, 4 * heads, 8 * heads],
        "window_size_per_stage": windows,
        "global_attention_blocks": global_blocks,
        "window_positional_embedding_background_size": [background, background],
    }
    config = Sam2Config(vision_config={"backbone_config": backbone, "backbone_channel_list": widths[::-1]})
    with torch.device("meta"):
        model = Sam2Model(config)
    assert sam2_config(shapes_of(model)).to_dict() == config.to_dict()


# ---------------------------------------------------------------- what is refused


def refused(path: Path, said: str) -> None:
    """One sentence that names the file."""
    with pytest.raises(UserError, match=said) as caught:
        load_checkpoint(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value).replace(str(path), "")) < 400


@pytest.mark.parametrize(
    ("name", "family"),
    [
        ("image_encoder.patch_embed.seq.0.c.weight", r"MobileSAM \(its image encoder is a TinyViT\)"),
        ("module.image_encoder.patch_embed.seq.0.c.weight", "MobileSAM .*"),
        ("mask_decoder.hf_token.weight", "SAM-HQ"),
        ("sam_mask_decoder.hf_mlp.layers.0.weight", "SAM-HQ"),
        ("spatial_perceiver.latents", "EdgeTAM"),
        ("image_encoder.trunk.body.stem.conv1.c.weight", "EdgeTAM"),
        ("mask_decoder.final_output_upscaling_layers.0.0.weight", "EfficientSAM"),
        ("detector.backbone.visual.trunk.pos_embed", "SAM 3"),
    ],
)
def test_relatives_are_called_by_their_names(
    theirs: dict[str, Tensor], tmp_path: Path, name: str, family: str
) -> None:
    torch.save({"model": {**theirs, name: torch.zeros(1)}}, tmp_path / "other.pt")
    refused(
        tmp_path / "other.pt",
        rf"is a checkpoint of {family}, which is not supported; everseg reads SAM .* 2\.1",
    )


@pytest.mark.realdata
def test_the_published_mobile_sam_is_recognised(data_root: Path, tmp_path: Path) -> None:
    layout = json.loads((data_root / "mobile_sam_layout" / "mobile_sam_key_manifest.json").read_text())
    (tmp_path / "mobile_sam.pt").write_bytes(save({name: torch.zeros(1) for name in layout}))
    refused(tmp_path / "mobile_sam.pt", "is a checkpoint of MobileSAM")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            lambda t: t.pop("image_encoder.pos_embed"),
            r"incomplete: image_encoder\.pos_embed is missing; fetch",
        ),
        (
            lambda t: t.pop("image_encoder.blocks.3.norm1.bias"),
            r"incomplete: image_encoder\.blocks\.3\.norm1\.bias",
        ),
        (
            lambda t: t.pop("image_encoder.blocks.2.attn.rel_pos_h"),
            r"incomplete: .*blocks\.2\.attn\.rel_pos_h is m",
        ),
        (
            lambda t: t.update(adapter=torch.zeros(1)),
            "is a modified model: adapter is not SAM's; give the weights",
        ),
        (
            lambda t: t.update({"image_encoder.pos_embed": torch.zeros(1, 8, 8)}),
            r"holds image_encoder\.pos_embed with 3 dimensions, not 4",
        ),
        (
            lambda t: t.update({"image_encoder.blocks.1.mlp.lin1.bias": torch.zeros(63)}),
            r"does not fit together: image_encoder\.blocks\.1\.mlp\.lin1\.bias is 63, but .* need 64",
        ),
        (
            lambda t: [
                t.update({f"image_encoder.blocks.{n}.attn.rel_pos_h": torch.zeros(15, 0)}) for n in range(4)
            ],
            r"has the tensor names of a SAM, but shapes that fit no SAM",
        ),
        (
            lambda t: t.update({"image_encoder.neck.1.bias": torch.zeros(32, dtype=torch.int8)}),
            r"holds image_encoder\.neck\.1\.bias as int8, not as plain floating-point",
        ),
    ],
)
def test_what_does_not_fit_is_said(theirs: dict[str, Tensor], tmp_path: Path, change: Any, said: str) -> None:
    change(theirs)
    torch.save(theirs, tmp_path / "sam.pth")
    refused(tmp_path / "sam.pth", said)


def test_a_sam2_of_another_size_is_said(theirs2: dict[str, Tensor], tmp_path: Path) -> None:
    del HIERA[8, STAGES]
    torch.save({"model": theirs2}, tmp_path / "sam2.pt")
    refused(
        tmp_path / "sam2.pt",
        r"is a SAM 2 of an unknown size \(width 8, stages of 1-2-3-1 blocks\), .* tiny \(width 96, stages of",
    )


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda t: t.pop("no_mem_embed"), "incomplete: no_mem_embed is missing"),
        (
            lambda t: t.pop("sam_prompt_encoder.point_embeddings.2.weight"),
            "is a modified model|is incomplete",
        ),
        (
            lambda t: t.update({"memory_bank.weight": torch.zeros(1)}),
            "modified model: memory_bank.weight is not",
        ),
        (lambda t: t.update({"no_mem_embed": torch.zeros(1, 1, 8)}), "no_mem_embed is 1 x 1 x 8, but"),
    ],
)
def test_what_of_sam2_does_not_fit_is_said(
    theirs2: dict[str, Tensor], tmp_path: Path, change: Any, said: str
) -> None:
    change(theirs2)
    torch.save({"model": theirs2}, tmp_path / "sam2.pt")
    refused(tmp_path / "sam2.pt", said)
