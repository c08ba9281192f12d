"""Base models by name: the embedded one, a local folder, a hub id."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from transformers import AutoConfig, SamConfig, SamModel

from everseg.errors import UserError
from everseg.files import sha256_file
from everseg.models.sam import Sam
from everseg.models.tiny import build_tiny_sam

TINY = "tiny"
WEIGHTS = Path(__file__).parent / "weights" / "tiny.safetensors"


def load_base(name: str = TINY, *, first: int | None = None, device: torch.device | None = None) -> Sam:
    """A frozen base model.

    name: "tiny", the embedded base; a folder written by transformers' `save_pretrained`; or a hub id such as
    "facebook/sam-vit-base", taken from the local hub cache or downloaded by transformers.
    first: the first adapted block, by default `first_adapted(depth)`.

    Raises:
        UserError: there is no such model, it is not of the SAM family, or its files are damaged.
    """
    base = Sam(_tiny() if name == TINY else _pretrained(name), name, first)
    return base if device is None else base.to(device)


def _tiny() -> SamModel:
    card = json.loads(WEIGHTS.with_suffix(".json").read_text())
    if sha256_file(WEIGHTS) != card["sha256"]:
        raise UserError(f"the embedded base {WEIGHTS} is damaged; reinstall everseg")
    model = build_tiny_sam()
    weights = {key: value.float() for key, value in load_file(WEIGHTS).items()}
    missing, unexpected = model.load_state_dict(weights, strict=False)
    # The prompt encoder's positions are tied to the image's and stored once; batch counters are of no use.
    left_out = [
        k for k in missing if "num_batches_tracked" not in k and "prompt_encoder.shared_embedding" not in k
    ]
    assert not left_out and not unexpected, (left_out, unexpected)
    return model


def _pretrained(name: str) -> SamModel:
    path = Path(name)
    if path.is_file():
        raise UserError(
            f"base {name!r} is a file: give a folder that transformers' save_pretrained wrote, "
            f"a hub id or {TINY!r}"
        )
    if path.exists() and not (path / "config.json").is_file():
        raise UserError(
            f"base {name!r} has no config.json: it is not a folder that transformers' save_pretrained wrote"
        )
    try:
        config = AutoConfig.from_pretrained(name)
    except (OSError, ValueError) as error:
        raise UserError(
            f"base {name!r} was found neither as a folder nor on the hub ({_first_line(error)}); "
            f"give {TINY!r}, a folder, or an id such as facebook/sam-vit-base"
        ) from error
    if not isinstance(config, SamConfig):
        raise UserError(
            f"base {name!r} is a {config.model_type!r} model; everseg adapts the SAM 1 family ('sam')"
        )
    try:
        model, report = SamModel.from_pretrained(name, output_loading_info=True, dtype=torch.float32)
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise UserError(
            f"the weights of base {name!r} cannot be read ({_first_line(error)}); fetch them again"
        ) from error
    missing = [k for k in report["missing_keys"] if "prompt_encoder.shared_embedding" not in k]
    if missing:
        raise UserError(
            f"the weights of base {name!r} are incomplete: {missing[0]} and {len(missing) - 1} more missing"
        )
    return model


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
