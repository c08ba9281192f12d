"""Quantise weights to 8 bits, and measure the loss on the run's test images."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Literal

from everseg.domains.scoring import ScoreConfig, score
from everseg.errors import UserError
from everseg.progress import remark
from everseg.runs.data import own_stream
from everseg.runs.exports.plan import Plan
from everseg.runs.exports.runner import DECODER, ENCODER, TAIL, Runner
from everseg.runs.run import Run
from everseg.types import PromptPrediction, PromptSample

Quantized = Literal["int8"]
MEASURED = 16
"""Test images that the loss is measured on, shared out among the domains."""

Predict = Callable[[Any], list[PromptPrediction]]


def quantize(folder: Path, run: Run, made: Plan, domain: str | None) -> dict[str, Any]:
    """Replace the graphs in `folder` by ones whose matrices have 8 bits; returns sizes and what is lost.

    The loss is the mean IoU with the truth before and after, and that of both with each other, on test images
    of the stream that the run was made from; null, with a reason, where those are not at hand.
    """
    files = [name for name in (ENCODER, TAIL, DECODER) if (folder / name).is_file()]
    sizes = sum((folder / name).stat().st_size for name in files)
    try:
        samples, why = _samples(run, domain), ""
    except UserError as error:
        samples, why = [], str(error)
    before: dict[str, list[PromptPrediction]] = {}
    if samples:
        whole = Runner(folder, made.base)
        before = {name: whole.predict([s.query() for s in own], _of(made, name)) for name, own in samples}
    for name in files:
        _quantize(folder / name)
    told: dict[str, Any] = {
        "bytes": sum((folder / name).stat().st_size for name in files),
        "bytes_before": sizes,
    }
    if not samples:
        remark(f"the loss of quantisation was not measured: {why or 'the stream has no test images'}")
        return told | {"loss": None, "why": why or "no test images"}
    small, agreement, ious = Runner(folder, made.base), 0.0, [0.0, 0.0]
    count = sum(len(own) for _, own in samples)
    for name, own in samples:
        after = small.predict([s.query() for s in own], _of(made, name))
        for side, found in enumerate((before[name], after)):
            rows = score(partial(_given, iter(found)), own, name, ScoreConfig(workers=0))
            ious[side] += sum(row.values["iou"] for row in rows) / count
        agreement += sum(_iou(a, b) for a, b in zip(before[name], after, strict=True)) / count
    return told | {
        "loss": {"images": count, "iou_before": ious[0], "iou_after": ious[1], "agreement": agreement}
    }


def _of(made: Plan, domain: str) -> str | None:
    """The module whose weights are given to a tail that takes them."""
    return domain if made.layout == "parts" and domain in made.modules else next(iter(made.modules), None)


def _samples(run: Run, domain: str | None) -> list[tuple[str, list[PromptSample]]]:
    stages = [stage for stage in own_stream(run).stages if stage.name in run.learned and len(stage.test)]
    stages = [stage for stage in stages if not stage.background and domain in (None, stage.name)]
    each = max(1, MEASURED // max(1, len(stages)))
    return [(s.name, [s.test[i] for i in range(min(each, len(s.test)))]) for s in stages]


def _given(found: Any, asked: Any) -> list[PromptPrediction]:
    return [next(found) for _ in asked]


def _iou(one: PromptPrediction, other: PromptPrediction) -> float:
    a, b = one.masks(), other.masks()
    both, either = (a & b).sum((1, 2)), (a | b).sum((1, 2))
    return float((both / either.clamp(min=1) + (either == 0)).mean())


def _quantize(path: Path) -> None:
    from onnxruntime.quantization import QuantType, quantize_dynamic

    log = logging.getLogger()
    before, small = log.level, path.with_suffix(".small")
    log.setLevel(logging.ERROR)  # It recommends a preparation that changes nothing here.
    try:
        quantize_dynamic(
            path,
            small,
            weight_type=QuantType.QInt8,
            op_types_to_quantize=["MatMul", "Gemm"],
            per_channel=True,
        )
    finally:
        log.setLevel(before)
    for rest in (path, path.with_name(path.name + ".data")):
        rest.unlink(missing_ok=True)
    small.replace(path)
