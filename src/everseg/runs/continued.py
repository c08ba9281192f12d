"""Build the command that continues a run with its own settings, for programs that start it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from everseg import config as configuration
from everseg.methods import configure
from everseg.runs.run import Run


def learn_command(run: Run, stream: Path, out: Path, base: str) -> list[str]:
    """The arguments of `everseg learn` by which the run continues as it was begun."""
    config = run.config
    words = ["learn", str(stream), "--out", str(out), "--method", config.method, "--preset", config.preset]
    words += ["--seed", str(config.seed), "--evaluate", config.evaluate, "--precision", config.precision]
    words += ["--base", base or config.base]
    if not config.baseline:
        words.append("--no-baseline")
    if not config.archive:
        words.append("--no-archive")
    if config.keep is not None:
        words += ["--keep", str(config.keep)]
    words += _changed("--set", configure(config.method, config.preset), config.settings)
    kind = run.problem.Score
    return words + _changed("--score", kind.presets().get(config.preset, kind()), config.score)


def _changed(option: str, default: Any, chosen: Any) -> list[str]:
    """The options by which settings differ from what they would be without them."""
    before, now = (
        {one.name: one.value for one in configuration.describe(config) if one.kind != "group"}
        for config in (default, chosen)
    )
    told = [f"{key}={json.dumps(value)}" for key, value in now.items() if before[key] != value]
    return [word for one in told for word in (option, one)]
