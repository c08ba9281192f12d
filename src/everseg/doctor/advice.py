"""Does a run fit this machine, and what would make it fit?"""

from __future__ import annotations

import dataclasses

from everseg.config import override
from everseg.data import Stream
from everseg.doctor.forecast import Forecast, forecast, order, total
from everseg.doctor.machine import Machine
from everseg.doctor.probe import Probe, cache_of, fit_of
from everseg.results import bytes_text
from everseg.runs.run import RunConfig

MARGIN = 1.15
"""A forecast of memory is within 15 % of what a run then measures; what fits, fits with that much more."""


def advise(
    found: Forecast, probe: Probe, config: RunConfig, stream: Stream, machine: Machine
) -> tuple[bool, list[str]]:
    """Whether the run fits this machine, and one sentence for each thing to know or to change."""
    cache, said = cache_of(config), list[str]()
    fits = _has_room(found, machine)
    if not fits:
        said.append(_lighter(probe, config, stream, machine))
    wanted = min(cache.budget, found.cache_bytes)
    if cache.where == "disk" and wanted > machine.disk_free:
        fits = False
        said.append(
            f"the features take {bytes_text(wanted)}, but {machine.disk} has {bytes_text(machine.disk_free)} "
            "free; set cache.folder to a larger disk, or a smaller cache.budget"
        )
    most = max(len(stage.train) for stage, _ in order(config, stream)) * found.feature_bytes
    if probe.step and cache.where != "off" and most > cache.budget:
        said.append(
            f"the features of one domain take {bytes_text(most)}, more than cache.budget "
            f"({bytes_text(cache.budget)}): the rest is computed again in every epoch; raise it with "
            f"--set cache.budget={most}, on the disk with --set cache.where=disk"
        )
    return fits, said


def _has_room(found: Forecast, machine: Machine) -> bool:
    gpu = not machine.gpu or MARGIN * found.peak_memory_bytes <= machine.gpu_memory_free
    return gpu and MARGIN * total(found.host_peak) <= machine.memory_free


def _lighter(probe: Probe, config: RunConfig, stream: Stream, machine: Machine) -> str:
    """Settings with which the run would fit, the gentlest first."""
    fit = fit_of(config)
    rows = min(fit.batch, fit.micro_batch or fit.batch) if fit else 1
    why = {
        f"tune.fit.micro_batch={n}": "the same gradients in smaller pieces" for n in (8, 4, 2, 1) if n < rows
    }
    tried = [[micro] for micro in why]
    if cache_of(config).where == "memory" and "cache" in vars(config.settings):
        why["cache.where=disk"] = "features on the disk"
        tried += [[*micro, "cache.where=disk"] for micro in ([], *tried)]
    for chosen in tried:
        settings = override(config.settings, chosen)
        changed = dataclasses.replace(config, settings=settings)
        if _has_room(forecast(probe, changed, stream, bool(machine.gpu)), machine):
            return f"it fits with --set {' --set '.join(chosen)} ({', '.join(why[c] for c in chosen)})"
    return "no setting makes it fit; take a smaller base, smaller images, or a machine with more memory"
