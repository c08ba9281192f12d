"""Names of base models that are neither a path nor a hub id."""

from __future__ import annotations

from pathlib import Path

TINY = "tiny"
"""The embedded SAM."""

MOBILENET = "mobilenet"
"""MobileNetV2 with the ImageNet weights that a package carries."""


def file_and_key(name: str) -> tuple[Path, str]:
    """A checkpoint's path, and the key in it that `path#key` names; "" without one."""
    file, _, key = name.rpartition("#")
    if file and Path(file).is_file() and not Path(name).exists():
        return Path(file), key
    return Path(name), ""


def from_anywhere(name: str) -> str:
    """A base's name as a run keeps it, to be read from any folder later: a path becomes absolute."""
    path, key = file_and_key(name)
    if name in (TINY, MOBILENET) or not path.exists():
        return name
    return f"{path.resolve()}#{key}" if key else str(path.resolve())
