"""Fetch runs named `hf://owner/name` from a model hub into its cache."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

from everseg.errors import UserError, first_line
from everseg.models.hub import OWNED
from everseg.runs.record import RECORD

HERE = re.compile(r"hf:/{1,2}(?P<repo>[^/@]+/[^/@]+)(?:@(?P<revision>.+))?")
"""hf://owner/name, or hf://owner/name@revision; a path has lost one of the slashes."""
LOG = "events.jsonl"


def is_on_hub(folder: Path | str) -> bool:
    """Whether a run is named as one on the hub."""
    return str(folder).startswith("hf:")


def located(folder: Path | str) -> Path:
    """Where a run lies on this machine: a run on the hub is downloaded into the hub's cache, once.

    Raises:
        UserError: the hub has no such repository, or does not answer and the cache does not have it.
    """
    return _fetched(str(folder)) if is_on_hub(folder) else Path(folder)


def no_repository(repo: str) -> str:
    """Why a hub can have no repository of this name, in brackets; "" where it can."""
    if not OWNED.fullmatch(repo) or repo.count("/") != 1:
        return " (it is not owner/name)"
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

    try:
        validate_repo_id(repo)
    except HFValidationError as error:
        return f" ({first_line(error).rstrip('.')})"
    return ""


@cache
def _fetched(given: str) -> Path:
    found = HERE.fullmatch(given)
    why = " (it is not owner/name)" if found is None else no_repository(found["repo"])
    if found is None or why:
        named = re.sub("^hf:/*", "hf://", given)
        raise UserError(
            f"{named} is not the address of a repository{why}; write hf://owner/name or hf://owner/name@revision"
        )
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError

    repo, revision = found["repo"], found["revision"]
    wanted = [RECORD, "*.safetensors", "results-*.json", LOG, "README.md"]
    try:
        return Path(snapshot_download(repo, revision=revision, allow_patterns=wanted))
    except RevisionNotFoundError as error:
        raise UserError(f"{repo} has no revision {revision!r}; look at its page on the hub") from error
    except RepositoryNotFoundError as error:
        raise UserError(
            f"the hub has no {repo}, or it is private; check its spelling, or log in with 'hf auth login'"
        ) from error
    except Exception as error:  # Which error tells of no network depends on the version of huggingface_hub.
        raise UserError(
            f"cannot fetch {repo} from the hub ({first_line(error)}); check the network or give a folder"
        ) from error
