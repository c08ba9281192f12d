"""What `learn` checks first, and settings that it takes from the run that it continues."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

from everseg import config as configuration
from everseg.config import Difference
from everseg.data import Stream
from everseg.errors import UserError
from everseg.methods import find
from everseg.runs.data import to_learn, upto
from everseg.runs.folder import check_free, is_run, load, read_record
from everseg.runs.problem import check_fits
from everseg.runs.run import Run, RunConfig


def check_folders(out: Path, first: Path | str | None = None) -> None:
    """Check what can be checked before a stream is opened.

    Raises:
        UserError: `first` is not a run, or `out` holds something else.
    """
    if first is not None:
        read_record(first)
    if not is_run(out):
        check_free(out)


def check_until(stream: Stream, config: RunConfig, until: str | None) -> None:
    """Check what needs no image, before images are looked at for defaults.

    Raises:
        UserError: the method does not learn what the stream brings, or there is no stage `until`.
    """
    check_fits(stream, config.method)
    upto(to_learn(stream, find(config.method)), until)


def kept_options(out: Path | str, archive: bool | None, keep: int | None) -> tuple[bool, int | None]:
    """`RunConfig.archive` and `keep`: as given, else as in the run, else their defaults."""
    begun = read_record(out).config if is_run(out) else {}
    return (
        begun.get("archive", True) if archive is None else archive,
        begun.get("keep") if keep is None else keep,
    )


def continued(config: RunConfig, out: Path, base: Any) -> tuple[Run, RunConfig]:
    """The run in a folder, and the configuration with which a call continues with it: that of the call, with
    settings that were not there yet when the run was begun as they were then.

    Raises:
        UserError: it was begun with other settings, or as `load`.
    """
    found = load(out, base=base)
    same = configuration.inherit(config, found.config, found.record.config)
    ours, theirs = (configuration.plain(c, machine=False) for c in (same, found.config))
    if changed := configuration.differences(ours, theirs):
        told = _told(changed)
        what, options = "; ".join(map(str, told)), " ".join(map(_option, told))
        if len(told) < len(changed) and not any(each.name == "defaults" for each in told):
            options += " and its --set and --score, if there were any"
        raise UserError(
            f"{out} holds a run with other settings ({what}); repeat the command with {options}, or choose "
            "another --out"
        )
    return found, same


def _told(changed: list[Difference]) -> list[Difference]:
    """Those that explain the others: each method and each preset has settings of its own, and the data
    suggest many at once."""
    kinds = {each.name.partition(".")[0] for each in changed}
    if kinds & {"method", "preset"}:
        return [d for d in changed if d.name.partition(".")[0] not in ("settings", "score", "proposed")]
    suggested = {d.name.removeprefix("proposed.") for d in changed if d.name.startswith("proposed.")}
    if not suggested:
        return changed
    own = {f"settings.{name}" for name in suggested} | suggested  # Those of scoring begin with "score.".
    others = [d for d in changed if d.name not in own and not d.name.startswith("proposed.")]
    return [*others, Difference("defaults", "preset", "data")]


def _option(difference: Difference) -> str:
    """The option of `everseg learn` that gives the run's own value."""
    kind, _, name = difference.name.partition(".")
    value = difference.theirs
    if isinstance(value, bool) and not name:
        return f"--{kind}" if value else f"--no-{kind}"
    text = value if isinstance(value, str) else json.dumps(value, separators=(",", ":"))
    option = {"settings": f"--set {name}=", "score": f"--score {name}="}.get(kind, f"--{kind} ")
    return option + shlex.quote(text)
