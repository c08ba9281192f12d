"""A prediction as files: what is written for one image."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from PIL import Image


@dataclass(frozen=True)
class Drawn:
    """Pictures and figures of one prediction.

    pictures: by file name; all are written as PNG.
    record: what the JSON file says, without the image's path.
    lines: for the terminal, one per result: its text, and the name of the file that shows it.
    """

    pictures: Mapping[str, Image.Image]
    record: Mapping[str, Any]
    lines: tuple[tuple[str, str], ...]
