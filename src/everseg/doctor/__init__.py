"""What is here to run on, what a run of a stream would take on it, and whether that fits.

A forecast is measured where it can be: the units of a run (an image read, a training step, a prediction) are
timed and weighed in a process of their own, then multiplied by how often a run of the stream does them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from everseg.data import Stream
from everseg.doctor.forecast import Forecast, advise, cache_of, each, forecast
from everseg.doctor.machine import Machine, look
from everseg.doctor.probe import Probe, measure
from everseg.results import bytes_text
from everseg.runs.run import RunConfig
from everseg.types import Stage

__all__ = ["Findings", "Forecast", "Machine", "Probe", "examine", "lines"]

EXAMPLE = 100
"""Training and test images of the domain that is forecast where no stream is given."""


@dataclass(frozen=True)
class Findings:
    """All that was found. Where the base cannot be loaded, `error` says why, and there is no forecast."""

    machine: Machine
    config: RunConfig
    stream: str
    probe: Probe
    forecast: Forecast | None = None
    fits: bool = False
    advice: list[str] = field(default_factory=list)

    @property
    def error(self) -> str:
        return self.probe.error

    def to_json(self) -> dict[str, Any]:
        """As plain values."""
        return {
            "machine": asdict(self.machine),
            "method": self.config.method,
            "preset": self.config.preset,
            "stream": self.stream,
            "base": {"error": self.error or None, **self.probe.base},
            "probe_seconds": self.probe.seconds,
            "forecast": None if self.forecast is None else asdict(self.forecast),
            "fits": self.fits,
            "advice": self.advice,
        }


def examine(config: RunConfig, stream: Stream | None = None, folder: Path | None = None) -> Findings:
    """Look at the machine, measure the units of this run, and forecast it.

    stream: what would be learned; by default one domain of 100 training and 100 test images of the base's
        size. folder: where the run would write; by default here.

    Raises:
        UserError: an image of the stream cannot be read, or the method fails.
    """
    cache = cache_of(config)
    machine = look(
        Path(cache.folder or Path.home() / ".cache") if cache.where == "disk" else folder or Path()
    )
    counted = stream or Stream((Stage(0, "domain", range(EXAMPLE), range(EXAMPLE)),))
    probe = measure(config, stream)
    found = Findings(machine, config, "" if stream is None else stream.name, probe)
    if probe.error:
        return found
    if probe.stopped:
        ended = f"memory ran out while {probe.stopped}, and the system ended the probe"
        return replace(found, advice=[ended, "take a smaller base, or a machine with more memory"])
    made = forecast(probe, config, counted, bool(machine.gpu))
    fits, said = advise(made, probe, config, counted, machine)
    return replace(found, forecast=made, fits=fits, advice=said)


def lines(found: Findings) -> Iterator[str]:
    """The findings for people, line by line."""
    m, b, made = found.machine, found.probe.base, found.forecast
    device = f"; {m.gpu}, {_free(m.gpu_memory_free, m.gpu_memory)}" if m.gpu else ""
    yield (
        f"machine   {m.system}, {m.cores} cores, {m.threads} of them used, "
        f"memory {_free(m.memory_free, m.memory)}{device}; {bytes_text(m.disk_free)} free in {m.disk}"
    )
    yield "versions  " + ", ".join(f"{name} {number}" for name, number in m.versions.items())
    if found.error:
        yield f"base      {found.config.base} cannot be loaded"
    if b:
        yield (
            f"base      {b['name']}: {b['parameters']:,} parameters, {bytes_text(b['bytes'])}, weights "
            f"{b['fingerprint'][:12]}"
        )
        yield (
            f"          {b['image_size']} x {b['image_size']} pixels, {b['grid']} x {b['grid']} tokens of "
            f"width {b['width']}, blocks {b['adapted'][0]} to {b['adapted'][-1]} of {b['depth']} are adapted"
        )
    if made is not None:
        yield from _forecast_lines(found, made)
    yield from (f"advice    {sentence}" for sentence in found.advice)


def _forecast_lines(found: Findings, made: Forecast) -> Iterator[str]:
    m, probe, cache = found.machine, found.probe, cache_of(found.config)
    speeds = {"images read": probe.read, "objects trained on": probe.step, "images scored": probe.look}
    speeds["scored again"] = probe.again
    told = ", ".join(f"{1 / each(c):.3g} {name}" for name, c in speeds.items() if c)
    yield f"speed     per second: {told} (measured in {probe.seconds:.0f} s)\n"
    of = f"a run of {found.stream}" if found.stream else f"one domain of {EXAMPLE} + {EXAMPLE} images"
    yield f"forecast of {of} with {found.config.method}, preset {found.config.preset}"
    wide = max(len(s.name) for s in made.stages)
    for s in made.stages:
        yield (
            f"  {s.name:<{wide}}  reading {_time(s.reading):>8}  training {_time(s.training):>8}  "
            f"scoring {_time(s.scoring):>8}  memory {bytes_text(s.peak_memory_bytes):>9}"
        )
    yield f"time      {_time(made.seconds)} in all; other work on the machine makes it longer"
    needed = bytes_text(made.peak_memory_bytes)
    yield f"memory    {needed} at the most: {_parts(made.peak)}"
    yield f"kept      {_parts(made.stored)}; each further domain adds {bytes_text(made.stored_a_domain)}"
    where = {"memory": "in memory", "disk": "on the disk", "off": "not kept"}[cache.where]
    yield (
        f"features  {bytes_text(made.feature_bytes)} per image, {bytes_text(made.cache_bytes)} for all "
        f"({where}, at most {bytes_text(cache.budget)} at a time)"
    )
    free, answer = bytes_text(m.gpu_memory_free if m.gpu else m.memory_free), "yes" if found.fits else "no"
    yield f"fits      {answer}: it needs {needed} and 15 % to spare; {free} are free"


def _parts(parts: dict[str, int]) -> str:
    return ", ".join(f"{what} {bytes_text(count)}" for what, count in parts.items() if count) or "nothing"


def _free(free: int, total: int) -> str:
    return f"{bytes_text(free)} free of {bytes_text(total)}"


def _time(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"
