"""The pool of instances of a run or of a folder: read it, and delete from it."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from everseg.classes.instances import InstancePool, load_pool, save_pool
from everseg.classes.instances.store import MANIFEST
from everseg.errors import UserError
from everseg.files import locked
from everseg.models.promptable.protocol import Promptable
from everseg.runs.earlier import ASIDE, REMOVED, drop_images
from everseg.runs.folder import is_run, load, read_record, read_state, write

KEY = "pool"
"""Under which a learner's state has its pool."""


class Opened(NamedTuple):
    """An opened pool.

    names: names of the classes by label, if the run or folder has them.
    """

    pool: InstancePool
    names: Mapping[int, str]


class ClassTally(NamedTuple):
    """Contents of a pool for one class.

    images: names of the images that the instances come from, sorted, each once.
    """

    label: int
    instances: int
    nbytes: int
    images: tuple[str, ...]


def open_pool(place: Path) -> Opened:
    """The pool in a run folder, or in a folder that `save_pool` wrote. Neither learner nor base is built.

    Raises:
        UserError: there is neither, the run keeps no pool, or what is there is damaged.
    """
    if _is_run(place):
        record = read_record(place)
        return Opened(_pool_in(read_state(place, record), place), dict(enumerate(record.classes)))
    return Opened(load_pool(place), {})


def tally(pool: InstancePool) -> list[ClassTally]:
    """What is in a pool, class by class."""
    return [
        ClassTally(
            label,
            len(items),
            sum(item.nbytes for item in items),
            tuple(sorted({item.image for item in items})),
        )
        for label, items in pool.by_class().items()
    ]


def remove(
    place: Path,
    *,
    item: str = "",
    image: str = "",
    prefix: str = "",
    base: Promptable | str | None = None,
) -> tuple[list[str], InstancePool]:
    """Delete instances from the pool in a run or a folder for good: one, all of an image, or all of images
    whose names begin alike. Returns their names, and the pool as it is now.

    A run gets a new state without them. Earlier states that hold instances cannot be restored any more, and
    stages that the gate rejected are deleted. The unfinished stage, which was begun with them, is deleted and
    will be learned from its beginning. What the model has learned from them stays.

    base: path of the base model, if it has moved.

    Raises:
        UserError: as `open_pool`; not one of item, image and prefix; or there is nothing of that kind.
            Nothing is changed then.
    """
    if sum(map(bool, (item, image, prefix))) != 1:
        raise UserError("say what to remove by one of --item, --image and --prefix")
    run = _is_run(place)
    with locked(place):
        if not run:
            pool = load_pool(place)
            gone = pool.remove(name=item, image=image, prefix=prefix)
            save_pool(pool, place)
            return gone, pool
        current = load(place, base)
        state = current.learner.state_dict()
        pool = _pool_in(state, place)
        gone = pool.remove(name=item, image=image, prefix=prefix)
        current.learner.load_state_dict({**state, KEY: pool.state_dict()})
        shutil.rmtree(place / "work", ignore_errors=True)
        shutil.rmtree(place / ASIDE, ignore_errors=True)
        drop_images(place, current.record, REMOVED)
        write(current, gone=REMOVED)
        return gone, pool


def _is_run(place: Path) -> bool:
    if is_run(place):
        return True
    if (place / MANIFEST).is_file():
        return False
    raise UserError(f"{place} is neither a run (run.json) nor a pool ({MANIFEST}); check the path")


def _pool_in(state: Mapping[str, Any], place: Path) -> InstancePool:
    if KEY not in state:
        raise UserError(
            f"{place} has no pool, because its method replays no instances; give a run of a method "
            "that does, such as eir"
        )
    pool = InstancePool()
    try:
        pool.load_state_dict(state[KEY])
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"the pool in {place} was written by another version of everseg ({error}); use that version"
        ) from error
    return pool
