"""Looking at the pool of a run or a folder, and deleting from it."""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from everseg import cli
from everseg.classes.instances import Found, InstancePool, cut, save_pool
from everseg.errors import UserError
from everseg.files import read_json, sha256_file
from everseg.models.promptable.load import load_base
from everseg.results import Results, with_class_row
from everseg.runs.folder import load, new_run, write
from everseg.runs.history import history, restore
from everseg.runs.pool import open_pool, remove, tally
from everseg.runs.record import Learned
from everseg.runs.run import RunConfig
from everseg.types import Scratch, Stage, State

METHOD = f"{__name__}:Keeper"


@dataclass(frozen=True)
class KeeperConfig:
    """Nothing to set."""

    @classmethod
    def presets(cls) -> dict[str, KeeperConfig]:
        return {"paper": cls()}


class Keeper:
    """A method that remembers a pool and a number."""

    Config = KeeperConfig

    def __init__(self, base: Any, config: KeeperConfig, *, seed: int) -> None:
        self.pool: InstancePool | None = filled()
        self.weight = torch.ones(3)

    def learn(self, stage: Stage, scratch: Scratch) -> Mapping[str, float]:
        raise AssertionError("nothing is learned here")

    def predict(self, queries: Sequence[Any]) -> list[Any]:
        raise AssertionError("nothing is predicted here")

    def state_dict(self) -> State:
        return {"weight": self.weight} | ({"pool": self.pool.state_dict()} if self.pool is not None else {})

    def load_state_dict(self, state: State) -> None:
        self.weight, self.pool = state["weight"], None
        if "pool" in state:
            self.pool = InstancePool()
            self.pool.load_state_dict(state["pool"])


def filled() -> InstancePool:
    """Three instances of classes 1 and 2 from images of two patients."""
    pool = InstancePool(10, 50_000)
    generator = torch.Generator().manual_seed(0)
    for label, name in ((1, "p1-a.png"), (2, "p1-b.png"), (2, "p2-a.png")):
        image = torch.randint(0, 256, (3, 32, 32), generator=generator).byte()
        labels = torch.zeros(32, 32, dtype=torch.uint8)
        labels[4:20, 6:16] = label
        item = cut(image, labels, Found(name, label, (4, 6, 20, 16), (4, 6), 160, (32, 32)), 0)
        pool.items[item.name] = item
    return pool


@pytest.fixture
def run(tmp_path: Path, micro_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run of one step of classes, "ball" and "leaf", whose next step was interrupted."""
    monkeypatch.setitem(sys.modules, __name__, sys.modules[Keeper.__module__])
    base, out = load_base(str(micro_folder)), tmp_path / "run"
    config = RunConfig(METHOD, KeeperConfig(), str(micro_folder))
    results = Results({"iou": False})
    results = with_class_row(
        results, "first", ("background", "ball", "leaf"), {"iou": dict(background=0.9, ball=0.5, leaf=0.4)}
    )
    learned = Learned("first", "f", False, 3, {}, classes=("ball", "leaf"))
    (out / "work" / "second").mkdir(parents=True)
    (out / "work" / "second" / "fit.safetensors").write_bytes(b"begun with the pool as it was")
    made = new_run(out, config, Keeper(base, KeeperConfig(), seed=0), base, learned=(learned,))
    made.results = results
    write(made)
    return out


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save_pool(filled(), tmp_path / "pool")
    return tmp_path / "pool"


def test_what_a_run_and_a_folder_keep(run: Path, folder: Path) -> None:
    for place in (run, folder):
        pool, names = open_pool(place)
        assert pool.items == filled().items and (pool.count, pool.max_bytes) == (10, 50_000)
        assert names == ({0: "background", 1: "ball", 2: "leaf"} if place == run else {})
    found = tally(pool)
    assert [(f.label, f.instances, f.images) for f in found] == [
        (1, 1, ("p1-a.png",)),
        (2, 2, ("p1-b.png", "p2-a.png")),
    ]
    assert sum(f.nbytes for f in found) == pool.nbytes


@pytest.mark.parametrize("place", ["run", "folder"])
def test_deleting_by_item_image_and_patient(place: str, request: pytest.FixtureRequest) -> None:
    path: Path = request.getfixturevalue(place)
    pool = filled()
    first = next(iter(pool.items))
    assert remove(path, item=first)[0] == [first] and first not in open_pool(path).pool.items
    gone, left = remove(path, image="p2-a.png")
    assert len(gone) == 1 and open_pool(path).pool.items == left.items and len(left) == 1
    remove(path, prefix="p1-")
    assert not open_pool(path).pool.items
    with pytest.raises(UserError, match="the pool is empty"):
        remove(path, item=first)


@pytest.mark.parametrize("keep", [None, 5])
def test_an_earlier_state_keeps_no_instance_that_was_deleted(run: Path, keep: int | None) -> None:
    """States with a pool are kept only on request, and lose it with the first instance that is deleted."""
    current = load(run)
    current.record = replace(current.record, config={**current.record.config, "keep": keep})
    current.learner.weight += 1  # type: ignore[attr-defined]
    write(current)
    content = next(i for i in filled().items.values() if i.image == "p2-a.png").picture
    assert [each.gone == "" for each in history(run)] == [keep is not None, True]
    if keep is not None:
        restore(run, 1)
        restore(run, 2)
    remove(run, image="p2-a.png")
    reason = "removed from the pool" if keep else "holds images for replay"
    assert [reason in each.gone for each in history(run)] == [True, True, False]
    for path in run.rglob("*"):
        assert not (path.is_file() and content in path.read_bytes()), path
    with pytest.raises(UserError, match=r"state 1 of .* was not kept, because it h"):
        restore(run, 1)


def test_a_run_stays_whole_and_keeps_nothing_of_what_was_deleted(run: Path) -> None:
    before = read_json(run / "run.json")
    content = next(i for i in filled().items.values() if i.image == "p2-a.png").picture
    assert content in (run / before["state"]).read_bytes()
    remove(run, image="p2-a.png")
    record, current = read_json(run / "run.json"), load(run)
    assert record["state"] != before["state"] and not (run / before["state"]).exists()
    assert record["sha256"]["state"] == sha256_file(run / record["state"])
    assert isinstance(current.learner, Keeper) and current.learner.pool is not None
    assert len(current.learner.pool) == 2 and torch.equal(current.learner.weight, torch.ones(3))
    assert current.results.to_json() == Results.from_json(read_json(run / record["results"])).to_json()
    assert current.results.cells[(0, "leaf")] == {"iou": 0.4}
    left = b"".join(path.read_bytes() for path in run.rglob("*") if path.is_file())
    assert content not in left and b"p2-a.png" not in left and not (run / "work").exists()


def test_what_cannot_be_is_said_and_changes_nothing(run: Path, tmp_path: Path) -> None:
    before = (run / "run.json").read_bytes()
    for arguments, message in (
        ({}, "by one of --item, --image and --prefix"),
        ({"item": "x", "image": "y"}, "by one of --item, --image and --prefix"),
        ({"item": "001-00"}, "unknown instance"),
        ({"prefix": "p3"}, "no instance of an image whose name begins with 'p3'"),
    ):
        with pytest.raises(UserError, match=message):
            remove(run, **arguments)
    assert (run / "run.json").read_bytes() == before and (run / "work").exists()
    for call in (open_pool, lambda place: remove(place, item="x")):
        with pytest.raises(UserError, match=r"neither a run .* nor a pool"):
            call(tmp_path / "nothing")  # type: ignore[operator]
    assert not (tmp_path / "nothing").exists()
    current = load(run)
    current.learner.load_state_dict({"weight": torch.ones(3)})
    write(current)
    with pytest.raises(UserError, match="its method replays no instances"):
        open_pool(run)
    state = run / read_json(run / "run.json")["state"]
    state.write_bytes(state.read_bytes().replace(b"weight", b"wEight"))
    with pytest.raises(UserError, match="its checksum differs"):
        open_pool(run)


Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def command(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Command:
    """`everseg pool ...` in this process: its exit code, output and errors."""
    before = signal.getsignal(signal.SIGINT)

    def call(*arguments: object) -> tuple[int, str, str]:
        capfd.readouterr()
        monkeypatch.setattr(sys, "argv", ["everseg", "pool", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        signal.signal(signal.SIGINT, before)
        said = capfd.readouterr()
        return int(ended.value.code or 0), said.out, said.err

    return call


def test_the_commands(command: Command, run: Path, folder: Path, tmp_path: Path) -> None:
    code, out, err = command("show", run, "--out", tmp_path / "sheet.png", "--items")
    assert code == 0 and "contact sheet" in err and (tmp_path / "sheet.png").stat().st_size > 1000
    assert "3 of at most 10 instances, 2 classes" in out and "of 48.8 KiB, from 3 images" in out
    assert "leaf" in out and "p1-b.png, p2-a.png" in out
    assert all(f"{name}  10x16" in out for name in filled().items)
    told = json.loads(command("show", folder, "--json")[1])
    assert set(told["instances"]) == set(filled().items) and told["bytes"] == filled().nbytes
    (name, *_) = told["instances"]
    code, out, err = command("remove", run, "--item", name)
    assert (code, err) == (0, "") and f"removed {name}; left in" in out
    assert json.loads(command("remove", folder, "--prefix", "p1-", "--json")[1])["left"] == 1
    code, out, err = command("remove", folder, "--image", "p1-a.png")
    assert code == 2 and not out and err.startswith("error: the pool has no instance of image 'p1-a.png'")
    assert err.count("\n") == 1
