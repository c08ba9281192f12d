"""What a rule is given of an adapter, its factors or its products, and the adapter that its answer is."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from everseg.domains.adapters.kinds import factors_of, from_factors, pairs
from everseg.domains.merging.contribution import Contribution
from everseg.domains.merging.rules import FACTORS_ONLY, PRODUCTS_ONLY, MergerConfig
from everseg.errors import UserError
from everseg.files import sha256_tensors
from everseg.merge import RULES
from everseg.merge.tensors import Tensors
from everseg.merge.truncate import Factors, truncate


def space(config: MergerConfig, contribution: Contribution) -> Literal["factors", "products"]:
    """What the rule is given of this kind of adapter.

    Raises:
        UserError: it wants products and the adapter has none, or factors and works on products only.
    """
    low_rank = bool(pairs(contribution.weights))
    if config.rule in FACTORS_ONLY and config.on == "products":
        raise UserError(f"rule {config.rule} works on an adapter's own tensors; leave out on=products")
    if config.rule in PRODUCTS_ONLY or config.on == "products":
        if config.on == "factors":
            raise UserError(f"rule {config.rule} works on products; leave out on=factors")
        factors_of(contribution.weights)
        return "products"
    if config.on == "auto" and low_rank and RULES[config.rule].on == "deltas":
        return "factors" if config.rule in FACTORS_ONLY else "products"
    return "factors"


def view(contribution: Contribution, on: str) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The tensors that a rule merges, and those that they set out from."""
    if on == "factors":
        return dict(contribution.weights), dict(contribution.start)
    products = {}
    for x, f in factors_of(contribution.weights).items():
        products[f"{x}.weight"] = f.up.double() @ f.down.double()
        if f.bias is not None:
            products[f"{x}.bias"] = f.bias.double()
    # A fresh adapter is the identity: its products are zero.
    return products, {name: torch.zeros_like(value) for name, value in products.items()}


def moments_of(contribution: Contribution, on: str) -> dict[str, Tensor]:
    """The second moments by the names of the layers that are merged.

    Raises:
        UserError: none were measured.
    """
    if not contribution.moments:
        raise UserError(
            f"{contribution.domain!r} comes without the moments of its inputs, which this rule merges by; "
            "learn it with --method regcl, or with --method merged --set measure=all"
        )
    if on == "factors":
        return dict(contribution.moments)
    return {x: contribution.moments[f"down.{x}"] for x in pairs(contribution.weights)}


def back(
    merged: Tensors, on: str, like: Contribution, rank: int = 0, seconds: Tensors | None = None
) -> tuple[dict[str, Tensor], int]:
    """An adapter's weights of what was merged, and its rank. seconds: the inputs' second moments, to cut
    products back by what inputs see."""
    if on == "factors":
        return {n: value.to(like.weights[n].dtype) for n, value in merged.items()}, like.rank
    rank = rank or like.rank
    out = {}
    for x, own in factors_of(like.weights).items():
        delta = merged[f"{x}.weight"]
        second = None if seconds is None else seconds[x][: delta.shape[1], : delta.shape[1]]
        cut = truncate(delta, min(rank, *delta.shape), second)
        kind = own.down.dtype
        pad = rank - len(cut.down)  # A narrow layer has no more directions than its width.
        down = torch.cat([cut.down, cut.down.new_zeros(pad, cut.down.shape[1])]).to(kind)
        up = torch.cat([cut.up, cut.up.new_zeros(len(cut.up), pad)], 1).to(kind)
        bias = merged.get(f"{x}.bias")
        down_bias = None if own.down_bias is None else torch.zeros(rank, dtype=kind)
        out[x] = Factors(up, down, None if bias is None else bias.to(kind), down_bias)
    return from_factors(out), rank


def check_alike(config: MergerConfig, first: Contribution, other: Contribution) -> None:
    """Refuse to merge what cannot be.

    Raises:
        UserError: another base, adapter or rank; or factors without a common start.
    """
    for what in ("base", "adapter", "rank", "mix"):
        ours, theirs = getattr(first, what), getattr(other, what)
        if ours != theirs:
            ours, theirs = (v[:12] if what == "base" else v for v in (ours, theirs))
            raise UserError(
                f"{first.domain!r} and {other.domain!r} differ in their {what} ({ours} and {theirs}); "
                "merge adapters of one kind, on one base"
            )
    if space(config, first) == "factors" and sha256_tensors(dict(first.start)) != sha256_tensors(
        dict(other.start)
    ):
        raise UserError(
            f"{first.domain!r} and {other.domain!r} set out from different starts, so their factors share no "
            "coordinates: learn them with one --seed, or merge low-rank adapters with on=products"
        )


def fisher_of(contribution: Contribution) -> Tensors:
    """The diagonal Fisher information.

    Raises:
        UserError: it was not measured.
    """
    if not contribution.fisher:
        raise UserError(
            f"{contribution.domain!r} comes without its Fisher information, which this rule merges by; "
            "learn it with --method merged --set measure=all"
        )
    return contribution.fisher
