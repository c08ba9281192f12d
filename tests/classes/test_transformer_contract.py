"""Methods that learn classes on transformers: the same contract, and who does not fit them."""

from __future__ import annotations

import pytest

from everseg.errors import UserError
from everseg.methods import METHODS as ALL
from everseg.methods import find
from everseg.testing import Law, laws, micro_dinov3, micro_segformer, micro_step
from everseg.testing.classes import ClassTrial
from everseg.types import NoScratch

BASES = {"segformer": micro_segformer, "dinov3": micro_dinov3}
METHODS = tuple(m for m in ALL if getattr(find(m), "learns", "domains") == "classes" and m != "rcil")
QUICK = ("it_goes_on_from_its_state_as_if_it_had_never_stopped", "predictions_come_in_order_and_in_shape")
CHIEF = ("eir", "dkd", "mib")
"""Of the laws and methods those that are checked every day; the others follow with the slow tests."""

OWN = {"plop": ("tune.crop=128",)}
"""Of crops of 64 pixels SegFormer's last map is 2 x 2, and PLOP pools 4 x 4 windows of each."""

LAWS = {(b, m): laws(m, OWN.get(m, ()), base=build) for b, build in BASES.items() for m in METHODS}

pytestmark = pytest.mark.usefixtures("micro_backbone")


def cases(quick: bool) -> list[object]:
    return [
        pytest.param(law, id=f"{law}-{method}-{base}")
        for (base, method), found in LAWS.items()
        for law in found
        if (law.name in QUICK and base == "segformer" and method in CHIEF) == quick
    ]


@pytest.mark.parametrize("law", cases(quick=True))
def test_law(law: Law) -> None:
    law()


@pytest.mark.slow
@pytest.mark.parametrize("law", cases(quick=False))
def test_every_law(law: Law) -> None:
    law()


@pytest.mark.parametrize("base", BASES)
def test_rcil_says_what_it_needs(base: str) -> None:
    with pytest.raises(UserError, match="RCIL needs a base of convolutions with batch normalisation, and"):
        find("rcil")(BASES[base]())


def test_plop_says_that_crops_are_too_small() -> None:
    found = ClassTrial(find("plop"), base=micro_segformer)
    with pytest.raises(
        UserError, match=r"a feature map of 2 x 2 is too small for windows of 4 x 4; .*\(tune.crop\)"
    ):
        found.taught(found.stage(0), found.stage(1))


@pytest.mark.parametrize("base", BASES)
def test_adamw_suits_a_transformer(base: str) -> None:
    """The optimiser of the published recipes of these backbones."""
    how = [f"tune.{step}.{key}" for step in ("first", "later") for key in ("optimiser=adamw", "lr=0.0006")]
    trial = ClassTrial(find("mib"), how, BASES[base])
    figures = [trial.fresh().learn(micro_step(0, 4), NoScratch()) for _ in range(2)]
    assert figures[0]["loss"] == figures[1]["loss"] > 0
