"""A learner's choice of a module as a function of tensors: `SAMCL.route` and `Guard.routes`, for graphs.

Shape suffixes: B images, D width of the tap, C classes of the selector, K domains with a p-value, Q nodes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from everseg.domains.merging.learner import MergedLearner
from everseg.domains.methods.samcl import SAMCL
from everseg.domains.plausible import TINY, Gaussian, Student, Tails
from everseg.domains.selector import ModuleSelector
from everseg.types import MERGED, OUTSIDE

NODES = 96
"""Nodes of the quadrature of Student's tail: its relative error is below 1e-8 down to a p of 1e-25."""


class PValues(nn.Module):
    """p-values in float64: embeddings (B, D) -> (B, K), in the order of `names`.

    known: Gaussians by name.
    part_of: the class of a Gaussian that is not a class by itself; a class has the largest p-value of its
        parts, and none where it has no Gaussian of its own.
    natural: natural images, which domains are compared with.
    """

    def __init__(
        self,
        known: Mapping[str, Gaussian],
        part_of: Mapping[str, str] | None = None,
        natural: Gaussian | None = None,
    ) -> None:
        super().__init__()
        part_of = part_of or {}
        self.names = tuple(name for name in known if name not in part_of)
        parts = [
            [n for n, name in enumerate(known) if part_of.get(name, name) == whole] for whole in self.names
        ]
        most = max(map(len, parts))
        # Padded with the first part, which changes no maximum.
        self.register_buffer("parts_KM", torch.tensor([own + own[:1] * (most - len(own)) for own in parts]))
        tails = Tails(list(known.values()), natural)
        distances = tails.distances
        self.own = Tail(tails.own)
        self.beside = None if tails.beside is None else Tail(tails.beside)
        # Who is not compared with natural images finds a 1 in the last place.
        compared = tails.compared.tolist()
        place = [compared.index(k) if k in compared else len(compared) for k in range(len(known))]
        self.register_buffer("compared_J", torch.tensor(compared, dtype=torch.int64))
        self.register_buffer("place_K", torch.tensor(place))
        for name, values in {
            "centre_D": distances.centre_D,
            "directions_PD": distances.directions_PD,
            "offset_KR": distances.offset_KR,
            "gains_KR": distances.gains_KR,
            "square_KD": distances.square_KD,
            "linear_KD": distances.linear_KD,
            "constant_K": distances.constant_K,
            "tests_K": [2.0 if k in compared else 1.0 for k in range(len(known))],
        }.items():
            self.register_buffer(name, torch.as_tensor(values, dtype=torch.float64))

    def forward(self, e_BD: Tensor) -> Tensor:
        own = dict(self.named_buffers(recurse=False))
        x_BD = e_BD.double() - own["centre_D"]
        count, rank = own["gains_KR"].shape
        along_BKR = (x_BD @ own["directions_PD"].T).reshape(-1, count, rank) - own["offset_KR"]
        distance_BK = (x_BD * x_BD) @ own["square_KD"].T + x_BD @ own["linear_KD"].T + own["constant_K"]
        distance_BK = distance_BK + (along_BKR * along_BKR * own["gains_KR"]).sum(-1)
        logs_BK = torch.log(torch.clamp(distance_BK, min=TINY))
        p_BK = self.own(logs_BK[:, : own["place_K"].shape[0]])
        if self.beside is not None:
            # The last distance is that from natural images.
            beside_BJ = self.beside(torch.index_select(logs_BK, 1, own["compared_J"]) - logs_BK[:, -1:])
            padded = torch.cat([beside_BJ, torch.ones_like(p_BK[:, :1])], 1)
            smaller_BK = torch.minimum(p_BK, torch.index_select(padded, 1, own["place_K"]))
            p_BK = torch.clamp(smaller_BK * own["tests_K"], max=1.0)
        return p_BK[:, own["parts_KM"]].amax(-1)


class Tail(nn.Module):
    """`plausible.Student` as a function of tensors: (B, K) -> (B, K), float64."""

    def __init__(self, known: Student) -> None:
        super().__init__()
        freedom = known.freedom
        # The density of Student's distribution at 0, and its integral's nodes on [0, 1).
        density = [
            math.exp(math.lgamma((v + 1) / 2) - math.lgamma(v / 2)) / math.sqrt(v * math.pi) for v in freedom
        ]
        nodes, weights = np.polynomial.legendre.leggauss(NODES)
        at, gain = (nodes + 1) / 2, weights / 2
        for name, values in {
            "middle_K": known.centre,
            "width_K": known.width,
            "freedom_K": freedom,
            "density_K": np.array(density),
            "steps_Q": at / (1 - at),
            "gain_Q": gain / (1 - at) ** 2,
        }.items():
            self.register_buffer(name, torch.as_tensor(values, dtype=torch.float64))

    def forward(self, values_BK: Tensor) -> Tensor:
        own = dict(self.named_buffers())
        lies_BK = (values_BK - own["middle_K"]) / own["width_K"]
        return student_tail(lies_BK, own["freedom_K"], own["density_K"], own["steps_Q"], own["gain_Q"])


def student_tail(
    t_BK: Tensor, freedom_K: Tensor, density_K: Tensor, steps_Q: Tensor, gain_Q: Tensor
) -> Tensor:
    """The share of Student's distribution above t: a quadrature from |t| on, in steps as long as the density
    takes to fall there. ONNX has no such function."""
    from_BK = t_BK.abs()
    half_K = (freedom_K + 1) / 2
    fall_BK = 2 * half_K * from_BK / (freedom_K + from_BK * from_BK)
    scale_BK = 1 / torch.clamp(fall_BK, min=1.0)
    at_BKQ = from_BK[..., None] + scale_BK[..., None] * steps_Q
    logs_BKQ = -half_K[:, None] * torch.log(1 + at_BKQ * at_BKQ / freedom_K[:, None])
    tail_BK = density_K * scale_BK * (torch.exp(logs_BKQ) * gain_Q).sum(-1)
    above_BK = (t_BK >= 0).to(t_BK.dtype)  # Arithmetic rather than a choice, which runtimes lack in float64.
    return above_BK * tail_BK + (1 - above_BK) * (1 - tail_BK)


class Router(nn.Module):
    """The tap of images (B, D, Y, X) -> the number of each image's answer (B,), the probabilities (B, C) and
    the p-values (B, K).

    answers: by number; the first is `OUTSIDE`. modules: the number of each answer's module among those
    exported, from 1; 0 is the untouched base. classes, known: what the columns of probabilities and p-values
    stand for.
    """

    def __init__(
        self,
        answers: Sequence[str],
        modules: Sequence[int],
        p_values: PValues | None,
        abstain: float,
        selector: ModuleSelector | None = None,
        bare: Sequence[str] = (),
    ) -> None:
        super().__init__()
        self.answers, self.abstain = tuple(answers), abstain
        self.classes = () if selector is None else selector.names
        self.known = () if p_values is None else p_values.names
        self.selector, self.p_values = selector, p_values
        self.register_buffer("modules_A", torch.tensor(list(modules), dtype=torch.int64))
        place = [self.known.index(name) if name in self.known else len(self.known) for name in self.classes]
        self.register_buffer("place_C", torch.tensor(place, dtype=torch.int64))
        self.register_buffer("bare_C", torch.tensor([name in bare for name in self.classes]))

    def forward(self, image_embeddings: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        e_BD = image_embeddings.mean((2, 3))
        rows = e_BD.shape[0]
        p_BK = e_BD.new_zeros(rows, 0).double() if self.p_values is None else self.p_values(e_BD)
        if self.selector is None:
            inside = (p_BK >= self.abstain).any(1)
            return inside.to(torch.int64), e_BD.new_zeros(rows, 0), p_BK
        probability_BC = self.selector(e_BD).softmax(-1)
        # A class without a p-value finds a 1 in the last place.
        padded = torch.cat([p_BK, torch.ones_like(e_BD[:, :1]).double()], 1)
        likely_BC = torch.index_select(padded, 1, self.get_buffer("place_C")) >= self.abstain
        possible_BC = likely_BC & self.selector.seen
        allowed_BC = (possible_BC | self.get_buffer("bare_C")).to(torch.int64)
        best_B = torch.where(allowed_BC == 1, probability_BC, -torch.ones_like(probability_BC)).argmax(1)
        inside = possible_BC.any(1).to(torch.int64)
        return (best_B + 1) * inside, probability_BC, p_BK

    def module_of(self, answer_B: Tensor) -> Tensor:
        """The number of the module of each answer, 0 for the untouched base."""
        return torch.index_select(self.get_buffer("modules_A"), 0, answer_B)


def samcl_router(learner: SAMCL) -> Router:
    """Which of SAMCL's modules, in their order, serves an image."""
    names = list(learner.modules)
    remembered = learner.remembered
    known = remembered.known.gaussians if remembered.config.abstain else {}
    selector = learner.selector.eval()
    return Router(
        (OUTSIDE, *selector.names),
        [0, *(1 + names.index(name) if name in names else 0 for name in selector.names)],
        PValues(known, remembered.part_of, remembered.natural) if known else None,
        remembered.config.abstain,
        selector,
        [name for name in selector.names if name not in learner.modules],
    )


def merged_router(learner: MergedLearner) -> Router | None:
    """Whether an image goes through the merged adapter; None where every image does."""
    guard = learner.guard
    if not guard.abstain or not learner.weights or any(n not in guard.known for n in learner.weights):
        return None
    found = PValues(guard.known.gaussians, natural=guard.known.natural)
    return Router((OUTSIDE, MERGED), [0, 1], found, guard.abstain)
