"""What the wrappers of all families share: a frozen model of transformers, and its pixels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

import torch
from torch import Tensor

from everseg.files import sha256_tensors
from everseg.models.promptable.linears import linears_in
from everseg.models.promptable.protocol import stretch
from everseg.types import Precision, State


class Frozen:
    """A frozen model. A family sets `unit`, `mean` and `std`: a pixel p becomes (p / unit - mean) / std.

    layer: the name of an adapted block in the state dict, with {} for its index.
    """

    unit: float = 1.0
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    layer: str
    precision: Precision = "auto"
    image_size: int
    natural: State | None = None
    encoded: dict[str, dict[str, Tensor]] | None = None

    def __init__(self, model: Any, name: str, adapted: Sequence[int]) -> None:
        self.name = name
        self.model = model.eval().requires_grad_(False)
        self.adapted = tuple(adapted)
        self.first = self.adapted[0]
        self.linears = linears_in(model, [self.layer.format(index) for index in self.adapted])
        self.fingerprint = sha256_tensors(dict(model.state_dict()))

    @property
    def device(self) -> torch.device:
        return self.model.device

    def to(self, device: torch.device) -> Self:
        self.model.to(device)
        return self

    def pixels(self, images: Sequence[Tensor]) -> Tensor:
        square = stretch(images, self.image_size).to(self.device).float()
        mean = torch.tensor(self.mean, device=self.device).view(3, 1, 1)
        std = torch.tensor(self.std, device=self.device).view(3, 1, 1)
        return (square / self.unit - mean) / std
