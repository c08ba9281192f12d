"""Choose the validation images of a stage: the stream's own, or a share of the training images."""

from __future__ import annotations

from dataclasses import replace

from everseg.data.held_out import hold_out
from everseg.errors import UserError
from everseg.fit import Validates
from everseg.runs.run import Run
from everseg.types import Stage


def with_validation(stage: Stage, run: Run) -> Stage:
    """The stage as the run's learner is taught it: where its settings ask for validation images and the
    stream names none, some of the training images are held out.

    Raises:
        UserError: the stream names validation images and the method has no use for them.
    """
    share = run.learner.held_out if isinstance(run.learner, Validates) else None
    if len(stage.val) and share is None:
        raise UserError(
            f"stage {stage.name!r} has val:, but method {run.config.method!r} does not choose an "
            "epoch; remove val:"
        )
    if len(stage.val) or stage.background or not share:
        return stage
    kept, held = hold_out(stage.train, share)
    return replace(stage, train=kept, val=held)
