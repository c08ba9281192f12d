"""The pool's budget, its order, its files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch

from everseg.classes.instances import Instance, InstancePool, balanced, contact_sheet, load_pool, save_pool
from everseg.errors import UserError
from everseg.files import load_state, save_state, state_bytes
from everseg.pictures.palette import TRUTH


class Candidate(NamedTuple):
    label: int
    number: int
    bytes: int = 10


def made(candidate: Candidate) -> Instance:
    picture = f"{candidate.label}/{candidate.number}".ljust(candidate.bytes).encode()
    return Instance(picture, b"", candidate.label, f"image{candidate.number}", (0, 0, 2, 2), (9, 9), 0)


def counts(pool: InstancePool) -> list[int]:
    return sorted(len(items) for items in pool.by_class().values())


@pytest.mark.parametrize(
    ("classes", "quotas"),
    [
        (5, {20}),
        (8, {12, 13}),
        (10, {10}),
        (11, {9, 10}),
        (15, {6, 7}),
        (17, {5, 6}),
        (20, {5}),
    ],
)
def test_a_hundred_are_shared_out_evenly(classes: int, quotas: set[int]) -> None:
    pool = InstancePool(100)
    pool.refill([Candidate(c, k) for c in range(1, classes + 1) for k in range(40)], made, seed=0, step=1)
    assert len(pool) == 100 and set(counts(pool)) == quotas
    assert counts(pool).count(100 // classes + 1) == 100 % classes


def test_too_few_candidates_end_it() -> None:
    pool = InstancePool(100)
    pool.refill([Candidate(1, 0), Candidate(1, 1), Candidate(2, 0)], made, seed=0, step=1)
    assert counts(pool) == [1, 2]
    pool.refill([], made, seed=0, step=2)
    assert len(pool) == 3
    empty = InstancePool(100)
    empty.refill([], made, seed=0, step=1)
    assert not empty.items


def test_a_poor_class_leaves_room_to_the_others() -> None:
    groups = {1: [*range(50)], 2: [7], 3: [*range(50)]}
    assert len([*balanced(groups, np.random.default_rng(0))]) == 101
    pool = InstancePool(21)
    found = [Candidate(c, k) for c, items in groups.items() for k in range(len(items))]
    pool.refill(found, made, seed=0, step=1)
    assert counts(pool) == [1, 10, 10]


def test_old_instances_make_room_for_new_classes() -> None:
    pool = InstancePool(12)
    pool.refill([Candidate(c, k) for c in (1, 2) for k in range(9)], made, seed=0, step=1)
    before = set(pool.items)
    pool.refill([Candidate(c, k) for c in (3, 4) for k in range(9)], made, seed=0, step=2)
    assert counts(pool) == [3, 3, 3, 3]
    assert {n for n in pool.items if n[:3] in ("001", "002")} < before


def test_new_classes_get_as_many_beside_old_ones_for_the_time_of_a_step() -> None:
    pool = InstancePool(6)
    pool.refill([Candidate(c, k) for c in (1, 2) for k in range(9)], made, seed=0, step=1)
    found = [Candidate(3, k) for k in range(20)] + [Candidate(4, 0)]
    both = pool.with_new(found, made, seed=0, step=2)
    assert both.items.items() > pool.items.items() and len(pool) == 6, "the pool is what it was"
    assert [len(items) for items in both.by_class().values()] == [3, 3, 5, 1], "4 leaves its rest to 3"
    assert counts(InstancePool().with_new(found, made, seed=0, step=1)) == []


def test_only_what_is_chosen_is_cut_out() -> None:
    calls = []
    pool = InstancePool(4)
    found = [Candidate(c, k) for c in (1, 2) for k in range(500)]
    pool.refill(found, lambda c: calls.append(c) or made(c), seed=0, step=1)  # type: ignore[func-returns-value]
    assert len(calls) == 4


def test_bytes_are_a_budget_too() -> None:
    pool = InstancePool(100, max_bytes=100)
    found = [Candidate(c, k, 30) for c in (1, 2) for k in range(9)] + [
        Candidate(3, k, 5000) for k in range(9)
    ]
    pool.refill(found, made, seed=0, step=1)
    assert pool.nbytes == 90 and set(pool.by_class()) <= {1, 2}


def test_the_seed_decides() -> None:
    def names(seed: int) -> list[str]:
        pool = InstancePool(6)
        pool.refill([Candidate(c, k) for c in (1, 2, 3) for k in range(20)], made, seed=seed, step=1)
        return [*pool.items]

    assert names(0) == names(0) != names(1)


def test_the_same_instance_found_again_is_kept_once() -> None:
    pool = InstancePool(10)
    for step in (1, 2):
        pool.refill([Candidate(1, k) for k in range(3)], made, seed=0, step=step)
    assert len(pool) == 3


# ---------------------------------------------------------------- deleting


def test_one_instance_image_or_patient_is_deleted(pool: InstancePool) -> None:
    (name, *_) = pool.items
    assert pool.remove(name=name) == [name] and len(pool) == 9
    image = next(iter(pool.items.values())).image
    gone = pool.remove(image=image)
    assert gone and all(item.image != image for item in pool.items.values())
    pool.remove(prefix="patient1")
    assert {item.image[:8] for item in pool.items.values()} == {"patient0"}
    with pytest.raises(UserError, match=r"no instance of an image whose name begins with 'patient1'"):
        pool.remove(prefix="patient1")
    with pytest.raises(UserError, match="unknown instance"):
        pool.remove(name="nothing")


# ---------------------------------------------------------------- keeping


def test_the_state_is_tensors_and_comes_back(pool: InstancePool, tmp_path: Path) -> None:
    assert state_bytes(pool.state_dict()) == pool.nbytes
    save_state(tmp_path / "pool.safetensors", pool.state_dict())
    again = InstancePool()
    again.load_state_dict(load_state(tmp_path / "pool.safetensors"))
    assert again.items == pool.items and (again.count, again.max_bytes) == (10, 0)
    empty = InstancePool(3)
    again.load_state_dict(empty.state_dict())
    assert not again.items and again.count == 3


def test_the_folder_can_be_read_by_a_person_and_by_us(pool: InstancePool, tmp_path: Path) -> None:
    (tmp_path / "holiday.jpg").write_bytes(b"somebody's own")
    save_pool(pool, tmp_path)
    again = load_pool(tmp_path)
    assert again.items == pool.items
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    record = next(iter(manifest["instances"].values()))
    assert {"image", "classes", "box", "size", "step", "sha256", "picture", "mask"} == set(record)
    assert (tmp_path / record["picture"]).is_file()
    gone = pool.remove(prefix="patient0")
    save_pool(pool, tmp_path)
    assert not [p for p in tmp_path.iterdir() if p.name.startswith(tuple(gone))]
    assert (tmp_path / "holiday.jpg").is_file()
    assert load_pool(tmp_path).items == pool.items
    (name, *_) = pool.items
    assert torch.equal(pool.items[name].pixels, load_pool(tmp_path).items[name].pixels)


def test_a_folder_that_was_meddled_with_is_refused(pool: InstancePool, tmp_path: Path) -> None:
    save_pool(pool, tmp_path)
    (name, *_) = pool.items
    (tmp_path / f"{name}.png").write_bytes(b"other")
    with pytest.raises(UserError, match=f"{name}.png or its mask was changed"):
        load_pool(tmp_path)
    (tmp_path / f"{name}.png").unlink()
    with pytest.raises(UserError, match="is missing"):
        load_pool(tmp_path)
    for text in ("{}", "[1]", '{"format": 1, "count": 1, "max_bytes": 0, "instances": {"a": {}}}'):
        (tmp_path / "manifest.json").write_text(text)
        with pytest.raises(UserError, match="not the manifest of a pool"):
            load_pool(tmp_path)
        with pytest.raises(UserError, match="not the manifest of a pool"):
            save_pool(pool, tmp_path)


def test_the_contact_sheet_shows_every_class(pool: InstancePool) -> None:
    sheet = contact_sheet(pool, {1: "bird"})
    pixels = np.asarray(sheet)
    outline = (pixels == TRUTH).all(-1)
    assert int((outline.any(1)[1:] & ~outline.any(1)[:-1]).sum()) >= 5, "a row of outlines for each class"
    assert contact_sheet(InstancePool()).height < sheet.height
