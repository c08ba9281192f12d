"""Make a run of what others have trained: SAMCL's published modules as a run folder of everseg."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor
from torch.utils.data import Subset

from everseg import config as configuration
from everseg.data import Stream
from everseg.data.stream import Fingerprints
from everseg.domains.methods.samcl import SAMCL, SAMCLConfig
from everseg.domains.prepare import prepare
from everseg.domains.released import BACKGROUND, Released, check_fits, read_folder
from everseg.domains.scoring import ScoreConfig
from everseg.domains.selector import draw_rows
from everseg.errors import UserError
from everseg.files import locked
from everseg.methods import configure
from everseg.models.promptable.protocol import Promptable
from everseg.runs.folder import base_of, check_free, new_run, write
from everseg.runs.record import Event, FileMark, ImportedFrom, Learned
from everseg.runs.run import Run, RunConfig
from everseg.seed import torch_generator
from everseg.types import Stage

ROW = "(imported)"
"""The row of the result matrix for all that was learned elsewhere. No stage can have this name."""


def adopt_samcl(
    folder: Path | str,
    base: str,
    out: Path | str,
    *,
    order: Sequence[str] = (),
    background: str = BACKGROUND,
    stream: Stream | None = None,
    settings: Sequence[str] = (),
    workers: int = 0,
    model: Promptable | None = None,
) -> Run:
    """SAMCL's published modules and selector in `folder`, or those of anybody's run of its published code, as
    a run in `out` of method samcl with the `reference` preset.

    base: the name of the base they were made for; `model` saves loading it.
    order, background: see `released.read_folder`.
    settings: `key=value` over the preset.
    workers: processes that decode images.
    stream: the domains by their modules' names. The files come without the embeddings that the selector
        learns from; with a stream they are taken again from its training images, and the run can learn
        further domains. Each domain's figures then tell what share of them the selector knows for its own.

    The run's result matrix has one row, in which nothing is measured.

    Raises:
        UserError: see `released`; the base does not fit, the stream lacks a domain, or `out` is taken.
    """
    began = time.perf_counter()
    out = Path(out)
    chosen: SAMCLConfig = configuration.everywhere(
        configure("samcl", "reference", settings), "workers", workers
    )
    how = replace(ScoreConfig.presets()["reference"], workers=workers)
    config = RunConfig("samcl", chosen, base, "reference", score=how)
    found = read_folder(Path(folder), order, background)
    stages = {} if stream is None else _stages(found, stream)
    model = base_of(config, model)
    check_fits(found, model, chosen.aug)
    with locked(out, "choose another --out"):
        check_free(out)
        learner = SAMCL(model, chosen, seed=config.seed)
        learner.load_state_dict(
            {
                "modules": {name: dict(module.weights) for name, module in found.modules.items()},
                "buffer": {},
                "selector": {"names": list(found.names), "weights": found.selector.first(len(found.names))},
            }
        )
        known: dict[str, float] = {}
        for name, stage in stages.items():
            embeddings = _embed(stage, model, chosen, config.seed)
            told = learner.selector.probabilities(embeddings.to(model.device)).argmax(-1)
            known[name] = float((told == found.names.index(name)).float().mean())
            learner.remembered.add(name, embeddings, None)
        run = new_run(
            out,
            config,
            learner,
            model,
            learned=tuple(_entry(found, name, stages.get(name), stream, known) for name in found.names),
            stream=str(stream.source.resolve()) if stream and stream.source else "",
            imported=ImportedFrom("samcl", FileMark(found.selector.file, found.selector.sha256)),
        )
        run.results = run.results.with_stage(ROW, learned=found.names, background=found.background)
        write(run, Event(ROW, time.perf_counter() - began))
    return run


def _stages(found: Released, stream: Stream) -> dict[str, Stage]:
    """The stream's stage of each of the selector's classes, in their order."""
    where = stream.source or "the stream"
    by_name = {stage.name: stage for stage in stream.stages}
    if bare := [name for name in found.names if name not in by_name]:
        raise UserError(
            f"{where} has no stage {bare[0]!r}; name the stages after the selector's classes, because "
            "it needs training images of all of them to learn further domains: "
            f"{', '.join(found.names)}"
        )
    stages = {name: by_name[name] for name in found.names}
    for name, stage in stages.items():
        if stage.background != (name in found.background):
            kind = "background" if name in found.background else "one of the stages"
            raise UserError(f"{where}: {name!r} must be {kind}; list it there")
    return stages


def _embed(stage: Stage, base: Promptable, config: SAMCLConfig, seed: int) -> Tensor:
    """The pooled taps (N, D), on the CPU, of the training images that learning the stage would have kept."""
    draw = torch_generator(seed, stage.name, "selector")
    rows = draw_rows(len(stage.train), config.selector.size, draw)
    part: Any = Subset(stage.train, rows)  # type: ignore[arg-type]  # any sequence serves
    return prepare(part, base, replace(config.cache, where="off"), config.tune.fit, stage.name).embeddings


def _entry(
    found: Released, name: str, stage: Stage | None, stream: Stream | None, known: Mapping[str, float]
) -> Learned:
    """What run.json says of a domain. Its data are those of the buffer; which ones the module was trained on,
    nobody here knows."""
    module = found.modules.get(name)
    figures: dict[str, float] = {}
    if module is not None:
        figures["trainable_parameters"] = float(sum(w.numel() for w in module.weights.values()))
    if name in known:
        figures["selector_accuracy"] = known[name]
    data = stream.fingerprints(stage) if stream and stage else Fingerprints("", "", "")
    return Learned(
        name=name,
        fingerprint=data.both,
        background=module is None,
        images=len(stage.train) if stage else 0,
        figures=figures,
        imported=None if module is None else FileMark(module.file, module.sha256),
        train=data.train,
        test=data.test,
    )
