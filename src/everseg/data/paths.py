"""Paths that people write into annotation files."""

from __future__ import annotations

from pathlib import Path


def exists(path: Path) -> bool:
    """Whether there is such a file or folder; not if its name is one that no file can have."""
    try:
        return path.exists()
    except (OSError, ValueError):
        return False


def is_file(path: Path) -> bool:
    """Whether there is such a file; not if its name is one that no file can have."""
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False
