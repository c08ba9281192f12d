"""The gradient loop against a loop written out by hand, and against itself in pieces."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from everseg import progress
from everseg.errors import UserError
from everseg.fit import FitConfig, Group, Validation, fit, steps_of
from everseg.fit.schedule import lr_at
from everseg.seed import torch_generator
from everseg.types import NoScratch, State

ROWS = 11  # batches of 4, 4 and 3


class Kept:
    """A scratch in memory, which may break off after some saves."""

    def __init__(self, saves: int = 10**9) -> None:
        self.left = saves
        self.states: dict[str, State] = {}

    def load(self, name: str) -> State | None:
        return copy.deepcopy(self.states.get(name))

    def save(self, name: str, state: State) -> None:
        self.states[name] = copy.deepcopy(state)
        self.left -= 1
        if self.left == 0:
            raise KeyboardInterrupt


class Rows(Sequence[Any]):
    """x and y of a regression."""

    def __init__(self, count: int = ROWS) -> None:
        generator = torch.Generator().manual_seed(3)
        self.x = torch.randn(count, 5, generator=generator)
        self.y = torch.randn(count, 2, generator=generator)

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, index: Any) -> Any:
        return self.x[index], self.y[index]


def collate(rows: list[Any]) -> Any:
    return torch.stack([x for x, _ in rows]), torch.stack([y for _, y in rows])


def model() -> nn.Module:
    torch.manual_seed(5)
    return nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 2))


def loss_of(net: nn.Module) -> Callable[[Any, int], Tensor]:
    def loss(batch: Any, size: int) -> Tensor:
        x, y = batch
        total: Tensor = (net(x) - y).square().sum() / size
        return total

    return loss


CONFIG = FitConfig(epochs=4, batch=4, lr=0.05)


def tuned(
    config: FitConfig = CONFIG, scratch: Any = None, count: int = ROWS, scaled: bool = False
) -> tuple[nn.Module, dict[str, float]]:
    net = model()
    figures = fit(
        list(net.parameters()),
        Rows(count),
        collate,
        loss_of(net),
        config,
        seed=1,
        name="stage",
        scratch=scratch or NoScratch(),
        scaled=scaled,
    )
    return net, figures


def same(a: nn.Module, b: nn.Module) -> bool:
    return all(torch.equal(p, q) for p, q in zip(a.parameters(), b.parameters(), strict=True))


def by_hand(config: FitConfig) -> tuple[nn.Module, float]:
    net, data = model(), Rows()
    kind = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[config.optimiser]
    optimiser = kind(net.parameters(), lr=config.lr, weight_decay=config.weight_decay)
    step, last, total = 0, 0.0, config.epochs * -(-ROWS // config.batch)
    for epoch in range(config.epochs):
        order = torch.randperm(ROWS, generator=torch_generator(1, "stage", "order", epoch))
        losses = []
        for batch in order.split(config.batch):
            for group in optimiser.param_groups:
                group["lr"] = lr_at(step, total, config.lr, config.schedule, config.epochs)
            value = (net(data.x[batch]) - data.y[batch]).square().sum() / len(batch)
            optimiser.zero_grad()
            value.backward()
            if config.clip:
                nn.utils.clip_grad_norm_(net.parameters(), config.clip)
            optimiser.step()
            losses.append(value.item())
            step += 1
        last = sum(losses) / len(losses)
    return net, last


@pytest.mark.parametrize(
    "config",
    [
        CONFIG,
        replace(CONFIG, optimiser="adamw", weight_decay=0.1),
        replace(CONFIG, schedule="per_iter_T20"),
        replace(CONFIG, schedule="constant", clip=0.5),
        replace(CONFIG, batch=100, epochs=2),
    ],
    ids=lambda c: f"{c.optimiser}-{c.schedule}-{c.batch}",
)
def test_it_is_the_plain_loop_to_the_bit(config: FitConfig) -> None:
    net, figures = tuned(config)
    wanted, loss = by_hand(config)
    assert same(net, wanted)
    assert not same(net, model())
    assert figures["loss"] == pytest.approx(loss, rel=1e-6)
    assert figures["steps"] == config.epochs * -(-ROWS // config.batch)


def test_the_share_of_clipped_steps_is_told_and_survives_an_interruption() -> None:
    """Norms fall in training: with a bound between the first and the last some steps are clipped."""
    assert "clipped" not in tuned()[1]
    shares = {clip: tuned(replace(CONFIG, clip=clip))[1]["clipped"] for clip in (1e-6, 3.0, 1e6)}
    assert shares[1e-6] == 1 and shares[1e6] == 0 and 0 < shares[3.0] < 1
    scratch = Kept(saves=2)
    with pytest.raises(KeyboardInterrupt):
        tuned(replace(CONFIG, clip=3.0), scratch)
    assert tuned(replace(CONFIG, clip=3.0), scratch)[1]["clipped"] == shares[3.0]


@pytest.mark.parametrize("micro_batch", [1, 2, 3])
def test_micro_batches_add_up_to_the_batch(micro_batch: int) -> None:
    whole, figures = tuned()
    parts, told = tuned(replace(CONFIG, micro_batch=micro_batch))
    for p, q in zip(whole.parameters(), parts.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=0, atol=1e-6)
    assert told["loss"] == pytest.approx(figures["loss"], abs=1e-6)


@pytest.mark.parametrize("optimiser", ["adam", "adamw"])
@pytest.mark.parametrize("after", [1, 2, 3, 4])
def test_broken_off_after_any_epoch_it_ends_with_the_same_bits(optimiser: Any, after: int) -> None:
    config = replace(CONFIG, optimiser=optimiser)
    wanted, figures = tuned(config)
    scratch = Kept(saves=after)
    with pytest.raises(KeyboardInterrupt):
        tuned(config, scratch)
    net, again = tuned(config, scratch)
    assert same(net, wanted)
    assert again["loss"] == figures["loss"]
    assert again["steps"] == figures["steps"]


def test_broken_off_in_the_middle_of_an_epoch_too() -> None:
    wanted, _ = tuned()
    scratch, net, calls = Kept(), model(), 0

    def breaking(batch: Any, size: int) -> Tensor:
        nonlocal calls
        calls += 1
        if calls == 8:
            raise KeyboardInterrupt
        return loss_of(net)(batch, size)

    with pytest.raises(KeyboardInterrupt):
        fit(list(net.parameters()), Rows(), collate, breaking, CONFIG, seed=1, name="stage", scratch=scratch)
    assert scratch.states["stage"]["epoch"] == 2
    assert same(tuned(CONFIG, scratch)[0], wanted)


def test_the_order_hangs_on_seed_and_name_alone() -> None:
    torch.manual_seed(0)
    first, _ = tuned()
    torch.manual_seed(99)
    assert same(first, tuned()[0])
    net = model()
    fit(
        list(net.parameters()),
        Rows(),
        collate,
        loss_of(net),
        CONFIG,
        seed=2,
        name="stage",
        scratch=NoScratch(),
    )
    assert not same(net, first)


def test_workers_change_nothing() -> None:
    assert same(tuned()[0], tuned(replace(CONFIG, workers=1))[0])


def test_scaling_the_loss_changes_nothing() -> None:
    """A scale is a power of two: gradients come back to the bit. Also after an interruption."""
    plain, loss = tuned()
    net, scaled = tuned(scaled=True)
    assert same(net, plain) and scaled["loss"] == loss["loss"]
    scratch = Kept(saves=2)
    with pytest.raises(KeyboardInterrupt):
        tuned(scratch=scratch, scaled=True)
    scratch.left = -1
    assert same(tuned(scratch=scratch, scaled=True)[0], plain)


def test_a_step_whose_gradients_overflow_is_left_out() -> None:
    net = model()
    loss = loss_of(net)
    keywords = {"seed": 1, "name": "stage", "scratch": NoScratch(), "scaled": True}
    huge = lambda batch, size: loss(batch, size) * 1e36  # noqa: E731  # finite, but not 65,536 times
    fit(list(net.parameters()), Rows(), collate, huge, replace(CONFIG, epochs=1), **keywords)
    assert same(net, model())


@pytest.mark.parametrize("config", [replace(CONFIG, epochs=0), CONFIG])
def test_nothing_to_do_changes_nothing(config: FitConfig) -> None:
    net, figures = tuned(config, count=0 if config.epochs else ROWS)
    assert same(net, model())
    assert figures["steps"] == 0


def test_a_loss_that_is_no_number_is_said_in_time() -> None:
    net = model()
    scratch = Kept()
    with pytest.raises(UserError, match=r"stage: the loss became nan in epoch 1; .*tune\.fit\.lr"):
        fit(
            list(net.parameters()),
            Rows(),
            collate,
            lambda batch, size: loss_of(net)(batch, size) * float("nan"),
            CONFIG,
            seed=1,
            name="stage",
            scratch=scratch,
        )
    assert not scratch.states  # The broken weights are not gone on from.


def test_unfinished_work_of_another_shape_is_refused() -> None:
    scratch = Kept()
    tuned(CONFIG, scratch)
    net = nn.Linear(5, 2)
    with pytest.raises(UserError, match="was begun with other settings"):
        fit(
            list(net.parameters()),
            Rows(),
            collate,
            loss_of(net),
            CONFIG,
            seed=1,
            name="stage",
            scratch=scratch,
        )


# ---------------------------------------------------------------- groups, momentum, rows drawn again


SGD = FitConfig(epochs=3, batch=4, lr=0.05, optimiser="sgd", schedule="poly", drop_last=True)


def test_groups_have_their_own_rate_and_decay_under_nesterovs_momentum() -> None:
    """Against the update written out: g += decay w; v = 0.9 v + g; w -= rate scale (g + 0.9 v)."""
    net, hand = model(), model()
    parts = list(net.parameters())
    groups = [Group("slow", parts[:1], 0.1, 0.0), Group("fast", parts[1:], 2.0, 0.3)]
    fit(groups, Rows(), collate, loss_of(net), SGD, seed=7, name="stage", scratch=NoScratch())
    velocity = [torch.zeros_like(p) for p in hand.parameters()]
    for epoch in range(3):
        order = torch.randperm(ROWS, generator=torch_generator(7, "stage", "order", epoch)).tolist()
        for step, start in enumerate((0, 4)):  # The last three fill no batch.
            rate = lr_at(epoch * 2 + step, 6, 0.05, "poly")
            hand.zero_grad()
            rows = collate([Rows()[i] for i in order[start : start + 4]])
            loss_of(hand)(rows, 4).backward()
            with torch.no_grad():
                for i, p in enumerate(hand.parameters()):
                    scale, decay = (0.1, 0.0) if i == 0 else (2.0, 0.3)
                    assert p.grad is not None
                    g = p.grad + decay * p
                    velocity[i] = 0.9 * velocity[i] + g
                    p -= rate * scale * (g + 0.9 * velocity[i])
    for ours, theirs in zip(net.parameters(), hand.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs)


class Shifted:
    """Rows that differ from epoch to epoch."""

    def __len__(self) -> int:
        return ROWS

    def at(self, epoch: int) -> Sequence[Any]:
        return [(x, y + epoch) for x, y in (Rows()[i] for i in range(ROWS))]


def test_rows_drawn_anew_statistics_and_momentum_go_on_with_the_same_bits() -> None:
    def trained(scratch: Any) -> tuple[nn.Module, Tensor]:
        net, seen = model(), torch.zeros(1)
        plain = loss_of(net)

        def loss(rows: Any, size: int) -> Tensor:
            seen.mul_(0.9).add_(rows[1].mean())
            return plain(rows, size)

        fit(
            list(net.parameters()),
            Shifted(),
            collate,
            loss,
            SGD,
            seed=7,
            name="stage",
            scratch=scratch,
            buffers=[seen],
        )
        return net, seen

    whole, seen = trained(NoScratch())
    scratch = Kept(saves=2)
    with pytest.raises(KeyboardInterrupt):
        trained(scratch)
    scratch.left = 10**9
    resumed, seen_too = trained(scratch)
    assert same(whole, resumed) and torch.equal(seen, seen_too)
    assert float(seen) > 1  # Later epochs were shifted.
    with pytest.raises(UserError, match="was begun with other settings"):
        fit(
            list(whole.parameters()),
            Shifted(),
            collate,
            loss_of(whole),
            SGD,
            seed=7,
            name="stage",
            scratch=scratch,
            buffers=[torch.zeros(2)],
        )


def test_a_lone_short_batch_is_not_left_out() -> None:
    net = model()
    figures = fit(
        list(net.parameters()), Rows(3), collate, loss_of(net), SGD, seed=7, name="stage", scratch=NoScratch()
    )
    assert figures["steps"] == 3 == steps_of(SGD, 3)
    assert steps_of(SGD, ROWS) == 6 and steps_of(SGD, 0) == 0
    assert not same(net, model())


# ---------------------------------------------------------------- time, and what is told


def test_seconds_add_up_over_interruptions(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of each call those up to the epoch that was kept, and not those in between."""
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])

    def slow(net: nn.Module) -> Callable[[Any, int], Tensor]:
        def loss(batch: Any, size: int) -> Tensor:
            now[0] += 1
            return loss_of(net)(batch, size)

        return loss

    def called(scratch: Any) -> dict[str, float]:
        net = model()
        rows = (list(net.parameters()), Rows(), collate, slow(net), CONFIG)
        return fit(*rows, seed=1, name="stage", scratch=scratch)

    assert called(NoScratch())["seconds"] == 12
    scratch = Kept(2)
    with pytest.raises(KeyboardInterrupt):
        called(scratch)
    now[0] += 1000
    assert "resumes" not in capsys.readouterr().err
    scratch.left = 10**9
    assert called(scratch)["seconds"] == 12
    assert "stage: resumes after step 6 of 12" in capsys.readouterr().err
    assert called(scratch)["seconds"] == 12, "nothing was left to do"
    assert "resumes" not in capsys.readouterr().err


def test_the_curve_is_the_same_after_an_interruption() -> None:
    def heard(scratch: Any) -> progress.Curve:
        found: list[Any] = []
        with progress.listening(found.append):
            tuned(scratch=scratch)
        return found[-1]

    scratch = Kept(2)
    with pytest.raises(KeyboardInterrupt):
        tuned(scratch=scratch)
    straight = heard(NoScratch())
    assert heard(scratch) == straight and len(straight.losses) == 4
    assert tuned()[1]["loss"] == straight.losses[-1]


def test_unfinished_work_of_an_earlier_version_is_begun_again() -> None:
    scratch = Kept(2)
    with pytest.raises(KeyboardInterrupt):
        tuned(scratch=scratch)
    for key in ("losses", "scores", "seconds", "best"):
        del scratch.states["stage"][key]
    scratch.states["stage"]["loss"] = 1.0
    assert same(tuned(scratch=scratch)[0], tuned()[0])


# ---------------------------------------------------------------- validation


def validated(scores: Sequence[float], patience: int = 0, scratch: Any = None) -> tuple[nn.Module, Any, int]:
    """A training whose epochs score what is given; with how often it was asked."""
    net, asked = model(), []

    def score() -> float:
        asked.append(float(next(net.parameters()).detach().sum()))
        return scores[RESUMED.get(id(scratch), 0) + len(asked) - 1]

    figures = fit(
        list(net.parameters()),
        Rows(),
        collate,
        loss_of(net),
        CONFIG,
        seed=1,
        name="stage",
        scratch=scratch or NoScratch(),
        validation=Validation(score, patience),
    )
    return net, figures, len(asked)


RESUMED: dict[int, int] = {}
"""Of a scratch: how many epochs were scored before it broke off."""


@pytest.mark.parametrize(
    ("scores", "patience", "best", "epochs"),
    [
        ([0.1, 0.4, 0.3, 0.2], 0, 2, 4),
        ([0.1, 0.4, 0.4, 0.4], 0, 2, 4),
        ([0.1, 0.2, 0.3, 0.4], 1, 4, 4),
        ([0.1, 0.4, 0.3, 0.5], 1, 2, 3),
        ([0.4, 0.1, 0.3, 0.5], 2, 1, 3),
        ([0.4, 0.1, 0.5, 0.4], 2, 3, 4),
    ],
)
def test_the_best_epoch_is_kept_and_patience_ends(
    scores: list[float], patience: int, best: int, epochs: int
) -> None:
    net, figures, asked = validated(scores, patience)
    assert (figures["best_epoch"], figures["val"], asked) == (best, scores[best - 1], epochs)
    assert figures["steps"] == 3 * epochs
    # Not a shorter training: the learning rate goes on as planned.
    by_then = model()
    scratch = Kept(best)
    with contextlib.suppress(KeyboardInterrupt):
        rows = (list(by_then.parameters()), Rows(), collate, loss_of(by_then), CONFIG)
        fit(*rows, seed=1, name="stage", scratch=scratch)
    assert same(net, by_then)


@pytest.mark.parametrize("patience", [0, 2])
@pytest.mark.parametrize("saves", [1, 2, 3])
def test_validation_goes_on_after_an_interruption(
    saves: int, patience: int, capsys: pytest.CaptureFixture[str]
) -> None:
    scores = [0.4, 0.1, 0.3, 0.2]
    straight, figures, _ = validated(scores, patience)
    scratch = Kept(saves)
    with pytest.raises(KeyboardInterrupt):
        validated(scores, patience, scratch)
    RESUMED[id(scratch)] = saves
    capsys.readouterr()
    resumed, again, _ = validated(scores, patience, scratch)
    ended = saves == 3 and patience == 2  # Patience was at its end already.
    assert ("resumes after" in capsys.readouterr().err) is not ended
    del RESUMED[id(scratch)]
    assert same(straight, resumed)
    assert {k: v for k, v in again.items() if k != "seconds"} == {
        k: v for k, v in figures.items() if k != "seconds"
    }
