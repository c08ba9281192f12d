"""How the best epoch of a training is found."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from everseg.config import SettingError
from everseg.errors import UserError


@dataclass(frozen=True)
class Validation:
    """How the best epoch is found.

    score: of the weights as they are, higher is better, the same on every process.
    patience: stop after this many epochs in a row without a better score; 0: train to the end.
    """

    score: Callable[[], float]
    patience: int = 0


class ValidationConfig(Protocol):
    """The settings of validation, in whatever configuration they stand."""

    @property
    def val(self) -> float: ...

    @property
    def patience(self) -> int: ...


def check_validation(config: ValidationConfig) -> None:
    """Check that validation leaves something to train on.

    Raises:
        SettingError: it does not.
    """
    if config.val == 1:
        raise SettingError("val", "is 1, which leaves no images to train on; give a share below 1")


def validation_of(
    config: ValidationConfig, score: Callable[[], float], count: int, name: str
) -> Validation | None:
    """How the best epoch is found by `count` validation images; None without any.

    Raises:
        UserError: there are none, and the settings ask for them.
    """
    if count:
        return Validation(score, config.patience)
    if config.val or config.patience:
        asked = f"val={config.val:g}" if config.val else f"patience={config.patience}"
        raise UserError(
            f"{name}: {asked} needs validation images, and this stage has none; "
            "give it two images or more and set val, or name a split with val: in the stream file"
        )
    return None


@runtime_checkable
class Validates(Protocol):
    """An ability of a method: to end a stage with its best epoch, chosen by the stage's `val`."""

    @property
    def held_out(self) -> float:
        """Share of a stage's training images that becomes its `val` where it has none; 0: none."""
