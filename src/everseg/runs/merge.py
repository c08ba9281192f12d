"""Merge runs and contributions that were trained apart into one run for all their domains.

Sites send each other contributions, a few megabytes without an image in them. Their merge is the one that a
single run on all domains would have come to, whatever the order.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from everseg import config as configuration
from everseg.config import override
from everseg.data import Stream
from everseg.domains.adapters.kinds import fresh_adapter
from everseg.domains.merging.contribution import Contribution, read_contribution, weight_of
from everseg.domains.methods.merged import MergedConfig
from everseg.domains.methods.regcl import RegCLConfig
from everseg.errors import UserError
from everseg.files import locked, save_state, sha256_file, sha256_tensors
from everseg.methods import find
from everseg.models.promptable.protocol import Promptable
from everseg.runs.folder import base_of, check_free, is_run, new_run, read_config, read_record, write
from everseg.runs.record import Event, Learned, MergedFrom, without_times
from everseg.runs.run import Run, RunConfig, archived
from everseg.seed import torch_generator
from everseg.types import Stage, Weighting

METHODS = ("regcl", "merged")
"""Methods whose runs a merge can become, to learn further stages; the first with the rule is used."""


@dataclass(frozen=True)
class Given:
    """One domain to merge: its contribution, its weight, and its entry in the run that it comes from."""

    contribution: Contribution
    weight: float
    entry: Learned
    path: Path


def merge_runs(
    sources: Sequence[Path],
    out: Path | str,
    rule: str = "regmean",
    *,
    base: str | None = None,
    weighting: Weighting = "equal",
    weights: Mapping[str, float] | None = None,
    settings: Sequence[str] = (),
    stream: Stream | None = None,
    model: Promptable | None = None,
) -> Run:
    """A run in `out` that serves the domains of all `sources`, merged by `rule`.

    sources: run folders, each with what its domains brought, or single contributions' files, in the order in
        which rules that mind it take them.
    base: what they adapt; by default the first run's.
    weighting: what a domain counts.
    weights: factors on that by its name.
    settings: `key=value` over the method's, which are those of the first run if that is of the same method.
    stream: test images; with them the results have a row for each domain merged, as if they had been learned
        one after another.

    Raises:
        UserError: nothing to merge, sources of different kinds, a domain twice, or `out` is taken.
    """
    out = Path(out)
    found = [given for source in sources for given in _read(source, weighting, weights or {})]
    _check_names(found, weights or {})
    config = _config(sources, found, rule, base, settings)
    model = base_of(config, model)
    _check_base(found, model, config)
    with locked(out, "choose another --out"):
        check_free(out)
        learner: Any = find(config.method)(model, config.settings, seed=config.seed)
        origin = str(stream.source.resolve()) if stream and stream.source else ""
        merged = MergedFrom(tuple(str(source) for source in sources), rule)
        run = new_run(out, config, learner, model, stream=origin, merged=merged)
        stages = {} if stream is None else {s.name: s for s in stream.stages}
        events = []
        for position, given in enumerate(found):
            started = time.perf_counter()
            figures, times = without_times(learner.take_in(given.contribution, given.weight))
            trained = sum(value.numel() for value in given.contribution.weights.values())
            figures["trainable_parameters"] = float(trained)
            merged_in = time.perf_counter() - started
            _row(run, stream, given, stages, found[position + 1 :])
            scored_in = time.perf_counter() - started - merged_in
            save_state(archived(out, given.contribution.domain), given.contribution.to_state())
            digest = sha256_file(archived(out, given.contribution.domain))
            learned = replace(given.entry, figures=figures, contribution=digest)
            run.record = run.record.with_learned(learned)
            events.append(Event(learned.name, merged_in, scored_in, figures={**figures, **times}))
        write(run, *events)
    return run


def _read(source: Path, weighting: Weighting, weights: Mapping[str, float]) -> list[Given]:
    """The domains of a run folder, in the order learned, or of a contribution's file."""
    if source.is_file():
        contribution = read_contribution(source)
        paths = [(source, Learned(contribution.domain, "", False, contribution.images, {}))]
    elif is_run(source):
        paths = [(archived(source, e.name), e) for e in read_record(source).learned if e.contribution]
        if not paths:
            raise UserError(
                f"{source} has kept nothing that can be merged; learn it with --method regcl or --method "
                "merged"
            )
        for path, entry in paths:
            if not path.is_file() or sha256_file(path) != entry.contribution:
                raise UserError(
                    f"{path} is missing or was changed after its run wrote it; restore it from a copy"
                )
    else:
        raise UserError(f"{source} is neither a run folder nor a contribution file; give one of them")
    out = []
    for path, entry in paths:
        contribution = read_contribution(path)
        weight = weight_of(contribution, weighting) * weights.get(contribution.domain, 1.0)
        kept = replace(entry, figures={}, classes=(), contribution="", imported=None)
        out.append(Given(contribution, weight, kept, path))
    return out


def _check_names(found: Sequence[Given], weights: Mapping[str, float]) -> None:
    names = [g.contribution.domain for g in found]
    if not names:
        raise UserError("there is nothing to merge; name run folders or contributions' files")
    if twice := next((n for n in names if names.count(n) > 1), None):
        where = [str(g.path) for g in found if g.contribution.domain == twice]
        raise UserError(
            f"{where[0]} and {where[1]} are both named {twice!r}; learn one of them under another stage name"
        )
    if strange := sorted(set(weights) - set(names)):
        raise UserError(f"--weight names {strange[0]!r}, but the domains are {', '.join(names)}")


def _config(
    sources: Sequence[Path], found: Sequence[Given], rule: str, base: str | None, settings: Sequence[str]
) -> RunConfig:
    """The merged run's: the first run's own, where that is of the method, else what the contributions say."""
    method = next((name for name in METHODS if rule in find(name).Config.rules()), METHODS[-1])
    first = found[0].contribution
    kept = next((dict(read_record(s).config) for s in sources if s.is_dir()), None)
    kind: Any = find(method).Config
    if kept is not None and kept["method"] == method:
        chosen = configuration.restore(kind, kept["settings"], f"{sources[0]}/run.json")
    else:
        chosen = kind(adapter=first.adapter, rank=first.rank)
    chosen = override(chosen.by(rule), settings)
    values = {} if kept is None else {k: v for k, v in kept.items() if k not in ("method", "settings")}
    values |= {"method": method, "settings": chosen} | ({"base": base} if base else {})
    return read_config(values, f"{sources[0]}/run.json")


def _check_base(found: Sequence[Given], model: Promptable, config: RunConfig) -> None:
    """The first contribution is of this base, and its start is the one that the run will continue to draw."""
    first = found[0].contribution
    if first.base != model.fingerprint:
        raise UserError(
            f"{first.domain!r} adapts the base {first.base[:12]}, but {model.name} is "
            f"{model.fingerprint[:12]}; give --base the one that it adapts"
        )
    generator = torch_generator(config.seed, "adapter")
    start = fresh_adapter(first.adapter, model, first.rank, generator, mix=first.mix)
    chosen: RegCLConfig | MergedConfig = config.settings
    if (chosen.adapter, chosen.rank) != (first.adapter, first.rank):
        raise UserError(
            f"{first.domain!r} has adapter={first.adapter} and rank={first.rank}, but the settings "
            f"have adapter={chosen.adapter} and rank={chosen.rank}; set adapter and rank to those of "
            f"{first.domain!r}"
        )
    if sha256_tensors(dict(start.state_dict())) != sha256_tensors(dict(first.start)):
        raise UserError(
            f"{first.domain!r} did not start from the weights that seed {config.seed} draws; list a "
            "run that it comes from first"
        )


def _row(
    run: Run, stream: Stream | None, given: Given, stages: Mapping[str, Stage], rest: Sequence[Given]
) -> None:
    """Score what is merged so far on its domains and on the next one."""
    name = given.contribution.domain
    if stream is None:
        run.results = run.results.with_stage(name)
        return
    if name not in stages:
        raise UserError(
            f"{stream.source or 'the stream'} has no stage {name!r}, which is merged; add it with its "
            "test images, or leave --stream out"
        )
    known = [s for n, s in stages.items() if n in {*run.learned, name}]
    following = (
        [stages[rest[0].contribution.domain]] if rest and rest[0].contribution.domain in stages else []
    )
    columns = [*known, *following]
    run.results, oracle = run.problem.row(run, stream, stages[name], columns, last=not rest)
    if oracle is not None:
        run.record = replace(run.record, oracle=oracle)
