"""From which stream a run learns a labelled domain.

stages/crystals/         the domain as it was when it was learned; labelling continues beside it
streams/crystals.yaml    the run's own stream with this stage behind the others
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from everseg.data.streamfile import StreamSpec, read_stream_file
from everseg.errors import UserError
from everseg.files import path_from, write_text
from everseg.runs.run import Run
from everseg.serve.labels import SPLITS, Labels, stage_of
from everseg.serve.limits import Refused
from everseg.text import read_text
from everseg.types.abilities import ChoosesLater, LearnsAllAtOnce


def check_learns(run: Run) -> None:
    """Check that a run can learn a further domain from a page.

    Raises:
        Refused: it cannot.
    """
    if run.problem.name != "domains":
        raise Refused(409, "a run of classes does not learn from clicks; give it a run of domains")
    if isinstance(run.learner, LearnsAllAtOnce):
        raise Refused(
            409, f"method {run.config.method!r} learns all domains at once and cannot add one later"
        )
    if run.record.stream and Path(run.record.stream).is_file():
        spec = read_stream_file(Path(run.record.stream))
        if not isinstance(spec, StreamSpec):
            raise Refused(409, "the run's domains were discovered; add the new images to its stream file")


def may_go_on_with(run: Run) -> list[str]:
    """The domains of which a run may learn later images: those with a module of their own, if the method
    chooses how to continue with one and the run's stream lists them."""
    source = Path(run.record.stream) if run.record.stream else None
    if not isinstance(run.learner, ChoosesLater) or source is None or not source.is_file():
        return []
    spec = read_stream_file(source)
    stages = spec.stages if isinstance(spec, StreamSpec) else []
    return [one.name for one in stages if one.name in run.learned and one.later_of is None]


def free_stage(run: Run, domain: str) -> str:
    """What a new stage of a domain is called: by its name, or with a number where that is taken."""
    taken = {name.lower() for name in run.learned} | {c.forgotten.lower() for c in run.record.forgotten}
    path = Path(run.record.stream) if run.record.stream else None
    if path is not None and path.is_file():
        taken |= {str(stage.get("name", "")).lower() for stage in _tree(path).get("unseen") or []}
    number, name = 1, domain
    while name.lower() in taken:
        number += 1
        name = f"{domain}-{number}"
    return name


def freeze(labels: Labels, domain: str, stage: str) -> None:
    """Keep a domain as it is now in `stages/`, so that labels may change while it is learned.

    Raises:
        Refused: nothing to train on, or nothing held out.
        UserError: it cannot be written.
    """
    target = labels.folder / "stages" / stage
    with labels.lock:
        own = [label for label in labels.domains.get(domain, []) if label.objects]
        for split, what in (("train", "to train on"), ("test", "held out")):
            if not any(label.split == split for label in own):
                raise Refused(409, f"{domain} has no image {what} yet; label and accept one more image")
        shutil.rmtree(target, ignore_errors=True)
        partial = target.with_name(f".{stage}.partial")
        shutil.rmtree(partial, ignore_errors=True)
        try:
            for split in SPLITS:
                for file in sorted((labels.place(domain) / split).rglob("*")):
                    if file.is_file() and not file.name.endswith(".partial"):
                        _share(file, partial / file.relative_to(labels.place(domain)))
            partial.rename(target)
        except OSError as error:
            shutil.rmtree(partial, ignore_errors=True)
            raise UserError(f"cannot write {target}: {error.strerror}; free some space") from error


def _share(file: Path, target: Path) -> None:
    """Accepted files are replaced, never written into, so that both may share one."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(file, target)
    except OSError:
        shutil.copyfile(file, target)


def write_stream(run: Run, folder: Path, stage: str, later_of: str = "") -> Path:
    """Write the stream from which the run learns the stage; returns its file.

    later_of: the domain of which its images are later ones; "" for a domain of its own.

    The stages that the run has learned come first, so that the gate compares them too, as far as their data
    are on this machine.

    Raises:
        Refused: the run's own stream cannot be extended.
        UserError: the file cannot be written.
    """
    source = Path(run.record.stream) if run.record.stream else None
    tree: dict[str, Any] = {"name": run.folder.name, "stages": []}
    if source is not None and source.is_file():
        tree = _absolute(source)
        known = set(run.learned)
        tree["stages"] = [one for one in tree["stages"] if one["name"] in known]
        background = tree.get("background")
        if background and background["name"] not in known:
            del tree["background"]
    new = stage_of(stage, (folder / "stages" / stage).resolve())
    tree["stages"] = [*tree["stages"], new | ({"later_of": later_of} if later_of else {})]
    path = folder / "streams" / f"{stage}.yaml"
    write_text(path, yaml.safe_dump(tree, sort_keys=False))
    return path


def _tree(path: Path) -> dict[str, Any]:
    tree = yaml.safe_load(read_text(path))
    assert isinstance(tree, dict), "it was read as a stream before"
    return tree


def _absolute(source: Path) -> dict[str, Any]:
    """A stream file's content, with paths that start at a root which does not depend on where it lies."""
    spec = read_stream_file(source)
    tree = _tree(source)
    stages = [*tree["stages"], *([tree["background"]] if tree.get("background") else [])]
    for stage in [*stages, *(tree.get("unseen") or [])]:
        for split in ("train", "val", "test"):
            given = stage.get(split)
            if isinstance(given, Mapping) and ":" in str(given.get("kind", "")):
                raise Refused(
                    409,
                    f"{source} has a reader of its own, which is found beside that file only; append the "
                    "new stage to it by hand and learn it with `everseg learn`",
                )
    root = path_from(source.parent, spec.root, f"{source}: root")
    return {**tree, "root": str(root.resolve())}
