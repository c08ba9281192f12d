"""Tensors by name: what every rule of merging is given and returns.

A model here is a mapping from names to floating tensors: an adapter's parameters, or a whole network's. A
delta (a task vector) is a model minus the base it was trained from. All of one merge have the same names and
shapes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from everseg.errors import UserError

Tensors = Mapping[str, Tensor]


def alike(models: Sequence[Tensors]) -> list[str]:
    """The names that all models have, in the first one's order; at least one model.

    Raises:
        UserError: models differ in names or shapes, or a tensor is not of floating numbers.
    """
    assert models, "there is at least one model to merge"
    first = models[0]
    for model in models:
        for name, value in model.items():
            if not value.is_floating_point():
                raise UserError(
                    f"{name!r} is {value.dtype}; only floating numbers can be merged, leave it out"
                )
    for number, model in enumerate(models[1:], 2):
        strange = sorted(set(first) ^ set(model))
        if strange:
            raise UserError(
                f"models 1 and {number} do not both have {strange[0]!r}; merge models of one kind"
            )
        for name, value in first.items():
            if model[name].shape != value.shape:
                ours, theirs = tuple(value.shape), tuple(model[name].shape)
                raise UserError(
                    f"{name!r} is {ours} in model 1 and {theirs} in model {number}; merge models of one shape"
                )
    return list(first)


@torch.no_grad()
def deltas(models: Sequence[Tensors], base: Tensors) -> list[dict[str, Tensor]]:
    """tau_k = theta_k - theta_0: what each model learned."""
    names = alike([base, *models])
    return [{n: model[n] - base[n] for n in names} for model in models]


@torch.no_grad()
def applied(base: Tensors, delta: Tensors) -> dict[str, Tensor]:
    """theta_0 + tau."""
    return {n: base[n] + delta[n] for n in alike([base, delta])}


def copied(model: Tensors) -> dict[str, Tensor]:
    """A model of its own, which does not change when the one it was copied from is trained on."""
    return {name: value.detach().clone() for name, value in model.items()}


@torch.no_grad()
def weighted_sum(models: Sequence[Tensors], weights: Sequence[float]) -> dict[str, Tensor]:
    """sum_k w_k theta_k, added in float64 in the order given; types of the first model."""
    names = alike(models)
    assert len(weights) == len(models), "one weight for each model"
    out = {}
    for n in names:
        total = torch.zeros_like(models[0][n], dtype=torch.float64)
        for model, weight in zip(models, weights, strict=True):
            total += weight * model[n].double()
        out[n] = total.to(models[0][n].dtype)
    return out


@torch.no_grad()
def flat(model: Tensors) -> Tensor:
    """All numbers of a model as one vector (P,), float32 or wider."""
    vector = torch.cat([value.reshape(-1) for value in model.values()])
    return vector.to(torch.promote_types(vector.dtype, torch.float32))


@torch.no_grad()
def unflat(vector: Tensor, like: Tensors) -> dict[str, Tensor]:
    """Undo `flat`, with the shapes and types of `like`."""
    parts = vector.split([value.numel() for value in like.values()])
    return {
        name: part.view(value.shape).to(value.dtype)
        for (name, value), part in zip(like.items(), parts, strict=True)
    }


def stacked(models: Sequence[Tensors]) -> Tensor:
    """Models as rows (K, P), float32 or wider."""
    names = alike(models)
    return torch.stack([flat({n: model[n] for n in names}) for model in models])


def norm(model: Tensors) -> float:
    """The Euclidean norm over all numbers of a model."""
    squares = [value.detach().double().square().sum() for value in model.values()]
    return float(torch.stack(squares).sum().sqrt())
