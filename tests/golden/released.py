"""SAMCL's released files for the tests of this folder, through the package's reader."""

from __future__ import annotations

from pathlib import Path

from everseg.domains.adapters.aug import AugModule
from everseg.domains.released import ORDER, read_module

DOMAINS = ORDER[:-1]


def load_released(path: Path) -> AugModule:
    """A released module as ours, set to compute as it was trained."""
    return read_module(path).module()
