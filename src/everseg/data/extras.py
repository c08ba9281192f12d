"""Import optional packages that only some kinds of files need."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType

from everseg.errors import UserError


def needed(package: str, extra: str, file: Path | str) -> ModuleType:
    """Import a package that an extra of everseg installs.

    file: what is read with it, for the message.

    Raises:
        UserError: it is not installed.
    """
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise UserError(
            f"reading {file} needs the package {package}; run: pip install 'everseg[{extra}]'"
        ) from error
