"""Search, block by block, whose weights to take, by a score on validation data."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor

from everseg.config import Size
from everseg.merge.average import average
from everseg.merge.regmean import regmean
from everseg.merge.rule import Answer, Domain, Joint, Network, tensors_of
from everseg.merge.tensors import Tensors, alike, applied, deltas
from everseg.merge.ties import ties


@dataclass(frozen=True)
class Search:
    """tensors: the best model found.
    choice: the candidate of each block.
    score: of it.
    evaluations: scores taken.
    start: the score of the best candidate as a whole.
    """

    tensors: dict[str, Tensor]
    choice: dict[str, int]
    score: float
    evaluations: int
    start: float


def blockwise(
    candidates: Sequence[Tensors],
    block_of: Callable[[str], str],
    score: Callable[[dict[str, Tensor]], float],
    budget: int = 200,
) -> Search:
    """Take each block from the candidate that scores best with the others fixed, until no change helps.

    candidates: the domains' models and merges of them, all of one kind; a candidate of zeros (of deltas)
        offers to skip a block.
    block_of: a tensor's block.
    score: of a whole model on validation data, larger is better; called `budget` times at most, at least once
        for each candidate. Never worse than the best candidate as a whole.

    Data: labelled, of all domains, at the merge. Not sequential. Order-free but for equal scores, of which
    the first stays.
    Source: Reinforced Model Merging (arXiv 2503.21272), which searches the same choices, and
    skipping and going back, by PPO. Its published code cannot run as it is; coordinate ascent in their place
    is ours: a dozen blocks do not need a learned policy.
    """
    names = alike(candidates)
    blocks = list(dict.fromkeys(block_of(n) for n in names))

    def assembled(choice: dict[str, int]) -> dict[str, Tensor]:
        return {n: candidates[choice[block_of(n)]][n] for n in names}

    whole = [score(assembled(dict.fromkeys(blocks, k))) for k in range(len(candidates))]
    taken = max(range(len(whole)), key=lambda k: whole[k])
    choice, best, calls = dict.fromkeys(blocks, taken), whole[taken], len(whole)
    changed = True
    while changed and calls < budget:
        changed = False
        for block in blocks:
            for k in range(len(candidates)):
                if k == choice[block] or calls >= budget:
                    continue
                value, calls = score(assembled({**choice, block: k})), calls + 1
                if value > best:
                    choice, best, changed = {**choice, block: k}, value, True
    return Search(assembled(choice), choice, best, calls, whole[taken])


@dataclass(frozen=True)
class Blockwise(Joint):
    """Each block from the candidate that scores best.

    Candidates are the domains' own models and the merges that cost nothing.

    Source: after RMM, arXiv 2503.21272.
    """

    budget: Size = 200
    """Scores that are taken at most. [ours]"""

    needs = frozenset({"samples"})
    works_on = ("factors",)
    takes = "weights"
    order_free = False

    def merge(self, domains: Sequence[Domain], network: Network | None = None) -> Answer:
        if len(domains) == 1:
            return Answer(domains[0].tensors)
        assert network is not None, "candidates are scored on what the network predicts"
        blocks = {n: "shared" if block is None else str(block) for n, block in network.blocks.items()}
        found = blockwise(_candidates(domains), blocks.__getitem__, network.score(), self.budget)
        figures = {"search_score": found.score, "search_evaluations": float(found.evaluations)}
        return Answer(found.tensors, figures=figures | {"search_best_whole": found.start})


def _candidates(domains: Sequence[Domain]) -> list[Tensors]:
    models, start = tensors_of(domains), domains[0].start
    found = [*models, average(models), applied(start, ties(deltas(models, start)))]
    if all(domain.moments for domain in domains):
        found.append(regmean(models, [domain.moments for domain in domains])[0])
    return found
