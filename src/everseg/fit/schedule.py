"""The learning rate over time."""

from __future__ import annotations

import math
from typing import Literal

from everseg.errors import unknown

Schedule = Literal["total", "per_iter_T20", "constant", "poly"]

FLOOR = 1e-7
"""Where a cosine ends: the published `eta_min`."""

POWER = 0.9


def lr_at(step: int, total: int, lr: float, schedule: Schedule = "total", epochs: int = 20) -> float:
    """The learning rate of step `step` (from 0) of `total`, starting at `lr`.

    "total": one half cosine from `lr` down to `FLOOR`, over all steps: what "cosine decay" says.
    "per_iter_T20": a cosine whose half period is `epochs` *iterations*. The rate swings between `lr` and
        `FLOOR` with period 2 * `epochs` during the whole run, so that the parity of the steps in an epoch
        decides whether training ends at the highest rate or at the lowest.
    "constant": always `lr`.
    "poly": (1 - step / total) ** 0.9 of `lr`, as semantic segmentation has it since DeepLab.

    Source: SAMCL, implementation details ("cosine decay"); the published code steps a cosine with T_max = 20
    epochs after every iteration, which is "per_iter_T20".

    Raises:
        UserError: no schedule has this name.
    """
    if schedule == "constant":
        return lr
    if schedule == "poly":
        return lr * (1 - step / total) ** POWER
    if schedule == "total":
        half_period = total
    elif schedule == "per_iter_T20":
        half_period = epochs
    else:
        raise unknown("schedule", schedule, ("total", "per_iter_T20", "constant", "poly"))
    return FLOOR + (lr - FLOOR) * (1 + math.cos(math.pi * step / half_period)) / 2
