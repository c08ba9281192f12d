"""Budgets of images and of instances, and what kept images are trained on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch

from everseg.classes.instances import Budget, InstancePool, cut, find_instances
from everseg.classes.memory import ImageMemory
from everseg.classes.settings import ClassTuneConfig
from everseg.methods import configure, find
from everseg.testing import micro_step
from everseg.testing.classes import ClassTrial, micro_image
from everseg.types import NoScratch, SemanticSample

pytestmark = pytest.mark.usefixtures("micro_backbone")


def test_what_does_not_fit_is_passed_over() -> None:
    budget = Budget(10, 100, 2)
    assert [budget.admit(n) for n in (60, 50, 30, 20, 10)] == [True, False, True, False, True]
    assert budget.used == 100 and not budget.spent
    assert not any(budget.admit(1) for _ in range(6)) and budget.spent, "three tries for each class"


def samples(sizes: Sequence[int]) -> list[SemanticSample]:
    """Images of noise, whose bytes grow with their size."""
    return [micro_image(i, (1 + i % 2,), (size, size)) for i, size in enumerate(sizes)]


def test_images_and_instances_use_their_bytes_up_alike() -> None:
    """One image of four does not fit: both go on with the smaller ones behind it."""
    given, room = samples([64, 64, 64, 64, 300, 300] * 4), 60_000
    memory = ImageMemory(1000, ClassTuneConfig.sigmoid(), room)
    memory.refill(given, range(1, 3), seed=0, step=1)
    pool = InstancePool(1000, room // 10)
    found = [f for i, s in enumerate(given) for f in find_instances(s.labels, [1, 2], str(i))]
    pool.refill(
        found, lambda f: cut(given[int(f.image)].image, given[int(f.image)].labels, f, 0), seed=0, step=1
    )
    assert 0.9 * room < memory.nbytes <= room
    assert 0.8 * room / 10 < pool.nbytes <= room / 10


@pytest.mark.parametrize(
    ("method", "settings", "says"),
    [
        ("eir", ["max_bytes=10"], "is kept for replay: no instance fits into the budget; raise count or"),
        ("eir", ["harvest.max_area=0.003"], "covers 0.002 to 0.003 of its image; change harvest.min_area"),
        ("eir-features", ["max_bytes=10"], "is kept for replay: no instance fits into the budget"),
        ("dkd", ["memory=5", "max_bytes=10"], "no image is kept for replay: none fits into max_bytes=10"),
    ],
)
def test_an_empty_memory_is_told(
    method: str, settings: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    ClassTrial(find(method), settings).taught(micro_step(0))
    assert says in " ".join(capsys.readouterr().err.split())
    ClassTrial(find(method), [*settings[:-1], "tune.replay=0.2"]).taught(micro_step(0))
    assert "kept for replay" not in capsys.readouterr().err


def learned(*settings: str) -> Any:
    """DKD-M after two steps, and the figures of the second."""
    trial = ClassTrial(find("dkd"), settings)
    found = trial.fresh()
    found.learn(micro_step(0), NoScratch())
    return found.learn(micro_step(1), NoScratch())


def test_kept_images_teach_all_classes_or_the_new_ones_alone() -> None:
    """Published: a kept image is a negative of the new classes and nothing else, which costs less."""
    both, new = (learned(f"memory_teaches={value}")["loss"] for value in ("true", "false"))
    assert new < both
    assert configure("dkd").memory_teaches and not configure("dkd", "reference").memory_teaches


def test_the_first_loss_names_all_that_it_is_made_of() -> None:
    """EIR takes over DKD's first step, but not one with another weight of the auxiliary loss."""

    def first(method: str, *settings: str) -> str:
        return str(ClassTrial(find(method), settings).fresh().first_loss)

    assert first("eir") == first("dkd")
    assert (
        len(
            {
                first("dkd"),
                first("dkd", "auxiliary=0.5"),
                first("dkd", "gamma=1"),
                first("eir", "background=true"),
            }
        )
        == 4
    )
    assert (
        first("mib") == first("plop") == first("rcil") == first("lwf") == first("ilt") == first("fine-tuning")
    )
    assert first("lwf", "void_as_background=true") == first("mib", "void_as_background=true") != first("mib")
    assert first("plop", "void_in_mean=true") == first("rcil", "void_in_mean=true") != first("plop")


def test_eir_goes_on_from_dkds_first_step() -> None:
    dkd, eir = ClassTrial(find("dkd")).fresh(), ClassTrial(find("eir")).fresh()
    dkd.learn(micro_step(0), NoScratch())
    eir.take_first(micro_step(0), dkd)
    weights = dkd.model.state_dict()
    assert all(torch.equal(weights[k], v) for k, v in eir.model.state_dict().items())
    assert len(eir.pool)
