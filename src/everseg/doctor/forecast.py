"""From the costs of a unit and the counts of a stream to what a run will take, and whether it fits."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from everseg.doctor.machine import Machine
from everseg.doctor.probe import Cost, Probe
from everseg.domains.cache import CacheConfig
from everseg.domains.scoring import BATCH
from everseg.domains.tune import PREDICT_BATCH
from everseg.results import bytes_text
from everseg.runs.run import RunConfig

MARGIN = 1.15
"""A forecast of memory is within 15 % of what a run then measures; what fits, fits with that much more."""
Parts = dict[str, int]
"""Bytes by what they are for."""


@dataclass(frozen=True)
class Domain:
    """What is counted of a stage: training images and objects, test images, and what it is."""

    name: str
    train: int
    rows: int
    test: int
    background: bool = False
    unseen: bool = False


@dataclass(frozen=True)
class Plan:
    """What a run will do: domains in their order, seconds to decode one image, and what is scored (as in
    `RunConfig`)."""

    domains: tuple[Domain, ...]
    decode: float = 0.0
    evaluate: str = "next"
    baseline: bool = True

    @property
    def learned(self) -> tuple[Domain, ...]:
        return tuple(d for d in self.domains if not d.unseen)


@dataclass(frozen=True)
class StageForecast:
    """One stage: seconds to read images, to train, to score, and peak memory so far (of the accelerator if
    there is one, as a run measures it; `host_bytes` is the process's in any case)."""

    name: str
    reading: float
    training: float
    scoring: float
    peak_memory_bytes: int
    host_bytes: int


@dataclass(frozen=True)
class Forecast:
    """What a run will take. `peak` is the memory at its worst moment, by what for. stored: bytes kept between
    stages by kind, after the last; stored_a_domain: of which each further domain brings so many.
    cache_bytes: of all features, were they kept; feature_bytes: of one image's."""

    stages: tuple[StageForecast, ...]
    peak: Parts
    host_peak: Parts
    stored: dict[str, int]
    stored_a_domain: int
    feature_bytes: int
    cache_bytes: int

    @property
    def seconds(self) -> float:
        return sum(s.reading + s.training + s.scoring for s in self.stages)

    @property
    def peak_memory_bytes(self) -> int:
        return sum(self.peak.values())


def forecast(probe: Probe, config: RunConfig, plan: Plan, gpu: bool = False) -> Forecast:
    """Multiply what the probe measured by what the plan counts."""
    moments = [list(group) for group in _moments(probe, config, plan)]
    stages, so_far, host_so_far = [], 0, 0
    for (name, seconds), group in zip(_seconds(probe, config, plan), moments, strict=True):
        host_so_far = max(host_so_far, *(sum(_host(m, probe).values()) for m in group))
        # The accelerator's peak is counted anew for each stage, the process's is not.
        so_far = max(sum(_gpu(m, probe).values()) for m in group) if gpu else host_so_far
        stages.append(StageForecast(name, *seconds, so_far, host_so_far))
    every = [m for group in moments for m in group]
    host = max((_host(m, probe) for m in every), key=lambda parts: sum(parts.values()))
    on_gpu = max((_gpu(m, probe) for m in every), key=lambda parts: sum(parts.values()))
    stored, a_domain = _stored(probe, config, plan)
    images = sum(d.train + d.test for d in plan.domains)
    return Forecast(
        tuple(stages),
        on_gpu if gpu else host,
        host,
        stored,
        a_domain,
        probe.feature_bytes,
        images * probe.feature_bytes,
    )


# ---------------------------------------------------------------- memory


@dataclass(frozen=True)
class Moment:
    """A phase of a run: what it keeps, in bytes, and what it needs while it works (host, accelerator)."""

    features: int
    rows: int
    work: str
    host: int
    gpu: int


def _host(moment: Moment, probe: Probe) -> Parts:
    return {
        "the program and the base": probe.host,
        "features in the cache": moment.features,
        "training objects": moment.rows,
        moment.work: moment.host,
    }


def _gpu(moment: Moment, probe: Probe) -> Parts:
    return {"the base": probe.gpu, moment.work: moment.gpu}


def _moments(probe: Probe, config: RunConfig, plan: Plan) -> Iterator[list[Moment]]:
    """The phases of each stage."""
    cache = cache_of(config)
    fit = fit_of(config)
    pass_rows = min(fit.batch, fit.micro_batch or fit.batch) if fit else 0
    seen: dict[str, int] = {}
    steps = _scored(probe, plan)
    for number, (stage, columns) in enumerate(steps):
        before = _held(sum(seen.values()), probe, cache)
        seen |= {c.name: c.test for c in columns}
        after = _held(sum(seen.values()), probe, cache)
        read = _bytes(probe.read, min(PREDICT_BATCH, stage.train))
        look = _bytes(probe.look, min(BATCH, max(c.test for c in columns) if columns else 0))
        phases = [
            Moment(0, 0, "loading it", probe.loading, 0),
            Moment(after, 0, "predicting and scoring", *look),
        ]
        if number + 1 == len(steps) and plan.baseline:
            again = _held(sum(seen.values()), probe, cache)
            phases.append(Moment(after + again, 0, "predicting and scoring", *look))
        if _reads(probe, stage):
            step = _bytes(probe.step, min(pass_rows, stage.rows))
            kept = before + _held(stage.train, probe, cache)
            rows = min(cache.budget, stage.rows * probe.row_bytes) if cache.where == "memory" else 0
            phases.append(Moment(kept, rows, "reading images", *read))
            if not stage.background:
                phases.append(Moment(kept, rows, "a training step", *step))
        yield phases


def _held(images: int, probe: Probe, cache: CacheConfig) -> int:
    """Bytes of these images' features in memory."""
    if cache.where != "memory":
        return 0
    return min(images, cache.budget // probe.feature_bytes) * probe.feature_bytes


def _bytes(costs: Sequence[Cost], rows: int) -> tuple[int, int]:
    """Bytes that so many rows take together, on the line through what was measured."""
    return _line([(c.rows, c.host) for c in costs], rows), _line([(c.rows, c.gpu) for c in costs], rows)


def _line(points: Sequence[tuple[int, int]], rows: int) -> int:
    """The value at `rows` of the line through one row and the most that the most rows took; where only one
    row was measured, in proportion to it."""
    if not points or not rows:
        return 0
    x0, y0 = points[0]
    x1 = max(x for x, _ in points)
    y1 = max(y for x, y in points if x == x1)
    if x1 == x0:
        return y1 * rows // x1
    return max(y0, y0 + (y1 - y0) * (rows - x0) // (x1 - x0))


# ---------------------------------------------------------------- time


def _seconds(probe: Probe, config: RunConfig, plan: Plan) -> Iterator[tuple[str, tuple[float, float, float]]]:
    """(reading, training, scoring) of each stage."""
    cache, fit, selector = cache_of(config), fit_of(config), getattr(config.settings, "selector", None)
    decode = plan.decode
    read, look, again = (each(costs) for costs in (probe.read, probe.look, probe.again))
    known: set[str] = set()
    buffered = 0
    steps = _scored(probe, plan)
    for number, (stage, columns) in enumerate(steps):
        reading = training = 0.0
        if _reads(probe, stage):
            reading = stage.train * (read + decode)
        if fit and stage.rows and not stage.background:
            count = fit.steps or fit.epochs * -(-stage.rows // fit.batch)
            known_share = _held(stage.train, probe, cache) / (stage.train * probe.feature_bytes)
            a_row = decode if cache.where != "memory" else (1 - known_share) * (read + decode)
            training = count * fit.batch * (each(probe.step) + a_row) + _rest(probe, stage.train)
        if selector is not None and probe.selector:
            buffered += min(stage.train, selector.size)
            training += selector.epochs * (buffered // selector.batch) * probe.selector
        modules = sum(not s.background for s, _ in steps[: number + 1])
        scoring = 0.0
        for column in columns:
            cached = column.name in known and cache.where != "off"
            a_look = (again if cached else look) + decode + probe.more * (modules - 1)
            scoring += column.test * a_look
            known.add(column.name)
        if number + 1 == len(steps):
            tested = sum(c.test for c in columns)
            own = sum(c.test for c in columns if not c.background and not c.unseen)
            scoring += tested * (decode + (again if cache.where == "disk" else look)) * plan.baseline
            scoring += own * (decode + (look if cache.where == "off" else again)) * probe.oracle
        yield stage.name, (reading, training, scoring)


def _rest(probe: Probe, images: int) -> float:
    """Seconds of learning so many images besides reading them and the steps: on the line through what was
    measured."""
    points = [(n, max(0.0, seconds - n * each(probe.read))) for n, seconds in probe.rest] or [(1, 0.0)]
    (x0, y0), (x1, y1) = points[0], points[-1]
    slope = max(0.0, (y1 - y0) / (x1 - x0)) if x1 > x0 else 0.0
    return y0 + slope * (images - x0)


def _reads(probe: Probe, stage: Domain) -> bool:
    """Whether learning a stage reads its images."""
    return bool(probe.step) and stage.train > 0 and (probe.reads_background or not stage.background)


def each(costs: Sequence[Cost]) -> float:
    """Seconds of one row, in the largest batch that was measured."""
    if not costs:
        return 0.0
    most = max(c.rows for c in costs)
    return median(c.seconds for c in costs if c.rows == most) / most


def _scored(probe: Probe, plan: Plan) -> list[tuple[Domain, list[Domain]]]:
    """Each stage with the columns that are scored after it, as a run does."""
    learned = plan.learned
    unseen = [d for d in plan.domains if d.unseen]
    if probe.at_once:
        own = [d for d in learned if not d.background]
        whole = Domain("all-domains", sum(d.train for d in own), sum(d.rows for d in own), 0)
        return [(whole, [*learned, *unseen])]
    out = []
    for i, stage in enumerate(learned):
        upto = i + 2 if plan.evaluate == "next" else len(learned)
        last = i + 1 == len(learned)
        out.append((stage, [d for d in learned[:upto] if d.test] + (unseen if last else [])))
    return out


# ---------------------------------------------------------------- storage


def _stored(probe: Probe, config: RunConfig, plan: Plan) -> tuple[dict[str, int], int]:
    """Bytes kept of each kind after the last stage, and those that one more domain brings.

    The probe learned 1, 1 and 2 images and 1 of the background: so what a stage, an image and the background
    add to each kind is known.
    """
    cap = getattr(getattr(config.settings, "selector", None), "size", None)
    stages = [s for s, _ in _scored(probe, plan)]
    a_domain = 0
    stored = {}
    largest = max((s.train for s in stages if not s.background), default=0)
    for kind in probe.state[-1] if probe.state else ():
        first, second, third, background = (state.get(kind, 0) for state in probe.state)
        image = third - second - (second - first)
        stage = second - first - image
        total = first - stage - image
        for s in stages:
            images = s.train if cap is None else min(s.train, cap)
            total += image * images + (background - third - image if s.background else stage)
        stored[kind] = total
        a_domain += stage + image * (largest if cap is None else min(largest, cap))
    return {kind: size for kind, size in stored.items() if size}, a_domain


# ---------------------------------------------------------------- does it fit


def advise(
    found: Forecast, probe: Probe, config: RunConfig, plan: Plan, machine: Machine
) -> tuple[bool, list[str]]:
    """Whether the run fits this machine, and one sentence for each thing to know or to change."""
    gpu = bool(machine.gpu)
    free = machine.gpu_memory_free if gpu else machine.memory_free
    said, fits = [], True
    cache = cache_of(config)
    if cache.where == "disk":
        wanted = min(cache.budget, found.cache_bytes)
        if wanted > machine.disk_free:
            fits = False
            said.append(
                f"the features take {bytes_text(wanted)}, but {machine.disk} has "
                f"{bytes_text(machine.disk_free)} free; set cache.folder to a larger disk, or a smaller "
                "cache.budget"
            )
    too_much = (
        [(found.peak_memory_bytes, free)]
        if not gpu
        else [(found.peak_memory_bytes, free), (sum(found.host_peak.values()), machine.memory_free)]
    )
    if any(MARGIN * wanted > there for wanted, there in too_much):
        fits = False
        said += _lighter(probe, config, plan, machine)
    most = max(stage.train for stage, _ in _scored(probe, plan)) * found.feature_bytes
    if fit_of(config) and cache.where != "off" and most > cache.budget:
        said.append(
            f"the features of one domain take {bytes_text(most)}, more than cache.budget "
            f"({bytes_text(cache.budget)}): the rest is computed again in every epoch; raise it with "
            f"--set cache.budget={most}, on the disk with --set cache.where=disk"
        )
    return fits, said


def _lighter(probe: Probe, config: RunConfig, plan: Plan, machine: Machine) -> list[str]:
    """Settings that would make the run fit, the gentlest first; the last resort if none would."""
    gpu = bool(machine.gpu)

    def fits(settings: Any) -> bool:
        changed = forecast(probe, dataclasses.replace(config, settings=settings), plan, gpu)
        host = MARGIN * sum(changed.host_peak.values()) <= machine.memory_free
        return host and (not gpu or MARGIN * changed.peak_memory_bytes <= machine.gpu_memory_free)

    fit = fit_of(config)
    rows = min(fit.batch, fit.micro_batch or fit.batch) if fit else 0
    smaller = [n for n in (8, 4, 2, 1) if n < rows]
    tried = [
        (micro, disk)
        for disk in ((False, True) if cache_of(config).where == "memory" else (False,))
        for micro in (0, *smaller)
    ]
    for micro, disk in tried[1:]:
        settings, said, why = config.settings, [], []
        if micro:
            new = dataclasses.replace(fit, micro_batch=micro)
            settings = dataclasses.replace(settings, tune=dataclasses.replace(settings.tune, fit=new))
            said.append(f"--set tune.fit.micro_batch={micro}")
            why.append("the same gradients in smaller pieces")
        if disk:
            new_cache = dataclasses.replace(cache_of(config), where="disk")
            settings = dataclasses.replace(settings, cache=new_cache)
            said.append("--set cache.where=disk")
            why.append("features on the disk")
        if fits(settings):
            return [f"it fits with {' '.join(said)} ({', '.join(why)})"]
    return ["no setting makes it fit; take a smaller base, smaller images, or a machine with more memory"]


def cache_of(config: RunConfig) -> CacheConfig:
    return getattr(config.settings, "cache", CacheConfig())


def fit_of(config: RunConfig) -> Any:
    """How a stage is fitted, or None for a method that fits nothing."""
    return getattr(getattr(config.settings, "tune", None), "fit", None)
