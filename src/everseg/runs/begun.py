"""Settings that a repeated `learn` takes from the run that it continues."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from everseg import config as configuration
from everseg.errors import UserError
from everseg.runs.folder import is_run, load, read_record
from everseg.runs.run import Run, RunConfig


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
        if config.method != found.config.method:  # Each method has settings of its own.
            changed = [sentence for sentence in changed if not sentence.startswith("settings.")]
        raise UserError(
            f"{out} holds a run with other settings ({'; '.join(changed)}); repeat the command with those of "
            "the run, or choose another --out"
        )
    return found, same
