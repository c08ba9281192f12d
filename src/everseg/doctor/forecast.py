"""What a run will take: the cost of each unit times how often a run of the stream does it. Does that fit?"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any, NamedTuple

from torch.utils.data import ConcatDataset

from everseg import config as configuration
from everseg.data import Stream
from everseg.doctor.machine import Machine
from everseg.doctor.probe import Cost, Probe
from everseg.domains.cache import CacheConfig
from everseg.domains.prepare import PREDICT_BATCH
from everseg.domains.scoring import BATCH
from everseg.fit import FitConfig
from everseg.methods import find
from everseg.results import bytes_text
from everseg.runs.run import RunConfig
from everseg.types import Stage
from everseg.types.abilities import PredictsAs

MARGIN = 1.15
"""A forecast of memory is within 15 % of what a run then measures; what fits, fits with that much more."""
Parts = dict[str, int]
"""Bytes by what they are for."""


@dataclass(frozen=True)
class StageForecast:
    """Seconds that a stage takes, and the peak memory that a run measures after it."""

    name: str
    reading: float
    training: float
    scoring: float
    peak_memory_bytes: int


@dataclass(frozen=True)
class Forecast:
    """What a run will take, in seconds and bytes."""

    stages: tuple[StageForecast, ...]
    seconds: float
    peak_memory_bytes: int
    peak: Parts  # at the worst moment: of the accelerator if there is one, else of the host
    host_peak: Parts
    stored: dict[str, int]  # kept after the last stage, by kind
    stored_a_domain: int  # one more domain adds so much
    feature_bytes: int  # one image in the cache
    cache_bytes: int  # all images, if all were kept


def cache_of(config: RunConfig) -> CacheConfig:
    return getattr(config.settings, "cache", CacheConfig())


def fit_of(config: RunConfig) -> FitConfig | None:
    return getattr(getattr(config.settings, "tune", None), "fit", None)


def order(config: RunConfig, stream: Stream) -> list[tuple[Stage, list[Stage]]]:
    """Each stage that a run learns, with the stages that are scored after it."""
    learned, unseen = list(stream.stages), list(stream.unseen)
    if getattr(find(config.method), "all_at_once", False):
        parts: list[Any] = [s.train for s in learned if not s.background]
        together: Any = ConcatDataset(parts)
        return [(Stage(0, "all-domains", together, ()), [*learned, *unseen])]
    upto = [i + 1 if config.evaluate == "next" else len(learned) for i in range(1, len(learned))]
    scored = [*(learned[:n] for n in upto), learned + unseen]
    return list(zip(learned, scored, strict=True))


def forecast(probe: Probe, config: RunConfig, stream: Stream, gpu: bool = False) -> Forecast:
    """What a run of the stream takes by what the probe measured. gpu: whether it has an accelerator."""
    cache, fit, size = cache_of(config), fit_of(config), probe.feature_bytes
    read, look, again, step = (each(c) for c in (probe.read, probe.look, probe.again, probe.step))
    in_memory = cache.where == "memory"
    stages: list[StageForecast] = []
    host_peak, peak = Parts(), Parts()
    seen: dict[str, int] = {}  # test images by domain: the cache knows them after their first scoring

    def held(images: int) -> int:
        return min(images, cache.budget // size) * size if in_memory else 0

    work = order(config, stream)
    for number, (stage, columns) in enumerate(work, 1):
        images, objects = len(stage.train), round(probe.objects * len(stage.train))
        tested, known = sum(len(c.test) for c in columns), () if cache.where == "off" else seen
        reading = training = 0.0
        scoring = sum(len(c.test) * (again if c.name in known else look) for c in columns)
        phases = [Phase("loading it", [Cost(1, 0, probe.loading, 0)], 1, 0)]
        if fit and (probe.reads_background or not stage.background):
            reading = images * read
            features = held(sum(seen.values())) + held(images)
            rows = min(cache.budget, objects * probe.row_bytes) if in_memory else 0
            phases.append(Phase("reading images", probe.read, min(PREDICT_BATCH, images), features, rows))
        if fit and not stage.background:
            steps = fit.steps or fit.epochs * -(-objects // fit.batch)
            read_again = read * (1 - held(images) / (images * size)) if in_memory else 0
            training = steps * fit.batch * (step + read_again)
            training += max(0.0, line(list(probe.rest.items()), images) - reading)
            together = min(fit.batch, fit.micro_batch or fit.batch, objects)
            phases.append(Phase("a training step", probe.step, together, features, rows))
        seen |= {c.name: len(c.test) for c in columns}
        features = held(sum(seen.values()))
        if number == len(work) and config.baseline:  # The untouched base has a cache of its own.
            scoring += tested * (again if cache.where == "disk" else look)
            features *= 2
        if number == len(work) and issubclass(find(config.method), PredictsAs):  # with each domain's module
            own = sum(len(c.test) for c in stream.stages if not c.background)
            scoring += own * (look if cache.where == "off" else again)
        rows = min(BATCH, max(len(c.test) for c in columns))
        phases.append(Phase("predicting and scoring", probe.look, rows, features))
        host_peak = max(host_peak, *(phase.host(probe) for phase in phases), key=total)
        here = max((phase.gpu(probe) for phase in phases), key=total) if gpu else host_peak
        peak = max(peak, here, key=total)  # The accelerator's is counted anew in each stage.
        stages.append(StageForecast(stage.name, reading, training, scoring, total(here)))
    seconds = sum(s.reading + s.training + s.scoring for s in stages)
    everything = sum(len(s.train) + len(s.test) for s in (*stream.stages, *stream.unseen)) * size
    stored = _stored(probe, config, stream)
    return Forecast(tuple(stages), seconds, total(peak), peak, host_peak, *stored, size, everything)


class Phase(NamedTuple):
    """Something that a stage does: `rows` rows of it at these costs, beside the bytes that are kept."""

    what: str
    costs: Sequence[Cost]
    rows: int
    features: int
    objects: int = 0

    def host(self, probe: Probe) -> Parts:
        working = int(line([(c.rows, c.host) for c in self.costs], self.rows))
        kept = {"features in the cache": self.features, "training objects": self.objects}
        return {"the program and the base": probe.host, **kept, self.what: working}

    def gpu(self, probe: Probe) -> Parts:
        working = int(line([(c.rows, c.gpu) for c in self.costs], self.rows))
        return {"the base": probe.gpu, self.what: working}


def total(parts: Parts) -> int:
    return sum(parts.values())


def each(costs: Sequence[Cost]) -> float:
    """Seconds of one row, among the most rows that were measured."""
    most = max((c.rows for c in costs), default=1)
    return median([c.seconds for c in costs if c.rows == most] or [0.0]) / most


def line(points: Sequence[tuple[int, float]], x: int) -> float:
    """The value at `x` of the line through the first point and the highest of those farthest from it, never
    below the first; in proportion to the first if there is no other."""
    if not points or not x:
        return 0.0
    (x0, y0), (x1, y1) = points[0], max(points)
    return y1 * x / x1 if x1 == x0 else max(y0, y0 + (y1 - y0) * (x - x0) / (x1 - x0))


def _stored(probe: Probe, config: RunConfig, stream: Stream) -> tuple[dict[str, int], int]:
    """Bytes kept of each kind after the last stage, and those that one more domain adds.

    The probe learned 1, 1 and 2 images and 1 of the background: that tells what stages and images add.
    """
    stages = [stage for stage, _ in order(config, stream)]
    selector = getattr(config.settings, "selector", None)
    images = [min(len(s.train), selector.size if selector else len(s.train)) for s in stages]
    most = max(n for n, s in zip(images, stages, strict=True) if not s.background)
    stored, a_domain = {}, 0
    for kind in probe.state[-1]:
        first, second, third, last = (state.get(kind, 0) for state in probe.state)
        image = third - 2 * second + first
        stage, background = second - first - image, last - third - image
        of_stages = sum(background if s.background else stage for s in stages)
        stored[kind] = first - stage - image + of_stages + image * sum(images)
        a_domain += stage + image * most
    return {kind: size for kind, size in stored.items() if size}, a_domain


# ---------------------------------------------------------------- does it fit


def advise(
    found: Forecast, probe: Probe, config: RunConfig, stream: Stream, machine: Machine
) -> tuple[bool, list[str]]:
    """Whether the run fits this machine, and one sentence for each thing to know or to change."""
    cache, said = cache_of(config), []
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
        settings = configuration.override(config.settings, chosen)
        changed = dataclasses.replace(config, settings=settings)
        if _has_room(forecast(probe, changed, stream, bool(machine.gpu)), machine):
            return f"it fits with --set {' --set '.join(chosen)} ({', '.join(why[c] for c in chosen)})"
    return "no setting makes it fit; take a smaller base, smaller images, or a machine with more memory"
