"""The sentence that the person at the keyboard reads."""

from __future__ import annotations

import pytest
from torch._utils import ExceptionWrapper

from everseg.errors import UserError, unknown


def test_an_unknown_name_gets_its_nearest_neighbour() -> None:
    error = unknown("method", "sam-cl", ["regcl", "samcl", "zero-shot"])
    assert isinstance(error, UserError)
    assert (
        str(error) == "unknown method 'sam-cl': did you mean 'samcl'? choose one of regcl, samcl, zero-shot"
    )


def test_nothing_near_is_not_guessed() -> None:
    assert str(unknown("metric", "zzz", {"mae": 1, "f1": 2})) == "unknown metric 'zzz': choose one of f1, mae"


def test_a_long_list_of_names_is_cut_and_the_place_goes_first() -> None:
    said = str(unknown("instance", "zzz", [f"{n:03d}" for n in range(50)], "runs/a: "))
    assert said.startswith("runs/a: unknown instance 'zzz': choose one of 000, 001")
    assert said.endswith("038, 039 and 10 more")


@pytest.mark.parametrize("given", [3, None, "", True])
def test_any_value_can_be_unknown(given: object) -> None:
    assert f"unknown base {given!r}" in str(unknown("base", given, iter(["tiny"])))


def test_a_user_error_is_no_error_of_ours() -> None:
    assert not issubclass(UserError, AssertionError | OSError | ValueError)


def test_a_worker_hands_on_the_sentence_alone() -> None:
    try:
        raise UserError("im3.png is empty; remove it")
    except UserError:
        wrapped = ExceptionWrapper(where="in DataLoader worker process 0")
    with pytest.raises(UserError, match=r"^im3.png is empty; remove it$"):
        wrapped.reraise()
