"""Meta's own models beside ours, on the same random weights, by way of a checkpoint file.

Meta's two packages are no dependency: where they are not installed (`pip install --no-deps`), what needs them
skips. Beside everseg alone neither can be imported whole: `segment_anything` wants torchvision, `sam2` wants
hydra and iopath. So only their `modeling` is imported, which holds every layer that is compared.
"""

from __future__ import annotations

import importlib
import sys
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
import yaml
from torch import Tensor, nn
from transformers import Sam2Model, SamModel

from everseg.domains.adapters.linear import LinearConfig, LinearLoRA
from everseg.methods import build, configure
from everseg.models.promptable import checkpoints
from everseg.models.promptable.checkpoints import Hiera, Shapes, sam2_config, sam_config
from everseg.models.promptable.load import load_base
from everseg.models.promptable.names import MEMORY, original_names, original_shapes
from everseg.models.promptable.protocol import FramePrompts
from everseg.runs.export import export
from everseg.runs.folder import new_run
from everseg.runs.run import RunConfig

SOURCES = {
    "segment_anything": "pip install --no-deps segment-anything==1.0",
    "sam2": "put the folder sam2 of the source of sam2==1.1.0 on PYTHONPATH",
}


def on_meta(kind: Any, config: Any) -> Any:
    with torch.device("meta"):
        return kind(config)


def modeling(name: str, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make `name.modeling` importable without running the package's __init__; the package's folder."""
    spec = find_spec(name)
    if spec is None or not spec.submodule_search_locations:
        pytest.skip(f"Meta's {name} is not installed: {SOURCES[name]}")
    for module in [m for m in sys.modules if m.partition(".")[0] == name]:
        monkeypatch.delitem(sys.modules, module)
    package = ModuleType(name)
    package.__path__ = list(spec.submodule_search_locations)
    monkeypatch.setitem(sys.modules, name, package)
    return Path(package.__path__[0])


@pytest.fixture
def meta_sam(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The classes of segment_anything."""
    modeling("segment_anything", monkeypatch)
    return importlib.import_module("segment_anything.modeling")


@pytest.fixture
def meta_sam2(monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = modeling("sam2", monkeypatch)
    if find_spec("iopath") is None:  # It is asked for a name that only training uses.
        for stub in ("iopath", "iopath.common", "iopath.common.file_io"):
            monkeypatch.setitem(sys.modules, stub, ModuleType(stub))
        sys.modules["iopath.common.file_io"].g_pathmgr = None  # type: ignore[attr-defined]
    return folder


def made(part: Any) -> Any:
    """What a configuration of sam2 says: `_target_` is a class, the rest its arguments."""
    if isinstance(part, list):
        return [made(value) for value in part]
    if not isinstance(part, dict):
        return 1e-6 if part == "1e-6" else part
    arguments = {key: made(value) for key, value in part.items()}
    if "_target_" not in arguments:
        return arguments
    module, _, name = arguments.pop("_target_").rpartition(".")
    return getattr(importlib.import_module(module), name)(**arguments)


@torch.no_grad()
def randomise(model: nn.Module) -> None:
    """Weights that keep signals at their size, so that prompts and pixels are still felt at the far end."""
    generator = torch.Generator().manual_seed(0)
    tables = {f"{name}.weight" for name, module in model.named_modules() if isinstance(module, nn.Embedding)}
    for name, p in model.named_parameters():
        noise = torch.randn(p.shape, generator=generator)
        if p.ndim == 1:
            p.copy_(1 + 0.2 * noise if name.endswith("weight") else 0.1 * noise)
        else:
            p.copy_(
                noise if name in tables or "embed" in name.split(".")[-1] else noise * p[0].numel() ** -0.5
            )


POINTS = torch.tensor([[[10.0, 20.0], [90.0, 33.5]], [[64.0, 64.0], [5.0, 100.0]]])
LABELS = torch.tensor([[1, 0], [1, 1]])
BOXES = torch.tensor([[4.0, 8.0, 70.0, 81.5], [20.0, 20.0, 100.0, 99.0]])
KINDS = ((True, False), (False, True), (True, True))
"""Prompts with points, with boxes."""


def ours(points: bool, boxes: bool, scale: float = 1.0) -> FramePrompts:
    xy, labels = (scale * POINTS[None], LABELS[None]) if points else (None, None)
    return FramePrompts(xy, labels, scale * BOXES[None] if boxes else None)


def near(found: Tensor, wanted: Tensor) -> None:
    """To 1e-4, or to 1e-4 of the spread where random weights make large numbers."""
    if wanted.ndim > 1:  # A comparison of nothing with nothing says nothing.
        assert wanted.std() > 0.02
        assert len(wanted) == 1 or (wanted[0] - wanted[1]).abs().max() > 0.02
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-4 * max(1.0, wanted.std().item()))


def test_sam_gives_metas_masks(meta_sam: Any, tmp_path: Path) -> None:
    side, width = 112, 32
    theirs = meta_sam.Sam(
        meta_sam.ImageEncoderViT(
            img_size=side, embed_dim=24, depth=4, num_heads=3, out_chans=width, use_rel_pos=True,
            norm_layer=partial(nn.LayerNorm, eps=1e-6), window_size=3, global_attn_indexes=(1, 3),
        ),
        meta_sam.PromptEncoder(width, (7, 7), (side, side), mask_in_chans=16),
        meta_sam.MaskDecoder(
            transformer_dim=width,
            transformer=meta_sam.TwoWayTransformer(2, width, num_heads=8, mlp_dim=48),
            iou_head_hidden_dim=40,
        ),
    ).eval()  # fmt: skip
    randomise(theirs)
    torch.save(theirs.state_dict(), tmp_path / "sam.pth")
    base = load_base(str(tmp_path / "sam.pth"))
    assert original_shapes(base.model) == {k: v.shape for k, v in theirs.state_dict().items()}
    same_norms(base.model, theirs)
    pixels = torch.randn(1, 3, side, side, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        embedding = theirs.image_encoder(pixels)
        position = theirs.prompt_encoder.get_dense_pe()
        found = base.tail(base.trunk(pixels))
        near(found["image"], embedding)
        for points, boxes in KINDS:
            given = (POINTS, LABELS) if points else None
            sparse, dense = theirs.prompt_encoder(given, BOXES if boxes else None, None)
            masks, iou = theirs.mask_decoder(embedding, position, sparse, dense, multimask_output=False)
            logits, our_iou = base.decode(found, ours(points, boxes))
            near(logits[0], masks[:, 0])
            near(our_iou[0], iou[:, 0])
        assert read_export(theirs, base, tmp_path / "out") == []
        adapted = base.tail(base.trunk(pixels), adapter_of(base).bind())["image"]
        near(theirs.image_encoder(pixels), adapted)
        assert (adapted - embedding).abs().max() > 0.02


def adapter_of(base: Any) -> LinearLoRA:
    """One that has learned something."""
    generator = torch.Generator().manual_seed(3)
    adapter = LinearLoRA.beside(base, LinearConfig(rank=2, alpha=3), generator)
    for weight in adapter.up.parameters():
        weight.copy_(0.1 * torch.randn(weight.shape, generator=generator))
    return adapter


def read_export(theirs: nn.Module, base: Any, out: Path) -> list[str]:
    """Give Meta's model the weights that a run on `base` exports; the names of those that it lacks then."""
    settings = configure("sequential", assignments=["adapter=linear"])
    learner: Any = build("sequential", base, settings, 0)
    learner.adapter = adapter_of(base)
    config = RunConfig("sequential", settings, base.name)
    manifest = export(new_run(out, config, learner, base), "sam", out)
    (name,) = [name for name in manifest["files"] if name.endswith((".pt", ".pth"))]
    content = torch.load(out / name, weights_only=True)
    missing, extra = theirs.load_state_dict(content.get("model", content), strict=False)
    assert not extra
    return missing


def same_norms(our_model: nn.Module, their_model: nn.Module) -> None:
    """Each norm adds as much to the variance as Meta's of the same name."""
    modules = dict(our_model.named_modules())
    theirs: dict[str, Any] = dict(their_model.named_modules())
    compared = 0
    for name, original in original_names(our_model).items():
        module = modules.get(name.removesuffix(".weight"))
        if name.endswith(".weight") and isinstance(module, nn.LayerNorm):
            assert module.eps == theirs[original.removesuffix(".weight")].eps, name
            compared += 1
    assert compared > 10


@pytest.fixture
def small_meta_sam2(meta_sam2: Path, monkeypatch: pytest.MonkeyPatch) -> nn.Module:
    """A SAM 2 of 128 x 128 pixels, of a size that `load_base` is told of for once."""
    stages, windows, blocks = (1, 2, 4, 1), (4, 2, 6, 3), (4, 6)
    monkeypatch.setitem(checkpoints.HIERA, (8, stages), Hiera("micro", 1, windows, blocks))
    monkeypatch.setattr(checkpoints, "SAM2_IMAGE_SIZE", 128)
    config = yaml.safe_load((meta_sam2 / "configs/sam2.1/sam2.1_hiera_t.yaml").read_text())["model"]
    trunk, neck = config["image_encoder"]["trunk"], config["image_encoder"]["neck"]
    trunk |= {"embed_dim": 8, "stages": stages, "window_spec": windows, "global_att_blocks": blocks}
    neck |= {"d_model": 32, "backbone_channel_list": [64, 32, 16, 8]}
    neck["position_encoding"]["num_pos_feats"] = 32
    del config["memory_attention"], config["memory_encoder"]
    config |= {"memory_attention": {"_target_": "torch.nn.Identity"}, "image_size": 128}
    config["memory_encoder"] = {"_target_": "torch.nn.Identity"}
    config["sam_mask_decoder_extra_args"] = {"dynamic_multimask_via_stability": True}
    return prepared(made(config))


def prepared(model: Any) -> Any:
    randomise(model)
    return model.eval()


def test_sam2_gives_metas_masks(small_meta_sam2: Any, tmp_path: Path) -> None:
    compare_sam2(small_meta_sam2, tmp_path, 128)


@pytest.mark.slow
def test_sam2_hiera_tiny_gives_metas_masks(meta_sam2: Path, tmp_path: Path) -> None:
    config = yaml.safe_load((meta_sam2 / "configs/sam2.1/sam2.1_hiera_t.yaml").read_text())["model"]
    config["sam_mask_decoder_extra_args"] = {"dynamic_multimask_via_stability": True}
    compare_sam2(prepared(made(config)), tmp_path, 1024)


def compare_sam2(theirs: Any, folder: Path, side: int) -> None:
    torch.save({"model": theirs.state_dict()}, folder / "sam2.pt")
    base = load_base(str(folder / "sam2.pt"))
    same_norms(base.model, theirs)
    pixels = torch.randn(1, 3, side, side, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        *fine, lowest = theirs.forward_image(pixels)["backbone_fpn"]
        image = lowest + theirs.no_mem_embed.view(1, -1, 1, 1)
        found = base.tail(base.trunk(pixels))
        near(found["image"], image)
        for points, boxes in KINDS:
            for single in (False, True):
                masks, iou = their_masks(theirs, image, fine, points, boxes, single)
                logits, our_iou = base.decode(found, ours(points, boxes, side / 128), single=single)
                near(logits[0], masks)
                near(our_iou[0], iou)
        assert all(MEMORY.match(name) for name in read_export(theirs, base, folder / "out"))
        lowest = theirs.forward_image(pixels)["backbone_fpn"][-1]
        adapted = base.tail(base.trunk(pixels), adapter_of(base).bind())["image"]
        near(lowest + theirs.no_mem_embed.view(1, -1, 1, 1), adapted)


def their_masks(
    theirs: Any, image: Tensor, fine: list[Tensor], points: bool, boxes: bool, single: bool
) -> tuple[Tensor, Tensor]:
    """Masks and IoU as the image predictor has them: a box is two clicks with labels 2 and 3."""
    theirs.sam_mask_decoder.dynamic_multimask_via_stability = not single
    corners = (BOXES.view(2, 2, 2), torch.tensor([[2, 3]]).expand(2, -1))
    parts = [corners] * boxes + [(POINTS, LABELS)] * points
    xy, labels = (torch.cat(column, 1) for column in zip(*parts, strict=True))
    sparse, dense = theirs.sam_prompt_encoder((xy * (theirs.image_size / 128), labels), None, None)
    position = theirs.sam_prompt_encoder.get_dense_pe()
    masks, iou, *_ = theirs.sam_mask_decoder(
        image, position, sparse, dense, multimask_output=False, repeat_image=True, high_res_features=fine
    )
    return masks[:, 0], iou[:, 0]


@pytest.mark.parametrize("size", ["b", "l", "h"])
def test_each_published_sam_is_known_by_its_shapes(monkeypatch: pytest.MonkeyPatch, size: str) -> None:
    modeling("segment_anything", monkeypatch)
    build = importlib.import_module("segment_anything.build_sam")
    with torch.device("meta"):
        theirs = getattr(build, f"build_sam_vit_{size}")()
    config = sam_config(Shapes(theirs.state_dict(), "the file"))
    vision = config.vision_config
    blocks = theirs.image_encoder.blocks
    assert vision.num_attention_heads == blocks[0].attn.num_heads
    windows = [0 if i in vision.global_attn_indexes else vision.window_size for i in range(len(blocks))]
    assert windows == [block.window_size for block in blocks]
    shapes = {name: value.shape for name, value in theirs.state_dict().items()}
    assert original_shapes(on_meta(SamModel, config)) == shapes


@pytest.mark.parametrize("size", ["t", "s", "b+", "l"])
@pytest.mark.parametrize("version", ["sam2", "sam2.1"])
def test_each_published_sam2_is_known_by_its_shapes(
    meta_sam2: Path, monkeypatch: pytest.MonkeyPatch, version: str, size: str
) -> None:
    config = yaml.safe_load((meta_sam2 / f"configs/{version}/{version}_hiera_{size}.yaml").read_text())
    monkeypatch.setattr(torch, "linspace", partial(torch.linspace, device="cpu"))  # Its values are read.
    with torch.device("meta"):
        theirs = made(config["model"])
    state = theirs.state_dict()
    found = sam2_config(Shapes(state, "the file"))
    model = on_meta(Sam2Model, found)
    shapes = original_shapes(model)
    assert shapes == {name: value.shape for name, value in state.items() if not MEMORY.match(name)}
    assert {name.partition(".")[0] for name in set(state) - set(shapes)} >= {"memory_attention", "no_obj_ptr"}
    blocks = list(zip(model.vision_encoder.backbone.blocks, theirs.image_encoder.trunk.blocks, strict=True))
    for ours, meta in blocks:
        assert (ours.window_size, ours.dim_out) == (meta.window_size, meta.dim_out)
        assert ours.attn.num_attention_heads == meta.attn.num_heads
        assert (ours.query_stride is None) == (meta.q_stride is None)
    assert model.config.prompt_encoder_config.image_size == theirs.image_size
    assert found.vision_config.fpn_top_down_levels == theirs.image_encoder.neck.fpn_top_down_levels
