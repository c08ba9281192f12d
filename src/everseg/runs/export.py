"""Export what a run has learned: folded into the weights of its base, or beside it for peft."""

from __future__ import annotations

import errno
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn

from everseg.domains.adapters.aug import AugModule
from everseg.domains.adapters.linear import LinearLoRA
from everseg.domains.adapters.lora import ParallelLoRA
from everseg.errors import UserError
from everseg.files import atomic_folder, sha256_file, sha256_tensors, write_json
from everseg.models.names import TINY
from everseg.models.promptable.names import to_original
from everseg.models.promptable.sam import Sam
from everseg.models.promptable.sam2 import Sam2
from everseg.models.promptable.tiny import ConvStem
from everseg.runs.exports.domains import DOMAINS, described
from everseg.runs.exports.folder import MANIFEST, check_replaceable, manifest_of
from everseg.runs.run import Run
from everseg.types import ExportForm
from everseg.types.abilities import Exports, WritesModel

FOLDS_INTO_NOTHING: dict[type[nn.Module], str] = {
    AugModule: "aug, which also reads the clicks, so that it folds into no linear layer",
    ParallelLoRA: "lora, which stands beside the attention, so that it folds into no linear layer",
}
SIDE = 512
"""Of the images of a graph that takes one size, where the run is scored in many."""


def export(run: Run, form: ExportForm, out: Path | str, size: int | None = None) -> dict[str, Any]:
    """Write what a run has learned to the folder `out`, whole or not at all; returns its manifest.

    "sam": the base with the adapter folded into its weights, as `config.json` and `model.safetensors`, which
    `transformers.SamModel.from_pretrained` (`Sam2Model` for SAM 2) loads, and under Meta's names as `sam.pth`
    or `sam2.pt`. Both are a base of everseg's again, with one fingerprint.
    "peft": the adapter alone, as `adapter_config.json` and `adapter_model.safetensors`, which
    `peft.PeftModel.from_pretrained` puts on the base's transformers model; and `domain.json`, which says what
    it has learned.

    A run of classes: "onnx" or "torch", see `everseg.classes.export`.

    size: side of the images in pixels where only one is possible; None: of those that are scored.

    An export that lies in `out` is replaced.

    Raises:
        UserError: what the run has learned has no such form, or `out` holds what no export wrote.
    """
    out = Path(out).resolve()
    if isinstance(run.learner, WritesModel):
        return _export_model(run, run.learner, form, out, size)
    if form in ("onnx", "torch") or size is not None:
        raise UserError(
            f"{run.folder} was made with method {run.config.method!r}; --to torch and --size are for runs of "
            "classes: export it with --to sam, --to peft or --to onnx without --size"
        )
    adapter, base = _adapter(run), run.base
    assert isinstance(base, Sam | Sam2)
    if form == "sam" and isinstance(base, Sam) and isinstance(base.encoder.patch_embed, ConvStem):
        raise UserError(
            f"{run.folder} was made on the embedded base, whose convolutional stem neither transformers nor "
            "Meta's code knows; export it with --to peft, or learn on a SAM with --base"
        )
    check_replaceable(out)
    manifest = manifest_of(run, form) | {"adapter": sha256_tensors(dict(adapter.state_dict()))}
    with atomic_folder(out) as folder:
        if form == "sam":
            manifest["fingerprint"] = _write_sam(folder, adapter, base)
        else:
            _write_peft(folder, adapter, manifest["base"]["name"])
            write_json(folder / DOMAINS, described(run, manifest["adapter"]))
        manifest["files"] = {path.name: sha256_file(path) for path in sorted(folder.iterdir())}
        write_json(folder / MANIFEST, manifest)
    return manifest


def _export_model(
    run: Run, learner: WritesModel, form: ExportForm, out: Path, size: int | None
) -> dict[str, Any]:
    """A run of classes as one model with its legend."""
    if form not in ("onnx", "torch"):
        raise UserError(f"{run.folder} learned classes; export it with --to onnx or --to torch")
    if not run.learned:
        raise UserError(f"{run.folder} has learned nothing yet; learn a stage first")
    check_replaceable(out)
    side = size or (run.config.score.size if isinstance(run.config.score.size, int) else SIDE)
    manifest = manifest_of(run, form)
    with atomic_folder(out) as folder:
        manifest |= learner.write_model(form, folder, run.classes, side)
        manifest["files"] = {path.name: sha256_file(path) for path in sorted(folder.iterdir())}
        write_json(folder / MANIFEST, manifest)
    return manifest


def _adapter(run: Run) -> LinearLoRA:
    """The one adapter of a run that weights of the base can take up."""
    method, learner = run.config.method, run.learner
    instead = (
        "export it with --to onnx, or learn with --method regcl, sequential or joint and --set adapter=linear"
    )
    if not isinstance(learner, Exports):
        raise UserError(
            f"{run.folder} was made with method {method!r}, which does not use one adapter for all "
            f"images, so it cannot be exported as one model; {instead}"
        )
    adapter: nn.Module = learner.exports()
    if not isinstance(adapter, LinearLoRA):
        raise UserError(f"{run.folder} was made with adapter={FOLDS_INTO_NOTHING[type(adapter)]}; {instead}")
    return adapter


def _write_sam(folder: Path, adapter: LinearLoRA, base: Sam | Sam2) -> str:
    """The folded base in both layouts; returns its fingerprint."""
    model = deepcopy(base.model).cpu()
    model.load_state_dict(adapter.folded(model.state_dict()))
    model.save_pretrained(folder)
    tensors = to_original(model)
    # As Meta's own code reads them: SAM 2's below a key.
    content, name = ({"model": tensors}, "sam2.pt") if isinstance(base, Sam2) else (tensors, "sam.pth")
    try:
        with (folder / name).open("wb") as file:
            torch.save(content, file)
    except RuntimeError as error:  # torch's writer hides what the system said.
        raise OSError(errno.ENOSPC, f"{name} was not written to its end") from error
    return sha256_tensors(dict(model.state_dict()))


def _write_peft(folder: Path, adapter: LinearLoRA, base: str | None) -> None:
    config = adapter.config
    tensors = {}
    for name in adapter.names:
        down, up = adapter.factors(name)
        tensors[f"base_model.model.{name}.lora_A.weight"] = down.detach().cpu()
        tensors[f"base_model.model.{name}.lora_B.weight"] = up.detach().cpu()
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    settings = {
        "peft_type": "LORA",
        "task_type": None,
        "base_model_name_or_path": None if base == TINY else base,
        "r": config.rank,
        "lora_alpha": config.alpha or config.rank,
        "use_rslora": False,
        "lora_dropout": 0.0,
        "bias": "none",
        "fan_in_fan_out": False,
        "target_modules": list(adapter.names),
        "inference_mode": True,
    }
    write_json(folder / "adapter_config.json", settings)
