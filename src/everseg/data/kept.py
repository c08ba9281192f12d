"""Facts about files, stored until the files change."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Iterable
from pathlib import Path

CACHE = "EVERSEG_CACHE"
"""Names the folder of what can be computed again; without it XDG_CACHE_HOME or ~/.cache is used."""

_FRESH = 2.0
"""Seconds within which a file may change again without a new time of change, on coarse file systems."""


def key_of(files: Iterable[Path], rules: str) -> str:
    """Hex digest of what the files are without reading them: their places, sizes and times; "" if that
    proves nothing, because one of them is missing or has changed just now.

    rules: what was done with the files.
    """
    digest = hashlib.sha256(rules.encode())
    now = time.time()
    for path in files:
        try:
            stat = path.stat()
        except OSError:
            return ""
        if now - max(stat.st_mtime, stat.st_ctime) < _FRESH:
            return ""
        line = [str(path.absolute()), stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns]
        digest.update(json.dumps(line).encode())
    return digest.hexdigest()


def kept_in(name: str) -> Path:
    """The folder where findings of this name are kept."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get(CACHE) or Path(base) / "everseg") / name
