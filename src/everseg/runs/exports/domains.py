"""`domain.json` beside an adapter: which domains it has learned, from what, and how well."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from everseg.errors import UserError
from everseg.results import beside_base
from everseg.runs.data import own_stream
from everseg.runs.exports.folder import public_name
from everseg.runs.run import Run
from everseg.types import PromptSample, Stage

DOMAINS = "domain.json"
LOOKED_AT = 8
"""Training images of a domain that are looked at for the kinds of their prompts."""


def described(run: Run, adapter: str) -> dict[str, Any]:
    """What `domain.json` says.

    adapter: sha256 of its tensors.

    `prompts` of a domain are null where the data that it was learned from are not at hand.
    """
    scores = {metric: beside_base(run.results, metric) for metric in run.results.lower_is_better}
    at_hand = _stages(run)
    domains = []
    for stage in run.record.learned:
        if stage.background:
            continue
        own = {m: each.score for m, found in scores.items() for each in found if each.domain == stage.name}
        domains.append(
            {
                "id": stage.name,
                "images": stage.images,
                "data_sha256": stage.fingerprint or None,
                "prompts": _prompts(at_hand[stage.name].train) if stage.name in at_hand else None,
                "metrics": {metric: value if value == value else None for metric, value in own.items()},
            }
        )
    base = {"name": public_name(run.config.base), "sha256": run.base.fingerprint}
    return {"method": run.config.method, "base": base, "adapter_sha256": adapter, "domains": domains}


def _stages(run: Run) -> dict[str, Stage]:
    """The stages whose training data can be read."""
    try:
        found = own_stream(run).stages
    except UserError:  # The data may be gone; what is said of them stays null.
        return {}
    return {stage.name: stage for stage in found if len(stage.train)}


def _prompts(samples: Sequence[PromptSample]) -> dict[str, Any]:
    """Whether a domain's objects were clicked or boxed, by its first images, and the most clicks."""
    seen = [samples[n].prompts for n in range(min(LOOKED_AT, len(samples)))]
    clicks = [0 if p.labels is None else int((p.labels >= 0).sum(-1).max()) for p in seen]
    boxes = any(p.boxes is not None for p in seen)
    return {"clicks": any(clicks), "boxes": boxes, "most_clicks": max(clicks, default=0)}
