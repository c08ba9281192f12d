"""Base models by name: the embedded one, a checkpoint file of Meta's, a local folder, a hub id."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from everseg.errors import UserError
from everseg.files import load_state, sha256_file
from everseg.models.hub import no_bar, only_cached
from everseg.models.names import TINY, file_and_key
from everseg.models.promptable.names import TWIN
from everseg.models.promptable.sam import Sam
from everseg.models.promptable.sam2 import Sam2
from everseg.models.tensors import SUFFIXES
from everseg.types import Precision

if TYPE_CHECKING:
    from transformers.models.sam.modeling_sam import SamModel
    from transformers.models.sam2.configuration_sam2 import Sam2Config
    from transformers.models.sam2.modeling_sam2 import Sam2Model
    from transformers.models.sam2_video.configuration_sam2_video import Sam2VideoConfig

WEIGHTS = Path(__file__).parent / "weights" / "tiny.safetensors"
STATISTICS = WEIGHTS.with_name("tiny_natural.safetensors")
"""Of the images that the embedded base was trained on; `tools/natural.py` writes them."""


def load_base(
    name: str = TINY,
    *,
    first: int | None = None,
    device: torch.device | None = None,
    precision: Precision = "auto",
) -> Sam | Sam2:
    """A frozen base model.

    name: "tiny", the embedded base; a file as Meta publishes them, such as sam_vit_b_01ec64.pth or
        sam2.1_hiera_tiny.pt, or a training checkpoint with such names, in which path#key tells which of
        several models is meant; a folder written by transformers' `save_pretrained`; or a hub id such as
        "facebook/sam-vit-base", taken from the local hub cache or downloaded by transformers. The same
        weights have the same fingerprint in each form.
    first: the first adapted block, by default what suits the family.
    precision: what it computes in.

    Raises:
        UserError: there is no such model, it is neither SAM 1 nor SAM 2, or its files are damaged.
    """
    model = _model(name)
    kind = Sam2 if model.config.model_type == "sam2" else Sam
    base = kind(model, name, first)
    base.precision = precision
    if name == TINY and first is None:
        base.natural = load_state(STATISTICS)
    return base if device is None else base.to(device)


def _model(name: str) -> SamModel | Sam2Model:
    if name == TINY:
        return _tiny()
    path = Path(name)
    try:
        path, key = file_and_key(name)
        if path.is_file():
            from everseg.models.promptable.checkpoints import load_checkpoint

            return load_checkpoint(path, key)
        there = path.exists()
        if there:
            _check_folder(path, name)
    except OSError as error:
        raise UserError(f"base {name!r} cannot be read ({error.strerror}); give another path") from error
    if path.suffix.partition("#")[0] in SUFFIXES and not there:
        raise UserError(f"base {name!r} does not exist; give the path of a checkpoint")
    if path.is_absolute() and not there:
        raise UserError(
            f"base {name!r} was found neither as a folder nor on the hub (there is no such path); if it has "
            "moved, give its new path with --base"
        )
    return _pretrained(name, there)


def _tiny() -> SamModel:
    from everseg.models.promptable.tiny import build_tiny_sam

    card = json.loads(WEIGHTS.with_suffix(".json").read_text())
    if sha256_file(WEIGHTS) != card["sha256"]:
        raise UserError(f"the embedded base {WEIGHTS} is damaged; reinstall everseg")
    model = build_tiny_sam()
    weights = {key: value.float() for key, value in load_file(WEIGHTS).items()}
    missing, unexpected = model.load_state_dict(weights, strict=False)
    # The prompt encoder's positions are tied to the image's and stored once; batch counters are of no use.
    left_out = [k for k in missing if "num_batches_tracked" not in k and k != TWIN]
    assert not left_out and not unexpected, (left_out, unexpected)
    return model


def _check_folder(path: Path, name: str) -> None:
    if not path.is_dir():
        raise UserError(
            f"base {name!r} is neither a file nor a folder; give a checkpoint file, a folder, or an id "
            "such as facebook/sam-vit-base"
        )
    files = sorted(path.iterdir())
    if path / "config.json" in files:
        return
    checkpoint = next((p for p in files if p.suffix in SUFFIXES), None)
    hint = f"; for the checkpoint in it give {checkpoint}" if checkpoint else ""
    raise UserError(
        f"base {name!r} has no config.json: it is not a folder that transformers' save_pretrained wrote{hint}"
    )


def _pretrained(name: str, local: bool) -> SamModel | Sam2Model:
    cached = not local and only_cached("base", name)
    from transformers.models.auto.configuration_auto import AutoConfig

    try:
        config = AutoConfig.from_pretrained(name, local_files_only=cached)
    except Exception as error:  # What is written there decides which one transformers raises.
        if local:
            raise UserError(
                f"config.json of base {name!r} cannot be read ({_first_line(error)}); fetch the folder again"
            ) from error
        raise UserError(
            f"base {name!r} was found neither as a folder nor on the hub ({_first_line(error)}); "
            f"give {TINY!r}, a checkpoint file, a folder, or an id such as facebook/sam-vit-base"
        ) from error
    if config.model_type == "sam2_video":
        config = _image_part(config)
    kind: Any
    if config.model_type == "sam":
        from transformers.models.sam.modeling_sam import SamModel

        kind = SamModel
    elif config.model_type == "sam2":
        from transformers.models.sam2.modeling_sam2 import Sam2Model

        kind = Sam2Model
    else:
        raise UserError(
            f"base {name!r} is a {config.model_type!r} model; give a SAM 1 ('sam') or SAM 2 ('sam2')"
        )
    try:
        with no_bar(name):
            model, report = kind.from_pretrained(
                name,
                config=config,
                output_loading_info=True,
                dtype=torch.float32,
                local_files_only=cached,
            )
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise UserError(
            f"the weights of base {name!r} cannot be read ({_first_line(error)}); fetch them again"
        ) from error
    missing = sorted(k for k in report["missing_keys"] if k != TWIN)
    if missing:
        raise UserError(
            f"the weights of base {name!r} are incomplete ({missing[0]} and {len(missing) - 1} more "
            "are missing); fetch them again"
        )
    if config.model_type == "sam":
        images, prompts = config.vision_config.image_size, config.prompt_encoder_config.image_size
        if images != prompts:
            raise UserError(
                f"the image encoder of base {name!r} takes images of {images} pixels and its prompt "
                f"encoder images of {prompts}; set image_size to one value in both parts of its "
                "config.json"
            )
    return model


def _image_part(video: Sam2VideoConfig) -> Sam2Config:
    """SAM 2 on the hub is a model of videos; that of images is the part of it with the same names."""
    from transformers.models.sam2.configuration_sam2 import Sam2Config

    parts = {}
    for name in ("prompt_encoder_config", "mask_decoder_config"):
        parts[name] = getattr(video, name).to_dict()
        del parts[name]["model_type"]
    return Sam2Config(vision_config=video.vision_config, **parts)


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".:")
