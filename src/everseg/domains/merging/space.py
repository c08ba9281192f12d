"""Convert adapters to the tensors that a rule merges (factors or products), and back."""

from __future__ import annotations

import torch
from torch import Tensor

from everseg.domains.adapters.kinds import factors_of, from_factors, pairs
from everseg.domains.merging.contribution import Contribution
from everseg.domains.merging.rules import MergerConfig
from everseg.errors import UserError
from everseg.files import sha256_tensors
from everseg.merge.rule import Domain, Place, Rule
from everseg.merge.tensors import Tensors, deltas
from everseg.merge.truncate import Factors, flattened, grouped, truncate


def place_of(rule: Rule, config: MergerConfig, contribution: Contribution) -> Place:
    """What the rule is given of this kind of adapter.

    Raises:
        UserError: the settings say something that the rule does not work on, or the adapter has no products.
    """
    places = rule.works_on
    if config.on == "factors" and "factors" not in places:
        raise UserError(f"rule {config.rule} works on products only; leave out on=factors")
    if config.on == "products" and places == ("factors",):
        raise UserError(f"rule {config.rule} works on an adapter's own tensors only; leave out on=products")
    if config.on == "factors":
        return "factors"
    place = places[0] if config.on == "auto" else next(p for p in places if p != "factors")
    if config.on == "auto" and "factors" in places and not pairs(contribution.weights):
        return "factors"
    if place != "factors":
        factors_of(contribution.weights)
    return place


def given_to(rule: Rule, place: Place, contribution: Contribution, weight: float = 1.0) -> Domain:
    """What the rule is given of one contribution.

    Raises:
        UserError: what the rule needs was not measured.
    """
    start = start_of(contribution, place)
    tensors = _view(contribution.weights, place)
    if rule.takes == "deltas":
        tensors = deltas([tensors], start)[0]
    if "samples" in rule.needs and not contribution.samples:
        raise UserError(
            f"{contribution.domain!r} kept no samples, which this rule needs for calibration; learn it "
            "with --method merged --set measure=all (it then keeps the features, clicks and truth of "
            "some images)"
        )
    if "moments" in rule.needs and not contribution.moments:
        raise UserError(
            f"{contribution.domain!r} has no moments of its inputs, which this rule needs; learn it "
            "with --method regcl, or with --method merged --set measure=all"
        )
    if "fisher" in rule.needs and not contribution.fisher:
        raise UserError(
            f"{contribution.domain!r} has no Fisher information, which this rule needs; learn it with "
            "--method merged --set measure=all"
        )
    moments = contribution.moments
    if place != "factors" and moments:
        moments = {x: moments[f"down.{x}"] for x in pairs(contribution.weights)}
    return Domain(tensors, contribution.domain, weight, start, moments, contribution.fisher)


def start_of(contribution: Contribution, place: Place) -> dict[str, Tensor]:
    """The tensors that a rule's set out from."""
    if place != "products":
        return _view(contribution.start, place)
    # A fresh adapter is the identity: its products are zero.
    products = _view(contribution.weights, place)
    return {name: torch.zeros_like(value) for name, value in products.items()}


def _view(weights: Tensors, place: Place) -> dict[str, Tensor]:
    """The tensors that a rule merges."""
    if place == "factors":
        return dict(weights)
    found = factors_of(weights)
    if place == "pairs":
        return flattened(found)
    products = {}
    for x, f in found.items():
        products[f"{x}.weight"] = f.up.double() @ f.down.double()
        if f.bias is not None:
            products[f"{x}.bias"] = f.bias.double()
    return products


def back(
    merged: Tensors, place: Place, like: Contribution, rank: int = 0, second: Tensors | None = None
) -> tuple[dict[str, Tensor], int]:
    """The weights of the adapter that was merged, and its rank.

    rank: of merged products; 0 is that of the adapters.
    second: the inputs' second moments, to cut products back by what inputs see.
    """
    if place == "pairs":
        merged = from_factors(grouped(merged))
    if place != "products":
        return {n: value.to(like.weights[n].dtype) for n, value in merged.items()}, like.rank
    rank = rank or like.rank
    out = {}
    for x, own in factors_of(like.weights).items():
        delta = merged[f"{x}.weight"]
        own_second = None if second is None else second[x][: delta.shape[1], : delta.shape[1]]
        cut = truncate(delta, min(rank, *delta.shape), own_second)
        kind = own.down.dtype
        pad = rank - len(cut.down)  # A narrow layer has no more directions than its width.
        down = torch.cat([cut.down, cut.down.new_zeros(pad, cut.down.shape[1])]).to(kind)
        up = torch.cat([cut.up, cut.up.new_zeros(len(cut.up), pad)], 1).to(kind)
        bias = merged.get(f"{x}.bias")
        down_bias = None if own.down_bias is None else torch.zeros(rank, dtype=kind)
        out[x] = Factors(up, down, None if bias is None else bias.to(kind), down_bias)
    return from_factors(out), rank


def check_alike(rule: Rule, config: MergerConfig, first: Contribution, other: Contribution) -> None:
    """Refuse to merge what cannot be.

    Raises:
        UserError: another base, adapter or rank; or factors without a common start.
    """
    for what in ("base", "adapter", "rank", "mix"):
        ours, theirs = getattr(first, what), getattr(other, what)
        if ours != theirs:
            ours, theirs = (v[:12] if what == "base" else v for v in (ours, theirs))
            known = repr(first.domain) if first.domain else "what was merged before"
            raise UserError(
                f"{known} and {other.domain!r} differ in their {what} ({ours} and {theirs}); "
                "merge adapters of one kind, on one base"
            )
    if place_of(rule, config, first) != "factors":
        return
    if sha256_tensors(dict(first.start)) != sha256_tensors(dict(other.start)):
        raise UserError(
            f"{first.domain!r} and {other.domain!r} started from different weights, so their factors "
            "share no coordinates: learn them with one --seed, or merge low-rank adapters with "
            "on=products"
        )
