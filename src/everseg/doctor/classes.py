"""What a run of classes would take: a few gradient steps of each kind are timed, and multiplied."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from everseg.config import assign
from everseg.data import Stream
from everseg.data.classes.crop import CentreCropped
from everseg.data.samples import take_evenly
from everseg.distributed import process_peak
from everseg.doctor.machine import Machine, look
from everseg.fit import steps_of
from everseg.methods import build, find
from everseg.results import bytes_text
from everseg.runs.data import to_learn
from everseg.runs.folder import base_of
from everseg.runs.run import RunConfig
from everseg.types import NoScratch, Stage

TIMED = 3
"""Gradient steps of each kind that are timed."""
SHOWN = 4
"""Images that are scored to time that."""


@dataclass(frozen=True)
class ClassStageForecast:
    """steps: gradient steps.
    training, scoring: seconds.
    """

    name: str
    images: int
    steps: int
    training: float
    scoring: float


@dataclass(frozen=True)
class ClassFindings:
    """step_seconds: of a gradient step of the first stage, and of a later one if there is any.
    peak_memory_bytes: of this process while it measured."""

    machine: Machine
    config: RunConfig
    stream: str
    step_seconds: tuple[float, ...]
    image_seconds: float
    stages: tuple[ClassStageForecast, ...]
    peak_memory_bytes: int

    @property
    def seconds(self) -> float:
        return sum(s.training + s.scoring for s in self.stages)

    def to_json(self) -> dict[str, Any]:
        """As plain values."""
        return {
            "machine": asdict(self.machine),
            "method": self.config.method,
            "preset": self.config.preset,
            "stream": self.stream,
            "proposed": dict(self.config.proposed),
            "step_seconds": list(self.step_seconds),
            "image_seconds": self.image_seconds,
            "stages": [asdict(stage) for stage in self.stages],
            "seconds": self.seconds,
            "peak_memory_bytes": self.peak_memory_bytes,
        }


def examine_classes(config: RunConfig, stream: Stream) -> ClassFindings:
    """Time a few gradient steps and predictions of a run of classes, and forecast it.

    Raises:
        UserError: the base cannot be loaded, an image cannot be read, or the method fails.
    """
    stages = to_learn(stream, find(config.method))
    few: dict[str, Any] = {f"tune.{step}.steps": TIMED for step in ("first", "later")}
    if hasattr(config.settings, "experts"):
        few["experts"] = False  # Later steps are forecast by one that distils.
    base = base_of(config)
    learner = build(config.method, base, assign(config.settings, few), config.seed)
    seconds = []
    for stage in stages[:2]:
        train = [
            stage.train[i] for i in take_evenly(range(len(stage.train)), 2 * config.settings.tune.first.batch)
        ]
        figures = learner.learn(replace(stage, train=train, val=()), NoScratch())
        seconds.append(figures["seconds"] / TIMED)
    shown = _shown(stages[0], config)
    began = time.perf_counter()
    learner.predict([sample.query() for sample in shown])
    each = (time.perf_counter() - began) / max(1, len(shown))
    made = []
    for number, stage in enumerate(stages):
        images = len(stage.train)
        steps = steps_of(config.settings.tune.fit_of(images, first=not number), images)
        made.append(
            ClassStageForecast(
                stage.name, images, steps, steps * seconds[min(number, 1)], each * len(stage.test)
            )
        )
    return ClassFindings(look(Path()), config, stream.name, tuple(seconds), each, tuple(made), process_peak())


def _shown(stage: Stage, config: RunConfig) -> Sequence[Any]:
    """Test images as they are scored."""
    few = [stage.test[i] for i in take_evenly(range(len(stage.test)), SHOWN)]
    size = config.score.size
    return few if size == "original" else CentreCropped(few, size)


def class_text(found: ClassFindings) -> str:
    """The findings for people. Settings that were proposed have been announced."""
    m, tune = found.machine, found.config.settings.tune
    gpu = f"; {m.gpu}, {bytes_text(m.gpu_memory_free)} free" if m.gpu else ""
    first, *later = (f"{s:.2g} s" for s in found.step_seconds)
    plain = [] if found.config.proposed else ["settings  nothing was proposed"]
    lines = [
        f"machine   {m.system}, {m.cores} cores, {m.threads} of them used, "
        f"memory {bytes_text(m.memory_free)} free{gpu}",
        *plain,
        f"speed     {first} per gradient step of {tune.first.batch} crops of {tune.crop} pixels"
        f"{f', {later[0]} in later stages' if later else ''}, {found.image_seconds:.2g} s per image scored",
        f"forecast of a run of {found.stream} with {found.config.method}, preset {found.config.preset}",
    ]
    wide = max(len(s.name) for s in found.stages)
    lines += [
        f"  {s.name.ljust(wide)}  {s.images} images, {s.steps} gradient steps: training {_time(s.training)}, "
        f"scoring {_time(s.scoring)}"
        for s in found.stages
    ]
    lines += [
        f"time      {_time(found.seconds)} in all; other work on the machine makes it longer",
        f"memory    {bytes_text(found.peak_memory_bytes)} while this was measured",
    ]
    return "\n".join(lines)


def _time(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"
