"""The sums that RegMean is solved from, whose size does not grow with the domains.

Shape suffixes: O width of a layer's output, D of its input (one more with the constant of affine statistics).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from everseg.errors import UserError
from everseg.merge.average import RunningMean
from everseg.merge.report import LayerReport
from everseg.merge.solve import shrink_offdiagonal, solve
from everseg.merge.tensors import Tensors


@dataclass
class LayerSums:
    """Sums over domains of one linear layer, float64. weights are w_k [W_k | b_k] where affine."""

    second: Tensor  # (D, D), sum w_k G_k
    cross: Tensor  # (O, D), sum w_k W_k G_k
    cross_diagonal: Tensor  # (O, D), sum w_k W_k diag(G_k): what offdiag < 1 needs; else (0, D)
    energy: Tensor  # (), sum w_k tr(W_k G_k W_k^T): what the objective needs


class RegMeanSums:
    """All that must be kept of the domains seen to merge them with those to come; its size does not grow.

        W* = (sum_k w_k W_k G_k) (sum_k w_k G_k)^-1

    `add` a domain's adapter with the second moments of its layers' inputs, `solve` for the merged adapter at
    any time, `subtract` a domain to forget it. The same as merging all of them jointly, to rounding, in any
    order. A tensor that is not a weight of a measured layer is averaged.

    moments: for each layer, under the module's name ("down" for "down.weight", (O, D)), its G: (D, D), or
    (D + 1, D + 1) if affine. They count as they are: `Gram.mean()` gives every domain the same weight (RegCL,
    RegMean), `Gram.total` weighs by rows, and `weight` by whatever else, such as images; it also weighs what
    is averaged. Never take the mean of two domains' means: merge sums.

    Objective: sum_k w_k E_k |(W - W_k) x|^2 is least at W*. Layers are solved one by one: their errors add up
    with depth. Factors of a low-rank product are merged each by itself; for products see `truncate`.

    Source: RegMean (Jin et al., ICLR 2023); RegCL. Both solve jointly from stored models, RegCL in
    float32 with a plain inverse: `regmean(..., RegMeanConfig.presets()["reference"])`. Between condition 1e6
    and 1e8 that is worse than averaging.
    """

    def __init__(self, affine: bool = False, *, shrinkable: bool = True) -> None:
        """shrinkable: keep what `solve` needs for an offdiag below 1, as much again as R."""
        self.affine, self.shrinkable = affine, shrinkable
        self.means = RunningMean()
        self.layers: dict[str, LayerSums] = {}

    @property
    def count(self) -> int:
        """Domains added and not taken away."""
        return self.means.count

    @property
    def nbytes(self) -> int:
        """Bytes of everything kept."""
        kept = [t for layer in self.layers.values() for t in vars(layer).values()]
        return sum(t.nbytes for t in [*kept, *self.means.total.values()])

    def add(self, weights: Tensors, moments: Tensors, weight: float = 1.0) -> None:
        """Take in a domain.

        Raises:
            UserError: names, shapes or layers differ from those before, a moment belongs to no weight or is
            not affine where it should be, or a number is not finite.
        """
        assert weight > 0, "a domain weighs more than nothing"
        checked = self._checked(weights, moments)
        fresh = not self.count
        self.means.add(weights, weight)
        if fresh:
            self.layers = {}
            for layer, moment in checked.items():
                out = weights[f"{layer}.weight"].shape[0]
                wide = torch.zeros(out, len(moment), dtype=torch.float64)
                zero = torch.zeros((), dtype=torch.float64)
                diagonal = torch.zeros_like(wide[: out if self.shrinkable else 0])
                self.layers[layer] = LayerSums(torch.zeros_like(moment), wide, diagonal, zero)
        self._change(weights, checked, weight)

    def subtract(self, weights: Tensors, moments: Tensors, weight: float = 1.0) -> None:
        """Forget a domain: the arguments it was added with. What remains is exact to rounding."""
        checked = self._checked(weights, moments)
        self.means.subtract(weights, weight)
        self._change(weights, checked, -weight)
        if not self.count:
            self.layers = {}

    def _change(self, weights: Tensors, moments: Tensors, weight: float) -> None:
        for layer, g_DD in moments.items():
            w_OD = _joined(weights, layer, self._is_affine(layer, weights))
            sums, wg_OD = self.layers[layer], w_OD @ g_DD
            sums.second += weight * g_DD
            sums.cross += weight * wg_OD
            if self.shrinkable:
                sums.cross_diagonal += weight * w_OD * g_DD.diagonal()
            sums.energy += weight * (wg_OD * w_OD).sum()

    def _is_affine(self, layer: str, weights: Tensors) -> bool:
        return self.affine and f"{layer}.bias" in weights

    def _checked(self, weights: Tensors, moments: Tensors) -> dict[str, Tensor]:
        """The moments in float64 on the CPU, symmetric, cut to the width that is merged by."""
        if self.count and set(moments) != set(self.layers):
            strange = sorted(set(moments) ^ set(self.layers))[0]
            raise UserError(f"layer {strange!r} has statistics for some domains only; measure it for all")
        out = {}
        for layer, moment in moments.items():
            weight = weights.get(f"{layer}.weight")
            if weight is None or weight.dim() != 2:
                raise UserError(
                    f"there are statistics of {layer!r}, but no matrix {layer + '.weight'!r}; leave them out"
                )
            plain, wanted = weight.shape[1], weight.shape[1] + self._is_affine(layer, weights)
            if moment.shape not in ((wanted, wanted), (plain + 1, plain + 1)):
                raise UserError(
                    f"statistics of {layer!r} are {tuple(moment.shape)}, and its weight needs "
                    f"({wanted}, {wanted}); measure it with affine={self.affine}"
                )
            g_DD = moment.detach().double().cpu()[:wanted, :wanted]
            if not bool(torch.isfinite(g_DD).all()):
                raise UserError(f"statistics of {layer!r} hold numbers that are not finite; measure again")
            out[layer] = (g_DD + g_DD.T) / 2
        return out

    def solve(
        self, *, ridge: float = 1e-8, offdiag: float = 1.0, centre: bool = True
    ) -> tuple[dict[str, Tensor], dict[str, LayerReport]]:
        """The merged tensors, with the types they were given in, on the CPU, and a report on each layer.

        ridge, offdiag, centre: as in `RegMeanConfig`. One domain alone comes back bit by bit.
        """
        assert self.shrinkable or offdiag == 1, "these sums were not kept to be shrunk"
        mean = self.means.mean()
        merged, reports = dict(mean), {}
        for layer, sums in self.layers.items():
            m_OD = _joined(mean, layer, self._is_affine(layer, mean))
            w_OD, reports[layer] = _solve_layer(sums, m_OD, self.count, ridge, offdiag, centre)
            if self._is_affine(layer, mean):
                merged[f"{layer}.bias"], w_OD = w_OD[:, -1], w_OD[:, :-1]
            merged[f"{layer}.weight"] = w_OD
        return self.means.cast(merged), reports

    def state_dict(self) -> dict[str, Any]:
        layers = {name: dict(vars(sums)) for name, sums in self.layers.items()}
        return {"affine": self.affine, "means": self.means.state_dict(), "layers": layers}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take back what `state_dict` gave."""
        self.affine = bool(state["affine"])
        self.means.load_state_dict(state["means"])
        self.layers = {
            name: LayerSums(**{k: v.clone() for k, v in kept.items()})
            for name, kept in state["layers"].items()
        }


def _joined(weights: Tensors, layer: str, affine: bool) -> Tensor:
    """W, or [W | b]: (O, D) float64 on the CPU."""
    weight = weights[f"{layer}.weight"].detach().double().cpu()
    if not affine:
        return weight
    return torch.cat([weight, weights[f"{layer}.bias"].detach().double().cpu()[:, None]], dim=1)


def _solve_layer(
    sums: LayerSums, m_OD: Tensor, count: int, ridge: float, offdiag: float, centre: bool
) -> tuple[Tensor, LayerReport]:
    s_DD = shrink_offdiagonal(sums.second, offdiag)
    r_OD = sums.cross if offdiag == 1 else offdiag * sums.cross + (1 - offdiag) * sums.cross_diagonal
    # Without rounding there is nothing to solve for one domain; with it, the last bit would be lost.
    found = None if count == 1 else solve(s_DD, r_OD, m_OD, ridge=ridge, centre=centre)
    w_OD = m_OD if found is None else found.weight
    # The objective at M, and from there the way to W*: as differences, or small gains drown in rounding.
    gap_OD, d_OD = sums.cross - m_OD @ sums.second, w_OD - m_OD
    at_mean = float(sums.energy - (m_OD * (sums.cross + gap_OD)).sum())
    change = float((d_OD @ sums.second * d_OD).sum() - 2 * (d_OD * gap_OD).sum())
    square, size = float(sums.second.square().sum()), float(r_OD.norm())
    report = LayerReport(
        path="single" if found is None else found.path,
        width=len(s_DD),
        ridge=0.0 if found is None else found.ridge,
        rank=len(s_DD) if found is None else found.rank,
        condition=float("nan") if found is None else found.condition,
        effective_rank=float(sums.second.trace()) ** 2 / square if square else 0.0,
        residual=float((w_OD @ s_DD - r_OD).norm()) / size if size else 0.0,
        objective=max(0.0, at_mean + change),
        objective_of_mean=max(0.0, at_mean),
    )
    return w_OD, report
