"""What a run will take: the work of its stages, in the run's own order, at the price of each unit."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import median
from typing import NamedTuple

from everseg.data import Stream
from everseg.doctor.probe import WEIGHED, Cost, Probe, cache_of, fit_of
from everseg.domains.prepare import PREDICT_BATCH
from everseg.domains.scoring import BATCH
from everseg.methods import find
from everseg.runs.data import to_learn
from everseg.runs.run import RunConfig
from everseg.types import Stage
from everseg.types.abilities import PredictsAs

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


class Work(NamedTuple):
    """Something that a stage does: `rows` rows of a unit, `together` at a time, beside the bytes that are
    kept."""

    part: str
    what: str
    costs: Sequence[Cost]
    rows: float
    together: int
    features: int = 0
    objects: int = 0

    @property
    def seconds(self) -> float:
        return self.rows * each(self.costs)

    def memory(self, probe: Probe, gpu: bool) -> Parts:
        """Bytes of the accelerator or of the host at the peak."""
        working = int(line([(c.rows, c.gpu if gpu else c.host) for c in self.costs], self.together))
        if gpu:
            return {"the base": probe.gpu, self.what: working}
        kept = {"features in the cache": self.features, "training objects": self.objects}
        return {"the program and the base": probe.host, **kept, self.what: working}


def order(config: RunConfig, stream: Stream) -> list[tuple[Stage, Sequence[Stage]]]:
    """Each stage that a run learns, with the stages that are scored after it."""
    learned = to_learn(stream, find(config.method))
    known = [learned[: n + 2] if config.evaluate == "next" else learned for n in range(len(learned) - 1)]
    return list(zip(learned, [*known, [*stream.stages, *stream.unseen]], strict=True))


def plan(probe: Probe, config: RunConfig, stream: Stream) -> Iterator[tuple[Stage, list[Work]]]:
    """Each stage that a run learns, and its work in the run's own order."""
    cache, fit, size = cache_of(config), fit_of(config), probe.feature_bytes
    in_memory, stages = cache.where == "memory", order(config, stream)
    reads_background = probe.state[3] != probe.state[2]  # It keeps something of it.
    tested: dict[str, int] = {}  # test images by domain: the cache knows them after their first scoring

    def held(images: int) -> int:
        return min(images, cache.budget // size) * size if in_memory else 0

    for number, (stage, columns) in enumerate(stages, 1):
        images, objects = len(stage.train), round(probe.objects * len(stage.train))
        features = held(sum(tested.values())) + held(images)
        rows = min(cache.budget, objects * probe.row_bytes) if in_memory else 0
        work = [Work("", "loading it", [Cost(1, 0, probe.loading, 0)], 1, 1)]
        if fit and (reads_background or not stage.background):
            most = min(PREDICT_BATCH, images)
            work.append(Work("reading", "reading images", probe.read, images, most, features, rows))
        if fit and not stage.background:
            trained = fit.batch * (fit.steps or fit.epochs * -(-objects // fit.batch))
            most = min(fit.batch, fit.micro_batch or fit.batch, objects)
            work.append(Work("training", "a training step", probe.step, trained, most, features, rows))
            missing = 1 - held(images) / (images * size) if in_memory else 0
            work.append(Work("training", "reading again", probe.read, trained * missing, 0))
        shown = sum(len(c.test) for c in columns)
        again = sum(len(c.test) for c in columns if c.name in tested)
        new = shown - again
        tested |= {c.name: len(c.test) for c in columns}
        features = held(sum(tested.values()))
        if number == len(stages) and config.baseline:  # The untouched base has a cache of its own.
            new, again = (new, again + shown) if cache.where == "disk" else (new + shown, again)
            features *= 2
        if number == len(stages) and issubclass(find(config.method), PredictsAs):  # with their own modules
            again += sum(len(c.test) for c in stream.stages if not c.background)
        if cache.where == "off":
            new, again = new + again, 0
        most = min(BATCH, max(len(c.test) for c in columns))
        work.append(Work("scoring", "predicting and scoring", probe.look, new, most, features))
        yield stage, [*work, Work("scoring", "scoring again", probe.again, again, 0)]


def forecast(probe: Probe, config: RunConfig, stream: Stream, gpu: bool = False) -> Forecast:
    """What a run of the stream takes by what the probe measured.

    gpu: whether it has an accelerator.
    """
    stages: list[StageForecast] = []
    host_peak, peak = Parts(), Parts()
    for stage, work in plan(probe, config, stream):
        host_peak = max(host_peak, *(w.memory(probe, gpu=False) for w in work), key=total)
        here = max((w.memory(probe, gpu=True) for w in work), key=total) if gpu else host_peak
        peak = max(peak, here, key=total)  # The accelerator's is counted afresh in each stage.
        spent = {
            part: sum(w.seconds for w in work if w.part == part)
            for part in ("reading", "training", "scoring")
        }
        stages.append(StageForecast(stage.name, **spent, peak_memory_bytes=total(here)))
    seconds = sum(s.reading + s.training + s.scoring for s in stages)
    images = sum(len(s.train) + len(s.test) for s in (*stream.stages, *stream.unseen))
    size, stored = probe.feature_bytes, _stored(probe, config, stream)
    return Forecast(tuple(stages), seconds, total(peak), peak, host_peak, *stored, size, images * size)


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

    The probe learned two stages of `WEIGHED` images, one with an image more, and the background: that tells
    what stages and images add. A domain of fewer images keeps no Gaussian, and is foretold with one.
    """
    stages = [stage for stage, _ in order(config, stream)]
    selector = getattr(config.settings, "selector", None)
    images = [min(len(s.train), selector.size if selector else len(s.train)) for s in stages]
    most = max(n for n, s in zip(images, stages, strict=True) if not s.background)
    stored, a_domain = {}, 0
    for kind in probe.state[-1]:
        first, second, third, last = (state.get(kind, 0) for state in probe.state)
        image = third - 2 * second + first
        stage, background = second - first - WEIGHED * image, last - third - WEIGHED * image
        of_stages = sum(background if s.background else stage for s in stages)
        stored[kind] = first - stage - WEIGHED * image + of_stages + image * sum(images)
        a_domain += stage + image * most
    return {kind: size for kind, size in stored.items() if size}, a_domain
