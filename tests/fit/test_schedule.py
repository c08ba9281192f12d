"""Learning rates against the published sequence and against torch's own scheduler."""

import pytest
import torch

from everseg.errors import UserError
from everseg.fit.schedule import FLOOR, lr_at


@pytest.mark.parametrize(
    ("step", "rate"),
    [(0, 0.005), (1, 0.004969221), (5, 0.004267782), (10, 0.002500050), (15, 0.000732318), (20, 1e-7),
     (30, 0.002500050), (40, 0.005)],
)  # fmt: skip
def test_the_published_rate_swings_with_a_period_of_40_iterations(step: int, rate: float) -> None:
    assert lr_at(step, 2000, 0.005, "per_iter_T20", 20) == pytest.approx(rate, abs=5e-10)


@pytest.mark.parametrize(("schedule", "half_period"), [("total", 60), ("per_iter_T20", 20)])
def test_equals_torchs_cosine(schedule: str, half_period: int) -> None:
    optimiser = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.005)
    theirs = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, half_period, eta_min=FLOOR)
    for step in range(60):
        assert lr_at(step, 60, 0.005, schedule, 20) == pytest.approx(theirs.get_last_lr()[0], rel=1e-9)
        optimiser.step()
        theirs.step()


@pytest.mark.parametrize(
    ("steps_an_epoch", "highest"), [(100, True), (380, True), (125, False), (113, False)]
)
def test_parity_of_the_epoch_decides_where_the_published_rate_ends(
    steps_an_epoch: int, highest: bool
) -> None:
    last = lr_at(20 * steps_an_epoch - 1, 20 * steps_an_epoch, 0.005, "per_iter_T20", 20)
    assert (last > 0.00496) == highest
    assert (last < 0.00004) == (not highest)


def test_total_falls_from_the_start_to_the_end_once() -> None:
    rates = [lr_at(k, 50, 0.01) for k in range(51)]
    assert rates[0] == 0.01
    assert rates[50] == pytest.approx(FLOOR)
    assert rates == sorted(rates, reverse=True)


def test_constant() -> None:
    assert {lr_at(k, 9, 0.3, "constant") for k in range(9)} == {0.3}


def test_an_unknown_schedule_names_the_nearest() -> None:
    with pytest.raises(UserError, match="per_iter_T20"):
        lr_at(0, 1, 0.1, "per_iter_T2")  # type: ignore[arg-type]
