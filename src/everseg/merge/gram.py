"""Second moments of a layer's inputs: all that the closed forms of merging need to know of a domain.

Shape suffixes: N rows, D width of a row (one more where the statistics are affine).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from everseg.config import Checked, Count
from everseg.distributed import add_up
from everseg.errors import UserError

CHUNK = (256, 4)
"""Rows in one float32 product, at least, and for each column: what is added up over more of them is float64.
Kernels for narrow matrices add up one row after another, so that the error of a product grows with its rows;
for wide ones, adding a product up costs as much as some hundred rows of it."""


@dataclass(frozen=True)
class GramConfig(Checked):
    """How the inputs of layers are measured."""

    affine: bool = False
    """Append a constant 1 to every row, so that a layer's bias is merged together with its weight."""
    zero_rows: Literal["keep", "count", "drop"] = "keep"
    """Rows of zeros, as in padding: "keep"; "count" only in N, equal but faster for many; "drop"."""
    max_rows: Count = 0
    """Multiply only this many rows, drawn uniformly, and keep as many until then; 0 multiplies all."""
    running_mean: bool = False
    """Hold the mean in float32 instead of the sum in float64. [RegCL's published code]"""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.running_mean and self.max_rows:
            raise UserError("running_mean needs every row; set max_rows to 0, or running_mean to false")

    @classmethod
    def presets(cls) -> dict[str, GramConfig]:
        """`paper`: float64 sums. `reference`: RegCL's published code, with padding and in float32."""
        return {"paper": cls(), "reference": cls(running_mean=True)}


class RowSample:
    """A uniform sample of `size` rows of a stream, without replacement.

    Each row draws a key; the rows with the smallest keys stay, in the order of their keys. So the sample
    depends on the rows' order, not on the batches they come in.
    """

    def __init__(self, size: int, generator: torch.Generator) -> None:
        self.size, self.generator = size, generator
        self.rows: Tensor | None = None
        self.keys = torch.empty(0, dtype=torch.float64)

    def update(self, x_ND: Tensor) -> None:
        keys = torch.rand(len(x_ND), dtype=torch.float64, generator=self.generator)
        # A row that cannot stay is not copied; late in a stream that is nearly every row.
        bar = self.keys[-1] if len(self.keys) == self.size else math.inf
        chosen = keys < bar
        keys, x_ND = keys[chosen], x_ND[chosen.to(x_ND.device)]
        if self.rows is not None:
            keys, x_ND = torch.cat([self.keys, keys]), torch.cat([self.rows, x_ND])
        order = keys.argsort(stable=True)[: self.size]
        self.keys, self.rows = keys[order], x_ND[order.to(x_ND.device)]


class Gram:
    """G = sum x x^T over the rows x of a layer's inputs, streamed; with N, the number of rows.

    width: of a row, without the constant of affine statistics. `seed` draws the rows of `max_rows`.

    Products are float32 (float64 rows stay so), sums float64, on the device the rows come from: 4e-9 of
    relative error, where float32 sums have 4e-7 to 7e-7. bfloat16 activations are fine; autocast is switched
    off around the product. TF32 must be off, as PyTorch has it.

    Sums can be added and taken away, so a domain is forgotten without its neighbours being measured again, to
    rounding. N X^T X has 2 N D^2 FLOPs: 27 GFLOP an image for the 22,892 rows that RegCL pools.

    Source: RegMean (Jin et al., ICLR 2023); RegCL for adapters. Uncentred. RegCL's published code
    holds the mean over rows in float32, padding included: `GramConfig.presets()["reference"]`.
    """

    def __init__(self, width: int, config: GramConfig | None = None, *, seed: int = 0) -> None:
        self.config = config or GramConfig()
        self.width = width
        self.side = width + self.config.affine
        self.rows = 0
        kind = torch.float32 if self.config.running_mean else torch.float64
        # The sum over rows, or their mean if `running_mean`.
        self._matrix = torch.zeros(self.side, self.side, dtype=kind)
        self._sample: RowSample | None = None
        if self.config.max_rows:
            self._sample = RowSample(self.config.max_rows, torch.Generator().manual_seed(seed))
            self._sampled = 0  # rows that took part in the draw
        self._closed = False

    @torch.no_grad()
    def update(self, inputs: Tensor) -> None:
        """Take in rows (..., D) of any floating type."""
        self.take(self.measure(inputs))

    @torch.no_grad()
    def measure(self, inputs: Tensor) -> Measured:
        """What `take` wants of rows (..., D): layers that share an input share its product."""
        assert inputs.shape[-1] == self.width, f"rows are {self.width} wide, not {inputs.shape[-1]}"
        x_ND = inputs.detach().reshape(-1, self.width)
        x_ND = x_ND.to(torch.promote_types(x_ND.dtype, torch.float32))
        rows, padding = len(x_ND), 0
        if self.config.zero_rows != "keep":
            x_ND = _nonzero(x_ND)
            padding = rows - len(x_ND) if self.config.zero_rows == "count" else 0
            rows = len(x_ND) + padding
        if self.config.affine:
            x_ND = F.pad(x_ND, (0, 1), value=1.0)
        return Measured(x_ND if self._sample is not None else self._product(x_ND), rows, padding)

    def take(self, measured: Measured) -> None:
        """Add up what `measure` found, of this layer's input or of the same input at another layer."""
        assert not self._closed, "a sample that was added, taken away or loaded takes no more rows"
        if not measured.rows:
            return
        found, rows = measured.found, measured.rows
        device = "cpu" if found.device.type == "mps" else found.device  # Apple's GPUs have no float64.
        self._matrix = self._matrix.to(device)
        corner = float(measured.padding) if self.config.affine else 0.0
        if self._sample is not None:
            self._sample.update(found)
            self._sampled += len(found)
        elif self.config.running_mean:
            self._matrix = (self._matrix * self.rows + found.to(device)) / (self.rows + rows)
            corner = corner / (self.rows + rows)
        else:
            self._matrix += found.to(device)
        if corner:  # Zero rows still have their constant 1, which meets nothing but itself.
            self._matrix[-1, -1] += corner
        self.rows += rows

    @property
    def total(self) -> Tensor:
        """sum x x^T, (D, D) float64, symmetric; of a sample, scaled up to all rows."""
        if self.config.running_mean:
            return self.mean().double() * self.rows
        total = self._matrix
        if self._sample is not None and self._sample.rows is not None:
            share = self._sampled / len(self._sample.rows)
            total = total + self._product(self._sample.rows).to(total.device) * share
        return (total + total.T) / 2

    def mean(self) -> Tensor:
        """G / N, (D, D); float64, or float32 if `running_mean`."""
        assert self.rows, "there is no mean of no rows"
        if self.config.running_mean:
            return (self._matrix + self._matrix.T) / 2
        return self.total / self.rows

    def add(self, other: Gram) -> None:
        """The statistics of both's rows together: sums, never a mean of means."""
        self._set(self.total + other.total.to(self._matrix.device), self.rows + other.rows)

    def subtract(self, other: Gram) -> None:
        """Take away rows that were added before; what remains is exact to rounding, 1e-16 of what was."""
        assert self.rows >= other.rows, "more rows taken away than were added"
        self._set(self.total - other.total.to(self._matrix.device), self.rows - other.rows)

    def state_dict(self) -> dict[str, Tensor]:
        """The upper triangle of `total`, and N: plain tensors on the CPU."""
        upper = torch.triu_indices(self.side, self.side)
        return {
            "upper": self.total.cpu()[upper[0], upper[1]],
            "rows": torch.tensor(self.rows),
            "affine": torch.tensor(self.config.affine),
        }

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take back what `state_dict` gave.

        Raises:
            UserError: the statistics are of another width, or only one of the two is affine.
        """
        wanted = self.side * (self.side + 1) // 2
        if len(state["upper"]) != wanted or bool(state["affine"]) != self.config.affine:
            raise UserError(
                f"these statistics have {len(state['upper'])} numbers, affine {bool(state['affine'])}; "
                f"a layer {self.width} wide has {wanted}, affine {self.config.affine}: measure it again"
            )
        i, j = torch.triu_indices(self.side, self.side)
        total = torch.zeros(self.side, self.side, dtype=torch.float64)
        total[i, j] = state["upper"].double().cpu()
        total[j, i] = total[i, j]
        self._set(total, int(state["rows"]))

    def _set(self, total: Tensor, rows: int) -> None:
        self.rows = rows
        total = total if rows else torch.zeros_like(total)
        self._matrix = (total / max(1, rows)).float() if self.config.running_mean else total
        self._closed = self._sample is not None
        self._sample = None

    def _product(self, x_ND: Tensor) -> Tensor:
        """X^T X: float32 if `running_mean`, else float64 sums of float32 products, where there is float64."""
        if self.config.running_mean:
            x_ND = x_ND.float()
            with torch.autocast(x_ND.device.type, enabled=False):
                return x_ND.T @ x_ND
        device = "cpu" if x_ND.device.type == "mps" else x_ND.device
        total = torch.zeros(self.side, self.side, dtype=torch.float64, device=device)
        with torch.autocast(x_ND.device.type, enabled=False):
            for part in x_ND.split(max(CHUNK[0], CHUNK[1] * self.side)):
                total += (part.T @ part).to(device)
        return total


def _nonzero(x_ND: Tensor) -> Tensor:
    """The rows that are not all zero. Mostly all are, and one column is enough to see it."""
    candidates = x_ND[:, 0].eq(0).nonzero()[:, 0]
    if not len(candidates):
        return x_ND
    empty = candidates[x_ND[candidates].eq(0).all(1)]
    if not len(empty):
        return x_ND
    live = torch.ones(len(x_ND), dtype=torch.bool, device=x_ND.device)
    live[empty] = False
    return x_ND[live]


@dataclass(frozen=True)
class Measured:
    """What `Gram.measure` found: the product of the rows, or for a sample the rows; their number, zero rows
    included; how many of them are zero rows that the product leaves out."""

    found: Tensor
    rows: int
    padding: int


def add_up_grams(grams: Sequence[Gram]) -> None:
    """Replace each by the sum over processes: sums, so the same as one process gives, to rounding."""
    once = list({id(gram): gram for gram in grams}.values())
    totals = [gram.total for gram in once]
    rows = [total.new_tensor([gram.rows]) for gram, total in zip(once, totals, strict=True)]
    add_up([*totals, *rows])
    for gram, total, count in zip(once, totals, rows, strict=True):
        gram._set(total, int(count))
