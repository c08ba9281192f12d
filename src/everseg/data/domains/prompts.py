"""Prompts for a mask: stored clicks, clicks drawn from a seed, or the tight box."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from everseg.errors import UserError
from everseg.types import Prompts
from everseg.types.pixels import draw_clicks, tight_box

PromptKind = Literal["stored", "clicks", "box", "stored+box", "clicks+box"]

MOST_CLICKS = 10_000

FRAME = 1024
"""Side of the square, stretched frame in which SAMCL's points.json gives coordinates."""


@dataclass(frozen=True)
class StoredClicks:
    """Clicks of one mask as points.json has them: ((x, y), ...) in the 1024 x 1024 stretched frame, and
    their labels.
    """

    points: tuple[tuple[float, float], ...]
    labels: tuple[int, ...]

    def pixels(self, height: int, width: int) -> NDArray[np.float32]:
        """(P, 2) x, y in pixels of the original image."""
        return np.asarray(self.points, np.float32) * np.array([width / FRAME, height / FRAME], np.float32)

    def on(self, mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """(P,) whether each click is where its label says, looking up the pixel that a nearest resize shows
        there.
        """
        height, width = mask.shape
        column = (
            ((np.array([p[0] for p in self.points]) + 0.5) * width / FRAME).astype(int).clip(0, width - 1)
        )
        row = ((np.array([p[1] for p in self.points]) + 0.5) * height / FRAME).astype(int).clip(0, height - 1)
        return np.asarray(mask[row, column] == np.array(self.labels, bool))


@dataclass(frozen=True)
class PromptRule:
    """How the samples of one split are prompted.

    kind: "stored" needs stored clicks; "clicks" draws `clicks` of them for each mask from `seed`; "box" is
        the tight box; "+box" gives both.
    """

    kind: PromptKind = "clicks"
    clicks: int = 3
    seed: int = 0

    def __post_init__(self) -> None:
        if not 1 <= self.clicks <= MOST_CLICKS:
            raise UserError(f"clicks is {self.clicks}; a sample needs at least 1 and at most {MOST_CLICKS:,}")

    def describe(self) -> dict[str, Any]:
        """What of this rule changes the prompts: for fingerprints."""
        drawn = {"clicks": self.clicks, "seed": self.seed} if "clicks" in self.kind else {}
        return {"prompts": self.kind, **drawn}

    def prompts(self, mask: NDArray[np.bool_], name: str, stored: StoredClicks | None) -> Prompts:
        """Prompts of one object. `name` seeds the draw, so that it is the same in any order and in every
        epoch.
        """
        points = labels = boxes = None
        if "stored" in self.kind:
            assert stored is not None, "readers refuse samples without stored clicks"
            points = torch.from_numpy(stored.pixels(*mask.shape))[None]
            labels = torch.tensor(stored.labels)[None]
        elif "clicks" in self.kind:
            points = torch.from_numpy(draw_clicks(mask, self.clicks, self.seed, name))[None]
            labels = torch.ones(points.shape[:2], dtype=torch.int64)
        if "box" in self.kind:
            boxes = torch.from_numpy(tight_box(mask))[None]
        return Prompts(points, labels, boxes)
