"""What STAR keeps of a class instead of images: where its features point, how they spread, their number.

A feature f is taken apart into its direction f / |f| and its length |f|. Of each class are kept the mean
direction, normalised; the deviation of the directions from it, channel by channel; mean and deviation of the
lengths; and the number of places in an epoch of its step. Features drawn again are

    f = (mean direction + deviation * noise) * (mean length + deviation * noise)

Source: Chen et al., "Saving 100x Storage: Prototype Replay for Reconstructing Training Sample Distribution in
Class-Incremental Semantic Segmentation" (STAR), NeurIPS 2023, and its code.

Shape suffixes: K classes, D width of the features, N places.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from everseg.distributed import add_up

NAMES = ("direction", "spread", "length", "number")


class Prototypes:
    """direction, spread (K, D); length (K, 2), mean and deviation; number (K,). background: places of it."""

    def __init__(self, width: int, device: torch.device) -> None:
        self.direction = torch.zeros(0, width, device=device)
        self.spread = torch.zeros(0, width, device=device)
        self.length = torch.zeros(0, 2, device=device)
        self.number = torch.zeros(0, device=device)
        self.background = torch.zeros((), device=device)

    def __len__(self) -> int:
        return len(self.number)

    @property
    def nbytes(self) -> int:
        return sum(v.numel() * v.element_size() for v in self.state_dict().values())

    def append(self, sums: Sums) -> None:
        """Take in the classes of a step."""
        count_K1 = sums.count.clamp(min=1)[:, None]
        mean = sums.direction / count_K1
        direction = F.normalize(mean, dim=1)
        square = sums.square / count_K1 - 2 * direction * mean + direction.square()
        length = sums.length / count_K1
        deviation = (length[:, 1] - length[:, 0].square()).clamp(min=0).sqrt()
        self.direction = torch.cat([self.direction, direction])
        self.spread = torch.cat([self.spread, square.clamp(min=0).sqrt()])
        self.length = torch.cat([self.length, torch.stack([length[:, 0], deviation], 1)])
        self.number = torch.cat([self.number, sums.count])

    def draw(self, counts: Sequence[int]) -> Tensor:
        """So many features of each class, one after the other, (N, D), by the global generator."""
        which = torch.repeat_interleave(
            torch.arange(len(self), device=self.number.device),
            torch.tensor(counts, device=self.number.device),
        )
        direction = self.direction[which]
        direction = direction + self.spread[which] * torch.randn_like(direction)
        mean, deviation = self.length[which].unbind(1)
        return direction * (mean + deviation * torch.randn_like(mean))[:, None]

    def state_dict(self) -> dict[str, Tensor]:
        return {name: getattr(self, name) for name in (*NAMES, "background")}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        device = self.number.device
        for name in (*NAMES, "background"):
            setattr(self, name, state[name].to(device).clone())


class Sums:
    """Of a step's classes, added up batch by batch: directions and their squares (K, D), lengths and their
    squares (K, 2), places (K,), and those of the background."""

    def __init__(self, classes: range, width: int, device: torch.device) -> None:
        self.classes = classes
        self.direction, self.square = (torch.zeros(len(classes), width, device=device) for _ in range(2))
        self.length = torch.zeros(len(classes), 2, device=device)
        self.count = torch.zeros(len(classes), device=device)
        self.background = torch.zeros((), device=device)

    @torch.no_grad()
    def add(self, features_BDhw: Tensor, labels_Bhw: Tensor) -> None:
        rows = features_BDhw.float().movedim(1, -1)
        self.background += (labels_Bhw == 0).sum()
        for place, channel in enumerate(self.classes):
            mine_ND = rows[labels_Bhw == channel]
            norm_N = mine_ND.norm(dim=1)
            unit = F.normalize(mine_ND, dim=1)
            self.direction[place] += unit.sum(0)
            self.square[place] += unit.square().sum(0)
            self.length[place] += torch.stack([norm_N.sum(), norm_N.square().sum()])
            self.count[place] += len(mine_ND)

    def add_up(self) -> None:
        """Add what the other processes have counted."""
        add_up([self.direction, self.square, self.length, self.count, self.background])
