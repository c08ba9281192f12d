"""Five tasks of unequal size, with inputs that have a spectrum and channels of their own."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor


@dataclass(frozen=True)
class Tasks:
    """x: inputs (N_k, D). w: weights (O, D). b: biases (O,). All float64."""

    x: list[Tensor]
    w: list[Tensor]
    b: list[Tensor]

    @property
    def sums(self) -> list[Tensor]:
        return [x.T @ x for x in self.x]

    @property
    def means(self) -> list[Tensor]:
        return [x.T @ x / len(x) for x in self.x]

    @property
    def models(self) -> list[dict[str, Tensor]]:
        return [{"l.weight": w, "l.bias": b} for w, b in zip(self.w, self.b, strict=True)]

    def lstsq(self, scale: bool = False) -> Tensor:
        """The weights that fit all tasks' outputs best, by least squares on the rows themselves."""
        weigh = [len(x) ** -0.5 if scale else 1.0 for x in self.x]
        rows = torch.cat([x * s for x, s in zip(self.x, weigh, strict=True)])
        goal = torch.cat([x @ w.T * s for x, w, s in zip(self.x, self.w, weigh, strict=True)])
        return torch.linalg.lstsq(rows, goal, driver="gelsd").solution.T


def draw(seed: int = 0, width: int = 12, out: int = 5, deficient: int = 0) -> Tasks:
    g = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, dtype=torch.float64, generator=g)

    flat = torch.linalg.qr(normal(width, width))[0][:, : width - deficient]
    x = [normal(n, width) @ normal(width, width) + normal(width) for n in (40, 70, 150, 400, 900)]
    if deficient:
        x = [rows @ flat @ flat.T for rows in x]
    return Tasks(x, [normal(out, width) for _ in x], [normal(out) for _ in x])


@pytest.fixture
def tasks() -> Tasks:
    return draw()


@pytest.fixture
def deficient() -> Tasks:
    """Inputs that lie in nine of twelve dimensions."""
    return draw(1, deficient=3)


@pytest.fixture(autouse=True)
def _one_thread_for_small_matrices() -> Iterator[None]:
    """On matrices of a dozen rows threads wait for each other for longer than they work."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
