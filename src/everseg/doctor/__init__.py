"""What is here to run on, what a run of a stream would take on it, and whether that fits.

A forecast is honest where it measures: the units of a run (an image read, a training step, a prediction) are
timed and weighed in a process of their own, then multiplied by what the stream and the settings count.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from everseg.data import Stream
from everseg.doctor.forecast import Domain, Forecast, Plan, advise, cache_of, each, forecast
from everseg.doctor.machine import Machine, look
from everseg.doctor.probe import Probe, Shape, measure
from everseg.domains.scoring import BATCH
from everseg.methods import find
from everseg.models.names import TINY
from everseg.results import bytes_text
from everseg.runs.run import RunConfig
from everseg.types import PromptSample, Stage

__all__ = ["Findings", "Forecast", "Machine", "Probe", "examine", "lines"]

EXAMPLE = 100
"""Images of the domain that is forecast where no stream is named."""


@dataclass(frozen=True)
class Findings:
    """All that was found. `error` says why the base cannot be loaded; then there is no forecast. origin:
    where the base's weights come from."""

    machine: Machine
    config: RunConfig
    stream: str
    origin: str
    probe: Probe
    forecast: Forecast | None
    fits: bool
    advice: list[str] = field(default_factory=list)

    @property
    def error(self) -> str:
        return self.probe.error

    def to_json(self) -> dict[str, Any]:
        """As plain values."""
        found = self.forecast
        return {
            "machine": dataclasses.asdict(self.machine),
            "method": self.config.method,
            "preset": self.config.preset,
            "stream": self.stream,
            "base": {"origin": self.origin, "error": self.error or None, **self.probe.base},
            "probe_seconds": self.probe.seconds,
            "forecast": None
            if found is None
            else {
                **dataclasses.asdict(found),
                "seconds": found.seconds,
                "peak_memory_bytes": found.peak_memory_bytes,
            },
            "fits": self.fits,
            "advice": self.advice,
        }


def examine(config: RunConfig, stream: Stream | None = None, folder: Path | None = None) -> Findings:
    """Look at the machine, measure the units of this run, and forecast it.

    stream: what would be learned; by default one domain of 100 training and 100 test images of the base's
    size. folder: where the run would write, by default here.

    Raises:
        UserError: an image of the stream cannot be read, or the method fails on what every method must bear.
    """
    cache = cache_of(config)
    wanted = Path(cache.folder or Path.home() / ".cache") if cache.where == "disk" else folder or Path()
    machine = look(wanted)
    shapes, decode = ([], 0.0) if stream is None else _shapes(stream)
    plan = _plan(config, stream, shapes, decode)
    probe = measure(config, shapes, _most(plan, getattr(find(config.method), "all_at_once", False)))
    name = "" if stream is None else stream.name
    found = Findings(machine, config, name, _origin(config.base), probe, None, False)
    if probe.error:
        return found
    if probe.stopped:
        ended = f"the system ended the probe while {probe.stopped}: there is not enough memory for it"
        return dataclasses.replace(
            found, advice=[ended, "take a smaller base, or a machine with more memory"]
        )
    made = forecast(probe, config, plan, bool(machine.gpu))
    fits, said = advise(made, probe, config, plan, machine)
    return dataclasses.replace(found, forecast=made, fits=fits, advice=said)


def lines(found: Findings) -> Iterator[str]:
    """The findings for people, line by line."""
    m, probe, base = found.machine, found.probe, found.probe.base
    device = f"; {m.gpu}, {_bytes_of(m.gpu_memory_free, m.gpu_memory)}" if m.gpu else ""
    yield (
        f"machine   {m.system}, {m.cores} cores, {m.threads} of them used, "
        f"memory {_bytes_of(m.memory_free, m.memory)}{device}; {bytes_text(m.disk_free)} free in {m.disk}"
    )
    yield "versions  " + ", ".join(f"{name} {number}" for name, number in m.versions.items())
    if found.error:
        yield f"base      {found.config.base} ({found.origin}) cannot be loaded"
        return
    if base:
        first, last = base["adapted"][0], base["adapted"][-1]
        yield (
            f"base      {base['name']} ({found.origin}): {base['parameters']:,} parameters, "
            f"{bytes_text(base['bytes'])}, weights {base['fingerprint'][:12]}"
        )
        yield (
            f"          {base['image_size']} x {base['image_size']} pixels, {base['grid']} x {base['grid']} "
            f"tokens of width {base['width']}, blocks {first} to {last} of {base['depth']} are adapted"
        )
    made = found.forecast
    if made is None:
        yield from (f"advice    {sentence}" for sentence in found.advice)
        return
    speeds = {
        "images read": probe.read,
        "objects trained on": probe.step,
        "images scored": probe.look,
        "scored once their features are known": probe.again,
    }
    told = [f"{1 / each(c):.3g} {name}" for name, c in speeds.items() if c]
    yield f"speed     a second: {', '.join(told)} (measured in {probe.seconds:.0f} s)"
    yield ""
    of = f"a run of {found.stream}" if found.stream else f"one domain of {EXAMPLE} + {EXAMPLE} images"
    yield f"forecast of {of} with {found.config.method}, preset {found.config.preset}"
    wide = max(len(s.name) for s in made.stages)
    for s in made.stages:
        yield (
            f"  {s.name:<{wide}}  reading {_time(s.reading):>8}  training {_time(s.training):>8}  "
            f"scoring {_time(s.scoring):>8}  memory {bytes_text(s.peak_memory_bytes):>9}"
        )
    parts = ", ".join(f"{what} {bytes_text(count)}" for what, count in made.peak.items() if count)
    kept = (
        ", ".join(f"{kind} {bytes_text(count)}" for kind, count in made.stored.items() if count) or "nothing"
    )
    yield f"time      {_time(made.seconds)} in all; other work on the machine makes it longer"
    yield f"memory    {bytes_text(made.peak_memory_bytes)} at the most: {parts}"
    more = bytes_text(made.stored_a_domain) if made.stored_a_domain else "nothing"
    yield f"kept      {kept}; {more} more with each further domain"
    where = {"memory": "in memory", "disk": "on the disk", "off": "not kept"}[cache_of(found.config).where]
    yield (
        f"features  {bytes_text(made.feature_bytes)} an image, {bytes_text(made.cache_bytes)} for all images "
        f"({where}, at most {bytes_text(cache_of(found.config).budget)} at a time)"
    )
    free = bytes_text(m.gpu_memory_free if m.gpu else m.memory_free)
    wanted = bytes_text(made.peak_memory_bytes)
    yield f"fits      {'yes' if found.fits else 'no'}: it wants {wanted} and 15 % to spare, {free} are free"
    yield from (f"advice    {sentence}" for sentence in found.advice)


def _bytes_of(free: int, total: int) -> str:
    return f"{bytes_text(free)} free of {bytes_text(total)}"


def _time(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


def _origin(base: str) -> str:
    """Where the weights of a base of this name come from."""
    path = Path(base)
    if base == TINY:
        return "embedded in everseg"
    if path.is_file():
        return f"file of {bytes_text(path.stat().st_size)}"
    return "folder" if path.is_dir() else "hub id"


def _shapes(stream: Stream) -> tuple[list[Shape], float]:
    """The shapes of as many images as are decoded at once, spread over the stream, and seconds to decode
    one."""
    splits = [split for s in (*stream.stages, *stream.unseen) for split in (s.train, s.test) if len(split)]
    shapes, seconds = [], 0.0
    for i in range(BATCH):
        split = splits[i * len(splits) // BATCH]
        began = time.perf_counter()
        sample: PromptSample = split[i * len(split) // BATCH]
        seconds += time.perf_counter() - began
        shapes.append(_shape(sample))
    return shapes, seconds / BATCH


def _shape(sample: PromptSample) -> Shape:
    clicks = 0 if sample.prompts.points is None else int(sample.prompts.points.shape[1])
    height, width = sample.image.shape[-2:]
    return Shape(height, width, len(sample.prompts), clicks, sample.prompts.boxes is not None)


def _plan(config: RunConfig, stream: Stream | None, shapes: Sequence[Shape], decode: float) -> Plan:
    how = (decode, config.evaluate, config.baseline)
    if stream is None:
        return Plan((Domain("a domain", EXAMPLE, EXAMPLE, EXAMPLE),), *how)
    objects = sum(s.objects for s in shapes) / len(shapes)

    def domain(stage: Stage) -> Domain:
        rows = round(objects * len(stage.train))
        unseen = stage in stream.unseen
        return Domain(stage.name, len(stage.train), rows, len(stage.test), stage.background, unseen)

    return Plan(tuple(domain(s) for s in (*stream.stages, *stream.unseen)), *how)


def _most(plan: Plan, at_once: bool) -> dict[str, int]:
    """The most rows of each kind of unit that any stage has."""
    learned = [d for d in plan.learned if not (at_once and d.background)]
    over = sum if at_once else max
    return {
        "read": over([0, *(d.train for d in learned)]),
        "step": over([0, *(d.rows for d in learned)]),
        "look": max(d.test for d in plan.domains),
    }
