"""Tensors shared by several states, each stored once under the hash of its content."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Set
from pathlib import Path

from torch import Tensor

from everseg.errors import UserError
from everseg.files import load_state, save_state, sha256_tensors


def hash_of(tensor: Tensor) -> str:
    """Hex digest of a tensor's type, shape and values."""
    return sha256_tensors({"": tensor})


def pack(folder: Path, tensors: Mapping[str, Tensor]) -> Path:
    """Write tensors, named by their hashes, to one new file; returns its path."""
    names = sorted(tensors)
    path = folder / f"{hashlib.sha256(''.join(names).encode()).hexdigest()[:16]}.safetensors"
    save_state(path, {name: tensors[name] for name in names})
    return path


def packed(folder: Path) -> dict[Path, frozenset[str]]:
    """The hashes that each file holds.

    Raises:
        UserError: a file is damaged.
    """
    return {path: _names(path) for path in sorted(folder.glob("[!.]*.safetensors"))}


def unpack(folder: Path, wanted: Set[str]) -> dict[str, Tensor]:
    """Those of the wanted tensors that are there."""
    found: dict[str, Tensor] = {}
    for path, names in packed(folder).items():
        if here := (names & wanted) - found.keys():
            content = load_state(path)
            found |= {name: content[name] for name in here}
    return found


def sweep(folder: Path, needed: Set[str]) -> None:
    """Delete what is not needed, and files of which other files hold all. What is left of a file is written
    before it is deleted."""
    left = packed(folder)
    for path in list(left):
        names = left.pop(path)
        rest = (names & needed).difference(*left.values())
        if rest and names <= needed:
            left[path] = names
            continue
        if rest:
            content = load_state(path)
            left[pack(folder, {name: content[name] for name in rest})] = rest
        path.unlink()


def _names(path: Path) -> frozenset[str]:
    """What a file holds, from its header alone."""
    try:
        with path.open("rb") as file:
            header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
        return frozenset(header) - {"__metadata__"}
    except (OSError, ValueError, TypeError, MemoryError, OverflowError) as error:
        raise UserError(f"{path} is damaged ({error}); restore it from a copy or delete it") from error
