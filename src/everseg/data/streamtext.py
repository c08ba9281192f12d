"""The text of a proposed stream file, with a comment on everything that was found or is unsure."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any

from everseg.data.known.site import Options, StageProposal
from everseg.data.streamfile import LONGEST, is_name
from everseg.errors import printable
from everseg.types import RESERVED


def rename(stages: Sequence[StageProposal]) -> None:
    """Give every stage a name that is allowed and its own."""
    taken: set[str] = set()
    for stage in stages:
        name = re.sub(r"[^A-Za-z0-9._-]+", "-", stage.name).strip("-._").lower()[: LONGEST - 4] or "data"
        name = name if is_name(name) and name not in RESERVED else f"data-{name}"
        number = 2
        unique = name
        while unique in taken:
            unique, number = f"{name}-{number}", number + 1
        taken.add(unique)
        stage.name = unique


def stream_text(stages: Sequence[StageProposal], name: str, root: str, remarks: Sequence[str]) -> str:
    """The stream file, with a comment on everything that was found or is unsure."""
    lines = [
        "# Written by `everseg data init`. Edit it, look at it with `everseg data check`, then learn it with",
        "# `everseg learn`. Every option is explained in docs/data.md.",
        *(f"# Note: {printable(remark)}" for remark in remarks),
        f"name: {as_yaml(printable(name))}",
        f"root: {as_yaml(root)}  # paths below start here",
        "seed: 0",
    ]
    # What is only tested comes last, under a key of its own.
    learned = [stage for stage in stages if "train" in stage.splits]
    unseen = [stage for stage in stages if stage not in learned]
    for key, stage in [("stages", s) for s in learned] + [("unseen", s) for s in unseen]:
        lines += [] if f"{key}:" in lines else [f"{key}:"]
        lines += [f"  # {printable(sentence)}" for sentence in stage.found]
        lines += [f"  # Unsure: {printable(sentence)}" for sentence in stage.doubts]
        lines.append(f"  - name: {as_yaml(stage.name)}")
        for split, options in stage.splits.items():
            lines.append(f"    {split}:")
            lines += option_lines(options, stage, "      ")
            if split in stage.unsettled:
                lines.append(
                    f"      # {stage.unsettled[split]}  # unsure: keep what is right, and remove the #"
                )
    return "\n".join(lines) + "\n"


def option_lines(options: Options, stage: StageProposal, indent: str) -> list[str]:
    """The options of a split, each with what a person should know of it."""
    comments = {**_COMMENTS, **stage.comments}
    said = {key: f"  # {printable(comments[key])}" if key in comments else "" for key in options}
    return [f"{indent}{key}: {as_yaml(value)}{said[key]}" for key, value in options.items()]


_COMMENTS = {
    "part": "these of the images, sorted by name",
    "instances": "or merged: all of an image are one object",
}


def as_yaml(value: Any) -> str:
    plain = isinstance(value, str) and re.fullmatch(r"[A-Za-z][A-Za-z0-9_./-]*|\.", value)
    if plain and value.lower() not in ("true", "false", "yes", "no", "on", "off", "null", "y", "n"):
        return value
    if isinstance(value, dict):  # whose numbers JSON would write as text
        return "{" + ", ".join(f"{key}: {as_yaml(own)}" for key, own in value.items()) + "}"
    return json.dumps(value, ensure_ascii=False)  # JSON is YAML
