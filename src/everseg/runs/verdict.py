"""The verdict of the gate in sentences: what was found, what the test could detect, what to do next."""

from __future__ import annotations

import math
from collections.abc import Sequence

from everseg.results.gate import EVERYTHING, Comparison
from everseg.results.paired import Kind
from everseg.runs.gate import Gate
from everseg.text import plural

KINDS: dict[Kind, str] = {
    "learned": "learned",
    "new": "learned by the new run",
    "unseen": "never learned",
    "natural": "natural images",
    "class": "class",
    "all": "together",
}
"""What a column is, for people."""


def place(c: Comparison) -> str:
    """A comparison's name."""
    return f"{c.column}, {c.prompt}" if c.prompt else c.column


def lacking(c: Comparison) -> str:
    """The test images that would decide a comparison."""
    if c.kind == "all":
        return "test images"
    return f"test images {'that show' if c.kind == 'class' else 'of'} {c.column}"


def units(gate: Gate, count: int) -> str:
    """A number of images, or of the groups that stand for them."""
    return plural(count, "group" if gate.judgement.config.group else "image")


def headline(gate: Gate) -> str:
    """The verdict in one sentence."""
    if gate.same and gate.verdict == "pass":
        return f"{gate.new} and {gate.old} are the same run to the bit, so nothing is worse"
    if gate.verdict == "fail":
        where = _listed([place(c) for c in gate.worse])
        return f"{gate.new} is worse than {gate.old} on {where}"
    if gate.verdict == "pass":
        margin = gate.judgement.config.margin
        return f"{gate.new} is nowhere worse than {gate.old} by more than {margin:g} IoU"
    if not gate.unsure:
        return f"Nothing that was compared is worse, but not everything was: {gate.left_out[0]}"
    return (
        f"No drop from {gate.old} to {gate.new} is proven, and none is excluded on "
        f"{_listed([place(c) for c in gate.unsure])}"
    )


def _listed(names: Sequence[str], most: int = 4) -> str:
    if len(names) > most:
        return f"{'; '.join(names[:most])} and {len(names) - most} more"
    return "; ".join(names)


def power(gate: Gate, c: Comparison) -> str:
    """What these images could have shown."""
    if not c.changed:
        return (
            f"{place(c)}: no score of {units(gate, c.units)} changed; harm to fewer than "
            f"{100 * c.unseen_share:.1f} % of such images could still go unseen"
        )
    if math.isinf(c.detectable) or c.detectable >= 1:
        seen = f"{place(c)}: with {units(gate, c.units)} no drop can be seen"
    else:
        seen = (
            f"{place(c)}: with {units(gate, c.units)} a drop of less than {c.detectable:.3f} cannot be seen"
        )
    if math.isfinite(c.detectable_share):
        flip = gate.judgement.config.flip
        seen += f", nor one of {flip:g} or more in fewer than {100 * c.detectable_share:.0f} % of them"
    return seen


def powers(gate: Gate) -> list[str]:
    """The power statements, weakest first; where a drop was found, there is none to miss."""
    open_ones = [c for c in gate.comparisons if c.finding != "worse"]
    return [power(gate, c) for c in sorted(open_ones, key=lambda c: -c.detectable)]


def advice(gate: Gate) -> list[str]:
    """What to do next."""
    config = gate.judgement.config
    found = []
    if gate.verdict == "fail":
        found.append(f"Keep using {gate.old}; do not deploy {gate.new}.")
        prompts = {c.prompt for c in gate.worse}
        known = {c.prompt for c in gate.comparisons}
        if len(prompts) == 1 < len(known):
            (prompt,) = prompts
            found.append(f"Only {prompt} prompts are worse: users who give others are not affected.")
        columns = [c.column for c in gate.worse if c.column != EVERYTHING]
        if columns:
            found.append(
                f"Look at the harmed images of {_listed(list(dict.fromkeys(columns)))} and at what the new "
                "run was trained on last; then learn it again, for example with fewer steps or another seed."
            )
    elif gate.verdict == "cannot tell":
        # With the prompt of each column that takes the most images.
        hardest = {c.column: c for c in sorted(gate.unsure, key=lambda c: c.needed)}
        if len(hardest) > 1:
            hardest.pop(EVERYTHING, None)
        for c in sorted(hardest.values(), key=lambda c: -c.needed)[:4]:
            if c.needed > c.units:
                found.append(
                    f"Add {lacking(c)}: about {c.needed} would exclude a drop of more than "
                    f"{config.margin:g} if there is none, and there are {c.units}."
                )
            elif c.needed:
                found.append(
                    f"On {c.column} the new run is {-c.difference.estimate:.3f} lower, which is too near the "
                    "margin to call; more test images would decide."
                )
            else:
                found.append(f"Add {lacking(c)}: one image has no spread.")
        lows = [-c.difference.low for c in gate.unsure]
        if lows and not any(math.isnan(low) for low in lows):
            enough = math.floor(1000 * max(lows) + 1) / 1000
            found.append(
                f"If a drop of up to {enough:g} IoU is acceptable, say so with --margin {enough:g}: then "
                "these images are enough."
            )
        for text in gate.left_out:
            gone = text.endswith("gone")
            todo = "Restore its test images" if gone else "Compare a run that has learned it in its place"
            found.append(f"{todo}: {text}.")
    elif gate.same:
        found.append("There is nothing to decide: keep either.")
    else:
        found.append(f"{gate.new} may replace {gate.old}, as far as these images can tell.")
    if gate.flips and gate.verdict != "fail":
        found.append(
            f"Look at the {'image' if len(gate.flips) == 1 else f'{len(gate.flips)} images'} that fell by "
            f"{config.flip:g} IoU or more; so few may be chance, but nobody but you knows what they mean."
        )
    if gate.health is not None and gate.health.warnings and not gate.same:
        found.append("Read the warnings about prompts and predicted IoU; they do not change the verdict.")
    return found


def remarks(gate: Gate) -> list[str]:
    """What is left out, and why."""
    found = list(gate.left_out)
    if not gate.judgement.config.checked:
        found.append("prompts were not checked")
    elif gate.health is None:
        found.append("the runs learned classes and take no prompts, so prompts are not checked")
    return found
