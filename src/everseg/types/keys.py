"""Keys by which features of an image are found again."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

FROM_PIXELS = "from pixels"
"""In place of a key: compute it when the sample or query is made."""


class Keyed:
    """What has an image and its key, which is a hash of the pixels where none is given."""

    image: Tensor
    key: str

    def __post_init__(self) -> None:
        if self.key == FROM_PIXELS:
            from everseg.types.pixels import content_key  # loads torch, as callers with pixels already have

            object.__setattr__(self, "key", content_key(self.image))
