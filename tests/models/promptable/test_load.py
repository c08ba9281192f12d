"""Base models by name: the embedded one, files, folders, and every way in which a folder is none."""

from __future__ import annotations

import copy
import errno
import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import Sam2Config, Sam2Model, Sam2VideoConfig, Sam2VideoModel

from everseg.errors import UserError
from everseg.models.names import TINY
from everseg.models.promptable import load as bases
from everseg.models.promptable.checkpoints import HIERA, Hiera
from everseg.models.promptable.load import load_base
from everseg.models.promptable.names import FOURIER, TWIN, to_original
from everseg.models.promptable.protocol import TAP
from everseg.models.promptable.sam import Sam
from everseg.models.promptable.sam2 import Sam2


def copied(folder: Path, to: Path) -> Path:
    shutil.copytree(folder, to)
    return to


def test_a_folder_is_the_model_that_was_saved(micro: Any, micro_folder: Path) -> None:
    found = load_base(str(micro_folder))
    assert found.name == str(micro_folder)
    assert found.fingerprint == micro.fingerprint
    assert found.adapted == micro.adapted == (2, 3)
    assert not any(p.requires_grad for p in found.model.parameters())
    assert not found.model.training
    assert all(p.dtype == torch.float32 for p in found.model.parameters())
    image = [torch.randint(0, 256, (3, 30, 40), dtype=torch.uint8)]
    with torch.no_grad():
        ours, theirs = found.trunk(found.pixels(image))[TAP], micro.trunk(micro.pixels(image))[TAP]
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)


def test_the_first_adapted_block_may_be_chosen(micro_folder: Path) -> None:
    assert load_base(str(micro_folder), first=3).adapted == (3,)


def test_encoders_of_different_images_are_refused(micro_folder: Path, tmp_path: Path) -> None:
    folder = copied(micro_folder, tmp_path / "odd")
    config = json.loads((folder / "config.json").read_text())
    config["prompt_encoder_config"] |= {"image_size": 1024, "image_embedding_size": 64}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match="its prompt encoder images of 1024; set image_size"):
        load_base(str(folder))


def test_a_model_saved_in_half_precision_is_read_in_full(micro_model: Any, tmp_path: Path) -> None:
    copy.deepcopy(micro_model).half().save_pretrained(tmp_path / "half")
    found = load_base(str(tmp_path / "half"))
    assert all(p.dtype == torch.float32 for p in found.model.parameters())


@pytest.mark.skipif(not bases.WEIGHTS.is_file(), reason="the embedded weights are not here")
def test_the_embedded_base_loads_and_its_hash_is_held(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    found = load_base(TINY)
    assert (found.name, found.image_size, found.grid, found.adapted) == (TINY, 256, 16, (3, 4, 5))
    assert load_base(TINY).fingerprint == found.fingerprint
    broken = tmp_path / "tiny.safetensors"
    content = bytearray(bases.WEIGHTS.read_bytes())
    content[-1] ^= 1
    broken.write_bytes(content)
    shutil.copy(bases.WEIGHTS.with_suffix(".json"), broken.with_suffix(".json"))
    monkeypatch.setattr(bases, "WEIGHTS", broken)
    with pytest.raises(UserError, match=r"tiny\.safetensors is damaged; reinstall everseg"):
        load_base(TINY)


def test_sam_has_one_fingerprint_in_every_form(micro_model: Any, micro_folder: Path, tmp_path: Path) -> None:
    """So a run may go on with the same weights from somewhere else."""
    torch.save(to_original(micro_model), tmp_path / "sam.pth")
    torch.save(to_original(micro_model), tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    save_file(to_original(micro_model), tmp_path / "sam.safetensors")
    bases = [load_base(str(p)) for p in (*sorted(tmp_path.iterdir()), micro_folder)]
    assert len({base.fingerprint for base in bases}) == 1
    assert all(isinstance(base, Sam) for base in bases)
    assert bases[0].name == str(tmp_path / "old.pth")
    assert not any(p.requires_grad for p in bases[0].model.parameters())
    assert not bases[0].model.training
    assert load_base(str(tmp_path / "sam.pth"), first=3).adapted == (3,)


def test_sam2_has_one_fingerprint_in_every_form(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On the hub it is a model of videos; that of images is in it."""
    stages = (1, 2, 3, 1)
    monkeypatch.setitem(HIERA, (8, stages), Hiera("micro", 1, (8, 4, 14, 7), (4,)))
    backbone = {"hidden_size": 8, "blocks_per_stage": list(stages), "embed_dim_per_stage": [8, 16, 32, 64]}
    backbone |= {"model_type": "sam2_hiera_det_model", "global_attention_blocks": [4]}
    vision = {"backbone_config": backbone, "backbone_channel_list": [64, 32, 16, 8], "fpn_hidden_size": 32}
    prompt, decoder = {"hidden_size": 32}, {"hidden_size": 32, "mlp_dim": 40, "iou_head_hidden_dim": 24}
    parts = {"prompt_encoder_config": prompt, "mask_decoder_config": decoder}
    memory = {"memory_attention_hidden_size": 32, "memory_attention_feed_forward_hidden_size": 32}
    memory |= {"memory_encoder_hidden_size": 32, "memory_encoder_output_channels": 16}
    memory |= {"mask_downsampler_embed_dim": 32, "memory_fuser_embed_dim": 32}
    video = Sam2VideoModel(Sam2VideoConfig(vision_config=vision, **parts, **memory))
    state = video.state_dict()
    state[TWIN].copy_(state[FOURIER])
    video.save_pretrained(tmp_path / "video")
    image = Sam2Model(Sam2Config(vision_config=vision, **parts))
    image.load_state_dict({name: state[name] for name in image.state_dict()})
    image.save_pretrained(tmp_path / "image")
    torch.save({"model": to_original(image)}, tmp_path / "sam2.pt")
    found = [load_base(str(p)) for p in sorted(tmp_path.iterdir())]
    assert [type(base) for base in found] == [Sam2, Sam2, Sam2]
    assert len({base.fingerprint for base in found}) == 1
    assert {base.adapted for base in found} == {(5,)}
    configs = [base.model.config.to_dict() for base in found]
    for part in (*parts, "vision_config"):
        one, *others = (plain(config[part]) for config in configs)
        assert all(other == one for other in others), part
    assert all(value.dtype == torch.float32 for base in found for value in base.model.state_dict().values())
    image.half().save_pretrained(tmp_path / "half")
    half = load_base(str(tmp_path / "half"))
    assert all(value.dtype == torch.float32 for value in half.model.state_dict().values())


def plain(config: dict[str, Any]) -> dict[str, Any]:
    """A configuration without how and from where it was loaded."""
    kept = {k: v for k, v in config.items() if k not in ("dtype", "_name_or_path", "transformers_version")}
    return {k: plain(v) if isinstance(v, dict) else v for k, v in kept.items()}


def test_what_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"base 'nobody/nothing' was found neither as a folder nor on the hub"
    ):
        load_base("nobody/nothing")
    with pytest.raises(UserError, match="neither as a folder nor on the hub"):
        load_base(str(tmp_path / "nowhere"))
    with pytest.raises(UserError, match="base ''"):
        load_base("")
    with pytest.raises(UserError, match="is neither a file nor a folder"):
        load_base(os.devnull)
    with pytest.raises(UserError, match=r"cannot be read \(File name too long\)"):
        load_base("x" * 300)


def test_a_folder_that_may_not_be_read_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(path: Path) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))

    monkeypatch.setattr(Path, "iterdir", forbidden)
    with pytest.raises(UserError, match=r"cannot be read \(Permission denied\)"):
        load_base(str(tmp_path))


def test_a_file_and_a_folder_of_something_else_are_said(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"has no config\.json: .* save_pretrained wrote$"):
        load_base(str(tmp_path))
    (tmp_path / "sam.pth").write_bytes(b"x")
    with pytest.raises(UserError, match=r"sam\.pth was written neither by torch\.save nor by safetensors"):
        load_base(str(tmp_path / "sam.pth"))
    with pytest.raises(
        UserError, match=r"has no config\.json: .* for the checkpoint in it give .*/sam\.pth$"
    ):
        load_base(str(tmp_path))
    for suffix in (".pth", ".pt", ".safetensors"):
        with pytest.raises(UserError, match="does not exist; give the path of a checkpoint"):
            load_base(str(tmp_path / f"other{suffix}"))


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ("{", "config.json of base"),
        ("[]", "config.json of base"),
        ("", "config.json of base"),
        ('{"model_type": "sam", "vision_config": 7}', "field 'vision_config'"),
        ('{"model_type": "sam", "vision_config": {"hidden_size": "big"}}', "field 'hidden_size'"),
        ('{"model_type": "vit"}', "is a 'vit' model; give a SAM 1 ('sam') or SAM 2 ('sam2')"),
        ('{"model_type": "sam_hq"}', "is a 'sam_hq' model; give a SAM 1"),
        ('{"model_type": "edgetam"}', "edgetam"),
        ('{"model_type": "sam3_tracker"}', "is a 'sam3_tracker' model; give a SAM 1"),
        ('{"model_type": "no-such"}', ""),
        ("{}", ""),
    ],
)
def test_a_config_that_is_none_of_ours_is_said(tmp_path: Path, config: str, said: str) -> None:
    (tmp_path / "config.json").write_text(config)
    with pytest.raises(UserError) as caught:
        load_base(str(tmp_path))
    assert str(tmp_path) in str(caught.value)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("damage", ["truncated", "empty", "missing", "rubbish"])
def test_damaged_weights_are_said(micro_folder: Path, tmp_path: Path, damage: str) -> None:
    folder = copied(micro_folder, tmp_path / "base")
    weights = folder / "model.safetensors"
    content = weights.read_bytes()
    if damage == "missing":
        weights.unlink()
    else:
        weights.write_bytes({"truncated": content[:-100], "empty": b"", "rubbish": b"x" * 500}[damage])
    with pytest.raises(UserError, match=r"the weights of base .*base' cannot be read") as caught:
        load_base(str(folder))
    assert "\n" not in str(caught.value)


def test_missing_weights_are_not_made_up(micro_folder: Path, tmp_path: Path) -> None:
    folder = copied(micro_folder, tmp_path / "base")
    weights = load_file(folder / "model.safetensors")
    gone = "vision_encoder.layers.1.mlp.lin1.weight"
    del weights[gone]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match=rf"are incomplete \({gone}"):
        load_base(str(folder))


def test_weights_of_another_shape_are_refused(micro_folder: Path, tmp_path: Path) -> None:
    folder = copied(micro_folder, tmp_path / "base")
    config = json.loads((folder / "config.json").read_text())
    config["vision_config"]["hidden_size"] = 64
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match="base"):
        load_base(str(folder))
