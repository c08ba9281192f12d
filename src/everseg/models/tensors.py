"""Tensors by name from files that others wrote, without running anything in them."""

from __future__ import annotations

import argparse
import pickle
import re
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from everseg.errors import UserError

SUFFIXES = (".pth", ".pt", ".safetensors")
"""What such files are called, usually."""

DEEPEST = 8
"""Mappings within mappings that are looked into: a pickle may hold one within itself."""


def read_tensors(path: Path, known: str) -> dict[str, Tensor]:
    """The tensors of a file that `torch.save` or safetensors wrote, by name. Nothing in it is executed.

    known: what the reader could use, for messages.

    Raises:
        UserError: the file is damaged, is something else, or needs more than tensors.
    """
    content = _content(path, known)
    for key in ("model", "state_dict", "model_state_dict"):
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    return {held.name: held.value for held in _held(content, path, known, deepest=0)}


@dataclass(frozen=True)
class Held:
    """A tensor of a file, and its place there.

    under: the keys that lead to the mapping that holds it; empty at the top of the file.
    name: its key in that mapping.
    """

    under: tuple[str, ...]
    name: str
    value: Tensor

    @property
    def path(self) -> str:
        """All keys down to the tensor, joined by dots."""
        return ".".join((*self.under, self.name))


def read_nested(path: Path, known: str) -> list[Held]:
    """All tensors of a file in mappings of any depth, as training checkpoints have them. Lists, such as the
    states of several optimisers, are passed over.

    Raises:
        UserError: as `read_tensors`.
    """
    return _held(_content(path, known), path, known)


def _content(path: Path, known: str) -> Any:
    """What `torch.save` was given, or the tensors of a safetensors file."""
    kind = _kind(path, known)
    try:
        if kind == "safetensors":
            return load_file(path)
        return _load_zip(path) if kind == "zip" else _load(path, mmap=False)
    except SafetensorError as error:
        raise UserError(_damaged(path, error)) from error
    except pickle.UnpicklingError as error:
        raise UserError(
            f"{path} holds more than tensors ({_asked_for(error)}) and was not opened, because that "
            "could run code; if you trust its source, save only the model's state_dict() and give "
            "that file"
        ) from error
    except Exception as error:  # A damaged pickle fails with whatever it runs into.
        if "TorchScript" in str(error):
            raise UserError(
                f"{path} is a TorchScript program and was not opened; save the model's state_dict() and "
                "give that file"
            ) from error
        raise UserError(_damaged(path, error)) from error


def _held(content: Any, path: Path, known: str, deepest: int = DEEPEST) -> list[Held]:
    """The tensors in a mapping, and in nested ones, up to a depth.

    Raises:
        UserError: there is none.
    """
    if not isinstance(content, Mapping):
        raise UserError(f"{path} holds a {type(content).__name__}, not a state dict; {known}")
    found = list(_walk(content, (), deepest))
    if not found:
        keys = ", ".join(map(str, list(content)[:3])) or "nothing"
        raise UserError(f"{path} holds no state dict (at its top: {keys}); {known}")
    return found


def _walk(content: Mapping[Any, Any], under: tuple[str, ...], deepest: int) -> Iterator[Held]:
    for key, value in content.items():
        if isinstance(value, Tensor):
            yield Held(under, str(key), value)
        elif isinstance(value, Mapping) and len(under) < deepest:
            yield from _walk(value, (*under, str(key)), deepest)


def _kind(path: Path, known: str) -> str:
    """What wrote a file, by how it begins: "zip" and "pickle" are torch.save's formats, new and old."""
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            head = file.read(2048)
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error
    if not head:
        raise UserError(f"{path} is empty; fetch it again")
    if head.startswith(b"PK\x03\x04"):
        return "zip"
    # Its header's length in 8 bytes, and the header, which is JSON.
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") < 2**27:
        return "safetensors"
    if head[:1] == b"\x80":
        return "pickle"
    text = head.decode("utf-8", "ignore").strip().lower()
    if text.startswith("version https://git-lfs"):
        raise UserError(
            f"{path} is a Git LFS pointer, not the file itself; run 'git lfs pull' in its repository"
        )
    if "<html" in text or text.startswith(("<!doctype", "<?xml")):
        raise UserError(
            f"{path} is a web page, not a checkpoint (the download link led to one); fetch it again"
        )
    what = "a text file" if b"\0" not in head else "of another format"
    raise UserError(
        f"{path} was written neither by torch.save nor by safetensors: it is {what} ({size} bytes); {known}"
    )


def _load_zip(path: Path) -> Any:
    try:
        return _load(path, mmap=True)
    except RuntimeError:  # A file system without memory maps; damage shows itself again.
        return _load(path, mmap=False)


def _harmless() -> list[Any]:
    """What trainers keep beside their tensors and what runs nothing when it is read: numbers and arrays of
    numpy, such as the best loss so far, and the arguments of a script."""
    kinds = {type(np.dtype(kind)) for kind in np.typecodes["All"] if kind not in "OV"}
    functions: list[Any] = [value.__reduce__()[0] for value in (np.float64(0), np.zeros(1))]
    # numpy 1 and 2 keep them in modules of different names.
    both = [
        (function, f"numpy.{core}.multiarray.{function.__name__}")
        for function in functions
        for core in ("core", "_core")
    ]
    return [argparse.Namespace, np.dtype, np.ndarray, *kinds, *both]


def _load(path: Path, mmap: bool) -> Any:
    # Warnings are about what is refused right after.
    with warnings.catch_warnings(action="ignore"), torch.serialization.safe_globals(_harmless()):
        return torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)


def _asked_for(error: Exception) -> str:
    """What torch's unpickler stopped at, out of a page of advice that does not apply here."""
    name = re.search(r"GLOBAL ([\w.]+)|<class '([\w.]+)'>", str(error))
    if name:
        return f"it asks for {name[1] or name[2]}"
    reason = re.search(r"WeightsUnpickler error:\s*(.+)", str(error))
    return reason[1].strip().rstrip(".") if reason else first_line(error)


def _damaged(path: Path, error: Exception) -> str:
    return f"{path} is truncated, damaged or no checkpoint ({first_line(error)}); fetch it again"


def first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0].split(". ")[0].rstrip(".:")[:120]
