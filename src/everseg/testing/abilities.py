"""The laws of abilities that only some methods have. Each applies to the methods that have the ability."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

from everseg.errors import UserError
from everseg.testing.domains import DomainTrial, turned_away
from everseg.testing.trial import Trial, as_file, difference, written
from everseg.types.abilities import (
    Contributes,
    Exports,
    Forgets,
    Forgotten,
    PredictsAs,
    Reweighs,
    TakesFirstStage,
)

CLOSE = 1e-3
"""How far apart predictions may lie where sums were added in another order."""


def nothing_is_kept(name: str) -> None:
    """An archive of a run that keeps none."""


def it_predicts_as_any_stage_that_is_named(trial: Trial) -> None:
    """`predict_as` answers as `predict` does, in order and in shape, and from the state alone."""
    fresh = trial.loaded(written(trial.two))
    for index in (0, 1):
        name = trial.stage(index).name
        found = trial.two.predict_as(trial.questions(), name)
        for query, prediction in zip(trial.questions(), found, strict=True):
            trial.check_shape(query, prediction)
        same = trial.all_equal(fresh.predict_as(trial.questions(), name), found)
        assert same, f"saved and loaded, it predicts something else as {name!r}"


def what_a_stage_brought_can_be_kept(trial: Trial) -> None:
    """`contribution` is None before anything is learned, then a state, and handing it out changes nothing."""
    assert trial.fresh().contribution() is None, "a learner that has learned nothing has a contribution"
    first, second = (trial.straight.brought[trial.stage(index).name] for index in (0, 1))
    assert first is not None and second is not None, "a stage was learned, and there is no contribution"
    assert difference(as_file(first), as_file(second)), "two stages have brought the same"
    learner = trial.straight.learner
    assert not difference(as_file(learner.contribution()), as_file(second)), (
        "asked twice, it hands out two things"
    )
    changed = difference(written(learner), trial.straight.files[1])
    assert not changed, f"handing out a contribution changed the state: {changed}"


def a_stage_can_be_forgotten(trial: Trial) -> None:
    """What is left predicts what would be predicted had the stage never been learned, where `exact` says so;
    a refusal leaves the learner as it was."""
    file = trial.straight.files[1]
    gone, left = trial.stage(0), trial.stage(1)
    learner = trial.loaded(file)
    found = learner.forget(gone.name, trial.straight.archive)
    assert isinstance(found, Forgotten), f"forget returned a {type(found).__name__}"
    assert found.statement, "the statement for people is empty"
    assert set(found.remaining) == {left.name}, (
        f"{left.name!r} remains, and the record has {set(found.remaining)}"
    )
    assert difference(written(learner), file), "forgetting a stage left the state as it was"
    if found.exact:
        never = trial.taught(dataclasses.replace(left, index=0))
        gap = trial.largest_gap(trial.ask(learner), trial.ask(never))
        assert gap <= CLOSE, (
            f"said to be exact, and predictions differ by {gap:g} from never having learned it"
        )
    again = trial.loaded(written(learner))
    same = trial.all_equal(trial.ask(again), trial.ask(learner))
    assert same, "saved and loaded after forgetting, it predicts something else"
    _refuses_whole(trial, lambda learner: learner.forget(gone.name, nothing_is_kept))


def a_stage_can_count_more_or_less(trial: Trial) -> None:
    """What a stage counts now decides, not what it counted before; a refusal leaves the learner as it was."""
    file, name = trial.straight.files[1], trial.stage(0).name
    direct, detour = trial.loaded(file), trial.loaded(file)
    try:
        direct.reweigh(name, 3.0, trial.straight.archive)
    except UserError:
        _refuses_whole(trial, lambda learner: learner.reweigh(name, 3.0, trial.straight.archive))
        return
    for weight in (0.5, 3.0):
        detour.reweigh(name, weight, trial.straight.archive)
    gap = trial.largest_gap(trial.ask(direct), trial.ask(detour))
    assert gap <= CLOSE, f"a weight of 3, given after one of 0.5, changes predictions by {gap:g}"
    assert difference(written(direct), file), "another weight left the state as it was"
    _refuses_whole(trial, lambda learner: learner.reweigh(name, 3.0, nothing_is_kept))


def its_adapter_predicts_what_it_does(trial: Trial) -> None:
    """What `exports` hands out, bound to the base, answers as the learner does where it uses it."""
    from everseg.domains.cache import CacheConfig, FeatureCache
    from everseg.domains.tune import predict, with_adapter

    assert isinstance(trial, DomainTrial), "only a method that learns domains has an adapter to hand out"
    adapter: Any = trial.two.exports()
    cache = FeatureCache(trial.base, CacheConfig())
    found = predict(trial.questions(), trial.base, cache, with_adapter(adapter))
    both = zip(found, trial.ask(trial.two), strict=True)
    alike = [(theirs, ours) for theirs, ours in both if not turned_away(ours)]
    assert alike, "every image is turned away"
    gap = trial.largest_gap([theirs for theirs, _ in alike], [ours for _, ours in alike])
    assert gap <= trial.batch_gap, f"the exported adapter predicts something else, by {gap:g}"


def the_first_stage_can_be_taken_from_another_learner(trial: Trial) -> None:
    """From one of the same method the state is the same as if it had been learned; a refusal leaves the
    learner as it was."""
    learner = trial.fresh()
    before = written(learner)
    try:
        learner.take_first(trial.stage(0), trial.one)
    except UserError:
        changed = difference(written(learner), before)
        assert not changed, f"it refused the first stage and changed {changed}"
        return
    changed = difference(written(learner), written(trial.one))
    assert not changed, f"the first stage was taken over with other values of {changed}"


def _refuses_whole(trial: Trial, attempt: Callable[[Any], object]) -> None:
    learner = trial.loaded(trial.straight.files[1])
    try:
        attempt(learner)
    except UserError:
        changed = difference(written(learner), trial.straight.files[1])
        assert not changed, f"it refused and changed {changed}"


LAWS: tuple[tuple[type[Any], Callable[[Trial], None]], ...] = (
    (PredictsAs, it_predicts_as_any_stage_that_is_named),
    (Contributes, what_a_stage_brought_can_be_kept),
    (Forgets, a_stage_can_be_forgotten),
    (Reweighs, a_stage_can_count_more_or_less),
    (Exports, its_adapter_predicts_what_it_does),
    (TakesFirstStage, the_first_stage_can_be_taken_from_another_learner),
)
