"""Earlier states: any of them can be restored to the bit, whatever happens, unless it must not come back."""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from everseg.data import Stream, SyntheticDomain
from everseg.errors import UserError
from everseg.files import load_state, locked, sha256_tensors
from everseg.methods import configure
from everseg.runs.earlier import entries
from everseg.runs.folder import clear_up, load, load_scores, read_record, write
from everseg.runs.forget import forget
from everseg.runs.history import history, restore
from everseg.runs.learn import run, run_stages
from everseg.runs.run import RunConfig
from everseg.types import Stage

DOMAINS = ("lesions", "cracks", "nuclei")


def stream(*domains: str, seed: int = 0) -> Stream:
    def stage(index: int, name: str) -> Stage:
        train = SyntheticDomain(name, 4, size=64, seed=seed)
        return Stage(index, name, train, SyntheticDomain(name, 2, size=64, split="test"))

    return Stream(tuple(stage(i, name) for i, name in enumerate(domains)), ())


def config(method: str = "samcl", **changed: Any) -> RunConfig:
    small = ["tune.fit.epochs=1", "tune.fit.batch=2"]
    small += ["selector.size=3", "selector.epochs=2"] if method == "samcl" else []
    return RunConfig(method, configure(method, assignments=small), "micro", **changed)


def files(folder: Path) -> dict[str, bytes]:
    """What counts of a run now, to the byte."""
    record = read_record(folder)
    names = ["run.json", record.state, record.results]
    names += [f"domains/{s.name}.safetensors" for s in record.learned if s.contribution]
    return {name: (folder / name).read_bytes() for name in names}


def content(folder: Path) -> dict[str, str]:
    """All that a folder holds but the log. In which file a tensor of the history lies is of no account."""
    packs = sorted((folder / "history").glob("*.safetensors"))
    found = [p for p in folder.rglob("*") if p.is_file() and p not in packs]
    found = [p for p in found if p.name not in (".lock", "events.jsonl")]
    digests = {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in found}
    return digests | {name: sha256_tensors({"": t}) for p in packs for name, t in load_state(p).items()}


def learned(base: Any, out: Path, method: str) -> tuple[Path, dict[int, dict[str, bytes]]]:
    """A run of three domains, and what it was in each state."""
    steps = run_stages(stream(*DOMAINS), config(method), out, base)
    return out, {current.record.number: files(out) for current in steps}


Made = tuple[Path, dict[int, dict[str, bytes]]]


@pytest.fixture(scope="module")
def samcl(micro: Any, tmp_path_factory: pytest.TempPathFactory) -> Made:
    torch.set_num_threads(1)
    return learned(micro, tmp_path_factory.mktemp("runs") / "samcl", "samcl")


@pytest.fixture(scope="module")
def regcl(micro: Any, tmp_path_factory: pytest.TempPathFactory) -> Made:
    torch.set_num_threads(1)
    return learned(micro, tmp_path_factory.mktemp("runs") / "regcl", "regcl")


@pytest.fixture
def made(request: pytest.FixtureRequest, method: str, tmp_path: Path) -> Made:
    folder, states = request.getfixturevalue(method)
    return Path(shutil.copytree(folder, tmp_path / "run")), states


def copied(made: Made, to: Path) -> Path:
    return Path(shutil.copytree(made[0], to))


# ---------------------------------------------------------------- going back


@pytest.mark.parametrize("method", ["samcl", "regcl"])
def test_any_state_comes_back_to_the_bit_from_any_other(made: Made) -> None:
    folder, states = made
    for number in (2, 1, 3, 1, 2, 3):
        restore(folder, number)
        assert files(folder) == states[number], number
    assert not list(folder.rglob(".*.partial"))


@pytest.mark.slow
@pytest.mark.parametrize("method", ["samcl"])
def test_what_is_learned_after_a_restore_is_what_it_would_be(made: Made, micro: Any) -> None:
    folder, states = made
    restore(folder, 1)
    done = run(stream("lesions", "nuclei"), config(method_of(folder)), folder, micro)
    assert done.learned == ["lesions", "nuclei"] and done.record.number == 4
    fresh = run(stream("lesions", "nuclei"), config(method_of(folder)), folder.parent / "fresh", micro)
    assert (folder / done.record.state).read_bytes() == (fresh.folder / fresh.record.state).read_bytes()
    assert done.record.learned == fresh.record.learned
    assert done.results.scores[1] == fresh.results.scores[1]
    assert [(s.number, s.what, s.status) for s in history(folder)] == [
        (1, "lesions", "earlier"),
        (2, "cracks", "left"),
        (3, "nuclei", "left"),
        (4, "nuclei", "current"),
    ]
    before = files(folder)
    restore(folder, 3)
    assert files(folder) == states[3]
    restore(folder, 4)
    assert files(folder) == before


def method_of(folder: Path) -> str:
    return str(read_record(folder).config["method"])


def test_a_tensor_that_did_not_change_is_kept_once(samcl: Made) -> None:
    """Modules and embeddings of earlier states lie in the newest one's file: a state costs its selector."""
    folder, _ = samcl
    names = [name for path in (folder / "history").glob("*.safetensors") for name in load_state(path)]
    assert names and len(names) == len(set(names))
    listed = {h: name for entry in entries(folder).values() for name, h in entry.tensors.items()}
    assert {name.split("/")[0] for h, name in listed.items() if h in names} == {"selector"}
    assert {name.split("/")[0] for name in listed.values()} == {"modules", "buffer", "selector"}


def test_the_list_tells_of_each_state(samcl: Made) -> None:
    folder, _ = samcl
    listed = history(folder)
    assert [(s.number, s.what, s.status, s.gone) for s in listed] == [
        (1, "lesions", "earlier", ""),
        (2, "cracks", "earlier", ""),
        (3, "nuclei", "current", ""),
    ]
    found = load_scores(folder)
    assert listed[2].sha256 == found.record.sha256.state  # type: ignore[union-attr]
    assert listed[2].config == found.record.config
    values = found.results.matrix("iou").values
    for row, each in enumerate(listed):
        assert each.learned == DOMAINS[: row + 1]
        assert each.scores["iou"]["AA"] == pytest.approx(values[row, : row + 1].mean())
    assert found.summary()["history_bytes"] == sum(p.stat().st_size for p in (folder / "history").iterdir())


def test_an_unfinished_stage_of_the_state_before_is_not_gone_on_from(samcl: Made, tmp_path: Path) -> None:
    folder = copied(samcl, tmp_path / "run")
    (folder / "work" / "shadows").mkdir(parents=True)
    restore(folder, 2)
    assert not (folder / "work").exists()


# ---------------------------------------------------------------- whatever happens on the way


class Breaks:
    """Breaks off before or after the n-th time that a file takes its place or is deleted."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, at: int, after: bool) -> None:
        self.count = 0
        for name in ("replace", "unlink"):
            monkeypatch.setattr(Path, name, self._breaking(getattr(Path, name), at, after))

    def _breaking(self, act: Any, at: int, after: bool) -> Any:
        def breaking(this: Path, *given: Any, **more: Any) -> Any:
            if this.name.endswith(".partial") and act.__name__ == "unlink":
                return act(this, *given, **more)
            self.count += 1
            if self.count == at and not after:
                raise KeyboardInterrupt
            done = act(this, *given, **more)
            if self.count == at:
                raise KeyboardInterrupt
            return done

        return breaking


@pytest.mark.parametrize("method", ["regcl"])
def test_a_restore_that_is_broken_off_anywhere_loses_nothing(
    made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    restored = copied(made, tmp_path / "restored")
    with monkeypatch.context() as patch:
        counting = Breaks(patch, at=0, after=False)
        restore(restored, 1)
    assert counting.count > 6
    wanted = content(restored)
    for at in range(1, counting.count + 1):
        folder = copied(made, tmp_path / f"{at}")
        with monkeypatch.context() as patch:
            Breaks(patch, at, after=at % 2 == 0)
            with pytest.raises(KeyboardInterrupt):
                restore(folder, 1)
        assert read_record(folder).number in (1, 3)
        restore(folder, 1)
        assert content(folder) == wanted, at


def test_a_write_that_is_broken_off_anywhere_leaves_the_same_history(
    micro: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, whole = tmp_path / "begun", tmp_path / "whole"
    run(stream("lesions"), config("sequential"), begun, micro)

    def change(folder: Path) -> None:
        current = load(folder, micro)
        if current.record.number == 1:
            weights = current.learner.state_dict()["adapter"]
            current.learner.load_state_dict({"adapter": {name: w + 1 for name, w in weights.items()}})
            current.results = current.results.with_stage("(changed)", learned=[])
            write(current)
        clear_up(folder, read_record(folder))

    shutil.copytree(begun, whole)
    with monkeypatch.context() as patch:
        counting = Breaks(patch, at=0, after=False)
        change(whole)
    assert counting.count > 6
    for at in range(1, counting.count + 1):
        folder = Path(shutil.copytree(begun, tmp_path / f"{at}"))
        with monkeypatch.context() as patch:
            Breaks(patch, at, after=at % 2 == 0)
            with pytest.raises(KeyboardInterrupt):
                change(folder)
        change(folder)
        assert content(folder) == content(whole), at
    restore(whole, 1)
    assert files(whole) == files(begun)


def test_only_one_may_write(samcl: Made, tmp_path: Path) -> None:
    folder = copied(samcl, tmp_path / "run")
    with locked(folder), pytest.raises(UserError, match=r"another command is writing to .*run; wait for it"):
        restore(folder, 1)


def test_parts_that_are_gone_are_told_of(samcl: Made, tmp_path: Path) -> None:
    folder = copied(samcl, tmp_path / "run")
    for path in (folder / "history").glob("*.safetensors"):
        path.unlink()
    before = content(folder)
    with pytest.raises(UserError, match=r"state 2 of .* cannot be restored: files in .*history are gone"):
        restore(folder, 2)
    assert content(folder) == before


def test_a_damaged_history_is_named(samcl: Made, tmp_path: Path) -> None:
    for name, damage in (("001.json", b"{"), ("002.json", b'{"number": "x"}')):
        folder = copied(samcl, tmp_path / name)
        (folder / "history" / name).write_bytes(damage)
        for act in (lambda f: history(f), lambda f: restore(f, 2)):
            with pytest.raises(UserError, match=rf"{name} is (not valid JSON|damaged)"):
                act(folder)
    pack = next((folder := copied(samcl, tmp_path / "pack")).glob("history/*.safetensors"))
    pack.write_bytes(pack.read_bytes()[:20])
    with pytest.raises(UserError, match=rf"{pack.name} is damaged"):
        restore(folder, 2)


# ---------------------------------------------------------------- what does not come back


@pytest.mark.parametrize("method", ["samcl", "regcl"])
def test_a_forgotten_domain_does_not_come_back(made: Made, micro: Any) -> None:
    folder, states = made
    restore(folder, 1)
    run(stream("lesions", "shadows"), config(method_of(folder)), folder, micro)  # State 4 never knew cracks.
    restore(folder, 3)
    certificate = forget(folder, "cracks", base=micro)
    assert "the earlier states that held it (2)" in certificate.removed
    assert "its scores in other earlier states (2)" in certificate.removed
    assert [(s.number, s.what, s.status, s.gone[:7]) for s in history(folder)] == [
        (1, "lesions", "earlier", ""),
        (2, "(deleted)", "earlier", "deleted"),
        (3, "(deleted)", "earlier", "deleted"),
        (4, "shadows", "left", ""),
        (5, "(without cracks)", "current", ""),
    ]
    for path in folder.rglob("*"):
        if path.is_file() and path.name not in ("cracks.json", "run.json"):
            assert "cracks" not in path.read_bytes().decode("latin1").replace("(without cracks)", ""), path
    for number in (2, 3):
        with pytest.raises(UserError, match=rf"state {number} of .* was deleted, because it held a domain"):
            restore(folder, number)
    restore(folder, 1)
    found = load(folder, micro)
    assert [c.forgotten for c in found.record.forgotten] == ["cracks"]
    state = read_record(folder).state
    assert (folder / state).read_bytes() == states[1][state]
    assert "cracks" not in found.results.columns
    with pytest.raises(UserError, match="has forgotten 'cracks'"):
        run(stream("lesions", "cracks"), config(method_of(folder)), folder, micro)
    restore(folder, 4)
    assert load(folder, micro).learned == ["lesions", "shadows"]


def test_forgetting_that_is_broken_off_is_finished_by_the_next_command(
    samcl: Made, micro: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = copied(samcl, tmp_path / "run")
    with monkeypatch.context() as patch:
        patch.setattr("everseg.runs.folder.clear_up", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            forget(folder, "cracks", base=micro)
    forget(folder, "cracks", base=micro)
    assert [s.number for s in history(folder) if not s.gone] == [1, 4]


def test_what_domains_brought_comes_back_with_them(regcl: Made, micro: Any, tmp_path: Path) -> None:
    folder = copied(regcl, tmp_path / "run")
    restore(folder, 1)
    assert [p.stem for p in (folder / "domains").iterdir()] == ["lesions"]
    # The same domain from other data: the contribution of the same name is another one.
    run(stream("lesions", "cracks", seed=1), config("regcl"), restored_first(folder, micro), micro)
    restore(folder, 3)
    assert forget(folder, "cracks", base=micro).exact
    assert not list((folder / "history").rglob("domains"))


def restored_first(folder: Path, base: Any) -> Path:
    """The run as if its first domain's data were gone, so that they cannot differ."""
    record = read_record(folder)
    changed = record.with_changed("lesions", fingerprint="", train="", test="")
    (folder / "run.json").write_text(json.dumps(changed.to_json()))
    return folder


@pytest.mark.parametrize(("keep", "left"), [(0, []), (1, [2]), (3, [1, 2])])
def test_as_many_earlier_states_are_kept_as_asked_for(
    samcl: Made, micro: Any, tmp_path: Path, keep: int, left: list[int]
) -> None:
    folder = copied(samcl, tmp_path / "run")
    run(stream(*DOMAINS), replace(config(), keep=keep), folder, micro)
    run(stream(*DOMAINS), replace(config(), keep=keep), folder, micro)
    listed = history(folder)
    assert [s.number for s in listed] == [1, 2, 3]
    assert [s.number for s in listed[:-1] if not s.gone] == left
    if keep == 0:
        assert not list((folder / "history").glob("*.safetensors"))
    if keep < 2:
        with pytest.raises(UserError, match=r"state 1 of .* was not kept, because --keep asks for fewer"):
            restore(folder, 1)
    assert all(s.scores["iou"]["AA"] >= 0 for s in listed)


@pytest.mark.parametrize("keep", [-1, 1.5, "all"])
def test_a_number_of_states_that_is_none_is_refused(keep: Any) -> None:
    with pytest.raises(UserError, match=r"keep is .*; give a whole number from 0"):
        config("sequential", keep=keep)


def test_a_state_that_is_not_there_is_refused(samcl: Made, micro: Any, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"has no state 7; restore one of 1, 2 \("):
        restore(copied(samcl, tmp_path / "run"), 7)
    with pytest.raises(UserError, match="holds no run"):
        restore(tmp_path / "nowhere", 1)
    assert not (tmp_path / "nowhere").exists()


EARLIER = Path(__file__).parents[1] / "assets" / "earlier_run"


def test_a_run_of_an_earlier_version_tells_what_it_knows(tmp_path: Path) -> None:
    folder = Path(shutil.copytree(EARLIER / "runs" / "samcl", tmp_path / "run"))
    listed = history(folder)
    assert [(s.number, s.what, s.status) for s in listed] == [
        (None, "polyps", "earlier"),
        (2, "cracks", "current"),
    ]
    assert listed[0].gone and listed[0].scores["iou"]["AA"] > 0
    with pytest.raises(UserError, match="an earlier version of everseg learned it"):
        restore(folder, 1)
