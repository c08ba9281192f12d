"""Settings proposed from the data when a run begins, and kept with the run."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path

from everseg.config import assign, plain
from everseg.data import Stream
from everseg.data.streamfile import ClassStreamSpec, read_stream_file
from everseg.distributed import world
from everseg.methods import find, long_name
from everseg.progress import remark
from everseg.runs.data import to_learn
from everseg.runs.folder import is_run, read_record
from everseg.runs.problem import check_fits
from everseg.runs.run import RunConfig

DOMAINS, CLASSES = "samcl", "eir"
"""The methods of those who name none."""
SCORE = "score."
"""Begins the names of settings of scoring among what was proposed."""


def default_method(stream: Stream | Path | str) -> str:
    """The method for a stream where none is named."""
    if isinstance(stream, Stream):
        return CLASSES if all(stage.classes for stage in stream.stages) else DOMAINS
    return CLASSES if isinstance(read_stream_file(Path(stream)), ClassStreamSpec) else DOMAINS


def names_of(method: str, assignments: Sequence[str] | None) -> set[str]:
    """The dotted names of settings given as `key=value`."""
    return {long_name(method, text.partition("=")[0].strip()) for text in assignments or ()}


def with_defaults(
    config: RunConfig, stream: Stream, out: Path | None, given: Collection[str], scored: Collection[str]
) -> RunConfig:
    """The configuration in which the data's suggestions replace values of the preset that are not given; in a
    run that has begun, those that were suggested then. Only the preset "paper" takes suggestions.

    out: the run's folder; None where there is none.
    given, scored: dotted names of the settings of the method and of scoring that somebody gave.
    """
    if config.preset != "paper":
        return config
    problem = check_fits(stream, config.method)
    if out is not None and is_run(out):
        begun = read_record(out).config
        if (begun["method"], begun["preset"]) != (config.method, config.preset):
            return config  # It is refused for that.
        proposed = dict(begun.get("proposed", {}))
    else:
        stages = to_learn(stream, find(config.method))
        found = problem.propose(config.base, stages, config.settings, given, scored)
        named = {**found.settings, **{SCORE + name: value for name, value in found.score.items()}}
        proposed = {name: plain(value) for name, value in named.items()}
        for line in found.why if world().main else ():
            remark(line)
    settings = {n: v for n, v in proposed.items() if not n.startswith(SCORE) and n not in given}
    score = {n.removeprefix(SCORE): v for n, v in proposed.items() if n.startswith(SCORE)}
    score = {n: v for n, v in score.items() if n not in scored}
    return replace(
        config,
        settings=assign(config.settings, settings),
        score=assign(config.score, score),
        proposed=proposed,
    )
