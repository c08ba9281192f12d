import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from everseg.errors import UserError
from everseg.results import (
    ResultMatrix,
    average,
    backward_transfer,
    forgetting,
    forward_transfer,
    generalisation,
    plasticity,
    unseen_average,
)

N = math.nan
# Five tasks, as SAMCL measures them: all seen and the next unseen one after every stage.
FIVE = [
    [0.80, 0.50, N, N, N],
    [0.70, 0.90, 0.40, N, N],
    [0.60, 0.85, 0.70, 0.30, N],
    [0.65, 0.80, 0.72, 0.60, 0.20],
    [0.55, 0.75, 0.65, 0.50, 0.95],
]
BASE = [0.45, 0.52, 0.35, 0.30, 0.25]


def five(**kwargs: object) -> ResultMatrix:
    return ResultMatrix.of(FIVE, range(5), baseline=BASE, **kwargs)  # type: ignore[arg-type]


def test_the_five_by_five_matrix_by_hand() -> None:
    matrix = five()
    assert average(matrix) == pytest.approx((0.55 + 0.75 + 0.65 + 0.50 + 0.95) / 5)
    assert average(matrix, row=1) == pytest.approx((0.70 + 0.90) / 2)
    assert forgetting(matrix) == pytest.approx((0.25 + 0.15 + 0.05 + 0.10 + 0.0) / 5)
    assert forgetting(matrix, "chaudhry") == pytest.approx((0.25 + 0.15 + 0.07 + 0.10) / 4)
    assert backward_transfer(matrix) == pytest.approx(-(0.25 + 0.15 + 0.05 + 0.10) / 4)
    assert forward_transfer(matrix) == pytest.approx((0.50 + 0.40 + 0.30 + 0.20) / 4)
    assert forward_transfer(matrix, "gem") == pytest.approx((-0.02 + 0.05 + 0.0 - 0.05) / 4)
    assert math.isnan(unseen_average(matrix))
    assert unseen_average(matrix, row=3) == pytest.approx(0.20)


def test_the_background_row_is_the_last_row_but_no_task() -> None:
    """SAMCL's "COCO" stage: a_T is the row after it, the averages still run over five tasks."""
    values = [[*row, N] for row in FIVE]
    values[-1][-1] = 0.9
    values.append([0.50, 0.75, 0.60, 0.50, 0.90, 0.88])
    matrix = ResultMatrix.of(values, range(6), baseline=[*BASE, 0.91], background=[False] * 5 + [True])
    assert average(matrix) == pytest.approx((0.50 + 0.75 + 0.60 + 0.50 + 0.90) / 5)
    # The fifth task's term is no longer 0: the background stage came after it.
    assert forgetting(matrix) == pytest.approx((0.30 + 0.15 + 0.10 + 0.10 + 0.05) / 5)
    assert forgetting(matrix, "chaudhry") == pytest.approx((0.30 + 0.15 + 0.12 + 0.10) / 4)
    assert backward_transfer(matrix) == pytest.approx(-(0.30 + 0.15 + 0.10 + 0.10) / 4)
    assert forward_transfer(matrix) == pytest.approx((0.50 + 0.40 + 0.30 + 0.20) / 4)
    assert forward_transfer(matrix, "gem") == pytest.approx((-0.02 + 0.05 + 0.0 - 0.05) / 4)
    assert math.isnan(unseen_average(matrix, row=4)), "a background domain is not an unseen one"


def test_a_background_stage_at_the_front_gives_no_transfer() -> None:
    values = [[0.9, 0.5, N], [0.8, 0.7, 0.3], [0.8, 0.6, 0.9]]
    matrix = ResultMatrix.of(values, range(3), background=[True, False, False])
    assert forward_transfer(matrix) == pytest.approx(0.3)
    assert average(matrix) == pytest.approx(0.75)


def test_for_an_error_the_papers_sign_stays_and_chaudhrys_turns() -> None:
    matrix = ResultMatrix.of([[0.1, 0.3], [0.2, 0.05]], [0, 1], lower_is_better=True, baseline=[0.4, 0.4])
    assert forgetting(matrix) == pytest.approx((0.1 - 0.2) / 2)
    assert forgetting(matrix, "chaudhry") == pytest.approx(0.1)
    assert backward_transfer(matrix) == pytest.approx(-0.1)
    assert forward_transfer(matrix) == pytest.approx(0.3)
    assert forward_transfer(matrix, "gem") == pytest.approx(0.1)


def test_columns_of_one_stage_are_classes() -> None:
    """Class-incremental: a stage teaches several columns."""
    matrix = ResultMatrix.of([[0.8, 0.6, N], [0.7, 0.6, 0.9]], [0, 0, 1])
    assert average(matrix) == pytest.approx((0.7 + 0.6 + 0.9) / 3)
    assert forgetting(matrix) == pytest.approx(0.1 / 3)
    assert backward_transfer(matrix) == pytest.approx(-0.05)


def test_what_was_not_measured_is_not_guessed() -> None:
    only_last = ResultMatrix.of([[N, N], [0.5, 0.6]], [0, 1])
    assert average(only_last) == pytest.approx(0.55)
    for value in (forgetting(only_last), forgetting(only_last, "chaudhry"), forward_transfer(only_last)):
        assert math.isnan(value)
    nothing = ResultMatrix.of(np.zeros((0, 2)), [0, 0])
    for statistic in (average, forgetting, backward_transfer, forward_transfer, unseen_average):
        assert math.isnan(statistic(nothing))


def test_one_task_has_nothing_to_forget() -> None:
    matrix = ResultMatrix.of([[0.8]], [0])
    assert forgetting(matrix) == 0.0
    assert math.isnan(forgetting(matrix, "chaudhry")) and math.isnan(backward_transfer(matrix))


def test_an_unknown_definition_names_the_known_ones() -> None:
    with pytest.raises(UserError, match="did you mean 'chaudhry'"):
        forgetting(five(), "chaudry")
    with pytest.raises(UserError, match="choose one of gem, samcl"):
        forward_transfer(five(), "lopez")


@st.composite
def matrices(draw: st.DrawFn) -> ResultMatrix:
    size = draw(st.integers(2, 5))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    return ResultMatrix.of(
        rng.random((size, size)),
        range(size),
        lower_is_better=draw(st.booleans()),
        baseline=rng.random(size),
        background=[False, *draw(st.lists(st.booleans(), min_size=size - 1, max_size=size - 1))],
    )


def every(matrix: ResultMatrix) -> list[float]:
    return [
        average(matrix),
        unseen_average(matrix, 0),
        forgetting(matrix),
        forgetting(matrix, "chaudhry"),
        backward_transfer(matrix),
        forward_transfer(matrix),
        forward_transfer(matrix, "gem"),
    ]


@given(matrices())
def test_no_forgetting_where_scores_stay(matrix: ResultMatrix) -> None:
    values = matrix.values.copy()
    for j, stage in enumerate(matrix.learned_at):
        values[stage:, j] = values[stage, j]
    still = ResultMatrix.of(values, [int(s) for s in matrix.learned_at])
    assert forgetting(still) == 0.0 and backward_transfer(still) == 0.0


@given(matrices(), st.randoms())
def test_the_order_of_columns_does_not_matter(matrix: ResultMatrix, random: object) -> None:
    order = list(range(len(matrix.columns)))
    random.shuffle(order)  # type: ignore[attr-defined]
    turned = ResultMatrix.of(
        matrix.values[:, order],
        [int(matrix.learned_at[j]) for j in order],
        lower_is_better=matrix.lower_is_better,
        baseline=matrix.baseline[order],
        background=[bool(matrix.background[j]) for j in order],
    )
    assert every(turned) == pytest.approx(every(matrix), nan_ok=True)


@given(matrices())
def test_an_error_is_one_minus_a_score(matrix: ResultMatrix) -> None:
    """1 - score, declared lower-is-better, has the same oriented averages and the opposite SAMCL FM."""
    other = ResultMatrix.of(
        1 - matrix.values,
        [int(s) for s in matrix.learned_at],
        lower_is_better=not matrix.lower_is_better,
        baseline=1 - matrix.baseline,
        background=[bool(b) for b in matrix.background],
    )
    expect = lambda value: pytest.approx(value, nan_ok=True, abs=1e-12)  # noqa: E731
    assert average(other) == expect(1 - average(matrix))
    assert forgetting(other) == expect(-forgetting(matrix))
    assert forgetting(other, "chaudhry") == expect(forgetting(matrix, "chaudhry"))
    assert backward_transfer(other) == expect(backward_transfer(matrix))
    assert forward_transfer(other, "gem") == expect(forward_transfer(matrix, "gem"))


@given(matrices())
def test_the_textbook_and_the_paper_differ_by_their_denominators(matrix: ResultMatrix) -> None:
    """Without background rows, BWT (T - 1) = -FM T, in the metric's direction."""
    plain = ResultMatrix.of(matrix.values, [int(s) for s in matrix.learned_at])
    tasks = len(plain.columns)
    assert backward_transfer(plain) * (tasks - 1) == pytest.approx(-forgetting(plain) * tasks)
    assert forgetting(plain, "chaudhry") * (tasks - 1) >= forgetting(plain) * tasks - 1e-12


def test_plasticity_by_hand() -> None:
    """The diagonal less each domain's own module trained alone."""
    alone = {"0": 0.80, "1": 0.95, "2": 0.60, "3": 0.60, "4": 1.0}
    assert plasticity(five(), alone) == pytest.approx((0.0 - 0.05 + 0.10 + 0.0 - 0.05) / 5)
    errors = ResultMatrix.of(1 - np.array(FIVE), range(5), lower_is_better=True)
    assert plasticity(errors, {name: 1 - v for name, v in alone.items()}) == pytest.approx(
        plasticity(five(), alone)
    )
    del alone["2"]
    assert math.isnan(plasticity(five(), alone)), "a reference that is missing is not guessed"


def test_generalisation_by_hand() -> None:
    """Each domain's mean gain over the base while it was not learned; the first has no such stage."""
    assert generalisation(five()) == pytest.approx((-0.02 + 0.05 + 0.0 - 0.05) / 4)
    assert generalisation(five()) == pytest.approx(forward_transfer(five(), "gem"))
    values = [[0.8, 0.5, 0.3, 0.2], [0.8, 0.9, 0.5, 0.4]]
    matrix = ResultMatrix.of(
        values, [0, 1, 2, 2], baseline=[0.1, 0.4, 0.3, 0.4], background=[False] * 3 + [True]
    )
    assert generalisation(matrix) == pytest.approx((0.1 + (0.0 + 0.2) / 2) / 2)
    without = ResultMatrix.of(values, [0, 1, 2, 2], baseline=[0.1, 0.4, N, 0.4])
    assert math.isnan(generalisation(without)), "the base was not scored on a domain that counts"
    first = ResultMatrix.of(
        [[0.9, 0.5, N], [0.8, 0.7, 0.3], [0.8, 0.6, 0.9]],
        range(3),
        baseline=[0.1] * 3,
        background=[True, False, False],
    )
    assert generalisation(first) == pytest.approx(0.2), "nothing is transferred before the first task"


@given(matrices())
def test_who_learns_nothing_generalises_as_the_base_does(matrix: ResultMatrix) -> None:
    still = replace(matrix, values=np.broadcast_to(matrix.baseline, matrix.values.shape))
    gain = generalisation(still)
    assert gain == pytest.approx(0.0, abs=1e-12) or math.isnan(gain)


@given(matrices())
def test_a_module_that_is_as_good_as_alone_is_plastic(matrix: ResultMatrix) -> None:
    alone = {
        name: float(matrix.values[t, j])
        for j, (name, t) in enumerate(zip(matrix.columns, matrix.learned_at, strict=True))
    }
    assert plasticity(matrix, alone) == 0.0
