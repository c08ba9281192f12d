"""TensorBoard, Weights & Biases and MLflow, which draw the curves of a stage while it is learned."""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from everseg.distributed import world
from everseg.errors import UserError, unknown
from everseg.progress import Curve, Listener, Reading, remark

TRACKERS = ("tensorboard", "wandb", "mlflow")


def check_trackers(names: str | Sequence[str]) -> tuple[str, ...]:
    """The names of the trackers, each once.

    Raises:
        UserError: these are not names, there is no such tracker, or its package is not installed.
    """
    listed = [names] if isinstance(names, str) else names
    if not (isinstance(listed, Sequence) and all(isinstance(name, str) for name in listed)):
        raise UserError(f"track is {names!r}; give names of trackers: {', '.join(TRACKERS)}")
    given = dict.fromkeys(listed)
    for name in given:
        if name not in TRACKERS:
            raise unknown("tracker", name, TRACKERS)
        if importlib.util.find_spec(name) is None:
            raise UserError(
                f"the tracker {name!r} needs the package {name}, which is not installed; "
                f"install it with pip install 'everseg[{name}]'"
            )
    return tuple(given)


@contextmanager
def trackers(names: Sequence[str], folder: Path, stage: str) -> Iterator[list[Listener]]:
    """Listeners that hand the readings of one stage to trackers; none in processes other than the main one.

    names: as `check_trackers` returned them.
    folder: of the run; it names the project, and TensorBoard's files go to `tensorboard/<stage>` in it.
    """
    with ExitStack() as stack:
        yield [stack.enter_context(_tracker(name, folder, stage)) for name in names if world().main]


@contextmanager
def _tracker(name: str, folder: Path, stage: str) -> Iterator[Listener]:
    from accelerate import PartialState
    from accelerate.tracking import LOGGER_TYPE_TO_CLASS

    project = folder.resolve().name
    options: dict[str, dict[str, Any]] = {
        "tensorboard": {"run_name": stage, "logging_dir": folder / "tensorboard"},
        "wandb": {"run_name": project, "name": stage},
        "mlflow": {"experiment_name": project, "run_name": stage},
    }
    PartialState()  # Some of accelerate's trackers need their name before it is set.
    tracker = LOGGER_TYPE_TO_CLASS[name](**options[name])
    try:
        tracker.start()
    except Exception as error:
        raise UserError(
            f"the tracker {name!r} cannot be started ({error}); leave --track {name} out"
        ) from error
    working = True

    def log(what: Reading | Curve) -> None:
        nonlocal working
        if isinstance(what, Curve) or not working:
            return
        values = {"loss": what.loss, "images_per_second": what.images_per_second, "seconds": what.seconds}
        if what.score is not None:
            values["val"] = what.score
        try:
            tracker.log({k: v for k, v in values.items() if math.isfinite(v)}, step=what.step)
        except Exception as error:  # A server that is gone must not cost a training.
            working = False
            remark(f"{name} records nothing more of {stage!r} ({error}); learning continues without it")

    try:
        yield log
    finally:
        tracker.finish()
