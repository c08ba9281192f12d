"""Where in a file the weights of a SAM are: in a release at its top, in a checkpoint under some keys.

A SAM is found by the names of its image encoder. What precedes them, whether keys of mappings ("model_state",
"state_dict") or the beginning of names ("module.", "sam."), is its place, and all tensors at that place are
its own: {"state_dict": {"model.image_encoder...": ...}} holds one under `state_dict.model`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from everseg.errors import UserError
from everseg.models.tensors import Held, read_nested
from everseg.progress import remark

KNOWN = "everseg reads SAM (ViT-B, L, H and others of that layout) and SAM 2 and 2.1 (Hiera tiny to large)"

TOP = "."
"""The key of a SAM whose names nothing precedes."""

FOREIGN = (
    (r"\bimage_encoder\.patch_embed\.seq\.", "MobileSAM (its image encoder is a TinyViT)"),
    (r"mask_decoder\.hf_(token|mlp)\.", "SAM-HQ"),
    (r"^spatial_perceiver\.|\bimage_encoder\.trunk\.body\.", "EdgeTAM"),
    (r"mask_decoder\.final_output_upscaling_layers\.", "EfficientSAM"),
    (r"^(detector|tracker)\.", "SAM 3"),
)
"""Relatives of SAM by a name that only they have."""

_PART = re.compile(r"(.*?)((?:image_encoder|(?:sam_)?(?:prompt_encoder|mask_decoder))\..+)")
_ENCODER = re.compile(r"image_encoder\.(trunk\.)?(patch_embed\.proj|blocks\.\d+\.[\w.]+)\.(weight|bias)")
"""An optimiser that knows parameters by name continues after them ("weight.exp_avg")."""
_WRAPPER = re.compile(
    r"(?<![^.])(module|_orig_mod|_forward_module|_fsdp_wrapped_module|_checkpoint_wrapped_module)\."
)
"""What torch puts into names when a part of a model is compiled, shared out or checkpointed."""


def find_sam(path: Path, key: str = "") -> tuple[dict[str, Tensor], str]:
    """The tensors of the one SAM in a file, in Meta's names, and what the file is to be called in sentences.

    key: its place, or the beginning of it, where there are several; `TOP` for the one that lies at the top.

    Raises:
        UserError: the file cannot be read, holds no SAM, one under another key, or several and no key.
    """
    held = read_nested(path, KNOWN)
    names = [_unwrapped(one.path) for one in held]
    places = _places(names)
    place = _chosen(path, key, places, held)
    within = [other for other in places if other != place and other.startswith(place)]
    own = {
        name.removeprefix(place): one
        for name, one in zip(names, held, strict=True)
        if name.startswith(place) and not name.startswith(tuple(within))
    }
    where = f"{path}#{_called(place)}" if place else str(path)
    _check_family(where, list(own))
    parts = {name for name in own if (found := _PART.fullmatch(name)) and not found[1]}
    # What lies beside a model's parts, in the same mapping under the same prefix, belongs to the model.
    mappings = {own[name].under for name in parts}
    tensors = {name: one.value for name, one in own.items() if name in parts or one.under in mappings}
    if not any("mask_decoder." in name for name in parts):
        raise UserError(
            f"{where} holds the image encoder of a SAM alone ({len(tensors)} tensors), without prompt "
            "encoder and mask decoder; save the state_dict() of the whole model"
        )
    used = {place + name for name in tensors}
    told = _summary([name for name in names if name not in used and not name.startswith("optim")], place)
    if told and not key:
        remark(f"{where} is read as a SAM; left out: {', '.join(told)}")
    return tensors, where


def _unwrapped(name: str) -> str:
    """A name without what torch puts between the parts of a SAM and their own names."""
    found = _PART.fullmatch(name)
    return name if found is None else found[1] + _WRAPPER.sub("", found[2])


def _places(names: Sequence[str]) -> list[str]:
    """What precedes the names of each image encoder, in the order of the file."""
    parts = [_PART.fullmatch(name) for name in names]
    return list(dict.fromkeys(p[1] for p in parts if p is not None and _ENCODER.fullmatch(p[2])))


def _chosen(path: Path, key: str, places: Sequence[str], held: Sequence[Held]) -> str:
    called = [_called(place) for place in places]
    if not places:
        raise _none(path, held)
    if not key and len(places) > 1:
        ways = " or ".join(f"{path.name}#{name}" for name in called[:4])
        raise UserError(f"{path} holds {len(places)} SAMs, under {_listed(called)}; choose one, as in {ways}")
    fitting = [p for p, name in zip(places, called, strict=True) if name == key]
    fitting = fitting or [p for p, name in zip(places, called, strict=True) if name.startswith(f"{key}.")]
    if key and len(fitting) != 1:
        what = f"{len(fitting)} SAMs" if fitting else "no SAM"
        raise UserError(f"{path} holds {what} under {key!r}; give one of {_listed(called)}")
    return fitting[0] if key else places[0]


def _called(place: str) -> str:
    return place.removesuffix(".") or TOP


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - 4} more" if len(names) > 4 else ""
    return ", ".join(repr(name) for name in names[:4]) + more


def _check_family(where: str, names: Sequence[str]) -> None:
    for pattern, family in FOREIGN:
        if any(re.search(pattern, name) for name in names):
            raise UserError(f"{where} is a checkpoint of {family}, which is not supported; {KNOWN}")


def _none(path: Path, held: Sequence[Held]) -> UserError:
    """The sentence about a file without a SAM's image encoder: what is there instead."""
    try:
        _check_family(str(path), [one.name for one in held])
    except UserError as error:
        return error
    names = [one.path for one in held]
    if theirs := next((n for n in names if re.search(r"(^|\.)vision_encoder\.", n)), None):
        place = theirs.partition("vision_encoder.")[0]
        under = f" under {_called(place)!r}" if place else ""
        way = "give the folder that it lies in, together with its config.json"
        if place:
            way = "load them into the model and give the folder that its save_pretrained writes"
        return UserError(f"{path} has transformers' names{under}: {way}")
    if any(re.search(r"(^|\.)blocks\.\d+\.attn\.qkv\.weight$", n) for n in names):
        return UserError(
            f"{path} holds an image encoder alone ({', '.join(_summary(names))}); save the state_dict() of "
            "the whole SAM"
        )
    if any(one.under for one in held):
        return UserError(f"{path} holds no SAM ({', '.join(_summary(names))}); {KNOWN}")
    return UserError(f"{path} holds no SAM (its first tensor is {names[0]}); {KNOWN}")


def _summary(names: Sequence[str], place: str = "") -> list[str]:
    """How many tensors begin with which key: ["model: 177 tensors", ...], at most five.

    place: of a SAM that is not among them; messages name the keys by how they differ from it.
    """
    counts: dict[str, int] = {}
    for name in names:
        keys = name.split(".")
        pairs = enumerate(zip(keys, place.split("."), strict=False))
        begin = ".".join(keys[: 1 + next((i for i, (ours, its) in pairs if ours != its), 0)])
        counts[begin] = counts.get(begin, 0) + 1
    found = [f"{begin}: {count} tensor{'s' * (count > 1)}" for begin, count in counts.items()]
    return found[:5] + ([f"{len(found) - 5} more keys"] if len(found) > 5 else [])
