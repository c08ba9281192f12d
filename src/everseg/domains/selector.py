"""SAMCL's module selector: which domain does an image come from, judged by the frozen trunk's mean feature.

Shape suffixes: B images, N embeddings of one domain, D width of the tap, C classes (domains).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from everseg.config import Amount, Checked, Count, Range, Share, Size, before
from everseg.errors import UserError


@dataclass(frozen=True)
class SelectorConfig(Checked):
    """How the module selector remembers and trains. The defaults are the `paper` preset."""

    size: Size = 300
    """Embeddings kept per domain. [SAMCL]"""
    precision: Literal["fp32", "fp16"] = "fp32"
    """Precision of the kept embeddings. [SAMCL: fp32]"""
    lr: Amount = 0.01
    """Learning rate of plain SGD over the whole buffer, after each domain. [SAMCL's code]"""
    epochs: Count = 25
    """Passes over the whole buffer after each domain. [SAMCL]"""
    batch: Annotated[int, Range(2)] = 24
    """Embeddings per gradient step; batch normalisation needs two. [SAMCL's code]"""
    balance: bool = True
    """Weigh each domain by its inverse size, so that a domain of 80 images is not drowned by one of 300.
    [ours; SAMCL's code: no]"""
    settle: bool = True
    """Recompute BatchNorm's statistics over the whole buffer after training. [ours; SAMCL's code: no]"""
    mask_unseen: bool = True
    """Never choose a class that has not been learned yet. [ours; SAMCL's code: no]"""
    abstain: Share = field(default=0.001, metadata=before(0.0))
    """Use no module of a domain whose p-value for the image is below this, and the untouched base where none
    is left; 0: always use a module. [ours; SAMCL: 0]"""
    natural: bool = field(default=True, metadata=before(False))
    """Know natural images from the start, where the base comes with their statistics: the selector learns
    them as a class, which means the untouched base. [ours; SAMCL: no]"""
    buffer: Literal["embeddings", "gaussian"] = field(default="embeddings", metadata=before("embeddings"))
    """What is kept of a domain: embeddings, or a Gaussian of constant size from which they are drawn.
    [SAMCL: embeddings]"""


REFERENCE = SelectorConfig(balance=False, settle=False, mask_unseen=False, abstain=0.0, natural=False)
"""The published code's numbers."""


class ModuleSelector(nn.Module):
    """An MLP from embeddings (B, D) to one logit for each domain (B, C).

    Linear(D, D) BN Linear(D, D/4) BN ReLU Linear(D/4, D/4) BN ReLU Linear(D/4, C); between the first two
    layers there is no activation, hence `folded`. `names` are the classes in order; `seen` (C,) tells which
    of them were trained. `generator` draws the initial weights. Parameters have the released files' names.

    Source: SAMCL section "Module Selector" and appendix B.2. The published code has all classes from the
    start.
    """

    seen: Tensor

    def __init__(
        self,
        width: int,
        names: Sequence[str] = (),
        mask_unseen: bool = True,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        hidden = width // 4
        self.width = width
        self.mask_unseen = mask_unseen
        self.names: tuple[str, ...] = ()
        self.layer1, self.norm1 = nn.Linear(width, width), nn.BatchNorm1d(width)
        self.layer2, self.norm2 = nn.Linear(width, hidden), nn.BatchNorm1d(hidden)
        self.layer3, self.norm3 = nn.Linear(hidden, hidden), nn.BatchNorm1d(hidden)
        self.layer4 = _linear(torch.zeros(0, hidden), torch.zeros(0))
        self.register_buffer("seen", torch.zeros(0, dtype=torch.bool))
        for layer in (self.layer1, self.layer2, self.layer3):
            _draw(layer.weight, layer.bias, generator)
        self.grow(names, generator)

    @torch.no_grad()
    def grow(self, names: Sequence[str], generator: torch.Generator | None = None) -> None:
        """Append the classes that are new, in order; the old ones keep their weights and logits.

        New rows are drawn from `generator` as PyTorch draws a Linear. Parameters of the last layer are new
        objects afterwards: make the optimiser after growing.
        """
        new = [n for n in dict.fromkeys(names) if n not in self.names]
        weight, bias = self.layer4.weight, self.layer4.bias
        rows, ends = weight.new_zeros(len(new), weight.shape[1]), bias.new_zeros(len(new))
        _draw(rows, ends, generator)
        self.layer4 = _linear(torch.cat([weight, rows]), torch.cat([bias, ends]))
        self.seen = torch.cat([self.seen, self.seen.new_zeros(len(new))])
        self.names = (*self.names, *new)

    def forward(self, e_BD: Tensor) -> Tensor:
        """Logits (B, C); -inf for unseen classes under `mask_unseen`."""
        x = self.norm1(self.layer1(e_BD.float()))
        x = F.relu(self.norm2(self.layer2(x)))
        x = F.relu(self.norm3(self.layer3(x)))
        return _masked(self.layer4(x), self.seen, self.mask_unseen)

    @torch.no_grad()
    def probabilities(self, e_BD: Tensor) -> Tensor:
        """Softmax of the logits (B, C) in the order of `names`, in evaluation whatever the mode."""
        training = self.training
        try:
            return self.eval().forward(e_BD).softmax(-1)
        finally:
            self.train(training)

    @torch.no_grad()
    def folded(self) -> FoldedSelector:
        """The same function in evaluation, in 4.2 times fewer numbers (ViT-B): two affine maps with a ReLU,
        and the last layer. Logits agree to about 5e-6."""
        first = _compose(_affine(self.layer1, self.norm1), _affine(self.layer2, self.norm2))
        return FoldedSelector(
            _linear(*first),
            _linear(*_affine(self.layer3, self.norm3)),
            _linear(self.layer4.weight.clone(), self.layer4.bias.clone()),
            self.names,
            self.seen.clone(),
            self.mask_unseen,
        )


class FoldedSelector(nn.Module):
    """What a trained `ModuleSelector` computes in evaluation, for prediction only."""

    seen: Tensor

    def __init__(
        self,
        layer1: nn.Linear,
        layer2: nn.Linear,
        layer3: nn.Linear,
        names: tuple[str, ...],
        seen: Tensor,
        mask_unseen: bool,
    ) -> None:
        super().__init__()
        self.layer1, self.layer2, self.layer3 = layer1, layer2, layer3
        self.names = names
        self.mask_unseen = mask_unseen
        self.register_buffer("seen", seen)

    def forward(self, e_BD: Tensor) -> Tensor:
        """Logits (B, C); -inf for unseen classes under `mask_unseen`."""
        x = self.layer3(F.relu(self.layer2(F.relu(self.layer1(e_BD.float())))))
        return _masked(x, self.seen, self.mask_unseen)

    @torch.no_grad()
    def probabilities(self, e_BD: Tensor) -> Tensor:
        """Softmax of the logits: (B, C), in the order of `names`."""
        return self.forward(e_BD).softmax(-1)


def draw_rows(count: int, size: int, generator: torch.Generator) -> list[int]:
    """Which of `count` images a buffer of `size` keeps: the first ones of one shuffled pass."""
    return torch.randperm(count, generator=generator)[:size].tolist()


def kept_as(embeddings: Tensor, precision: Literal["fp32", "fp16"] = "fp32") -> Tensor:
    """The embeddings (n, D) of a domain as its buffer keeps them, on the CPU.

    Half precision halves what is stored. Source: SAMCL section "Module Selector"; 300 per domain, kept
    permanently.
    """
    return embeddings.detach().to("cpu", torch.float16 if precision == "fp16" else torch.float32)


def train_selector(
    selector: ModuleSelector,
    buffer: Mapping[str, Tensor],
    config: SelectorConfig,
    generator: torch.Generator,
) -> dict[str, float]:
    """Train the selector in place on all embeddings kept, starting from its weights: {name: (N, D)}.

    Fresh plain SGD, `config.epochs` passes in an order drawn from `generator` (CPU), batches of min(N,
    batch), the incomplete last one left out, cross-entropy. The order of the buffer's entries does not
    matter. Marks the buffer's classes as seen and leaves the selector in evaluation mode.

    With fewer than two embeddings in all there is nothing to distinguish and no batch statistics to compute:
    nothing is trained. Returns "batches" and, if there were any, "loss" (mean of the last epoch) and
    "accuracy" (on the buffer, afterwards).

    Source: SAMCL algorithm 1 and section "Module Selector".

    Raises:
        UserError: the buffer names a class that the selector does not have.
    """
    strangers = sorted(set(buffer) - set(selector.names))
    if strangers:
        raise UserError(f"the selector has no class {strangers[0]!r}; add it before training")
    device = selector.layer1.weight.device
    present = [(i, buffer[name]) for i, name in enumerate(selector.names) if name in buffer]
    for i, rows in present:
        selector.seen[i] = selector.seen[i] | (len(rows) > 0)
    selector.eval()
    total = sum(len(rows) for _, rows in present)
    if total < 2:
        return {"batches": 0.0}
    e_ND = torch.cat([rows.to(device, torch.float32) for _, rows in present])
    target_N = torch.cat([torch.full((len(rows),), i, device=device) for i, rows in present])
    weight_C = _class_weights(target_N, len(selector.names), config.balance)

    selector.train()
    optimiser = torch.optim.SGD(selector.parameters(), lr=config.lr)
    size = max(2, min(total, config.batch))
    batches = total // size
    losses = torch.zeros((), device=device)
    for _ in range(config.epochs):
        order = torch.randperm(total, generator=generator).to(device)
        losses = torch.zeros((), device=device)
        for rows in order[: batches * size].view(batches, size):
            each = F.cross_entropy(selector(e_ND[rows]), target_N[rows], reduction="none")
            loss = (weight_C[target_N[rows]] * each).mean()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            losses += loss.detach()
    if config.settle:
        _settle(selector, e_ND)
    selector.eval()
    with torch.no_grad():
        right = (selector(e_ND).argmax(-1) == target_N).float().mean()
    return {
        "batches": float(config.epochs * batches),
        "loss": float(losses) / batches,
        "accuracy": float(right),
    }


@torch.no_grad()
def _settle(selector: ModuleSelector, e_ND: Tensor) -> None:
    """Set the running statistics of every BatchNorm to those of all embeddings, with the weights as they
    are. Those left by training average the last few batches of a network that was still moving."""
    norms = (selector.norm1, selector.norm2, selector.norm3)
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the plain mean over batches, here of one
    selector.train()
    selector(e_ND)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum


def from_released(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A released selector for `ModuleSelector.load_state_dict`: all of its classes have been seen."""
    classes = len(state["layer4.bias"])
    return {**state, "seen": torch.ones(classes, dtype=torch.bool)}


def _class_weights(target_N: Tensor, classes: int, balance: bool) -> Tensor:
    """A weight for each class (C,), on average 1 over the examples; exactly 1 where classes have one size.

    Nothing is known of what is asked next, so a uniform prior over domains is the sound one.
    """
    if not balance:
        return torch.ones(classes, device=target_N.device)
    sizes = torch.bincount(target_N, minlength=classes)
    present = int((sizes > 0).sum())
    return len(target_N) / (present * sizes.clamp(min=1)).float()


def _masked(logits_BC: Tensor, seen: Tensor, mask_unseen: bool) -> Tensor:
    """-inf for unseen classes, unless none was seen: then there is nothing to prefer."""
    return logits_BC.masked_fill(~seen & seen.any(), -math.inf) if mask_unseen else logits_BC


def _linear(weight: Tensor, bias: Tensor) -> nn.Linear:
    """A Linear with these weights, float32; unlike one that PyTorch initialises, it may have no outputs."""
    layer = nn.Linear(1, 1)
    layer.out_features, layer.in_features = weight.shape
    layer.weight, layer.bias = nn.Parameter(weight.float()), nn.Parameter(bias.float())
    return layer


def _draw(weight: Tensor, bias: Tensor, generator: torch.Generator | None) -> None:
    """As PyTorch initialises a Linear: uniform in 1/sqrt(inputs). Drawn on the CPU, alike on every device."""
    bound = 1 / math.sqrt(weight.shape[1])
    with torch.no_grad():
        for parameter in (weight, bias):
            parameter.copy_(torch.empty(parameter.shape).uniform_(-bound, bound, generator=generator))


Affine = tuple[Tensor, Tensor]
"""x -> weight x + bias."""


def _affine(layer: nn.Linear, norm: nn.BatchNorm1d) -> Affine:
    """A Linear followed by its BatchNorm in evaluation, in float64."""
    assert norm.running_var is not None and norm.running_mean is not None
    scale = norm.weight.double() / (norm.running_var.double() + norm.eps).sqrt()
    bias = (layer.bias.double() - norm.running_mean.double()) * scale + norm.bias.double()
    return scale[:, None] * layer.weight.double(), bias


def _compose(first: Affine, second: Affine) -> Affine:
    return second[0] @ first[0], second[0] @ first[1] + second[1]
