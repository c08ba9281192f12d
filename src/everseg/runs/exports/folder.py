"""The folder of an export: its manifest, and the files that may be replaced in it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from everseg.errors import UserError
from everseg.files import read_json, remove_unfinished
from everseg.runs.run import Run

MANIFEST = "everseg.json"
"""What an export is made of, and the hashes of the files beside it."""


def manifest_of(run: Run, form: str) -> dict[str, Any]:
    """What every export says of the run it was made from."""
    return {
        "form": form,
        "method": run.config.method,
        "learned": [stage.name for stage in run.record.learned if not stage.background],
        "base": {"name": public_name(run.config.base), "fingerprint": run.base.fingerprint},
    }


def public_name(base: str) -> str | None:
    """A base's name where it says something to others: not where it lies on this machine."""
    return None if Path(base).is_absolute() or Path(base).exists() else base


def check_replaceable(out: Path) -> None:
    """Check that nothing in `out` would be lost, and remove what exports that were killed left beside it.

    Raises:
        UserError: it holds what no export wrote.
    """
    remove_unfinished(out)
    if not out.exists():
        return
    if not out.is_dir():
        raise UserError(f"{out} is a file; give --out a folder")
    found = {path.name for path in out.iterdir()}
    written = read_json(out / MANIFEST) if MANIFEST in found else {}
    files = written.get("files") if isinstance(written, dict) else None
    known = {MANIFEST, *files} if isinstance(files, dict) else set()
    if strange := sorted(found - known):
        raise UserError(f"{out} holds {strange[0]}, which no export wrote; give --out a new folder")
