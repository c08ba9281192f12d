"""What every test stands on: no network, few threads, the same random numbers, and real data if given."""

from __future__ import annotations

import os

# Before transformers is imported by anything: it reads this once.
os.environ["HF_HUB_OFFLINE"] = "1"

import random
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

# As many as there are on a small machine, shared out among the processes that test.
THREADS = max(1, 2 // int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1")))
os.environ["OMP_NUM_THREADS"] = str(THREADS)  # for the commands that a test begins
torch.set_num_threads(THREADS)


@pytest.fixture(autouse=True)
def _same_random_numbers() -> None:
    """Global generators start every test alike, whatever ran before it. The code under test has its own."""
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def _no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Connecting to another machine is an error; this machine and its sockets in the file system are not."""

    def guarded(connect: Any) -> Any:
        def only_here(self: socket.socket, address: Any) -> Any:
            host = address[0] if isinstance(address, tuple) else "localhost"
            if not (host in ("localhost", "::1") or host.startswith("127.")):
                raise RuntimeError(f"a test tried to reach {address!r}: tests use no network")
            return connect(self, address)

        return only_here

    monkeypatch.setattr(socket.socket, "connect", guarded(socket.socket.connect))
    monkeypatch.setattr(socket.socket, "connect_ex", guarded(socket.socket.connect_ex))


@pytest.fixture(scope="session")
def data_root() -> Path:
    """The folder of real data sets. Tests that use it carry the mark `realdata`."""
    given = os.environ.get("EVERSEG_DATA")
    if not given:
        pytest.skip("EVERSEG_DATA is not set: it names the folder of real data sets")
    root = Path(given)
    assert root.is_dir(), f"EVERSEG_DATA is {given!r}, which is not a folder"
    return root


# ---------------------------------------------------------------- a base that is built in no time


@pytest.fixture(scope="session")
def micro_model() -> Any:
    """A random SAM of 64 x 64 pixels: four blocks, windowed and global in turn, of which two are adapted."""
    from transformers import SamConfig, SamModel
    from transformers.models.sam.configuration_sam import (
        SamMaskDecoderConfig,
        SamPromptEncoderConfig,
        SamVisionConfig,
    )

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


@pytest.fixture(scope="session")
def micro(micro_model: Any) -> Any:
    """The micro base, frozen. Its laws are SAM's; its masks mean nothing."""
    from everseg.models.promptable.sam import Sam

    return Sam(micro_model, "micro")


@pytest.fixture(scope="session")
def micro_folder(micro_model: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The micro base as a folder that `--base` takes."""
    folder = tmp_path_factory.mktemp("base") / "micro"
    micro_model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def micro2_model() -> Any:
    """A random SAM 2 of 128 x 128 pixels: stages of 1, 2, 4 and 1 blocks; stage 3 is a grid of 8 x 8, which
    windows of 6 do not divide, and two of its blocks are adapted."""
    from transformers import Sam2Config, Sam2Model
    from transformers.models.sam2.configuration_sam2 import (
        Sam2HieraDetConfig,
        Sam2MaskDecoderConfig,
        Sam2PromptEncoderConfig,
        Sam2VisionConfig,
    )

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


@pytest.fixture(scope="session")
def micro2_folder(micro2_model: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The micro SAM 2 as a folder that `--base` takes."""
    folder = tmp_path_factory.mktemp("base") / "micro2"
    micro2_model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def micro_backbone_model() -> Any:
    """A random MobileNetV2, as narrow as can be."""
    from transformers import MobileNetV2Config, MobileNetV2Model

    torch.manual_seed(0)
    narrow = MobileNetV2Config(depth_multiplier=0.1, min_depth=4, depth_divisible_by=4, tf_padding=False)
    return MobileNetV2Model(narrow, add_pooling_layer=False)


@pytest.fixture(scope="session")
def micro_backbone(micro_backbone_model: Any) -> Any:
    """What a run of classes starts from, in no time."""
    import copy

    from everseg.models.semantic.backbones import set_momentum
    from everseg.models.semantic.base import SemanticBase
    from everseg.models.semantic.load import as_backbone

    backbone = as_backbone(copy.deepcopy(micro_backbone_model), "micro")
    set_momentum(backbone)
    return SemanticBase(backbone, "micro")


@pytest.fixture(scope="session")
def micro_backbone_folder(micro_backbone_model: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The micro backbone as a folder that `--base` takes."""
    folder = tmp_path_factory.mktemp("base") / "backbone"
    micro_backbone_model.save_pretrained(folder)
    return folder


@pytest.fixture(autouse=True)
def _one_thread_for_small_things(request: pytest.FixtureRequest) -> Iterator[None]:
    """On tensors as small as the micro base's, threads wait for each other for longer than they work."""
    small = any(name.startswith("micro") for name in request.fixturenames)
    torch.set_num_threads(1 if small else THREADS)
    yield
    torch.set_num_threads(THREADS)
