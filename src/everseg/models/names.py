"""Names of base models that are neither a path nor a hub id."""

from __future__ import annotations

from pathlib import Path

TINY = "tiny"
"""The embedded SAM."""

MOBILENET = "mobilenet"
"""MobileNetV2 with the ImageNet weights that a package carries."""


def from_anywhere(name: str) -> str:
    """A base's name as a run keeps it, to be read from any folder later: a path becomes absolute."""
    return name if name in (TINY, MOBILENET) or not Path(name).exists() else str(Path(name).resolve())
