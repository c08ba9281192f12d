"""Which images belong together: domains found among embeddings, without a number of domains given.

Images are grouped together with those of the domains that are known already:

    distances are measured in units of how natural images vary, where the base knows that
    a graph joins each image with its nearest neighbours, weighted by how many neighbours both share: it
        follows each domain's own scale, whether narrow as that of one camera or wide as that of a clinic
    the graph is cut wherever next to none of its weights cross
    groups are one domain where each finds the other's images plausible
    every image goes to the domain, known or new, that finds it most plausible, until nothing changes

A domain of several kinds of images, such as cells under fluorescence and stained ones, may be found as
several: the embeddings do not know that people give them one name. A group of fewer than `least` images is
not a domain; it waits for more of its kind.

This is ours. Shared neighbours are those of Jarvis and Patrick, "Clustering Using a Similarity Measure Based
on Shared Near Neighbors", IEEE Transactions on Computers, 1973. docs/discover.md has the measurements.

Shape suffixes: N images, D width of an embedding, K domains.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from everseg.domains.plausible import FEWEST, SHRINK, Gaussian, Plausibility

LEAST = 12
"""Images that a new domain has at least."""
FEW = 4
"""Images that are cut off at least; fewer stay with their neighbours until domains are compared."""
NEIGHBOURS = 8
"""Neighbours of an image in the graph."""
CROSSING = 0.03
"""The share of the smaller side's weights that may cross a cut through the graph."""
MUTUAL = 0.05
"""The median p-value that images of one domain have under the Gaussian of another part of it, at least."""
ABSTAIN = 0.001
"""The p-value below which an image is not a domain's."""
ROUNDS = 20
"""Times that images are given to the domain that finds them most plausible, at most."""

Labels = NDArray[np.int64]
PENDING = -1


def discover(
    e_ND: Tensor,
    known: Mapping[str, Tensor] | None = None,
    natural: Gaussian | None = None,
    *,
    least: int = LEAST,
) -> list[str | int | None]:
    """For each embedding the known domain that it belongs to, or the number of a new one from 0 on, the
    largest first, or None while too few are of its kind.

    known: embeddings of each known domain, at least `FEWEST`.
    natural: natural images, by which distances are scaled; the embeddings' own deviations without them.
    """
    assert least > FEWEST, "the Gaussian of a group needs more images"
    parts = [rows.detach().to("cpu", torch.float64) for rows in (e_ND, *(known or {}).values())]
    every_MD, e_ND = torch.cat(parts), parts[0]
    owner_M = np.repeat(np.arange(len(parts)) - 1, [len(part) for part in parts])  # PENDING: of none yet
    labels = merged(every_MD, groups(_scaled(every_MD, natural), least))
    count = len(known or {})
    home_M = np.where(labels == PENDING, PENDING, labels + count)
    for k in range(labels.max(initial=PENDING) + 1):
        owners = owner_M[(labels == k) & (owner_M != PENDING)]
        # A few strays do not make a group a known domain's, nor does a part of one that is cut off by itself.
        if len(owners) >= (labels == k).sum() / 4 or any(
            (owners == domain).sum() >= (owner_M == domain).sum() / 2 for domain in np.unique(owners)
        ):
            home_M[labels == k] = np.bincount(owners).argmax()
    fitted = {name: Gaussian.fit(rows) for name, rows in (known or {}).items()}
    known_NK = Plausibility(fitted).p_values(e_ND)
    labels = _settled(e_ND, home_M[: len(e_ND)], known_NK, least)
    names: list[str | int | None] = [
        *(known or {}),
        *range(max(0, labels.max(initial=PENDING) + 1 - count)),
        None,
    ]
    return [names[label] for label in labels.tolist()]


def most_plausible(e_ND: Tensor, known: Mapping[str, Tensor]) -> list[tuple[str | None, float]]:
    """For each embedding the domain that finds it most plausible, None where none could have brought it, and
    its largest p-value.

    known: embeddings of each domain, at least `FEWEST`.
    """
    found = Plausibility({name: Gaussian.fit(rows) for name, rows in known.items()})
    p_NK = found.p_values(e_ND)
    if not found.names:
        return [(None, 0.0)] * len(e_ND)
    return [
        (found.names[best] if row[best] >= ABSTAIN else None, float(row[best]))
        for row, best in zip(p_NK, p_NK.argmax(1).tolist(), strict=True)
    ]


def _scaled(e_ND: Tensor, natural: Gaussian | None) -> NDArray[np.float64]:
    """Embeddings between which the Euclidean distance is that of Mahalanobis for natural images."""
    if natural is None:
        scaled = (e_ND - e_ND.mean(0)) / e_ND.std(0).clamp(min=1e-9) if len(e_ND) > 1 else e_ND
        return np.asarray(scaled.numpy())
    width, rank = len(natural.mean), len(natural.variances)
    average = (float(natural.variances.sum()) + natural.rest * (width - rank)) / width
    variances = (1 - SHRINK) * natural.variances.double() + SHRINK * average
    rest = (1 - SHRINK) * natural.rest + SHRINK * average
    z_ND = (e_ND - natural.mean) / natural.scale
    directions_RD = natural.directions.double()
    along_NR = z_ND @ directions_RD.T
    scaled = z_ND / rest**0.5 + (along_NR * (variances**-0.5 - rest**-0.5)) @ directions_RD
    return np.asarray(scaled.numpy())


def groups(z_ND: NDArray[np.float64], least: int) -> Labels:
    """Groups of at least `least` images: (N,), numbers from 0 on."""
    labels = np.full(len(z_ND), PENDING)
    waiting, number = [np.arange(len(z_ND))], 0
    weight_NN = _shared(z_ND)
    while waiting:
        places = waiting.pop()
        if len(places) < least:
            continue
        part = _cut(weight_NN[np.ix_(places, places)], least)
        if part is None:
            labels[places] = number
            number += 1
        else:
            waiting += [places[part], places[~part]]
    return labels


def _cut(weight_NN: NDArray[np.float64], least: int) -> NDArray[np.bool_] | None:
    """One side of the cut through a graph that the fewest weights cross, in relation to those of the smaller
    side; None where too many cross every cut. One side at least is large enough for a domain.

    The cuts are those that take one node of the tree of average linkage from the rest.
    """
    from scipy.cluster.hierarchy import linkage
    from scipy.spatial.distance import squareform

    count = len(weight_NN)
    if count < 2:
        return None
    tree = linkage(squareform(1 - weight_NN - np.eye(count), checks=False), "average")
    size, volume, within = (np.zeros(2 * count - 1) for _ in range(3))
    size[:count], volume[:count] = 1, weight_NN.sum(1)
    for node, (left, right, distance, _) in enumerate(tree, count):
        one, other = int(left), int(right)
        size[node], volume[node] = size[one] + size[other], volume[one] + volume[other]
        # The distance of two nodes is the mean of one less the weight.
        between = (1 - distance) * size[one] * size[other]
        within[node] = within[one] + within[other] + 2 * between
    smaller = np.minimum(volume, volume[-1] - volume)
    crossing = np.where(smaller > 0, (volume - within) / np.maximum(smaller, 1e-12), 0)
    crossing[np.maximum(size, count - size) < least] = np.inf
    crossing[np.minimum(size, count - size) < min(FEW, least)] = np.inf
    # Of equally good ones the most even.
    best = np.lexsort((-np.minimum(size, count - size), np.round(crossing, 9)))[0]
    if crossing[best] > CROSSING:
        return None
    side, below = np.zeros(count, bool), [int(best)]
    while below:
        node = below.pop()
        if node < count:
            side[node] = True
        else:
            below += map(int, tree[node - count, :2])
    return side


def _shared(z_ND: NDArray[np.float64]) -> NDArray[np.float64]:
    """(N, N), from 0 to 1: the share of neighbours that two neighbouring images have in common."""
    from scipy.spatial.distance import cdist

    distance_NN = cdist(z_ND, z_ND)
    np.fill_diagonal(distance_NN, -1)  # An image is one of its own neighbours.
    near = np.zeros_like(distance_NN)
    size = min(NEIGHBOURS + 1, len(near))
    np.put_along_axis(near, np.argsort(distance_NN, axis=1, kind="stable")[:, :size], 1.0, 1)
    common = near @ near.T
    weight_NN: NDArray[np.float64] = common / (2 * size - common) * np.maximum(near, near.T)
    np.fill_diagonal(weight_NN, 0)
    return weight_NN


def merged(e_ND: Tensor, labels: Labels) -> Labels:
    """Groups that find each other's images plausible as one, the most plausible pair first."""
    labels = _by_size(labels)
    while (count := labels.max(initial=PENDING) + 1) > 1:
        p_NK = Plausibility(_fitted(e_ND, labels)).p_values(e_ND)
        median_KK = np.stack([np.median(p_NK[labels == k], axis=0) for k in range(count)])
        mutual_KK = np.triu(np.minimum(median_KK, median_KK.T), 1)
        one, other = np.unravel_index(mutual_KK.argmax(), mutual_KK.shape)
        if mutual_KK[one, other] < MUTUAL:
            break
        labels = _by_size(np.where(labels == other, one, labels))
    return labels


def _settled(e_ND: Tensor, home_N: Labels, known_NK: NDArray[np.float64], least: int) -> Labels:
    """Every image with the domain that finds it most plausible: the numbers of the known domains, which stay
    what they are, and behind them those of the new ones.

    home_N: where the graph sees the images. Leaving it takes more than staying.
    """
    count = known_NK.shape[1]
    new = _by_size(np.where(home_N >= count, home_N, PENDING), least)
    taken = np.where(new == PENDING, np.where(home_N < count, home_N, PENDING), new + count)
    for _ in range(ROUNDS):
        own_NK = Plausibility(_fitted(e_ND, new)).p_values(e_ND)
        p_NK = np.hstack([np.zeros((len(e_ND), 1)), known_NK, own_NK])
        needed_NK = np.full(p_NK.shape, MUTUAL)
        np.put_along_axis(needed_NK, taken[:, None] + 1, ABSTAIN, 1)
        best = np.where(p_NK >= needed_NK, p_NK, 0).argmax(1) - 1  # The first column is nobody's.
        for label in range(count, count + own_NK.shape[1]):
            if (best == label).sum() < least:
                best[best == label] = PENDING
        new = _by_size(np.where(best >= count, best, PENDING))
        best = np.where(new == PENDING, best, new + count)
        if np.array_equal(best, taken):
            break
        taken = best
    return taken


def _fitted(e_ND: Tensor, labels: Labels) -> dict[str, Gaussian]:
    """The Gaussian of each group."""
    count = labels.max(initial=PENDING) + 1
    return {str(k): Gaussian.fit(e_ND[torch.from_numpy(labels == k)]) for k in range(count)}


def _by_size(labels: Labels, least: int = 1) -> Labels:
    """The same groups without those of fewer than `least` images, numbered by size, the largest first, and
    equally large ones by their first image."""
    found = [np.flatnonzero(labels == k) for k in np.unique(labels) if k != PENDING]
    numbers = np.full(len(labels), PENDING)
    kept = sorted((p for p in found if len(p) >= least), key=lambda places: (-len(places), places[0]))
    for number, places in enumerate(kept):
        numbers[places] = number
    return numbers
