"""Upload a run to a model hub (`everseg push`). `runs.fetched` downloads it."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from everseg.errors import UserError, first_line
from everseg.files import read_json, write_json, write_text
from everseg.models.hub import OWNED
from everseg.models.names import MOBILENET, TINY
from everseg.runs.card import LICENCES, card
from everseg.runs.fetched import LOG, no_repository
from everseg.runs.record import RECORD
from everseg.runs.run import Run


def push(
    run: Run,
    repo: str,
    *,
    private: bool = False,
    licence: str | None = None,
    message: str = "",
) -> str:
    """Upload a run as a model repository `owner/name`, with a model card; returns its address.

    What is uploaded: run.json without paths of this machine, the state and the results that it names, and the
    log. Earlier states, rejected stages and what single domains contributed stay here.

    private: for a repository that is new.
    licence: of the run, as the hub names it; that of the base where it is known and None is given.

    Raises:
        UserError: the name is invalid, no user is logged in, or the hub refuses it.
    """
    check_name(repo)
    from huggingface_hub import HfApi

    with tempfile.TemporaryDirectory() as place:
        folder = stage(run, Path(place), repo, licence)
        api = HfApi()
        try:
            api.create_repo(repo, private=private or None, exist_ok=True)
            done = api.upload_folder(
                repo_id=repo,
                folder_path=folder,
                commit_message=message or f"Upload a run of {run.config.method}",
                delete_patterns=["state-*.safetensors", "results-*.json"],
            )
        except Exception as error:  # Network, permissions and quotas, each with an error of its own.
            raise UserError(
                f"cannot upload to {repo} ({first_line(error)}); log in with 'hf auth login' and check the "
                "name and your rights"
            ) from error
    return str(getattr(done, "repo_url", None) or f"{api.endpoint}/{repo}")


def check_name(repo: str) -> None:
    """Check that a hub can have such a repository.

    Raises:
        UserError: it cannot.
    """
    if why := no_repository(repo):
        raise UserError(f"{repo!r} is not the name of a repository{why}; write owner/name")


def stage(run: Run, folder: Path, repo: str, licence: str | None = None) -> Path:
    """Write what `push` uploads into a folder."""
    record, name = run.record, public_base(run.config.base)
    values = dict(read_json(run.folder / RECORD))
    values["stream"] = "" if "stream" in values else values.get("stream")
    values = {key: value for key, value in values.items() if value is not None}
    values["base"] = {**values["base"], "name": _without_folders(values["base"]["name"])}
    values["config"] = {**values["config"], "base": _without_folders(run.config.base)}
    values["learned"] = [_alone(stage) for stage in values["learned"]]
    write_json(folder / RECORD, values)
    for file in (record.state, record.results, LOG):
        if file and (run.folder / file).is_file():
            shutil.copyfile(run.folder / file, folder / file)
    write_text(folder / "README.md", card(run, repo, name, licence or LICENCES.get(name or "")))
    return folder


def public_base(base: str) -> str | None:
    """A base's name where others can load it by that: not where it is a path of this machine."""
    if base in (TINY, MOBILENET):
        return base
    return None if Path(base).is_absolute() or Path(base).exists() or not OWNED.fullmatch(base) else base


def _without_folders(base: str) -> str:
    return base if public_base(base) else Path(base).name


def _alone(stage: Mapping[str, Any]) -> dict[str, Any]:
    """A learned stage without its contribution, which is not uploaded."""
    return {key: value for key, value in stage.items() if key != "contribution"}
