"""Where in a training checkpoint a SAM is found, and what is said where it is not clear."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from everseg.errors import UserError
from everseg.models.names import file_and_key, from_anywhere
from everseg.models.promptable.load import load_base
from everseg.models.promptable.names import to_original
from everseg.models.promptable.stored import find_sam

State = dict[str, Tensor]

OPTIMISER = {"state": {0: {"exp_avg": torch.zeros(3)}}, "param_groups": [{"lr": 0.1, "params": [0]}]}


def named(prefix: str, tensors: State) -> State:
    return {prefix + name: value for name, value in tensors.items()}


def by_part(tensors: State) -> dict[str, State]:
    """One mapping per part, as trainers that save the parts one by one write them."""
    parts: dict[str, State] = {}
    for name, value in tensors.items():
        part, _, rest = name.partition(".")
        parts.setdefault(part, {})[rest] = value
    return parts


def shadow(tensors: State) -> State:
    """The moments of an optimiser that knows parameters by name."""
    return {f"{name}.exp_avg": torch.zeros(1) for name in tensors}


@pytest.fixture
def sam(micro_model: Any) -> State:
    return to_original(micro_model)


READ: dict[str, Callable[[State], Any]] = {
    "torch_em": lambda t: {
        "model_state": named("sam.", t),
        "optimizer_state": OPTIMISER,
        "best_metric": np.float64(0.5),
        "init": {"name": "x"},
    },
    "micro-sam's export": lambda t: {"model_state": t, "decoder_state": {"out_conv.weight": torch.zeros(3)}},
    "Lightning": lambda t: {
        "state_dict": {**named("model.", t), "loss.weight": torch.ones(2)},
        "optimizer_states": [OPTIMISER],
        "hyper_parameters": {"lr": 0.1},
    },
    "under net": lambda t: {"net": t, "epoch": 3},
    "two levels deep": lambda t: {"checkpoint": {"weights": named("module.net.", t)}, "step": 1},
    "compiled": lambda t: named("_orig_mod.", t),
    "an encoder compiled alone": lambda t: {
        name.replace("image_encoder.", "image_encoder._orig_mod."): value for name, value in t.items()
    },
    "an encoder shared out alone": lambda t: {
        "model": {name.replace("image_encoder.", "image_encoder.module."): v for name, v in t.items()}
    },
    "beside a head": lambda t: {**named("sam.", t), "head.weight": torch.zeros(2, 2)},
    "moments by name": lambda t: {"model": t, "optim": shadow(t)},
    "part by part": lambda t: {**by_part(t), "optimizer": OPTIMISER},
}


@pytest.mark.parametrize("how", READ)
def test_training_checkpoints_hold_the_same_base(
    sam: State, tmp_path: Path, how: str, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.save(sam, tmp_path / "plain.pth")
    torch.save(READ[how](sam), tmp_path / "trained.pt")
    trained, plain = (load_base(str(tmp_path / name)) for name in ("trained.pt", "plain.pth"))
    assert trained.fingerprint == plain.fingerprint
    told = {
        "micro-sam's export": "left out: decoder_state: 1 tensor",
        "Lightning": "left out: state_dict.loss: 1 tensor",
        "beside a head": "left out: head: 1 tensor",
    }
    assert told.get(how, "") in (said := capsys.readouterr().err)
    assert ("left out" in said) == (how in told)


SEVERAL: dict[str, tuple[Callable[[State, State], Any], dict[str, int]]] = {
    "a mean beside the model": (lambda a, b: {"model": a, "model_ema": b}, {"model": 0, "model_ema": 1}),
    "student and teacher": (
        lambda a, b: {"state_dict": {**named("student.", a), **named("teacher.", b)}},
        {"state_dict.student": 0, "state_dict.teacher": 1},
    ),
    "a shadow": (lambda a, b: {"net": a, "ema": {"shadow": b, "decay": 0.9}}, {"net": 0, "ema": 1}),
    "a teacher within": (lambda a, b: {**a, **named("teacher.", b)}, {".": 0, "teacher": 1}),
}


@pytest.mark.parametrize("how", SEVERAL)
def test_several_models_are_named_and_chosen_by_key(sam: State, tmp_path: Path, how: str) -> None:
    write, keys = SEVERAL[how]
    path = tmp_path / "ema.pt"
    both = (sam, {name: value + 1 for name, value in sam.items()})
    torch.save(write(*both), path)
    with pytest.raises(UserError, match=r"holds 2 SAMs, under .*; choose one, as in ema.pt#") as caught:
        find_sam(path)
    for key, which in keys.items():
        assert f"{key!r}" in str(caught.value) or key == "ema"
        found, where = find_sam(path, key)
        assert where.startswith(str(path))
        assert found.keys() == sam.keys()
        assert all(torch.equal(value, both[which][name]) for name, value in found.items())
    with pytest.raises(UserError, match=r"holds no SAM under 'mean'; give one of '"):
        find_sam(path, "mean")


REFUSED: dict[str, tuple[Callable[[State], Any], str]] = {
    "an encoder alone": (
        lambda t: {"encoder_state": {k: v for k, v in t.items() if k.startswith("image_encoder.")}},
        r"some.pt#encoder_state holds the image encoder of a SAM alone \(\d+ tensors\), without",
    ),
    "an encoder under its own names": (
        lambda t: {"vit": {"blocks.0.attn.qkv.weight": torch.zeros(1), "pos_embed": torch.zeros(1)}},
        r"holds an image encoder alone \(vit: 2 tensors\); save the state_dict\(\) of the whole SAM",
    ),
    "a head within": (
        lambda t: {"model": named("sam.", {**t, "head.weight": torch.zeros(1)})},
        r"some.pt#model.sam is a modified model: head.weight is not SAM's",
    ),
    "transformers' names": (
        lambda t: {"state_dict": {"model.vision_encoder.pos_embed": torch.zeros(1)}},
        r"transformers' names under 'state_dict.model': load them into the model and give the folder",
    ),
    "another model": (
        lambda t: {"net": {"a": torch.zeros(1), "b": torch.zeros(1)}, "ema": {"a": torch.zeros(1)}},
        r"holds no SAM \(net: 2 tensors, ema: 1 tensor\); everseg reads SAM",
    ),
}


@pytest.mark.parametrize("how", REFUSED)
def test_what_is_no_whole_sam_is_said_with_its_key(sam: State, tmp_path: Path, how: str) -> None:
    write, said = REFUSED[how]
    torch.save(write(sam), tmp_path / "some.pt")
    with pytest.raises(UserError, match=said):
        load_base(str(tmp_path / "some.pt"))


def test_a_key_goes_with_its_file_from_any_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "ema.pt").write_bytes(b"x")
    (tmp_path / "odd#name.pt").write_bytes(b"x")
    monkeypatch.chdir(tmp_path)
    assert from_anywhere("ema.pt#model") == f"{tmp_path / 'ema.pt'}#model"
    assert from_anywhere("odd#name.pt") == str(tmp_path / "odd#name.pt")
    assert from_anywhere("nothing.pt#model") == "nothing.pt#model"
    assert file_and_key("odd#name.pt#model") == (Path("odd#name.pt"), "model")
    with pytest.raises(UserError, match=r"'nothing.pt#model' does not exist"):
        load_base("nothing.pt#model")
