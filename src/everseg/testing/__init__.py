"""Check that a method keeps the promises on which everseg relies.

    from everseg.testing import check_method

    check_method(Mine)                  # or "mine", or "mypkg.mine:Mine"

or, with each law as a test of its own:

    import pytest
    from everseg.testing import laws

    @pytest.mark.parametrize("law", laws(Mine), ids=str)
    def test_mine(law):
        law()

Methods are tried on random bases and painted images that are made in memory: nothing is downloaded.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from everseg.errors import UserError, unknown
from everseg.methods import find
from everseg.testing import abilities, classes, domains
from everseg.testing import laws as common
from everseg.testing.bases import (
    micro_backbone,
    micro_base,
    micro_dinov3,
    micro_resnet,
    micro_sam,
    micro_sam2,
    micro_segformer,
)
from everseg.testing.classes import micro_image, micro_step
from everseg.testing.domains import micro_stage
from everseg.testing.trial import Trial

__all__ = [
    "Law",
    "check_method",
    "laws",
    "micro_backbone",
    "micro_base",
    "micro_dinov3",
    "micro_image",
    "micro_resnet",
    "micro_sam",
    "micro_sam2",
    "micro_segformer",
    "micro_stage",
    "micro_step",
]

WINGS: dict[str, tuple[type[Trial], Sequence[Callable[[Any], None]]]] = {
    "domains": (domains.DomainTrial, domains.LAWS),
    "classes": (classes.ClassTrial, classes.LAWS),
}


@dataclass(frozen=True)
class Law:
    """One promise of one method. Calling it checks it; `str(law)` is its name.

    The laws of one call of `laws` share learners, so that each stage is learned once: check them in one
    process where that is possible.
    """

    name: str
    trial: Trial = field(repr=False)
    check: Callable[[Any], None] = field(repr=False)

    def __str__(self) -> str:
        return self.name

    def __call__(self) -> None:
        """Check the law.

        Raises:
            AssertionError: the method breaks it, or ends with an error of its own.
        """
        try:
            with self.trial.apart():
                self.check(self.trial)
        except Exception as error:
            what = str(error) if isinstance(error, AssertionError) else f"{type(error).__name__}: {error}"
            promise = self.name.replace("_", " ")
            raise AssertionError(
                f"{self.trial.method.__name__} breaks the law '{promise}': {what}"
            ) from error


def laws(
    method: type[Any] | str,
    settings: Sequence[str] = (),
    skip: Sequence[str] = (),
    base: Callable[[], Any] | None = None,
) -> list[Law]:
    """The laws that a method must keep: those of all methods, of what it learns, and of the abilities it has.

    Args:
        method: the class, its name in `everseg.METHODS`, or "package.module:Class".
        settings: assignments "key=value" that make its training short. Those that do so for everseg's own
            methods, such as "tune.fit.epochs=2", are applied anyway where the configuration has the key.
        skip: names of laws to leave out.
        base: builds the base to try it on, each time the same; None: the micro base of what it learns.

    Raises:
        UserError: there is no such method or law, or the method learns neither domains nor classes.
    """
    kind = find(method) if isinstance(method, str) else method
    learns = getattr(kind, "learns", "domains")
    if learns not in WINGS:
        raise UserError(f"{kind.__name__}.learns is {learns!r}; it must be {' or '.join(map(repr, WINGS))}")
    trial, own = WINGS[learns]
    able = [law for ability, law in abilities.LAWS if issubclass(kind, ability)]
    shared = trial(kind, settings, base)
    found = [Law(law.__name__, shared, law) for law in (*common.LAWS, *own, *able)]
    names = [law.name for law in found]
    for name in skip:
        if name not in names:
            raise unknown(f"law of {kind.__name__}", name, names)
    return [law for law in found if law.name not in skip]


def check_method(
    method: type[Any] | str,
    settings: Sequence[str] = (),
    skip: Sequence[str] = (),
    base: Callable[[], Any] | None = None,
) -> None:
    """Check every law of a method; see `laws` for the arguments.

    Raises:
        AssertionError: the method breaks a law; the message says which one and how.
    """
    for law in laws(method, settings, skip, base):
        law()
