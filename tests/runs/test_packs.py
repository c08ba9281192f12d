"""Tensors under their hashes: nothing that is needed is lost, however often a sweep is broken off."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from everseg.errors import UserError
from everseg.runs.packs import hash_of, pack, packed, sweep, unpack


def tensors(*values: int) -> dict[str, Tensor]:
    made = [torch.full((3,), value, dtype=torch.uint8) for value in values]
    return {hash_of(each): each for each in made}


def test_a_hash_tells_type_shape_and_values_apart() -> None:
    zeros = [torch.zeros(4), torch.zeros(2, 2), torch.zeros(4, dtype=torch.int32), torch.ones(4)]
    assert len({hash_of(each) for each in zeros}) == 4
    assert hash_of(torch.zeros(4)) == hash_of(torch.zeros(8)[::2])


def test_what_is_not_needed_goes_and_the_rest_stays(tmp_path: Path) -> None:
    one, two, three = tensors(1), tensors(2), tensors(3)
    pack(tmp_path, one | two)
    pack(tmp_path, three)
    sweep(tmp_path, {*one})
    assert [set(names) for names in packed(tmp_path).values()] == [set(one)]
    assert torch.equal(unpack(tmp_path, {*one, *two})[next(iter(one))], one[next(iter(one))])


@pytest.mark.parametrize("whole", [(1, 2, 3), (1, 2)])
def test_a_sweep_that_was_broken_off_loses_nothing(tmp_path: Path, whole: tuple[int, ...]) -> None:
    """The file that a sweep has written lies beside the one that it would have deleted next."""
    for extra in range(4, 12):  # So that each of the two is the first one in some folder.
        folder, kept = tmp_path / str(extra), tensors(*whole)
        pack(folder, kept | tensors(extra))
        pack(folder, kept)
        pack(folder, tensors(*whole[:1]))
        sweep(folder, {*kept})
        assert set(unpack(folder, {*kept})) == set(kept)
        sweep(folder, {*kept})
        assert set().union(*packed(folder).values()) == set(kept)


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    path = pack(tmp_path, tensors(1))
    for damage in (b"", b"\xff" * 20, path.read_bytes()[:12]):
        path.write_bytes(damage)
        with pytest.raises(UserError, match=f"{path.name} is damaged"):
            packed(tmp_path)
