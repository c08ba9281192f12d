"""What is here to run on, what a run of a stream would take on it, and whether that fits.

A forecast is measured where it can be: the units of a run (an image read, a training step, a prediction) are
timed and weighed in a process of their own, then multiplied by how often a run of the stream does them.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from everseg.data import Stream
from everseg.doctor.forecast import Forecast, advise, cache_of, each, forecast
from everseg.doctor.machine import Machine, look
from everseg.doctor.probe import Probe, measure
from everseg.results import bytes_text
from everseg.runs.run import RunConfig
from everseg.types import Stage

__all__ = ["Findings", "Forecast", "Machine", "Probe", "examine", "text"]

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


def text(found: Findings) -> str:
    """The findings for people."""
    made, machine, probe, cache = found.forecast, found.machine, found.probe, cache_of(found.config)
    units = {
        "images read": probe.read,
        "objects trained on": probe.step,
        "images scored": probe.look,
        "scored again": probe.again,
    }
    templates = Environment(
        loader=PackageLoader("everseg.doctor"),
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
    )
    templates.filters |= {"bytes": bytes_text, "parts": _parts, "time": _time}
    return templates.get_template("findings.txt").render(
        found=found,
        m=machine,
        b=probe.base,
        f=made,
        cache=cache,
        where={"memory": "in memory", "disk": "on disk", "off": "not kept"}[cache.where],
        what=f"a run of {found.stream}" if found.stream else f"one domain of {EXAMPLE} + {EXAMPLE} images",
        wide=max((len(s.name) for s in made.stages), default=0) if made else 0,
        speeds=[f"{1 / each(costs):.3g} {name}" for name, costs in units.items() if costs],
        free=machine.gpu_memory_free if machine.gpu else machine.memory_free,
    )


def _parts(parts: dict[str, int]) -> str:
    return ", ".join(f"{what} {bytes_text(count)}" for what, count in parts.items() if count) or "nothing"


def _time(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"
