"""Merge low-rank adapters as the products they are, and cut the result back to a rank by what inputs see.

Shape suffixes: O width of a layer's output, D of its input, r rank.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from everseg.errors import UserError
from everseg.merge.regmean import RegMeanConfig, regmean
from everseg.merge.report import LayerReport
from everseg.merge.tensors import Tensors

__all__ = [
    "Factors",
    "flattened",
    "grouped",
    "merge_products",
    "truncate",
]


@dataclass(frozen=True)
class Factors:
    """One layer's adapter: x -> up (down x + down_bias) + up_bias, with up (O, r) and down (r, D)."""

    up: Tensor
    down: Tensor
    up_bias: Tensor | None = None
    down_bias: Tensor | None = None

    @property
    def product(self) -> Tensor:
        """B A, (O, D)."""
        return self.up @ self.down

    @property
    def bias(self) -> Tensor | None:
        """B a + b, (O,): what the two biases come to; None where there is neither."""
        if self.down_bias is None:
            return self.up_bias
        inner = self.up @ self.down_bias
        return inner if self.up_bias is None else inner + self.up_bias


def flattened(pairs: Mapping[str, Factors]) -> dict[str, Tensor]:
    """Pairs of factors as tensors by name: "x.up", "x.down", and "x.up_bias", "x.down_bias" if there."""
    return {
        f"{x}.{part}": value for x, f in pairs.items() for part, value in vars(f).items() if value is not None
    }


def grouped(tensors: Tensors) -> dict[str, Factors]:
    """Undo `flattened`."""
    parts: dict[str, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        x, _, part = name.rpartition(".")
        parts.setdefault(x, {})[part] = value
    return {x: Factors(**own) for x, own in parts.items()}


@torch.no_grad()
def truncate(delta: Tensor, rank: int, second: Tensor | None = None, *, scale: float = 1.0) -> Factors:
    """The rank-r delta that is nearest in what it does to inputs: min E |(Delta - B A) x|^2.

    delta: (O, D).
    second: S (D, D), the inputs' second moment; without it the Frobenius norm, which is plain SVD. With S = L
        L^T: the r leading singular triples of Delta L, and L^-1 behind them. The error in the S-norm, tr(E S
        E^T), is the sum of squares of the singular values left out, and no rank-r matrix has less. L is the
        symmetric square root, with eigenvalues of at least 1e-12 of the largest: so a delta of rank r comes
        back whole, even along inputs that never occurred.
    scale: what the adapter that gets the factors multiplies them with (alpha / r), so that it is not applied
        twice: B A = Delta / scale.

    The singular values are split evenly between B and A. Float64 inside; types of `delta`.

    Raises:
        UserError: the rank is not in 1 .. min(O, D).
    """
    if not 1 <= rank <= min(delta.shape):
        raise UserError(f"rank is {rank}; a matrix of {tuple(delta.shape)} has 1 to {min(delta.shape)}")
    d_OD = delta.double() / scale
    if second is None:
        root_DD = inverse_DD = torch.eye(d_OD.shape[1], dtype=d_OD.dtype, device=d_OD.device)
    else:
        root_DD, inverse_DD = _roots(second.double().to(d_OD.device))
    u, s, v = torch.linalg.svd(d_OD @ root_DD, full_matrices=False)
    half = s[:rank].sqrt()
    up, down = u[:, :rank] * half, half[:, None] * (v[:rank] @ inverse_DD)
    return Factors(up.to(delta.dtype), down.to(delta.dtype))


def _roots(second: Tensor) -> tuple[Tensor, Tensor]:
    """L and its inverse, L L^T = S: symmetric square roots, which exist where Cholesky's do not."""
    values, v_DD = torch.linalg.eigh((second + second.T) / 2)
    top = float(values[-1])
    root = values.clamp(min=1e-12 * top).sqrt() if top > 0 else torch.ones_like(values)
    return (v_DD * root) @ v_DD.T, (v_DD / root) @ v_DD.T


@torch.no_grad()
def merge_products(
    models: Sequence[Mapping[str, Factors]],
    moments: Sequence[Tensors],
    rank: int | None = None,
    config: RegMeanConfig | None = None,
    weights: Sequence[float] | None = None,
    *,
    metric: bool = True,
) -> tuple[dict[str, Factors], dict[str, LayerReport]]:
    """RegMean of the products B_k A_k instead of the factors, cut back to a rank.

    models: a layer's factors by its name.
    moments: of the inputs of A, by the same names.
    rank: of the result, as the first model's if not given.
    config, weights: as in `regmean`, in float64.
    metric: cut by what the inputs see, or by plain SVD. The down-projections of the result have no bias
        (zeros, where the models' have one): it is part of the product's.

    For adapters that were trained without a common start, whose factors share no coordinates: 1.15 times the
    objective of the full-rank optimum where factors one by one come to 1.5 to 1.8. Sums take (O, D) for each
    layer instead of (O + D, r). One model alone comes back as the same map.
    Needs no data but the Grams. Sequential and order-free, as RegMean, while the sums are of products.
    """
    given = [1.0] * len(models) if weights is None else list(weights)
    products = []
    for model in models:
        tensors = {}
        for name, factors in model.items():
            tensors[f"{name}.weight"] = factors.up.double() @ factors.down.double()
            if factors.bias is not None:
                tensors[f"{name}.bias"] = factors.bias
        products.append(tensors)
    merged, reports = regmean(products, moments, config, given)
    out = {}
    for name, first in models[0].items():
        width = first.down.shape[1]
        second = None
        if metric:
            weighed = [w * m[name].double().cpu() for m, w in zip(moments, given, strict=True)]
            second = torch.stack(weighed).sum(0)[:width, :width]
        cut = truncate(merged[f"{name}.weight"], rank or first.down.shape[0], second)
        bias = merged.get(f"{name}.bias")
        no_bias = None if first.down_bias is None else torch.zeros(len(cut.down), dtype=first.down.dtype)
        out[name] = Factors(cut.up.to(first.up.dtype), cut.down.to(first.down.dtype), bias, no_bias)
    return out, reports
