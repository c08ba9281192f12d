"""Could this image come from a domain at all? Calibrated p-values from the selector's embeddings.

A selector compares domains: an image of none of them still looks more like one than like the others, and is
sent to its module with a probability near 1. Here each domain is described by itself:

    a Gaussian of low rank is fitted to its embeddings, each feature in units of its standard deviation
    d^2 is the squared Mahalanobis distance of an embedding from it
    cross-fitting on the domain's own embeddings tells how log d^2 of its unseen images is distributed: its
        mean, and its variance shrunk toward that of all domains
    p is the upper tail of that distribution: small where the image is farther than the domain's own are
    where natural images are known, the same is done with log d^2 less that from their Gaussian, and twice the
        smaller of the two p-values counts (Bonferroni): it is small also where an image is more like natural
        images than the domain's own are

A domain of many kinds of images has a wide Gaussian, in which images of other domains lie as well; but most
of those lie as near to natural images, and the domain's own do not.

The p-value is Student's, so that it holds for a domain of twenty images as for one of three hundred: the mean
and the variance of log d^2 are estimates themselves. A domain's description has a constant size and depends
on no other domain, except for the variance that is shrunk toward.

This is ours. The distance is that of Lee et al., "A Simple Unified Framework for Detecting
Out-of-Distribution Samples", NeurIPS 2018, with a covariance of each domain's own. Differences of distances
are those of Ren et al., "A Simple Fix to Mahalanobis Distance for Improving Near-OOD Detection", 2021, where
the rival is a Gaussian of all training data.

Shape suffixes: B images, N embeddings of one domain, D their width, K domains, R directions.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from everseg.types import NATURAL, State

RANK = 32
"""The largest number of directions that are kept of a domain's covariance."""
SHRINK = 0.1
"""Share of the covariance that is replaced by its mean variance in all directions."""
FEWEST = 5
"""Embeddings from which a Gaussian can be fitted."""
FOLDS = 20
"""Parts of a domain that are held out in turns; one image at a time where it has no more."""
PRIOR = 10
"""What the variance of all domains' log distances weighs, in images."""
TINY = 1e-12
"""Instead of a distance or a variance of zero."""
LEAST_SCALE = 0.05
"""The least standard deviation of a feature, in units of the mean one: a constant feature decides nothing."""


@dataclass(frozen=True, eq=False)
class Gaussian:
    """A domain's embeddings as a Gaussian, and how far its unseen images lie from it.

    mean, scale: (D,), of each feature.
    directions: (R, D), orthonormal, and variances (R,), of the features in units of their scale.
    rest: the variance in every other direction.
    count: N.
    centre, spread: mean and sum of squared deviations of the N held-out log d^2.
    beside: the same of log d^2 less that of natural images; None where those were not known.
    """

    mean: Tensor
    scale: Tensor
    directions: Tensor
    variances: Tensor
    rest: float
    count: int
    centre: float
    spread: float
    beside: tuple[float, float] | None = None

    @classmethod
    def fit(cls, e_ND: Tensor, natural: Gaussian | None = None) -> Gaussian:
        """Fit the embeddings of one domain, at least `FEWEST`, in an order drawn at random."""
        assert len(e_ND) >= FEWEST, "too few embeddings to hold some out"
        e_ND = e_ND.detach().to("cpu", torch.float64)
        folds = min(FOLDS, len(e_ND))
        fold_N = torch.arange(len(e_ND)) % folds
        logs_N = np.zeros(len(e_ND))
        for fold in range(folds):
            part, held = cls(*_moments(e_ND[fold_N != fold]), 0, 0.0, 0.0), (fold_N == fold).numpy()
            logs_N[held] = Distances([part])(e_ND.numpy()[held])[:, 0]
        beside = None if natural is None else _spread(logs_N - Distances([natural])(e_ND.numpy())[:, 0])
        return cls(*_moments(e_ND), len(e_ND), *_spread(logs_N), beside)

    def draw(self, count: int, generator: torch.Generator) -> Tensor:
        """Embeddings (count, D), float32, as the Gaussian has them."""
        noise = torch.randn(count, len(self.mean), generator=generator)
        along = noise @ self.directions.T
        stretched = along * (self.variances.sqrt() - math.sqrt(self.rest))
        return self.mean + self.scale * (noise * math.sqrt(self.rest) + stretched @ self.directions)

    def to_state(self) -> State:
        """Of a size that does not depend on the number of images: directions that there are none of are 0."""
        most = min(RANK, len(self.mean) - 1)
        numbers = [self.rest, float(self.count), self.centre, self.spread, *(self.beside or ())]
        return {
            "mean": self.mean,
            "scale": self.scale,
            "directions": F.pad(self.directions, (0, 0, 0, most - len(self.directions))),
            "variances": F.pad(self.variances, (0, most - len(self.variances))),
            "numbers": torch.tensor(numbers, dtype=torch.float64),
        }

    @classmethod
    def from_state(cls, state: State) -> Gaussian:
        rest, count, centre, spread, *beside = state["numbers"].tolist()  # Earlier versions had four.
        rank = min(int(count) - 1, len(state["variances"]))
        return cls(
            state["mean"],
            state["scale"],
            state["directions"][:rank],
            state["variances"][:rank],
            rest,
            int(count),
            centre,
            spread,
            (beside[0], beside[1]) if beside else None,
        )


def _spread(values: NDArray[np.float64]) -> tuple[float, float]:
    """Mean and sum of squared deviations."""
    return float(values.mean()), float(np.square(values - values.mean()).sum())


def _moments(e_ND: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, float]:
    """Mean, scale, directions, variances and rest; see `Gaussian`."""
    count, width = e_ND.shape
    mean, scale = e_ND.mean(0), e_ND.std(0)
    # Identical images have no spread; rounding alone moves their embeddings by this much.
    least = max(LEAST_SCALE * float(scale.mean()), 1e-6 * float(mean.abs().mean()), TINY)
    scale = scale.clamp(min=least)
    _, singular, directions = torch.linalg.svd((e_ND - mean) / scale, full_matrices=False)
    variances = singular.square() / (count - 1)
    rank = min(RANK, count - 1, width - 1)
    rest = float(variances[rank:].sum()) / (width - rank)
    kept = directions[:rank].float().contiguous()  # As it is read back: products depend on the layout.
    return mean.float(), scale.float(), kept, variances[:rank].float(), rest


class Distances:
    """log d^2 of embeddings from several Gaussians of one width, in one product with all their directions.

    In float64 on the CPU, since the products are expanded: |z|^2 is a difference of large numbers.
    """

    def __init__(self, gaussians: Sequence[Gaussian]) -> None:
        rank, width = max(len(g.variances) for g in gaussians), len(gaussians[0].mean)
        self.centre_D = _array(torch.stack([g.mean for g in gaussians]).mean(0))
        mean_KD = np.stack([_array(g.mean) for g in gaussians]) - self.centre_D
        inverse_KD = 1 / np.stack([_array(g.scale) for g in gaussians])
        # A direction of zeros changes nothing.
        directions_KRD = np.zeros((len(gaussians), rank, width))
        gains_KR = np.zeros((len(gaussians), rank))
        rest_K = np.zeros(len(gaussians))
        for k, g in enumerate(gaussians):
            own = len(g.variances)
            average = (float(g.variances.sum()) + g.rest * (width - own)) / width
            rest_K[k] = max((1 - SHRINK) * g.rest + SHRINK * average, TINY)
            variances = (1 - SHRINK) * _array(g.variances) + SHRINK * average
            directions_KRD[k, :own] = _array(g.directions) * inverse_KD[k]
            gains_KR[k, :own] = 1 / np.maximum(variances, TINY) - 1 / rest_K[k]
        self.directions_PD = torch.from_numpy(directions_KRD.reshape(-1, width))
        self.offset_KR = torch.from_numpy((directions_KRD @ mean_KD[..., None])[..., 0])
        self.gains_KR = torch.from_numpy(gains_KR)
        self.square_KD = torch.from_numpy(np.square(inverse_KD) / rest_K[:, None])
        self.linear_KD = torch.from_numpy(-2 * mean_KD * np.square(inverse_KD) / rest_K[:, None])
        self.constant_K = torch.from_numpy(np.square(mean_KD * inverse_KD).sum(1) / rest_K)

    def __call__(self, e_BD: NDArray[np.float64]) -> NDArray[np.float64]:
        """(B, K). By torch, whose threads would be in the way of numpy's."""
        x_BD = torch.from_numpy(e_BD - self.centre_D)
        along_BKR = F.linear(x_BD, self.directions_PD).view(-1, *self.gains_KR.shape) - self.offset_KR
        distance_BK = F.linear(x_BD.square(), self.square_KD) + F.linear(x_BD, self.linear_KD)
        distance_BK = distance_BK + self.constant_K + (along_BKR.square() * self.gains_KR).sum(-1)
        logs: NDArray[np.float64] = distance_BK.clamp(min=TINY).log().numpy()
        return logs


def _array(values: Tensor) -> NDArray[np.float64]:
    return values.detach().cpu().double().numpy()


class Plausibility:
    """The Gaussians of domains by their names, and the p-values of embeddings under each.

    natural: natural images, where they are none of `gaussians`, in which they are called `NATURAL`.
    """

    def __init__(
        self, gaussians: Mapping[str, Gaussian] | None = None, natural: Gaussian | None = None
    ) -> None:
        self.gaussians = dict(gaussians or {})
        self.rival = natural
        self._tails: Tails | None = None

    @property
    def natural(self) -> Gaussian | None:
        """Natural images, where they are known."""
        return self.rival or self.gaussians.get(NATURAL)

    def __contains__(self, name: str) -> bool:
        return name in self.gaussians

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self.gaussians)

    def add(self, name: str, gaussian: Gaussian) -> None:
        self.gaussians[name], self._tails = gaussian, None

    def drop(self, name: str) -> None:
        """Delete what is known of a domain, if anything is."""
        self.gaussians.pop(name, None)
        self._tails = None

    def p_values(self, e_BD: Tensor) -> NDArray[np.float64]:
        """(B, K), in the order of `names`: the share of a domain's own images that lie farther from it; where
        natural images are known, twice the smaller of that and the share that lies farther in comparison
        with them."""
        if not self.gaussians:
            return np.zeros((len(e_BD), 0))
        if self._tails is None:
            self._tails = Tails(list(self.gaussians.values()), self.natural)
        return self._tails(_array(e_BD))

    def by_name(self, e_BD: Tensor) -> list[dict[str, float]]:
        """The p-values of each embedding by the domains' names."""
        return [dict(zip(self.names, row, strict=True)) for row in self.p_values(e_BD).tolist()]

    def state_dict(self) -> State:
        return {name: gaussian.to_state() for name, gaussian in self.gaussians.items()}

    def load_state_dict(self, state: State) -> None:
        self.gaussians = {name: Gaussian.from_state(found) for name, found in state.items()}
        self._tails = None


class Tails:
    """What p-values are computed from, prepared once for many embeddings."""

    def __init__(self, known: Sequence[Gaussian], natural: Gaussian | None) -> None:
        self.own = Student([g.count for g in known], [(g.centre, g.spread) for g in known])
        compared = [] if natural is None else [k for k, g in enumerate(known) if g.beside is not None]
        self.compared = np.array(compared, dtype=np.int64)
        beside = [known[k].beside or (0.0, 0.0) for k in compared]
        self.beside = Student([known[k].count for k in compared], beside) if compared else None
        # The last one is that of natural images.
        self.distances = Distances([*known, *([] if natural is None else [natural])])

    def __call__(self, e_BD: NDArray[np.float64]) -> NDArray[np.float64]:
        logs_BK = self.distances(e_BD)
        p_BK = self.own(logs_BK[:, : len(self.own.centre)])
        if self.beside is not None:
            beside = self.beside(logs_BK[:, self.compared] - logs_BK[:, -1:])
            p_BK[:, self.compared] = np.minimum(2 * np.minimum(p_BK[:, self.compared], beside), 1)
        return p_BK


class Student:
    """Upper tails of the distributions of a quantity, one of each domain.

    counts: images of each. told: mean and sum of squared deviations of the quantity over them.
    """

    def __init__(self, counts: Sequence[int], told: Sequence[tuple[float, float]]) -> None:
        count = np.array(counts, dtype=np.float64)
        self.centre, spread = np.array(told, dtype=np.float64).T
        pooled = spread.sum() / (count - 1).sum()
        self.freedom = count - 1 + PRIOR
        # The centre is estimated from `count` images, which widens what is to be expected of a further one.
        width = np.sqrt((spread + PRIOR * pooled) / self.freedom * (1 + 1 / count))
        self.width = np.maximum(width, 1e-9)  # Identical images have no spread: any other is implausible.

    def __call__(self, values_BK: NDArray[np.float64]) -> NDArray[np.float64]:
        from scipy.special import stdtr

        return np.asarray(stdtr(self.freedom, (self.centre - values_BK) / self.width), dtype=np.float64)
