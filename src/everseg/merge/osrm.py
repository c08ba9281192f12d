"""OSRM: start an adapter where the domains seen so far have no energy, so that it will not disturb them.

Shape suffixes: O width of a layer's output, D of its input, r rank.
"""

from __future__ import annotations

import torch
from torch import Tensor

from everseg.errors import UserError


@torch.no_grad()
def osrm(second: Tensor, rank: int, own: Tensor | None = None, trade: float = 0.0) -> Tensor:
    """A (r, D) with orthonormal rows that minimises tr(A S A^T): the eigenvectors of the r smallest values.

    second: S (D, D), the second moment of the inputs of the domains before, such as RegMean's sum. B starts
        at zero; then train as ever, and merge by any rule.
    own, trade: the new domain's second moment G and how much it counts: minimises tr(A (S / tr S - trade G /
        tr G) A^T), because where nobody has energy the new domain has none either, and cannot learn. Types of
        `second`; each row's largest entry is positive.

    Data: none, but statistics before training, of past domains only in a stream. Sequential; order-dependent.
    Source: Zhang and Zhou, "Unraveling LoRA interference: orthogonal subspaces for robust model merging",
    arXiv 2505.22934; rank 8, q and v. The published code takes the last right singular vectors of one mean
    feature row for each other task (`osrm_of_means`). The trade-off is ours. RegMean's sum is of inputs as
    the adapted network has them, the paper's of the base's.

    Raises:
        UserError: the rank is not in 1..D.
    """
    _check(rank, second.shape[0])
    s_DD = _scaled(second)
    if own is not None:
        s_DD = s_DD - trade * _scaled(own)
    vectors = torch.linalg.eigh(s_DD).eigenvectors[:, :rank].T
    return _signed(vectors).to(second.dtype)


@torch.no_grad()
def osrm_of_means(means: Tensor, rank: int) -> Tensor:
    """The published code's variant: the last r right singular vectors of H (K - 1, D), a mean feature vector
    for each other task. With fewer rows than D - r they lie in H's null space, and which ones they are is an
    accident of the decomposition."""
    _check(rank, means.shape[1])
    return _signed(torch.linalg.svd(means.double(), full_matrices=True).Vh[-rank:]).to(means.dtype)


@torch.no_grad()
def _scaled(second: Tensor) -> Tensor:
    s_DD = second.double()
    trace = float(s_DD.trace())
    return (s_DD + s_DD.T) / (2 * trace if trace else 2.0)


def _signed(rows: Tensor) -> Tensor:
    """Eigenvectors have no sign of their own: the largest entry decides it."""
    largest = rows.gather(1, rows.abs().argmax(1, keepdim=True))
    return rows * torch.where(largest < 0, -1.0, 1.0).to(rows)


def _check(rank: int, width: int) -> None:
    if not 1 <= rank <= width:
        raise UserError(f"rank is {rank}; inputs {width} wide have 1 to {width}")
