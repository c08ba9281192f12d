"""A run that learns beside another one takes its place with the bytes that it would have had there."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest

from everseg.data import Stream, SyntheticDomain
from everseg.errors import UserError
from everseg.files import locked
from everseg.methods import configure
from everseg.runs import candidate
from everseg.runs.candidate import accept_candidate, begin_candidate
from everseg.runs.folder import load
from everseg.runs.history import history, restore
from everseg.runs.learn import run
from everseg.runs.run import RunConfig
from everseg.types import Stage


def stream(*domains: str) -> Stream:
    def stage(index: int, name: str) -> Stage:
        train = SyntheticDomain(name, 2, size=64)
        return Stage(index, name, train, SyntheticDomain(name, 1, size=64, split="test"))

    return Stream(tuple(stage(i, name) for i, name in enumerate(domains)))


SMALL = ["tune.fit.epochs=1", "tune.fit.batch=2", "selector.size=2", "selector.epochs=1"]
CONFIG = RunConfig("samcl", configure("samcl", assignments=SMALL), "micro", evaluate="next", baseline=False)


def content(folder: Path) -> dict[str, str]:
    """All that counts of a run: everything but the log, which tells of times."""
    files = [p for p in folder.rglob("*") if p.is_file() and p.name not in (".lock", "events.jsonl")]
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


@pytest.fixture(scope="module")
def made(micro: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`old` knows one domain; `new` is a copy that learned a second one; `direct` learned both by itself."""
    folder = tmp_path_factory.mktemp("candidate")
    for name in ("old", "direct"):
        run(stream("lesions"), CONFIG, folder / name, micro)
    (folder / "before").write_text(begin_candidate(folder / "old", folder / "new"))
    for name in ("new", "direct"):
        run(stream("lesions", "cracks"), CONFIG, folder / name, micro)
    return folder


@pytest.fixture
def place(made: Path, tmp_path: Path) -> Path:
    begin_candidate(made / "old", tmp_path / "old")
    for name in ("new", "direct"):
        begin_candidate(made / name, tmp_path / name)
    return tmp_path


def test_learning_beside_a_run_does_not_change_it(made: Path) -> None:
    assert (made / "before").read_text() == hashlib.sha256(
        (made / "old" / "run.json").read_bytes()
    ).hexdigest()
    assert len((made / "old" / "events.jsonl").read_text()) < len((made / "new" / "events.jsonl").read_text())


def test_accepting_gives_the_bytes_of_learning_in_place(place: Path, made: Path, micro: Any) -> None:
    accept_candidate(place / "old", place / "new", (made / "before").read_text())
    assert content(place / "old") == content(place / "direct")
    assert load(place / "old", micro).learned == ["lesions", "cracks"]
    restore(place / "old", 1)  # The history came with it.
    assert load(place / "old", micro).learned == ["lesions"]


def test_a_kill_at_any_file_leaves_the_old_run_or_the_new(
    made: Path, tmp_path: Path, micro: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, real = (made / "before").read_text(), candidate._replace
    for fatal in range(20):
        old = tmp_path / str(fatal)
        begin_candidate(made / "old", old)
        left = iter(range(fatal))

        def dies(file: Path, target: Path, left: Any = left) -> None:
            if next(left, None) is None:
                raise KeyboardInterrupt
            real(file, target)

        monkeypatch.setattr(candidate, "_replace", dies)
        try:
            accept_candidate(old, made / "new", before)
            break
        except KeyboardInterrupt:
            assert load(old, micro).learned in (["lesions"], ["lesions", "cracks"])
        monkeypatch.setattr(candidate, "_replace", real)
        accept_candidate(old, made / "new", before)
        assert content(old) == content(made / "direct")
    assert fatal > 3


def test_accepting_twice_is_accepting_once(place: Path, made: Path) -> None:
    for _ in range(2):
        accept_candidate(place / "old", place / "new", (made / "before").read_text())
    assert len(history(place / "old")) == 2


def test_a_run_that_has_changed_since_is_left_alone(place: Path, made: Path) -> None:
    path = place / "old" / "run.json"
    path.write_bytes(path.read_bytes() + b"\n")
    now = content(place / "old")
    with pytest.raises(UserError, match="has changed since"):
        accept_candidate(place / "old", place / "new", (made / "before").read_text())
    assert content(place / "old") == now


def test_a_run_that_is_being_written_is_refused(place: Path, tmp_path: Path) -> None:
    with locked(place / "old"), pytest.raises(UserError, match="another command is writing"):
        begin_candidate(place / "old", tmp_path / "copy")
    assert not (tmp_path / "copy").exists()
