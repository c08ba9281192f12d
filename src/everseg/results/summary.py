"""What a run knows besides its scores."""

from __future__ import annotations

from typing import Any, TypedDict


class Summary(TypedDict, total=False):
    """Plain values for `summary.json`. A key that a run does not know is left out, and shown as a dash.

    method, base, preset: names.
    base_hash: sha256 of the base's weights.
    seed: of the run.
    stored_bytes: {kind: bytes} of the learner's state (modules, selector, buffer, ...), without the base.
    trainable_parameters: of one stage.
    stage_seconds, peak_memory_bytes: one number for each learned stage, in order.
    routing_accuracy: share of test images sent to the right module after the last stage.
    oracle: {metric: AA} of the same modules given each image's domain.
    alone: {domain: {metric: score}} of each domain's own module, trained alone.
    alone_from: {domain: run} of those that another run has trained.
    merges: after each stage of a method that merges in closed form, the largest "condition" number of the
        layers solved, their "objective" as a share of the plain mean's, and for how many layers the mean
        would have been better ("worse_than_mean").
    later: of stages of later images of a domain, the domain ("of"), what they are segmented with ("chosen"),
        the IoU of each choice on held-out images ("scores"), their number ("images"), and the share of what
        is remembered of the domain that was given another module ("moved").
    first_classes: of a run of classes, those of the stream's first step and the background.
    archived_bytes: what each domain contributed, kept for merging elsewhere and for forgetting, in all.
    history_bytes: what is kept on the disk of earlier states and of rejected stages, in all.
    """

    method: str
    base: str
    base_hash: str
    preset: str
    seed: int
    stored_bytes: dict[str, int]
    trainable_parameters: int
    stage_seconds: list[float]
    peak_memory_bytes: list[int]
    routing_accuracy: float
    oracle: dict[str, float]
    alone: dict[str, dict[str, float]]
    alone_from: dict[str, str]
    merges: dict[str, dict[str, float]]
    later: dict[str, dict[str, Any]]
    archived_bytes: int
    history_bytes: int
    first_classes: list[str]


def stored_bytes(summary: Summary) -> int | None:
    """Bytes of everything a run keeps besides the base, or None where it was not recorded."""
    return sum(summary["stored_bytes"].values()) if "stored_bytes" in summary else None


def bytes_text(count: float) -> str:
    """Bytes for people, in binary units: 246096 -> "240.3 KiB"."""
    for unit in ("B", "KiB", "MiB"):
        if abs(count) < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.2f} GiB"
