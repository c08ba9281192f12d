"""What a run costs a unit, measured in a process of its own on made-up images of the run's sizes.

The process imports what a run imports and calls what a run calls, so that its peak memory has the allocator's
habits in it. It writes a line of JSON after each measurement: if the system ends it for want of memory, what
it had found is known.

No more rows are measured than the stream has. A base for which all of them take more time or memory than
there is, is measured at fewer, and those say what the rest cost. A small base is never measured at fewer,
however busy the machine: its peak is what the allocator makes of a whole batch, and few rows do not tell it.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from everseg import config as configuration
from everseg.distributed import world
from everseg.doctor.machine import host_memory, level, peak, reset_peak
from everseg.domains.cache import CacheConfig
from everseg.domains.scoring import BATCH, score
from everseg.domains.selector import ModuleSelector, SelectorConfig, train_selector
from everseg.domains.tune import PREDICT_BATCH, Prepared, TuneConfig, prepare
from everseg.errors import UserError
from everseg.files import state_bytes
from everseg.methods import build, find
from everseg.models.precision import resolved
from everseg.models.promptable.load import load_base
from everseg.models.promptable.protocol import Features, Promptable
from everseg.runs.folder import read_config
from everseg.runs.run import RunConfig
from everseg.seed import torch_generator
from everseg.types import LearnsAllAtOnce, NoScratch, PredictsAs, Prompts, PromptSample, Stage

PATIENCE = 20.0
"""Seconds that one measurement should take: where one row takes long, fewer rows are measured, but two at
least, because one does not tell what is for each row and what for all."""
SHARE = 0.6
"""Of the memory that is free, as much as a measurement may take."""
TENSOR = 1024
"""Bytes that a tensor costs besides its numbers: the object, its storage, its place in a dict."""
STEPS = 2
"""Training steps in one measurement of several rows."""
ROUNDS = 3
"""How often each is measured with all its rows, where that takes no longer than twice `PATIENCE`: what the
allocator holds on to grows over the first."""


@dataclass(frozen=True)
class Shape:
    """What a sample is like: pixels of the image, objects, clicks on each, and whether it has boxes."""

    height: int
    width: int
    objects: int = 1
    clicks: int = 3
    boxes: bool = False


@dataclass(frozen=True)
class Cost:
    """One measurement: `rows` done together took `seconds` in all. `host` and `gpu` are bytes of memory at
    the peak beyond those of the loaded base."""

    rows: int
    seconds: float
    host: int
    gpu: int


@dataclass
class Probe:
    """What the measurements say. Costs of one kind are in order of their rows.

    base: name, size and shape of the base, or nothing where `error` says why it cannot be loaded. stopped:
    what the process was doing when the system ended it. host, gpu: bytes with the base loaded.
    loading: further bytes of the host while it was.
    feature_bytes: of an image in the cache. row_bytes: kept of an object in training besides.
    read: an image read before training, its trunk pass included. step: rows of one training step. look:
    images predicted and scored for the first time; again: those with known features. more: seconds that an
    image takes longer for each further module. selector: seconds of a batch of the selector.
    state: bytes kept of each kind after learning 1, 1 and 2 images and 1 of the background, one after the
    other. rest: (images, seconds) of learning so many besides the steps. reads_background: whether learning
    it reads its images. oracle, at_once: abilities of the method. seconds: of all of it.
    """

    base: dict[str, Any] = field(default_factory=dict)
    error: str = ""
    stopped: str = ""
    host: int = 0
    gpu: int = 0
    loading: int = 0
    feature_bytes: int = 0
    row_bytes: int = 0
    read: list[Cost] = field(default_factory=list)
    step: list[Cost] = field(default_factory=list)
    look: list[Cost] = field(default_factory=list)
    again: list[Cost] = field(default_factory=list)
    more: float = 0.0
    selector: float = 0.0
    state: list[dict[str, int]] = field(default_factory=list)
    rest: list[tuple[int, float]] = field(default_factory=list)
    reads_background: bool = False
    oracle: bool = False
    at_once: bool = False
    seconds: float = 0.0


COSTS = ("read", "step", "look", "again")


def measure(config: RunConfig, shapes: Sequence[Shape], most: Mapping[str, int] | None = None) -> Probe:
    """Measure the units of a run in a fresh process, which inherits this one's environment.

    most: the most rows there are of each kind ("read", "step", "look"), by default as many as a batch has.

    Raises:
        UserError: the method fails on what every method must bear.
    """
    probe, doing = Probe(), "it loaded the base"
    given = {
        "config": configuration.plain(config),
        "shapes": [dataclasses.asdict(s) for s in shapes],
        "most": dict(most or {}),
    }
    # What the command line imports counts in a run's memory, so it is imported here too.
    code = "import everseg.cli; from everseg.doctor.probe import answer; answer()"
    began = time.perf_counter()
    with tempfile.TemporaryFile("w+") as said, tempfile.TemporaryFile("w+") as question:
        json.dump(given, question)
        question.seek(0)
        process = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-c", code],
            stdin=question,
            stdout=subprocess.PIPE,
            stderr=said,
            text=True,
        )
        with process:
            assert process.stdout is not None
            try:
                for line in process.stdout:
                    found = json.loads(line)
                    doing = found.pop("doing", doing)
                    for name, value in found.items():
                        if name in COSTS:
                            getattr(probe, name).append(Cost(**value))
                        else:
                            setattr(probe, name, value)
            except BaseException:  # Ctrl-C: leaving the block waits for the process.
                process.kill()
                raise
        if process.returncode < 0:
            probe.stopped = doing
        elif process.returncode:
            said.seek(0)
            last = (said.read().strip().splitlines() or ["it said nothing"])[-1]
            raise UserError(f"the probe failed while {doing}: {last}")
    probe.seconds = time.perf_counter() - began
    return probe


def answer() -> None:
    """The other side of `measure`: a question on standard input, lines of JSON on standard output."""
    given = json.loads(sys.stdin.read())
    values = given["config"]
    settings = configuration.restore(find(values["method"]).Config, values["settings"], "the probe")
    config = read_config({**values, "settings": settings}, "the probe")
    shapes = [Shape(**s) for s in given["shapes"]]
    out = sys.stdout
    with redirect_stdout(sys.stderr), tempfile.TemporaryDirectory() as folder:
        try:
            for found in _measurements(config, shapes, given["most"], Path(folder)):
                print(json.dumps(found), file=out, flush=True)
        except UserError as error:
            print(json.dumps({"error": str(error)}), file=out, flush=True)


# ---------------------------------------------------------------- in the process of its own


class Made(Sequence[PromptSample]):
    """Samples of noise, of the given shapes in turn, made when asked for as a run decodes them. No two are
    alike to the cache."""

    numbers = itertools.count()

    def __init__(self, shapes: Sequence[Shape], length: int) -> None:
        self.shapes, self.length, self.name = shapes, length, next(Made.numbers)
        self.noise = torch.randint(0, 256, (1 << 16,), dtype=torch.uint8)

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: Any) -> Any:
        if not 0 <= index < self.length:
            raise IndexError(index)
        shape = self.shapes[index % len(self.shapes)]
        h, w, n, name = shape.height, shape.width, shape.objects, f"{self.name}-{index}"
        image = self.noise.repeat(3 * h * w // len(self.noise) + 1)[: 3 * h * w].view(3, h, w)
        masks = torch.zeros(n, h, w, dtype=torch.bool)
        masks[:, h // 4 : 3 * h // 4 + 1, w // 4 : 3 * w // 4 + 1] = True
        prompts = Prompts(
            points=torch.tensor([w / 2, h / 2]).repeat(n, shape.clicks, 1) if shape.clicks else None,
            labels=torch.ones(n, shape.clicks, dtype=torch.long) if shape.clicks else None,
            boxes=torch.tensor([[w / 4, h / 4, 3 * w / 4, 3 * h / 4]]).repeat(n, 1) if shape.boxes else None,
        )
        return PromptSample(image, prompts, masks, name, name)


class Hollow:
    """The base with a trunk that does nothing: how much a method keeps does not depend on what it sees."""

    def __init__(self, base: Promptable, features: Features) -> None:
        self.base, self.features, self.passes = base, features, 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self.base, name)

    def trunk(self, pixels: Tensor) -> Features:
        self.passes += 1
        return {k: v[:1].expand(len(pixels), *v.shape[1:]) for k, v in self.features.items()}


def _measurements(
    config: RunConfig, shapes: Sequence[Shape], most: Mapping[str, int], folder: Path
) -> Iterator[dict[str, Any]]:
    """The fields of `Probe`, piece by piece, and what is done next."""
    base = load_base(config.base, device=world().device, precision=config.precision)
    settings = config.settings
    if hasattr(settings, "cache"):
        settings = configuration.override(settings, [f"cache.folder={folder}"])
    tune, cache = getattr(settings, "tune", None), getattr(settings, "cache", CacheConfig())
    shapes = shapes or [Shape(base.image_size, base.image_size)]
    learner, rest = build(config.method, base, settings, config.seed), dict[int, float]()
    seen = Made(shapes, 0)
    cuda = world().device.type == "cuda"
    host, gpu = level()
    yield {"base": _facts(base), "host": host, "gpu": gpu, "loading": max(0, peak()[0] - host)}

    def cost(work: Callable[[int], Any], rows: int) -> Cost:
        """Of so many rows. What takes more than the rows do (a step prepares them first) tells its own
        seconds."""
        reset_peak()
        began = time.perf_counter()
        told = work(rows)
        if cuda:
            torch.cuda.synchronize()
        seconds = told if isinstance(told, float) else time.perf_counter() - began
        host_peak, gpu_peak = peak()
        return Cost(rows, seconds, max(0, host_peak - host), max(0, gpu_peak - gpu))

    def one(work: Callable[[int], Any]) -> Cost:
        """Of one row; twice where the first time was slow for being the first."""
        first = cost(work, 1)
        return first if first.seconds > 1 else cost(work, 1)

    def read(rows: int) -> Prepared:
        return prepare(Made(shapes, rows), base, cache, tune or TuneConfig(), "probe")

    def step(rows: int) -> float:
        nonlocal learner
        steps = 1 if rows == 1 else STEPS
        asked = [f"tune.fit.batch={rows}", f"tune.fit.steps={steps}", "tune.fit.micro_batch=0"]
        learner = build(config.method, base, configuration.override(settings, asked), config.seed)
        began = time.perf_counter()
        figures = learner.learn(Stage(0, "probe", Made(shapes, rows), ()), NoScratch())
        whole = time.perf_counter() - began
        fitted = figures.get("seconds", whole)
        rest[rows] = min(rest.get(rows, whole), whole - fitted)
        return fitted / steps

    def look(rows: int) -> None:
        nonlocal seen
        seen = Made(shapes, rows)
        score(learner.predict, seen, "probe", config.score)

    def look_again(rows: int) -> None:
        score(learner.predict, seen, "probe", config.score)

    works: list[tuple[str, Callable[[int], Any], int]] = [("read", read, PREDICT_BATCH)]
    if tune is not None:
        works.append(("step", step, min(tune.fit.batch, tune.fit.micro_batch or tune.fit.batch)))
    works.append(("look", look, BATCH))
    many = []
    for kind, work, rows in works:
        yield {"doing": f"it measured {kind} of 1"}
        found = one(work)
        free = torch.cuda.mem_get_info()[0] if cuda else host_memory()[1]
        heavy = found.gpu if cuda else found.host
        many.append((kind, work, affordable(min(rows, most.get(kind, rows)), found.seconds, heavy, free)))
        yield {kind: dataclasses.asdict(found)}
    # In turns, as a run does: what one has freed the next takes, and both leave gaps.
    began = time.perf_counter()
    for number in range(ROUNDS):
        if number and time.perf_counter() - began > 2 * PATIENCE:
            break
        for kind, work, rows in many:
            if rows > 1:
                yield {"doing": f"it measured {kind} of {rows}"}
                yield {kind: dataclasses.asdict(cost(work, rows))}

    yield {"rest": sorted(rest.items())}

    kept = read(2)
    features = kept.cache.features([kept.samples[0].query()])
    width = 2 if kept.cache.dtype == torch.float16 else 4
    yield {"feature_bytes": sum(v.numel() * width + TENSOR for v in features.values())}
    yield {"row_bytes": tensor_bytes(list(vars(kept).values())) // len(kept)}
    again = cost(look_again, len(seen))
    yield {"again": dataclasses.asdict(again), "doing": "it measured what is kept"}

    nothing = ["tune.fit.epochs=0", "tune.fit.steps=0"] if tune is not None else []
    hollow: Any = Hollow(base, features)
    learner = build(config.method, hollow, configuration.override(settings, nothing), config.seed)
    states = []
    for index, count in enumerate((1, 1, 2, 1)):
        hollow.passes = 0
        stage = Stage(index, f"probe-{index}", Made(shapes, count), (), background=index == 3)
        learner.learn(stage, NoScratch())
        states.append({kind: state_bytes(value) for kind, value in learner.state_dict().items()})
    yield {"state": states, "reads_background": hollow.passes > 0}
    yield {"oracle": isinstance(learner, PredictsAs), "at_once": isinstance(learner, LearnsAllAtOnce)}
    three = cost(look_again, len(seen))
    if three.seconds > 1.5 * again.seconds:  # else one pass serves all modules
        yield {"more": (three.seconds - again.seconds) / 2 / len(seen)}
    if isinstance(getattr(settings, "selector", None), SelectorConfig):
        yield {"selector": _selector_seconds(base, settings.selector)}


def affordable(rows: int, seconds: float, heavy: int, free: int) -> int:
    """So many rows, or as many as there are time and memory for, if one takes so many seconds and bytes."""
    return max(1, int(min(rows, max(2, PATIENCE / seconds), SHARE * free / max(1, heavy))))


def _selector_seconds(base: Promptable, config: SelectorConfig) -> float:
    """Of one batch in the training of a Module Selector."""
    draw = torch_generator(0)
    selector = ModuleSelector(base.width, ("a", "b"), generator=draw).to(base.device)
    buffer = {name: torch.randn(10 * config.batch, base.width, generator=draw) for name in ("a", "b")}
    once = dataclasses.replace(config, epochs=1)
    train_selector(selector, buffer, once, draw)
    began = time.perf_counter()
    figures = train_selector(selector, buffer, once, draw)
    return (time.perf_counter() - began) / figures["batches"]


def _facts(base: Any) -> dict[str, Any]:
    """What a person asks of a base."""
    weights = list(base.model.parameters()) + list(base.model.buffers())
    return {
        "name": base.name,
        "fingerprint": base.fingerprint,
        "parameters": sum(p.numel() for p in base.model.parameters()),
        "bytes": sum(w.numel() * w.element_size() for w in weights),
        "image_size": base.image_size,
        "grid": base.grid,
        "width": base.width,
        "depth": base.depth,
        "adapted": list(base.adapted),
        "precision": resolved(base.precision, base.device),
    }


def tensor_bytes(value: Any) -> int:
    """Bytes of every tensor in dicts, sequences and dataclasses, with what a tensor costs besides."""
    if isinstance(value, Tensor):
        return value.numel() * value.element_size() + TENSOR
    if dataclasses.is_dataclass(value):
        return sum(tensor_bytes(getattr(value, f.name)) for f in dataclasses.fields(value))
    if isinstance(value, dict):
        return sum(tensor_bytes(v) for v in value.values())
    if isinstance(value, list | tuple):
        return sum(tensor_bytes(v) for v in value)
    return 0
