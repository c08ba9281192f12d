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
from everseg.doctor.advice import advise
from everseg.doctor.forecast import Forecast, each, forecast
from everseg.doctor.machine import Machine, look
from everseg.doctor.probe import Probe, cache_of, measure
from everseg.results import bytes_text
from everseg.runs.run import RunConfig
from everseg.types import Stage

__all__ = ["Findings", "Forecast", "Machine", "Probe", "examine", "text"]

EXAMPLE = 100
"""Training and test images of the domain that is forecast where no stream is given."""


@dataclass(frozen=True)
class Findings:
    """All that was found. Where the base cannot be loaded there is no forecast, and the probe says why."""

    machine: Machine
    config: RunConfig
    stream: str
    probe: Probe
    forecast: Forecast | None = None
    fits: bool = False
    advice: list[str] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """As plain values."""
        return {
            "machine": asdict(self.machine),
            "method": self.config.method,
            "preset": self.config.preset,
            "stream": self.stream,
            "base": {"error": self.probe.error or None, **self.probe.base},
            "probe_seconds": self.probe.seconds,
            "forecast": self.forecast and asdict(self.forecast),
            "fits": self.fits,
            "advice": self.advice,
        }


def examine(config: RunConfig, stream: Stream | None = None, folder: Path | None = None) -> Findings:
    """Look at the machine, measure the units of this run, and forecast it.

    stream: what would be learned; by default one domain of 100 training and 100 test images of the base's
        size.
    folder: where the run would write; by default here.

    Raises:
        UserError: an image of the stream cannot be read, or the method fails.
    """
    cache = cache_of(config)
    disk = Path(cache.folder or Path.home() / ".cache") if cache.where == "disk" else folder or Path()
    machine, probe = look(disk), measure(config, stream)
    found = Findings(machine, config, stream.name if stream else "", probe)
    if probe.error:
        return found
    if probe.doing:
        ended = f"memory ran out while {probe.doing}, and the system ended the probe"
        return replace(found, advice=[ended, "take a smaller base, or a machine with more memory"])
    counted = stream or Stream((Stage(0, "domain", range(EXAMPLE), range(EXAMPLE)),))
    made = forecast(probe, config, counted, bool(machine.gpu))
    fits, said = advise(made, probe, config, counted, machine)
    return replace(found, forecast=made, fits=fits, advice=said)


def text(found: Findings) -> str:
    """The findings for people."""
    templates = Environment(
        loader=PackageLoader("everseg.doctor"),
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
    )
    templates.filters |= {"bytes": bytes_text, "time": _time}
    return templates.get_template("findings.txt").render(
        m=found.machine,
        probe=found.probe,
        f=found.forecast,
        config=found.config,
        cache=cache_of(found.config),
        each=each,
        stream=f"a run of {found.stream}" if found.stream else f"one domain of {EXAMPLE} + {EXAMPLE} images",
        found=found,
    )


def _time(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"
