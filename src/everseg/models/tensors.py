"""Tensors by name from files that others wrote, without running anything in them."""

from __future__ import annotations

import pickle
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from everseg.errors import UserError

SUFFIXES = (".pth", ".pt", ".safetensors")
"""What such files are called, usually."""


def read_tensors(path: Path, known: str) -> dict[str, Tensor]:
    """The tensors of a file that `torch.save` or safetensors wrote, by name. Nothing in it is executed.

    known: what the reader could use, for messages.

    Raises:
        UserError: the file is damaged, is something else, or wants more than tensors.
    """
    kind = _kind(path, known)
    try:
        if kind == "safetensors":
            return load_file(path)
        content = _load_zip(path) if kind == "zip" else _load(path, mmap=False)
    except SafetensorError as error:
        raise UserError(_damaged(path, error)) from error
    except pickle.UnpicklingError as error:
        raise UserError(
            f"{path} holds more than tensors ({_asked_for(error)}) and is not opened, because that could run "
            "code; if you trust its source, save the model's state_dict() alone and give that file"
        ) from error
    except Exception as error:  # A damaged pickle fails with whatever it runs into.
        if "TorchScript" in str(error):
            raise UserError(
                f"{path} is a TorchScript program, which is not opened; give the model's state_dict()"
            ) from error
        raise UserError(_damaged(path, error)) from error
    return _state_dict(content, path, known)


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
        raise UserError(f"{path} is a Git LFS pointer, not the file itself; run 'git lfs pull' where it lies")
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


def _load(path: Path, mmap: bool) -> Any:
    with warnings.catch_warnings(action="ignore"):  # About what is refused right after.
        return torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)


def _state_dict(content: Any, path: Path, known: str) -> dict[str, Tensor]:
    """The state dict in what `torch.save` was given: itself, or under one of the usual keys."""
    for key in ("model", "state_dict", "model_state_dict"):
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    if not isinstance(content, Mapping):
        raise UserError(f"{path} holds a {type(content).__name__}, not a state dict; {known}")
    tensors = {str(name): value for name, value in content.items() if isinstance(value, Tensor)}
    if not tensors:
        keys = ", ".join(map(str, list(content)[:3])) or "nothing"
        raise UserError(f"{path} holds no state dict (at its top: {keys}); {known}")
    return tensors


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
