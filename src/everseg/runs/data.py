"""Compare the data of a run with the stream, and check that all images to be scored can be read."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch.utils.data import ConcatDataset, DataLoader, Subset

from everseg.data import Stream
from everseg.data.described import described
from everseg.data.names import twice
from everseg.data.stream import Fingerprints
from everseg.data.trial import Trial, Tried
from everseg.distributed import gather, shard
from everseg.errors import UserError, unknown
from everseg.progress import bar
from everseg.runs.folder import learned_stages
from everseg.runs.record import Learned, Record
from everseg.runs.run import Run
from everseg.types import Learner, Stage
from everseg.types.abilities import LearnsAllAtOnce

BATCH = 16
"""Samples that a worker decodes at a time."""


def open_stream(path: Path, run: Path) -> Stream:
    """A stream file, in which the data of stages that `run` has learned may be gone.

    Raises:
        UserError: it cannot be opened.
    """
    return Stream.from_yaml(path, learned_stages(run))


def own_stream(run: Run) -> Stream:
    """The stream that a run was made from.

    Raises:
        UserError: it was not made from a stream file, or that cannot be opened.
    """
    if not run.record.stream:
        raise UserError(f"{run.folder} was not made from a stream file; name one with --stream")
    return open_stream(Path(run.record.stream), run.folder)


def fingerprints(stream: Stream, stage: Stage) -> Fingerprints:
    """What a stage is learned from and tested on; for all stages at once, from what each of them is."""
    if stage in stream.stages:
        return stream.fingerprints(stage)
    return Fingerprints.joined([stream.fingerprints(s) for s in stream.stages if not s.background])


def check_learned(stream: Stream, stages: Sequence[Stage], record: Record) -> list[Stage]:
    """Compare the stages that were learned with what the stream has now; returns those that have other test
    data. A learned stage's data may be gone, or the whole stage; but training data that are there must be the
    same.

    Raises:
        UserError: they are not.
    """
    # The data of an imported stage are unknown.
    learned = {s.name: s for s in record.learned if s.fingerprint}
    retested = []
    for stage in stages:
        gone = stream.gone if stage not in stream.stages else stream.gone & {stage.name}
        if stage.name not in learned or gone:
            continue
        now = fingerprints(stream, stage)
        if not learned_from(learned[stage.name], now):
            advice = "choose another --out"
            if stage in stream.stages:
                advice = f"give new data a new stage name, or {advice}"
            raise UserError(
                f"stage {stage.name!r} was learned from other data than {stream.source or 'the stream'} "
                f"has now; {advice}"
            )
        if learned[stage.name].test and learned[stage.name].test != now.test:
            retested.append(stage)
    return retested


def learned_from(learned: Learned, now: Fingerprints) -> bool:
    """Whether a learned stage was trained on what the stream has now. Where only one fingerprint of training
    and test data is known, neither may have changed."""
    return learned.train == now.train if learned.train else learned.fingerprint == now.both


def refuse_retest(stream: Stream, stages: Sequence[Stage]) -> None:
    """Refuse test data that differ from those that the scores in the run were measured on.

    Raises:
        UserError: there are some.
    """
    if stages:
        names = ", ".join(repr(stage.name) for stage in stages)
        raise UserError(
            f"the test data of {names} in {stream.source or 'the stream'} differ from those that the run was "
            "scored on, while the training data are the same; restore them, or add --retest, which scores "
            "the run on the new ones and leaves out what was measured on the old ones"
        )


def trained_tests(stream: Stream) -> str:
    """What is wrong if image files that one stage trains on are among those that another, or the same, tests
    on: a sentence, "" if none is. Copies of a picture under other names are left to `everseg data check`."""
    stages = (*stream.stages, *stream.unseen)
    trained: dict[str, str] = {}
    for stage in stages:
        for file in () if stage.background else _files(stage.train):
            trained.setdefault(file, stage.name)
    tests = [(file, stage.name) for stage in reversed(stages) for file in _files(stage.test)]
    # Two splits may use a name for different images if it does not name a file.
    tested = {file: name for file, name in tests if file in trained and Path(file).is_file()}
    if not tested:
        return ""
    file, name = min(tested.items())
    more = f" (and {len(tested) - 1} more)" if len(tested) > 1 else ""
    return (
        f"stage {trained[file]!r} trains on {file}, which stage {name!r} tests on{more}: scores on trained "
        "images say nothing about new ones; `everseg data check` lists them"
    )


def _files(samples: Sequence[Any]) -> list[str]:
    """The image files of samples, or stand-ins."""
    told = described(samples)
    return [str(told.file(place)) for place in range(len(samples))]


def read_ahead(samples: Sequence[Any], where: str, workers: int, *, by_name: bool = False) -> None:
    """Decode samples once, so that no fault in them shows only after a training. They are shared out among
    the processes.

    where: the stage and the split they are of, for messages.
    by_name: their scores are kept by name, so that names must differ.

    Raises:
        UserError: a sample cannot be read, or two have one name.
    """
    loader: DataLoader[Any] = DataLoader(
        Subset(Trial(samples), shard(range(len(samples)))),  # type: ignore[arg-type]  # any sequence serves
        batch_size=BATCH,
        collate_fn=list,
        num_workers=workers,
    )
    mine: list[Tried] = []
    with bar(f"{where} images", len(loader)) as advance:
        for batch in loader:
            mine += batch
            advance("")
    everyone = [tried for part in gather(mine) for tried in part]
    faults = [tried.fault for tried in everyone if tried.fault]
    if by_name:
        faults += twice([tried.name for tried in everyone], "the split")
    if faults:
        more = f" (and {len(faults) - 1} more: `everseg data check` lists all)" if len(faults) > 1 else ""
        raise UserError(f"{where}: {faults[0]}{more}")


def to_learn(stream: Stream, learner: Learner | type[Learner]) -> Sequence[Stage]:
    """The stages that a learner, or one of a class, learns. One that wants all at once gets one, trained on
    everything that is not a background."""
    if not isinstance(learner, LearnsAllAtOnce):
        return stream.stages
    if stream.joint is not None:
        return [stream.joint]
    parts: list[Any] = [s.train for s in stream.stages if not s.background]
    checked: list[Any] = [s.val for s in stream.stages if len(s.val)]
    together: Any = ConcatDataset(parts)
    val: Any = ConcatDataset(checked) if checked else ()
    return [Stage(0, "all-domains", together, (), val=val)]


def upto(stages: Sequence[Stage], until: str | None) -> Sequence[Stage]:
    """The stages up to the one named `until`; all where it is None.

    Raises:
        UserError: there is no such stage.
    """
    names = [stage.name for stage in stages]
    if until is None:
        return stages
    if until not in names:
        raise unknown("stage", until, names)
    return stages[: names.index(until) + 1]
