"""The statistics of natural images, computed once for each base and folder."""

from __future__ import annotations

import copy
import hashlib
from pathlib import Path
from typing import Any

from everseg.domains.natural import natural_statistics
from everseg.errors import UserError
from everseg.files import load_state, save_state, sha256_tensors
from everseg.methods import METHODS, find
from everseg.models.precision import resolved
from everseg.models.promptable.protocol import Promptable
from everseg.runs.inputs import find_images
from everseg.runs.run import Run
from everseg.types import BaseModel, State
from everseg.types.abilities import KnowsNatural


def with_natural(folder: Path | str | None, method: str, base: BaseModel, out: Path) -> BaseModel:
    """The base, or a copy of it that knows the statistics of the natural images in a folder.

    Raises:
        UserError: the method makes no use of them, or as `natural_of`.
    """
    if folder is None:
        return base
    if not issubclass(find(method), KnowsNatural):
        able = ", ".join(name for name in METHODS if issubclass(find(name), KnowsNatural))
        raise UserError(
            f"method {method!r} has no use for natural images; leave --natural out, or choose {able}"
        )
    knowing: Any = copy.copy(base)  # Other runs may use the one that was given.
    knowing.natural = natural_of(Path(folder), knowing, out)
    found: BaseModel = knowing
    return found


def check_begun_with(folder: Path | str | None, run: Run) -> None:
    """Check that a run knows the natural images of its base.

    Raises:
        UserError: it began without them, or with others; or its settings leave them out.
    """
    if folder is None:
        return
    assert isinstance(run.learner, KnowsNatural), "checked by with_natural"
    ours, theirs = run.base.natural, run.learner.natural_images()
    if theirs is None and not run.learned:
        raise UserError("the settings of this run exclude natural images; leave out --natural")
    if theirs is None or sha256_tensors(ours) != sha256_tensors(theirs):
        raise UserError(
            f"{run.folder} was not begun with the natural images in {folder}; leave out --natural to "
            "continue it, or choose another --out"
        )


def begun_with(run: Run) -> State | None:
    """The statistics of natural images that a run knows; where its method knows none, those of its base."""
    known = run.learner.natural_images() if isinstance(run.learner, KnowsNatural) else None
    natural: State | None = run.base.natural if known is None else known
    return natural


def natural_of(folder: Path, base: Promptable, out: Path, cached: Path | None = None) -> State:
    """The statistics of the images in and below `folder`, as `base` sees them. Those of an earlier call are
    taken where base and files are the same.

    out: a folder whose images are left out.
    cached: where earlier ones are kept; default ~/.cache/everseg/natural.

    Raises:
        UserError: there are too few images, or one cannot be read.
    """
    if not folder.is_dir():
        raise UserError(f"{folder} is not a folder; give one of natural images")
    images = [source.path for source in find_images([folder], out)]
    seen = hashlib.sha256(f"{base.fingerprint}|{resolved(base.precision, base.device)}".encode())
    seen.update(f"|{min(base.adapted)}".encode())
    for image in images:
        about = image.stat()
        seen.update(
            f"|{image.resolve()}|{about.st_size}|{about.st_mtime_ns}".encode(errors="surrogateescape")
        )
    kept = (cached or Path.home() / ".cache" / "everseg" / "natural") / f"{seen.hexdigest()}.safetensors"
    try:
        return load_state(kept)
    except UserError:  # It is not there, or a power cut left half of it.
        found = natural_statistics(base, images)
    try:
        kept.parent.mkdir(parents=True, exist_ok=True)
        save_state(kept, found)
    except (OSError, UserError):  # A full disk costs the next run's time, not this run.
        pass
    return found
