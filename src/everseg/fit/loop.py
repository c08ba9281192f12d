"""The one gradient loop: accumulation, loss scaling, several processes, resuming after an interruption."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from everseg.config import MACHINE, Amount, Checked, Count, Share, Size
from everseg.distributed import add_up, shard, world
from everseg.errors import UserError
from everseg.fit.schedule import Schedule, lr_at
from everseg.fit.validation import Validation
from everseg.progress import Curve, remark, watch
from everseg.seed import torch_generator
from everseg.types import Scratch


class Group(NamedTuple):
    """Parameters that share a learning rate, `scale` times the run's, and a weight decay."""

    name: str
    parameters: list[nn.Parameter]
    scale: float
    weight_decay: float


@dataclass(frozen=True)
class FitConfig(Checked):
    """How the gradient steps of one stage are taken."""

    epochs: Count = 20
    """Passes over the stage's training examples. [SAMCL: 20; DKD, EIR: 60; SSUL: 50; MiB, PLOP: 30]"""
    steps: Count = 0
    """Train for this many gradient steps, in as many epochs as that takes; 0: `epochs` decides."""
    batch: Size = 8
    """Examples per gradient step, over all processes together. [SAMCL: 8; EIR, MiB, PLOP: 24; SSUL: 32]"""
    lr: Amount = 5e-3
    """Learning rate at the start of the stage. [SAMCL: 0.005; DKD, EIR: 0.001, then 0.0001; MiB, PLOP: 0.01,
    then 0.001]"""
    optimiser: Literal["adam", "adamw", "sgd"] = "adam"
    """Optimiser; "sgd" uses Nesterov momentum where `momentum` is above 0. [SAMCL: AdamW in the text, Adam in
    the code; DKD, EIR: SGD]"""
    weight_decay: Amount = 0.0
    """Weight decay. [SAMCL's code: 0; DKD, EIR, MiB: 0.0001]"""
    momentum: Share = 0.9
    """Momentum of "sgd". [DKD, EIR]"""
    schedule: Schedule = "total"
    """Learning rate over time: "total" is one half cosine over all steps, "per_iter_T20" a cosine with a half
    period of `epochs` iterations, "poly" (1 - step / total) ** 0.9. [SAMCL: total in the text, per_iter_T20
    in the code; DKD, EIR: poly]"""
    clip: Amount = 0.0
    """Maximum norm of the gradient; 0: no clipping. [SAMCL's code: none]"""
    drop_last: bool = False
    """Skip the last batch of an epoch if it is incomplete, unless it is the only one. [SAMCL: no; DKD, EIR:
    yes]"""
    micro_batch: Count = 0
    """Examples per forward pass in each process, with accumulated gradients; 0: the whole batch."""
    workers: Count = field(default=0, metadata=MACHINE)
    """Processes that decode images; 0: decode in the main process."""


class Examples(Protocol):
    """Training rows: anything that can be counted and indexed, and pickled where workers read it."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Any: ...


@runtime_checkable
class Redrawn(Protocol):
    """Training rows that differ from epoch to epoch, as augmented ones do; there are as many in each."""

    def __len__(self) -> int: ...

    def at(self, epoch: int, /) -> Examples: ...


def fit(
    trained: Sequence[nn.Parameter] | Sequence[Group],
    examples: Examples | Redrawn,
    collate: Callable[[list[Any]], Any],
    loss: Callable[[Any, int], Tensor],
    config: FitConfig,
    *,
    seed: int,
    name: str,
    scratch: Scratch,
    scaled: bool = False,
    buffers: Sequence[Tensor] = (),
    validation: Validation | None = None,
) -> dict[str, float]:
    """Minimise `loss` over `examples` by gradient steps on parameters, in place.

    trained: parameters, or groups of them with a learning rate (times the configuration's) and a weight decay
        of their own.

    loss(batch, size) is given some rows of a step's batch and the number of rows in all of it, and returns a
    scalar; the scalars of the parts must add up to the loss of the whole. So accumulation over micro-batches
    and over processes gives what one pass in one process gives.

    The state is kept in `scratch` under `name` at the end of each epoch; called again after an interruption,
    the loop continues from there and ends with the same bits, because each epoch's order is drawn from (seed,
    name, epoch).

    scaled: scale the loss while its gradients are taken, which float16 needs: small ones would be lost. A
        step whose gradients overflow is left out and the scale halved.

    buffers: tensors that training changes besides the parameters, such as running statistics. Each process
        has its own in an epoch, and all have the mean after it.

    validation: score each epoch and end with the weights and buffers of the best one, the first of equals.

    Returns "loss" (mean of the last epoch over its steps), "steps", "seconds" (with those before an
    interruption, up to the epoch that was kept), where gradients are clipped "clipped" (the share of the
    steps in which they were), and with `validation` "val" (the best score) and
    "best_epoch" (from 1).

    Raises:
        UserError: the loss is not finite.
    """
    groups = _groups(trained, config)
    parameters = [p for group in groups for p in group.parameters]
    device = parameters[0].device
    optimiser = _optimiser(groups, config)
    per_epoch, steps = _per_epoch(config, len(examples)), steps_of(config, len(examples))
    epochs = math.ceil(steps / per_epoch) if per_epoch else 0
    scaler = torch.amp.GradScaler(device.type, enabled=scaled)
    past = _resume(parameters, buffers, optimiser, scaler, scratch.load(name), name)
    patience = validation.patience if validation else 0
    done = min(steps, len(past.losses) * per_epoch)
    if 0 < done < steps and not past.stopped(patience) and world().main:
        remark(f"{name}: resumes after step {done} of {steps}")
    with watch(name, done=done, steps=steps, epochs=epochs, seconds=past.seconds) as meter:
        while len(past.losses) < epochs and not past.stopped(patience):
            epoch = len(past.losses)
            generator = torch_generator(seed, name, "order", epoch)
            order = torch.randperm(len(examples), generator=generator).tolist()
            batches = [order[i : i + config.batch] for i in range(0, len(order), config.batch)]
            batches = batches[: min(per_epoch, steps - epoch * per_epoch)]
            rows = examples.at(epoch) if isinstance(examples, Redrawn) else examples
            # The sum stays on the device: reading a loss each step would wait for it.
            total, clipped = torch.zeros((), device=device), torch.zeros((), device=device)
            for step, (size, pieces) in enumerate(_batches(rows, batches, collate, config)):
                rate = lr_at(epoch * per_epoch + step, steps, config.lr, config.schedule, epochs)
                for group in optimiser.param_groups:
                    group["lr"] = rate * group["scale"]
                optimiser.zero_grad()
                share = _accumulate(parameters, pieces, loss, size, scaler)
                total += share
                scaler.unscale_(optimiser)
                if config.clip:
                    clipped += nn.utils.clip_grad_norm_(parameters, config.clip) > config.clip
                scaler.step(optimiser)
                scaler.update()
                meter.step(share, size, epoch + 1)
            add_up([total])
            mean = float(total) / max(1, len(batches))
            if not math.isfinite(mean):
                raise UserError(
                    f"{name}: the loss became {mean} in epoch {epoch + 1}; "
                    "try a lower learning rate (--set tune.fit.lr=..., for classes tune.first.lr=... or "
                    "tune.later.lr=...)"
                )
            _average(buffers)
            past.losses.append(mean)
            past.clipped += float(clipped)
            if validation is not None:
                meter.score = past.scored(validation.score(), [*parameters, *buffers])
            past.seconds = meter.seconds
            if world().main:
                scratch.save(name, _checkpoint(parameters, buffers, optimiser, scaler, past))
        meter.end(Curve(name, past.losses, past.scores, past.best))
        seconds = meter.seconds
    taken = min(steps, len(past.losses) * per_epoch)
    figures = {"loss": past.losses[-1] if past.losses else math.nan, "steps": float(taken)}
    if config.clip:
        figures["clipped"] = past.clipped / max(1, taken)
    if past.best:
        with torch.no_grad():
            for p, value in zip((*parameters, *buffers), past.weights, strict=True):
                p.copy_(value)
        figures |= {"val": past.scores[past.best - 1], "best_epoch": float(past.best)}
    return figures | {"seconds": seconds}


@dataclass
class _Past:
    """The epochs so far: mean loss and validation score of each, seconds and clipped steps in all, and the
    weights of the best one, which is counted from 1."""

    losses: list[float] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)
    seconds: float = 0.0
    weights: list[Tensor] = field(default_factory=list)
    clipped: float = 0.0

    @property
    def best(self) -> int:
        return 1 + self.scores.index(max(self.scores)) if self.scores else 0

    def scored(self, score: float, weights: Sequence[Tensor]) -> float:
        """Note an epoch's score, and its weights if it is the best so far."""
        self.scores.append(score)
        if self.best == len(self.scores):
            self.weights = [w.detach().clone() for w in weights]
        return score

    def stopped(self, patience: int) -> bool:
        """Whether `patience` epochs have passed without a better score."""
        return 0 < patience <= len(self.scores) - self.best


def _batches(
    examples: Examples, batches: list[list[int]], collate: Callable[..., Any], config: FitConfig
) -> Any:
    """(rows of the whole batch, this process's micro-batches) for each step."""
    mine = [shard(b) for b in batches]
    cut = config.micro_batch or config.batch
    pieces = [[m[i : i + cut] for i in range(0, len(m), cut)] for m in mine]
    loader = iter(
        DataLoader(
            examples,  # type: ignore[arg-type]  # any sequence serves
            batch_sampler=[p for step in pieces for p in step],
            collate_fn=collate,
            num_workers=config.workers,
        )
    )
    for whole, parts in zip(batches, pieces, strict=True):
        yield len(whole), (next(loader) for _ in parts)


def _accumulate(
    parameters: Sequence[nn.Parameter],
    pieces: Any,
    loss: Callable[[Any, int], Tensor],
    size: int,
    scaler: torch.amp.GradScaler,
) -> Tensor:
    """Accumulate gradients of one batch over its pieces and over processes; returns this process's share of
    the loss."""
    device = parameters[0].device
    total = torch.zeros((), device=device)
    for piece in pieces:
        value = loss(piece, size)
        scaler.scale(value).backward()
        total += value.detach()
    for p in parameters:
        if p.grad is None:  # A process whose share of the batch is empty still takes part in the sum.
            p.grad = torch.zeros_like(p)
    add_up([p.grad for p in parameters if p.grad is not None])
    return total


def steps_of(config: FitConfig, rows: int) -> int:
    """Number of gradient steps for a number of rows."""
    per_epoch = _per_epoch(config, rows)
    return (config.steps or config.epochs * per_epoch) if per_epoch else 0


def _per_epoch(config: FitConfig, rows: int) -> int:
    full, rest = divmod(rows, config.batch)
    return full if full and config.drop_last else full + bool(rest)


def _groups(trained: Sequence[nn.Parameter] | Sequence[Group], config: FitConfig) -> list[Group]:
    groups = [item for item in trained if isinstance(item, Group)]
    bare = [item for item in trained if isinstance(item, nn.Parameter)]
    return groups or [Group("all", bare, 1.0, config.weight_decay)]


def _optimiser(groups: Sequence[Group], config: FitConfig) -> torch.optim.Optimizer:
    given: list[dict[str, Any]] = [
        {"params": g.parameters, "scale": g.scale, "weight_decay": g.weight_decay} for g in groups
    ]
    if config.optimiser == "sgd":
        nesterov = config.momentum > 0
        return torch.optim.SGD(given, lr=config.lr, momentum=config.momentum, nesterov=nesterov)
    kind = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[config.optimiser]
    return kind(given, lr=config.lr)


def _average(buffers: Sequence[Tensor]) -> None:
    """Replace each process's running statistics by the mean over processes; what counts is alike already."""
    floating = [b for b in buffers if b.is_floating_point()]
    add_up(floating)
    for buffer in floating if world().size > 1 else ():
        buffer.div_(world().size)


def _checkpoint(
    parameters: Sequence[nn.Parameter],
    buffers: Sequence[Tensor],
    optimiser: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler,
    past: _Past,
) -> dict[str, Any]:
    state = optimiser.state_dict()["state"]
    return {
        "epoch": len(past.losses),
        "losses": past.losses,
        "scores": past.scores,
        "seconds": past.seconds,
        "clipped": past.clipped,
        "best": past.weights,
        "parameters": [p.detach() for p in parameters],
        "buffers": list(buffers),
        "optimiser": {str(i): dict(entry) for i, entry in state.items()},
        "scaler": scaler.state_dict(),
    }


def _resume(
    parameters: Sequence[nn.Parameter],
    buffers: Sequence[Tensor],
    optimiser: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler,
    kept: dict[str, Any] | None,
    name: str,
) -> _Past:
    """Load a checkpoint in place and return what is known of the epochs already done."""
    if kept is None or "losses" not in kept:  # An earlier version kept less: begin again.
        return _Past()
    found = [*kept["parameters"], *kept.get("buffers", ())]
    if [p.shape for p in (*parameters, *buffers)] != [v.shape for v in found]:
        raise UserError(
            f"{name}: the unfinished work in this run was begun with other settings; use another --out"
        )
    with torch.no_grad():
        for p, value in zip((*parameters, *buffers), found, strict=True):
            p.copy_(value)
    whole = optimiser.state_dict()
    optimiser.load_state_dict(whole | {"state": {int(i): entry for i, entry in kept["optimiser"].items()}})
    scaler.load_state_dict(kept["scaler"])
    best, clipped = list(kept["best"]), kept.get("clipped", 0.0)
    return _Past(list(kept["losses"]), list(kept["scores"]), kept["seconds"], best, clipped)
