"""Models that are neither a file nor a folder: hub ids, decided within seconds."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from everseg.errors import UserError

PATIENCE = 5.0
"""Seconds to wait for the hub's answer. transformers would try again for half a minute."""

OWNED = re.compile(r"[\w.-]*\w/\w[\w.-]*")
"""owner/name, which may also be a relative path."""


def only_cached(what: str, name: str) -> bool:
    """Whether a hub id must come from the local cache, because the hub does not answer a short request.

    what: what the name is of, for messages.

    Raises:
        UserError: the name is not a hub id, and no path that exists; or the hub has no such model.
    """
    wanted = f"{what} {name!r} was found neither as a folder nor on the hub"
    if not OWNED.fullmatch(name) or Path(name).parent.is_dir():
        raise UserError(f"{wanted} (there is no such path, and a hub id is owner/name); check its spelling")
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, RepositoryNotFoundError

    try:
        HfApi().model_info(name, timeout=PATIENCE)
    except RepositoryNotFoundError as error:
        raise UserError(
            f"{wanted} (the hub has no such model, or it is private); check its spelling"
        ) from error
    except HfHubHTTPError:
        return False
    except Exception:  # Which error tells of no network depends on the version of huggingface_hub.
        return True
    return False


@contextmanager
def no_bar(name: str) -> Iterator[None]:
    """Hide transformers' progress bar while it reads weights that are here. A download keeps its bar."""
    from huggingface_hub import try_to_load_from_cache
    from transformers.utils import logging

    here = Path(name).exists() or isinstance(try_to_load_from_cache(name, "model.safetensors"), str)
    hide = here and logging.is_progress_bar_enabled()
    if hide:
        logging.disable_progress_bar()
    try:
        yield
    finally:
        if hide:
            logging.enable_progress_bar()
