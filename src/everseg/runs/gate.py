"""Is a new run worse than an old one anywhere? Both predict the same images, and `results.gate` judges."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from everseg import config as configuration
from everseg.data import Stream
from everseg.data.described import described
from everseg.errors import UserError
from everseg.progress import remark
from everseg.results.classes import common_classes
from everseg.results.gate import Comparison, Flip, GateConfig, Judgement, Verdict, judge
from everseg.results.health import Health
from everseg.results.paired import Kind, Pairs, groups_of
from everseg.runs.data import open_stream, own_stream
from everseg.runs.folder import is_run, load, read_record
from everseg.runs.problem import Problem, check_fits, problem_of
from everseg.runs.run import Run
from everseg.types import PLAIN, Stage

FORMAT = 1


@dataclass(frozen=True, eq=False)
class Sides:
    """Two runs and the data they are compared on.

    old: the older run; None for the untouched base.
    predict_old, predict_new: prediction functions; the same function if the runs are the same.
    left_out: sentences that say what could not be compared.
    """

    new: Run
    old: Run | None
    predict_old: Any
    predict_new: Any
    tested: tuple[tuple[Stage, Kind], ...]
    left_out: tuple[str, ...] = ()

    @property
    def problem(self) -> Problem:
        return self.new.problem

    @property
    def same(self) -> bool:
        """Whether both are the same to the bit."""
        return self.predict_old is self.predict_new

    @property
    def names(self) -> tuple[str, str]:
        """Of the new run and of the old one."""
        return str(self.new.folder), PLAIN if self.old is None else str(self.old.folder)


@dataclass(frozen=True, eq=False)
class Gate:
    """What the gate found.

    new, old: folders of the runs; "plain" is the untouched base.
    base: name of the base.
    same: whether the two are the same to the bit.
    left_out: what should have been compared and cannot be; then the verdict is not "pass".
    health: None in a run of classes, which has no prompts, and where none were checked.
    pairs: the scores of every image.
    """

    verdict: Verdict
    new: str
    old: str
    base: str
    same: bool
    judgement: Judgement
    health: Health | None
    left_out: tuple[str, ...] = ()
    pairs: tuple[Pairs, ...] = field(default=(), repr=False)

    @property
    def comparisons(self) -> tuple[Comparison, ...]:
        """One for each column and kind of prompt."""
        return self.judgement.comparisons

    @property
    def flips(self) -> tuple[Flip, ...]:
        """The images that are harmed, the largest fall first."""
        return self.judgement.flips

    @property
    def worse(self) -> tuple[Comparison, ...]:
        return tuple(c for c in self.comparisons if c.finding == "worse")

    @property
    def unsure(self) -> tuple[Comparison, ...]:
        return tuple(c for c in self.comparisons if c.finding == "cannot tell")

    def to_json(self) -> dict[str, Any]:
        """Plain values for a JSON file; what is infinite or not a number is null."""
        judged = self.judgement
        return _plain(
            {
                "format": FORMAT,
                "verdict": self.verdict,
                "new": self.new,
                "old": self.old,
                "base": self.base,
                "same": self.same,
                "tests": judged.tests,
                "settings": asdict(judged.config),
                "comparisons": [asdict(c) for c in self.comparisons],
                "flips": [asdict(flip) for flip in self.flips],
                "health": None if self.health is None else asdict(self.health),
                "left_out": list(self.left_out),
                "images": [
                    {
                        "column": p.column,
                        "prompt": p.prompt,
                        "image": list(p.units),
                        "old": p.old.tolist(),
                        "new": p.new.tolist(),
                    }
                    for p in self.pairs
                ],
            }
        )


def _plain(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    return value


def gate(
    new: Run | Path | str,
    against: Run | Path | str = PLAIN,
    *,
    stream: Stream | Path | str | None = None,
    base: Any = None,
    config: GateConfig | None = None,
    **settings: Any,
) -> Gate:
    """Whether a new run is worse than an old one on any domain, class or image set.

    new, against: runs or their folders; a folder that this process is writing is refused, its run is not.
        "plain" is the untouched base of `new`.
    stream: further test images, beside those of the streams that the runs were made from.
    base: the base model, or its path if it has moved.
    settings: of `GateConfig`, over `config`: `margin=0.02`.

    Raises:
        UserError: the runs cannot be compared; see `open_sides`.
    """
    config = replace(config or GateConfig(), **settings)
    return decide(open_sides(new, against, stream=stream, base=base), config)


def decide(sides: Sides, config: GateConfig | None = None) -> Gate:
    """Let both sides predict all test images, and judge."""
    config = config or GateConfig()
    for stage, _ in sides.tested if config.group else ():  # Before hours of predictions.
        groups_of(described(stage.test).names() or (), config.group, stage.name)
    measured = sides.problem.measure(
        sides.predict_old,
        sides.predict_new,
        sides.tested,
        (sides.new, sides.old),
        seed=config.seed,
        checked=config.checked,
    )
    judgement = judge(measured.pairs, config)
    unsure = judgement.verdict == "pass" and sides.left_out
    return Gate(
        "cannot tell" if unsure else judgement.verdict,
        *sides.names,
        sides.new.base.name,
        sides.same,
        judgement,
        measured.health,
        sides.left_out,
        measured.pairs,
    )


# ---------------------------------------------------------------- opening


def open_sides(
    new: Run | Path | str,
    against: Run | Path | str = PLAIN,
    *,
    stream: Stream | Path | str | None = None,
    base: Any = None,
) -> Sides:
    """Two runs, ready to be compared.

    Raises:
        UserError: one is not a run or is being written, they have other bases or learn other things, have no
            domain in common, or were tested on other images.
    """
    if isinstance(new, str | Path) and str(new) == PLAIN and not is_run(new):
        raise UserError(f"the new run cannot be {PLAIN!r}; name a run, and give {PLAIN!r} as the old one")
    ours = _opened(new, base)
    plain = isinstance(against, str | Path) and str(against) == PLAIN
    theirs = None if plain else _opened(against, ours.base if base is None else base, ours)
    extra = _extra(stream, ours)
    if theirs is not None:
        _check_comparable(ours, theirs, extra)
    return sides_on(ours, theirs, _streams(ours, theirs, extra))


def sides_on(
    new: Run, old: Run | None, streams: Sequence[Stream], only: Collection[str] | None = None
) -> Sides:
    """Two runs, ready to be compared on the test images of streams.

    old: None for the untouched base.
    only: names of the stages to compare on; None for all.

    Raises:
        UserError: there are no test images.
    """
    found = new.problem.gated(new, old, streams)
    tested = [(stage, kind) for stage, kind in found if only is None or stage.name in only]
    if not tested:
        raise UserError(
            f"there are no test images to compare {new.folder} on; name a stream that has some with --stream"
        )
    same = old is not None and _same(new, old)
    before, after = new.problem.sides(new, old)
    return Sides(new, old, after if same else before, after, tuple(tested), _left_out(new, old, tested))


def _opened(run: Run | Path | str, base: Any, other: Run | None = None) -> Run:
    if isinstance(run, Run):
        return run
    if not isinstance(run, str | Path):
        raise UserError(f"a run is of type {type(run).__name__}; give its folder, or what `load` returns")
    folder = Path(run)
    if is_run(folder):
        check_idle(folder)
    if other is None:
        return load(folder, base)
    record = read_record(folder)
    _check_alike(other.folder, other.problem, folder, problem_of(record.config["method"]))
    if record.base.fingerprint != other.record.base.fingerprint:
        raise UserError(
            f"{folder} was made with base {record.base.name} ({record.base.fingerprint[:12]}) and "
            f"{other.folder} with {other.record.base.name} ({other.record.base.fingerprint[:12]}); compare "
            "runs of one base"
        )
    return load(folder, base)


def check_idle(folder: Path) -> None:
    """Check that no process is writing a run.

    Raises:
        UserError: one is.
    """
    path = folder / ".lock"
    if not path.exists():
        return
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise UserError(f"{folder} is being written by another command; wait until that has ended") from error
    except (OSError, NotImplementedError):
        return  # Where locking is not permitted, writing is not either.
    lock.release()


def _extra(stream: Stream | Path | str | None, run: Run) -> Stream | None:
    if stream is None or isinstance(stream, Stream):
        found = stream
    elif isinstance(stream, str | Path):
        found = open_stream(Path(stream), run.folder)
    else:
        raise UserError(
            f"the stream is of type {type(stream).__name__}; give a Stream or the path of a stream file"
        )
    if found is not None:
        check_fits(found, run.config.method).check_order(found, run.record.learned)
    return found


def _check_alike(new: Path, ours: Problem, old: Path, theirs: Problem) -> None:
    if ours is not theirs:
        raise UserError(
            f"{new} learned {ours.name} and {old} {theirs.name}; compare runs that learn the same"
        )


def _check_comparable(new: Run, old: Run, extra: Stream | None) -> None:
    _check_alike(new.folder, new.problem, old.folder, old.problem)
    if new.record.base.fingerprint != old.record.base.fingerprint:
        raise UserError(
            f"{new.folder} and {old.folder} were made with different bases; compare runs of one base"
        )
    ours, theirs = new.results.learned_at, old.results.learned_at
    if not set(ours) & set(theirs) and extra is None:
        raise UserError(
            f"{new.folder} and {old.folder} have no learned domain in common ({', '.join(ours) or 'none'}; "
            f"{', '.join(theirs) or 'none'}); name test images for both with --stream"
        )
    named = {stage.name for stage in (() if extra is None else (*extra.stages, *extra.unseen))}
    tests = {stage.name: stage.test for stage in old.record.learned if stage.test}
    for stage in new.record.learned:
        if stage.test and tests.get(stage.name, stage.test) != stage.test and stage.name not in named:
            raise UserError(
                f"{new.folder} and {old.folder} were scored on different images of {stage.name!r}; name "
                "the images to compare them on with --stream, or score one run again with `everseg learn "
                "--retest`"
            )


def _streams(new: Run, old: Run | None, extra: Stream | None) -> Sequence[Stream]:
    """The streams whose test images count, those that were asked for first."""
    if extra is not None and extra.stages[0].classes:
        return [extra]
    found = [] if extra is None else [extra]
    for run in [new] if old is None or old.record.stream == new.record.stream else [new, old]:
        try:
            own = own_stream(run)
        except UserError as error:
            if not found:
                raise
            if not run.record.stream:  # It never had one, and needs none.
                continue
            remark(f"left out: {error}")
            continue
        if run is new:
            run.problem.check_order(own, run.record.learned)
        tests = {learned.name: learned.test for learned in run.record.learned if learned.test}
        tested = [s for s in own.stages if s.name in tests and s.name not in own.gone]
        if changed := [s.name for s in tested if described(s.test).fingerprint() != tests[s.name]]:
            remark(
                f"the test images of {', '.join(changed)} have changed since {run.folder} was scored; both "
                "runs are compared on the present images"
            )
        found.append(own)
    return found


def _same(new: Run, old: Run) -> bool:
    """Whether two runs predict the same to the bit."""
    if new is old:
        return True
    ours, theirs = new.record.sha256, old.record.sha256
    plain = [configuration.plain(run.config, machine=False) for run in (new, old)]
    return ours is not None and theirs is not None and ours.state == theirs.state and plain[0] == plain[1]


def _left_out(new: Run, old: Run | None, tested: Sequence[tuple[Stage, Kind]]) -> tuple[str, ...]:
    """Domains that a run has learned and that there are no test images of any more; classes of the old run
    that the new one does not have in their place."""
    if any(kind == "class" for _, kind in tested):  # All of them are scored on the same images.
        theirs = () if old is None else old.classes
        left = theirs[len(common_classes(new.classes, theirs)) :]
        why = {True: "has it in another place", False: "has not learned it"}
        return tuple(f"{c!r} is not compared, since {new.folder} {why[c in new.classes]}" for c in left)
    known = {stage.name for stage, _ in tested}
    learned = dict.fromkeys([*([] if old is None else old.results.learned_at), *new.results.learned_at])
    return tuple(
        f"{name!r} is not compared, since its test images are gone" for name in learned if name not in known
    )
