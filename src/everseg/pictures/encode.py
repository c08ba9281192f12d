"""Pictures as JPEG bytes and PNG files."""

from __future__ import annotations

import io
from pathlib import Path

from PIL import Image

from everseg.files import atomic_path


def jpeg(picture: Image.Image) -> bytes:
    """JPEG bytes without chroma subsampling, which would smear thin outlines."""
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=80, subsampling=0, optimize=True)
    return buffer.getvalue()


def write_png(path: Path, picture: Image.Image) -> None:
    """Write a picture as a whole or not at all.

    Raises:
        UserError: the file cannot be written.
    """
    with atomic_path(path) as temporary:
        picture.save(temporary, format="PNG")
