"""Transformers as backbones of the segmenter: names, sizes, checkpoints, what grows, rests and trains."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import (
    Dinov2Config,
    Dinov2Model,
    Dinov2WithRegistersConfig,
    Dinov2WithRegistersModel,
    SegformerConfig,
    SegformerForImageClassification,
    SegformerForSemanticSegmentation,
    SegformerModel,
    ViTConfig,
    ViTForImageClassification,
    ViTModel,
)

from everseg.errors import UserError
from everseg.models.semantic.base import SemanticBase, load_semantic_base
from everseg.models.semantic.heads import SegformerHead, TokenHead
from everseg.models.semantic.load import load_backbone
from everseg.models.semantic.published import PUBLISHED
from everseg.models.semantic.segmenter import Segmenter, load_segmenter
from everseg.testing import micro_dinov3, micro_segformer

MIT = {"b0": 3.8, "b1": 13.7, "b2": 27.5, "b3": 47.3, "b4": 64.1, "b5": 84.7}
"""Millions of parameters of SegFormer with ADE20K's 150 classes, as published (table 1 of the paper)."""

ENCODERS = {
    "nvidia/mit-b0": 3_319_392,
    "nvidia/mit-b5": 81_443_008,
    "google/vit-base-patch16-224": 85_798_656,
    "facebook/dinov2-small": 22_056_576,
    "facebook/dinov2-large": 304_368_640,
    "facebook/dinov3-vits16-pretrain-lvd1689m": 21_596_544,
    "facebook/dinov3-vitb16-pretrain-lvd1689m": 85_660_416,
}
"""Of the published checkpoints' tensors: ViT without its pooler, DINO with the token of masked patches."""

MICRO = {"segformer": micro_segformer, "dinov3": micro_dinov3}
each_family = pytest.mark.parametrize("family", MICRO)


@pytest.fixture(autouse=True)
def micro_tensors() -> None:
    """All here is as small as the micro base, and by this name `tests/conftest.py` gives it one thread."""


def count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def narrow() -> SegformerConfig:
    return SegformerConfig(
        depths=[1] * 4,
        hidden_sizes=[8, 8, 16, 16],
        num_attention_heads=[1, 1, 2, 2],
        decoder_hidden_size=24,
        num_labels=5,
    )


def made(family: str) -> Segmenter:
    return MICRO[family]().segmenter(detached=True)


@pytest.mark.parametrize("family", ["segformer", "dinov3"])
def test_heads_that_read_fine_maps_anyway_refuse_the_fine_one(family: str) -> None:
    with pytest.raises(UserError, match=r"tune\.fine=true .*; leave it out"):
        MICRO[family]().segmenter(detached=True, fine=True)


# ---------------------------------------------------------------- names and sizes


@pytest.mark.parametrize("size", MIT)
def test_segformers_have_the_published_parameters(size: str) -> None:
    with torch.device("meta"):
        encoder = PUBLISHED[f"nvidia/mit-{size}"]()
        head = SegformerHead(encoder.config)
    assert head.width == (256 if size in ("b0", "b1") else 768)
    whole = count(encoder) + count(head) + 150 * (head.width + 1)
    assert round(whole / 1e6, 1) == pytest.approx(MIT[size], abs=0.051)


@pytest.mark.parametrize("name", ENCODERS)
def test_encoders_have_the_parameters_of_the_checkpoints(name: str) -> None:
    with torch.device("meta"):
        assert count(PUBLISHED[name]()) == ENCODERS[name]


def test_the_sizes_of_heads() -> None:
    with torch.device("meta"):
        assert count(SegformerHead(PUBLISHED["nvidia/mit-b0"]().config)) == 394_752
        assert count(SegformerHead(PUBLISHED["nvidia/mit-b5"]().config)) == 3_150_336
        assert count(TokenHead([768] * 4)) == 1_377_280


def test_a_published_shape_is_built_without_weights() -> None:
    one, two = (load_segmenter("nvidia/mit-b0", "random", seed=3) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))
    assert one.head.width == 256 and one.backbone.stride == 32


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("nvidia/mit-b0", "neither as a folder nor on the hub .* an id such as nvidia/mit-b0"),
        ("mit-b0", "did you mean 'nvidia/mit-b0'"),
        ("nvidia/mit-b0/", "no such path, and a hub id is owner/name"),
    ],
)
def test_what_cannot_be_had_is_said_in_a_sentence(name: str, says: str) -> None:
    with pytest.raises(UserError, match=says) as refused:
        load_semantic_base(name)
    assert "\n" not in str(refused.value)


# ---------------------------------------------------------------- checkpoints

PLAIN: dict[str, Any] = {
    "hidden_size": 16,
    "num_hidden_layers": 4,
    "num_attention_heads": 2,
    "image_size": 64,
    "patch_size": 16,
}
SAVED: dict[str, tuple[Callable[[], Any], int, int]] = {
    "segformer": (lambda: SegformerModel(narrow()), 4, 24),
    "segformer of ImageNet": (lambda: SegformerForImageClassification(narrow()), 4, 24),
    "vit": (lambda: ViTModel(ViTConfig(**PLAIN)), 8, 256),
    "vit of ImageNet": (lambda: ViTForImageClassification(ViTConfig(**PLAIN)), 8, 256),
    "dinov2": (lambda: Dinov2Model(Dinov2Config(**PLAIN, mlp_ratio=1)), 8, 256),
    "dinov2 with registers": (
        lambda: Dinov2WithRegistersModel(Dinov2WithRegistersConfig(**PLAIN, mlp_ratio=1)),
        8,
        256,
    ),
    "dinov3": (lambda: micro_dinov3().backbone.model, 8, 256),
}


@pytest.mark.parametrize("family", SAVED)
def test_a_folder_of_transformers_is_taken(
    tmp_path: Path, family: str, capfd: pytest.CaptureFixture[str]
) -> None:
    build, stride, width = SAVED[family]
    source = build()
    source.save_pretrained(tmp_path)
    capfd.readouterr()
    model = load_segmenter(str(tmp_path))
    assert capfd.readouterr().err == "", "what a checkpoint has beyond the backbone is nobody's concern"
    theirs = source.state_dict() if family != "dinov3" else micro_dinov3().backbone.model.state_dict()
    for name, value in model.backbone.model.state_dict().items():
        prefix = {"segformer of ImageNet": "segformer.", "vit of ImageNet": "vit."}.get(family, "")
        assert torch.equal(value, theirs[prefix + name]), name
    model.grow(3)
    out = model(torch.randn(2, 3, 64, 96))
    assert out.logits.shape == (2, 4, 64 // stride, 96 // stride) and out.full().shape == (2, 4, 64, 96)
    assert out.features.shape[1] == width and bool((out.features >= 0).all())
    assert [s.shape[1] for s in out.stages] == list(model.backbone.widths) and len(out.stages) == 4
    with pytest.raises(UserError, match="only ResNet and MobileNetV2 can be dilated"):
        load_backbone(str(tmp_path), stride=8)


def test_a_segformer_that_can_segment_brings_its_decoder(tmp_path: Path) -> None:
    source = SegformerForSemanticSegmentation(narrow()).eval()
    for parameter in source.decode_head.batch_norm.parameters():
        nn.init.uniform_(parameter, 0.5, 1.5)
    source.save_pretrained(tmp_path)
    base = load_semantic_base(str(tmp_path))
    model = base.segmenter(detached=False).eval()
    model.classifiers[0] = source.decode_head.classifier
    pixels = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        assert torch.allclose(model(pixels).logits, source(pixels).logits, atol=1e-6)
    encoder = tmp_path / "encoder"
    source.base_model.save_pretrained(encoder)
    assert load_semantic_base(str(encoder)).fingerprint != base.fingerprint, "the decoder is part of the base"


def test_pixels_are_normalised_as_the_checkpoint_says(tmp_path: Path) -> None:
    micro_segformer().backbone.model.save_pretrained(tmp_path)
    grey = torch.full((1, 3, 2, 2), 128, dtype=torch.uint8)
    usual = load_segmenter(str(tmp_path)).pixels(grey)
    told = {"do_normalize": True, "image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(told))
    halves = load_segmenter(str(tmp_path)).pixels(grey)
    assert torch.allclose(halves, torch.tensor((128 / 255 - 0.5) / 0.5), atol=1e-6)
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(told | {"do_normalize": False}))
    assert torch.equal(load_segmenter(str(tmp_path)).pixels(grey), usual)
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(told | {"image_std": 1}))
    with pytest.raises(UserError, match="image_std 1; write three numbers in each"):
        load_segmenter(str(tmp_path))


def test_a_map_covers_an_image_whose_sides_are_no_multiples_of_the_patch() -> None:
    model = made("dinov3").eval()
    pixels = torch.randn(1, 3, 64, 80)
    with torch.no_grad():
        whole = model(pixels)
        assert whole.logits.shape[-2:] == (8, 10)
        part = model(pixels[..., :63, :79])
    assert part.logits.shape == whole.logits.shape and part.full().shape[-2:] == (63, 79)


# ---------------------------------------------------------------- growing, resting, training


@each_family
def test_it_grows_rests_and_trains(family: str) -> None:
    model = made(family)
    model.grow(2)
    assert sum(len(g.parameters) for g in model.groups()) == len(list(model.parameters()))
    old = model.frozen_copy()
    model.grow(1, "auxiliary")
    assert torch.equal(model.classifiers[2].weight, model.classifiers[0].weight)
    model.freeze_norm()
    model.train()
    kinds = (nn.BatchNorm2d, nn.modules.dropout._DropoutNd)
    resting = [m for m in model.modules() if isinstance(m, kinds) or "DropPath" in type(m).__name__]
    assert resting and not any(m.training for m in resting)
    assert any(isinstance(m, nn.LayerNorm) and m.training for m in model.modules()), "layer norms train on"
    pixels = torch.randn(2, 3, 64, 64)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    optimiser = torch.optim.SGD([p for g in model.groups() for p in g.parameters], lr=0.1)
    model(pixels).full().square().mean().backward()
    optimiser.step()
    moved = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert {"backbone", "head", "classifiers"} == {name.split(".")[0] for name in moved}
    assert not any("running" in name for name in moved)
    assert all(torch.equal(old.state_dict()[name], before[name]) for name in old.state_dict())


@each_family
def test_a_state_comes_back(family: str) -> None:
    model = made(family)
    model.grow(2)
    model.grow(1)
    fresh = MICRO[family]().segmenter(detached=True, seed=9)
    fresh.load(model.state_dict())
    pixels = torch.randn(1, 3, 64, 64)
    assert torch.equal(fresh.eval()(pixels).logits, model.eval()(pixels).logits)
    other = {"segformer": "dinov3", "dinov3": "segformer"}[family]
    with pytest.raises(UserError, match="belong to another backbone"):
        made(other).load(model.state_dict())


def test_a_base_is_never_trained_itself() -> None:
    base: SemanticBase = micro_segformer()
    model = base.segmenter(detached=True)
    assert all(p.requires_grad for p in model.parameters())
    assert not any(p.requires_grad for p in base.backbone.parameters())
