"""The laws that hold for every method.

A law is a function of a `Trial`. Its name says what holds, and its docstring explains it where the name does
not.
"""

from __future__ import annotations

import copy
import inspect
import json
import math

from everseg.config import plain, restore
from everseg.files import sha256_tensors, state_bytes
from everseg.testing.trial import Trial, as_file, difference, read, tensors, written
from everseg.types import REPLAYED, Learner, NoScratch, State


def it_has_the_four_methods_and_nothing_optional(trial: Trial) -> None:
    """`predict` takes queries and nothing else, so that a method cannot be given the stage."""
    assert isinstance(trial.fresh(), Learner), (
        "learn, predict, state_dict and load_state_dict are not all there"
    )
    given = list(inspect.signature(trial.method.predict).parameters)
    assert given == ["self", "queries"], f"predict takes {', '.join(given)}, and not (self, queries)"


def its_settings_have_presets_and_travel_as_json(trial: Trial) -> None:
    """`Config.presets()` has `paper` and `reference`, and a run folder can keep any of them."""
    presets = trial.method.Config.presets()
    missing = {"paper", "reference"} - set(presets)
    assert not missing, f"Config.presets() lacks {', '.join(sorted(missing))}"
    for name, config in presets.items():
        assert isinstance(config, trial.method.Config), (
            f"preset {name!r} is no {trial.method.Config.__name__}"
        )
        kept = json.loads(json.dumps(plain(config)))
        again = restore(trial.method.Config, kept, f"preset {name!r}")
        assert again == config, f"preset {name!r} comes back from JSON as {again}"
        trial.method(trial.base, config, seed=0)
    default, paper = trial.method(trial.base), trial.method(trial.base, presets["paper"], seed=0)
    changed = difference(written(default), written(paper))
    assert not changed, f"without settings it is not what the preset 'paper' with seed 0 makes: {changed}"


def predictions_come_in_order_and_in_shape(trial: Trial) -> None:
    asked = trial.questions()
    found = trial.ask(trial.two)
    assert len(found) == len(asked), f"{len(asked)} queries, {len(found)} predictions"
    for query, prediction in zip(asked, found, strict=True):
        trial.check_shape(query, prediction)
    backwards = trial.ask(trial.two, asked[::-1])[::-1]
    gap = trial.largest_gap(found, backwards)
    assert gap <= trial.batch_gap, f"asked in the opposite order, predictions differ by {gap:g}"
    assert trial.ask(trial.two, []) == [], "no query must give no prediction"


def a_prediction_does_not_depend_on_its_batch(trial: Trial) -> None:
    """A query that is asked alone is answered as it is among others, to rounding."""
    asked = trial.questions()
    together = trial.ask(trial.two)
    alone = [trial.ask(trial.two, [query])[0] for query in reversed(asked)][::-1]
    for number, (ours, theirs) in enumerate(zip(together, alone, strict=True)):
        gap = trial.gap(ours, theirs)
        assert gap <= trial.batch_gap, f"query {number}, asked alone, is answered differently by {gap:g}"


def predicting_changes_nothing(trial: Trial) -> None:
    """Neither the state nor the next prediction, whatever state the global random generators are in."""
    before = written(trial.two)
    first = trial.ask(trial.two)
    assert trial.all_equal(trial.ask(trial.two), first), (
        "the same queries, asked again, are answered differently"
    )
    changed = difference(written(trial.two), before)
    assert not changed, f"predicting changed the state: {changed}"


def the_seed_decides_every_bit(trial: Trial) -> None:
    """Random numbers come from the seed that is given, never from a global generator."""
    changed = difference(trial.straight.files[0], written(trial.one))
    assert not changed, f"two learners with one seed differ after a stage: {changed}"


def another_seed_gives_another_state(trial: Trial) -> None:
    """Except where nothing is remembered."""
    other = written(trial.taught(trial.stage(0), seed=1))
    if remembers(trial):
        assert difference(other, written(trial.one)), "seeds 0 and 1 give the same state"
    else:
        assert other == written(trial.one), "the state holds nothing and is not the same"


def the_state_is_all_that_it_remembers(trial: Trial) -> None:
    """A state that was saved and loaded predicts the same, bit for bit, and is saved as the same file."""
    before = written(trial.two)
    fresh = trial.loaded(before, seed=99)
    same = trial.all_equal(trial.ask(fresh), trial.ask(trial.two))
    assert same, "a learner that was saved and loaded predicts something else"
    changed = difference(written(fresh), before)
    assert not changed, f"a state that was loaded is saved with other values of {changed}"


def it_goes_on_from_its_state_as_if_it_had_never_stopped(trial: Trial) -> None:
    resumed = trial.loaded(trial.straight.files[0])
    trial.learn(resumed, trial.stage(1))
    changed = difference(written(resumed), trial.straight.files[1])
    assert not changed, f"saved and loaded between two stages, it ends with other values of {changed}"


class Stops:
    """A scratch in memory that breaks off after its first save."""

    def __init__(self) -> None:
        self.kept: dict[str, State] = {}
        self.stopped = False

    def load(self, name: str) -> State | None:
        return copy.deepcopy(self.kept.get(name))

    def save(self, name: str, state: State) -> None:
        self.kept[name] = read(as_file(state))
        if not self.stopped:
            self.stopped = True
            raise KeyboardInterrupt


def a_stage_that_was_interrupted_ends_with_the_same_bits(trial: Trial) -> None:
    """What it keeps in its scratch lets a fresh learner resume in the middle of a stage."""
    scratch = Stops()
    stage = trial.stage(0)
    try:
        trial.learn(trial.fresh(), stage, scratch)
    except KeyboardInterrupt:
        pass
    else:
        assert not scratch.stopped, "an interruption while its work is saved must end learning"
    resumed = trial.fresh()
    trial.learn(resumed, stage, scratch)
    changed = difference(written(resumed), written(trial.one))
    assert not changed, f"interrupted and resumed, it ends with other values of {changed}"


def the_base_is_left_as_it_is(trial: Trial) -> None:
    trial.ask(trial.two)
    base = trial.weights()
    assert sha256_tensors(dict(base.state_dict())) == trial.fingerprint, "the base's weights have changed"
    for name, p in base.named_parameters():
        assert not p.requires_grad, f"the base's parameter {name} was made trainable"
        assert p.grad is None, f"the base's parameter {name} was given a gradient"
    assert not base.training, "the base was put into training mode"


def memory_does_not_grow_with_the_images(trial: Trial) -> None:
    """Beyond what is replayed, and buffers that are full, twice the images take the same bytes."""
    few = bare(trial.one.state_dict())
    many = bare(trial.taught(trial.stage(0, 2 * len(trial.stage(0).train))).state_dict())
    ours, theirs = state_bytes(few), state_bytes(many)
    outside = f"outside {' and '.join(map(repr, REPLAYED))}"
    assert ours == theirs, f"{outside} a stage takes {ours} bytes, and one of twice the images {theirs}"


def stages_of_hardly_any_images_are_learned(trial: Trial) -> None:
    """Of none, of one and of two."""
    for count in (0, 1, 2):
        learner = trial.taught(trial.stage(0, count), trial.stage(1, trial.next_count))
        for query, prediction in zip(trial.questions(), trial.ask(learner), strict=True):
            trial.check_shape(query, prediction)
        for name, value in tensors(bare(learner.state_dict())).items():
            finite = not value.is_floating_point() or bool(value.isfinite().all())
            assert finite, f"after a stage of {count} images {name} is not finite"


def figures_are_plain_numbers(trial: Trial) -> None:
    """`learn` returns numbers by name, for the log of the run."""
    figures = trial.fresh().learn(trial.stage(0, 4), NoScratch())
    for name, value in figures.items():
        assert isinstance(name, str), f"the name {name!r} is not text"
        assert isinstance(value, float | int), f"{name} is a {type(value).__name__}"
        assert math.isfinite(value), f"{name} is {value}"


def remembers(trial: Trial) -> bool:
    """Whether a state of the method holds anything. The untouched base as a method holds nothing."""
    return bool(trial.one.state_dict())


def bare(state: State) -> State:
    """A state without what is replayed."""
    return {kind: value for kind, value in state.items() if kind not in REPLAYED}


LAWS = (
    it_has_the_four_methods_and_nothing_optional,
    its_settings_have_presets_and_travel_as_json,
    predictions_come_in_order_and_in_shape,
    a_prediction_does_not_depend_on_its_batch,
    predicting_changes_nothing,
    the_seed_decides_every_bit,
    another_seed_gives_another_state,
    the_state_is_all_that_it_remembers,
    it_goes_on_from_its_state_as_if_it_had_never_stopped,
    a_stage_that_was_interrupted_ends_with_the_same_bits,
    the_base_is_left_as_it_is,
    memory_does_not_grow_with_the_images,
    stages_of_hardly_any_images_are_learned,
    figures_are_plain_numbers,
)
