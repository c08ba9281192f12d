"""A run's model card: what was learned, how well, from which data, on which base, and how to load it."""

from __future__ import annotations

import math
from typing import Any

import yaml

from everseg.models.names import MOBILENET, TINY
from everseg.models.semantic.packaged import EFFICIENTNET_LITE1
from everseg.results import beside_base
from everseg.results.bootstrap import headline
from everseg.results.summary import bytes_text
from everseg.results.tables import interval, number
from everseg.runs.run import Run

LICENCES = {
    TINY: "apache-2.0",
    MOBILENET: "bsd-3-clause",
    **{f"facebook/sam-vit-{size}": "apache-2.0" for size in ("base", "large", "huge")},
    **{
        f"facebook/sam2{point}-hiera-{size}": "apache-2.0"
        for point in ("", ".1")
        for size in ("tiny", "small", "base-plus", "large")
    },
}
"""Licences of bases by their names, as their publishers state them."""

TASKS = {"domains": "mask-generation", "classes": "image-segmentation"}


def card(run: Run, repo: str, base: str | None, licence: str | None) -> str:
    """The text of a run's README.md on a hub.

    repo: owner/name.
    base: the base's public name; None where it has none.
    licence: of the run, as the hub names it; None where nobody said.
    """
    head: dict[str, Any] = {"library_name": "everseg", "pipeline_tag": TASKS[run.problem.name]}
    if licence:
        head["license"] = licence
    if base not in (None, TINY, MOBILENET):
        head["base_model"] = base
    head["tags"] = ["continual-learning", run.config.method]
    parts = [
        f"---\n{yaml.safe_dump(head, sort_keys=False)}---",
        f"# {repo.partition('/')[2]}",
        f"A run of [everseg](https://pypi.org/project/everseg/): method `{run.config.method}`, preset "
        f"`{run.config.preset}`, seed {run.config.seed}.",
        *_learned(run),
        *_scores(run),
        *_base(run, base),
        *_loading(run, repo, base),
    ]
    return "\n\n".join(parts) + "\n"


def _learned(run: Run) -> list[str]:
    rows = ["| stage | images | classes | data (sha256) |", "|---|---|---|---|"]
    for stage in run.record.learned:
        told = f"`{stage.fingerprint[:16]}`" if stage.fingerprint else "unknown"
        name = f"{stage.name} (natural images)" if stage.background else stage.name
        rows.append(f"| {name} | {stage.images} | {', '.join(stage.classes) or '–'} | {told} |")  # noqa: RUF001
    gone = [f"- `{c.forgotten}` was forgotten: {c.statement}" for c in run.record.forgotten]
    return ["## What was learned", "\n".join(rows), *(["\n".join(gone)] if gone else [])]


def _scores(run: Run) -> list[str]:
    parts = ["## Scores"]
    if not run.results.scores:
        return [*parts, "Nothing was measured."]
    for metric in list(run.results.lower_is_better)[:1]:
        averages = headline(run.results, metric)
        said = "; ".join(
            f"{name} {interval(value)}"
            for name, value in averages.items()
            if value.estimate == value.estimate
        )
        parts.append(
            f"{metric} on the test images, means with 95 % intervals of a bootstrap over images: {said}."
        )
        rows = [f"| | {metric} at the end | right after learning | untouched base |", "|---|---|---|---|"]
        matrix = run.results.matrix(metric)
        for j, each in enumerate(beside_base(run.results, metric)):
            first = float(matrix.values[matrix.learned_at[j], j]) if each.learned else math.nan
            cells = [number(each.score), number(first), number(each.base)]
            rows.append(f"| {each.domain} | {' | '.join(cells)} |")
        parts.append("\n".join(rows))
    return parts


def _base(run: Run, base: str | None) -> list[str]:
    known = LICENCES.get(base or "")
    licence = f"its licence is {known}" if known else "its licence is its publisher's"
    name = f"`{base}`" if base else "a local model, which is not part of this repository"
    return [
        "## Base",
        f"{name}; {licence}. Weights (sha256): `{run.record.base.fingerprint}`. The base is not part of this "
        "repository; everseg refuses another one.",
    ]


def _loading(run: Run, repo: str, base: str | None) -> list[str]:
    more = "" if base else ' , base="path/to/the/base"'.replace(" ,", ",")
    option = "" if base else " --base path/to/the/base"
    prompted = ", points=[(411, 230)]" if run.problem.name == "domains" else ""
    click = " --point 411,230" if prompted else ""
    kept = {k: v for k, v in run.summary().get("stored_bytes", {}).items() if v}
    held = ", ".join(f"{kind} ({bytes_text(size)})" for kind, size in kept.items())
    return [
        "## How to load it",
        f'```python\nimport everseg\n\nrun = everseg.load("hf://{repo}"{more})\n'
        f'found = run.predict("image.png"{prompted})\n```',
        f"    everseg predict hf://{repo} image.png{click} --out predicted{option}",
        *_needed(run),
        f"The state holds {held or 'nothing'}. It is safetensors and JSON only: nothing in it is run when it "
        "is loaded. Statistics and embeddings of training images say something about them.",
    ]


def _needed(run: Run) -> list[str]:
    """What else must be installed, with its licence."""
    tune = getattr(run.config.settings, "tune", None)
    if not getattr(tune, "posterior", 0) or getattr(tune, "posterior_backbone", "base") == "base":
        return []
    return [
        "It also needs the weights of EfficientNet-Lite1 (Apache-2.0), by which it tells classes apart: "
        f"`{EFFICIENTNET_LITE1.install}`."
    ]
