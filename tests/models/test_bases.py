"""Base models by name: the embedded one, folders, and every way in which a folder is none."""

from __future__ import annotations

import copy
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from everseg.errors import UserError
from everseg.models import bases
from everseg.models.bases import TINY, load_base
from everseg.models.promptable import TAP


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


def test_what_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"base 'nobody/nothing' was found neither as a folder nor on the hub"
    ):
        load_base("nobody/nothing")
    with pytest.raises(UserError, match="neither as a folder nor on the hub"):
        load_base(str(tmp_path / "nowhere"))
    with pytest.raises(UserError, match="base ''"):
        load_base("")


def test_a_file_and_a_folder_of_something_else_are_said(tmp_path: Path) -> None:
    (tmp_path / "sam.pth").write_bytes(b"x")
    with pytest.raises(UserError, match=r"sam\.pth' is a file"):
        load_base(str(tmp_path / "sam.pth"))
    with pytest.raises(UserError, match=r"has no config\.json"):
        load_base(str(tmp_path))


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ("{", "found neither"),
        ("[]", ""),
        ("", ""),
        ('{"model_type": "vit"}', "is a 'vit' model; everseg adapts the SAM 1 family"),
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
    with pytest.raises(UserError, match=f"are incomplete: {gone}"):
        load_base(str(folder))


def test_weights_of_another_shape_are_refused(micro_folder: Path, tmp_path: Path) -> None:
    folder = copied(micro_folder, tmp_path / "base")
    config = json.loads((folder / "config.json").read_text())
    config["vision_config"]["hidden_size"] = 64
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match="base"):
        load_base(str(folder))
