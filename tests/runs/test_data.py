"""A fault in test data costs no training, and other test data cost nothing that was learned."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from everseg.data import Described, Stream, SyntheticDomain
from everseg.data.synthetic.classes import SyntheticClasses
from everseg.errors import UserError
from everseg.files import load_state
from everseg.methods import configure
from everseg.results import BASE
from everseg.runs.data import check_learned, read_ahead, trained_tests
from everseg.runs.folder import load
from everseg.runs.learn import run
from everseg.runs.run import RunConfig
from everseg.runs.scratch import StageScratch
from everseg.types import Stage

SMALL = ("tune.fit.epochs=2", "tune.fit.batch=2", "selector.size=3", "selector.epochs=2")


class Faulty(Sequence[Any]):
    """Samples of which some cannot be read."""

    def __init__(self, samples: Any, *faulty: int) -> None:
        self.samples, self.faulty = samples, faulty

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: Any) -> Any:
        if index in self.faulty:
            raise UserError(f"image {index} is empty; remove it")
        return self.samples[index]

    def fingerprint(self) -> str:
        return f"as listed: {len(self)}"


def stage(index: int, domain: str, test: Any = None, count: int = 2) -> Stage:
    tested = SyntheticDomain(domain, count, size=64, split="test") if test is None else test
    return Stage(index, domain, SyntheticDomain(domain, 4, size=64), tested)


def stream(*stages: Stage, unseen: Sequence[Stage] = ()) -> Stream:
    return Stream(stages, tuple(unseen))


def config(method: str = "samcl", **more: Any) -> RunConfig:
    return RunConfig(
        method, configure(method, assignments=SMALL if method == "samcl" else ()), "micro", **more
    )


BROKEN = Faulty(SyntheticDomain("cracks", 3, size=64, split="test"), 1, 2)
SAID = r"stage 'cracks', test: image 1 is empty; remove it \(and 1 more: `everseg data check` lists all\)"


@pytest.mark.parametrize("where", ["own", "next", "unseen"])
def test_a_fault_in_what_will_be_scored_is_found_before_training(
    where: str, micro: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = {
        "own": stream(stage(0, "cracks", BROKEN)),
        "next": stream(stage(0, "lesions"), stage(1, "cracks", BROKEN)),
        "unseen": stream(stage(0, "lesions"), unseen=[Stage(1, "cracks", (), BROKEN)]),
    }[where]
    monkeypatch.setattr("everseg.domains.methods.samcl.prepare", None)
    with pytest.raises(UserError, match=SAID):
        run(broken, config(), tmp_path / "run", micro)


def test_no_class_is_learned_before_all_maps_were_read(micro_backbone: Any, tmp_path: Path) -> None:
    images = SyntheticClasses(4, "train", size=64, kinds=["ball", "tile"])
    broken = Faulty(SyntheticClasses(2, "test", size=64, kinds=["ball", "tile"]), 0)
    given = Stream((Stage(0, "step-0", images, broken, ("ball", "tile")),))
    with pytest.raises(UserError, match="stage 'step-0', test: image 0 is empty"):
        run(
            given,
            RunConfig("fine-tuning", configure("fine-tuning"), "micro"),
            tmp_path / "run",
            micro_backbone,
        )
    assert not (tmp_path / "run" / "work").exists()


def test_each_test_image_is_tried_once_in_a_call(micro: Any, tmp_path: Path) -> None:
    asked: list[int] = []

    class Counted(Faulty):
        def __getitem__(self, index: Any) -> Any:
            asked.append(index)
            return super().__getitem__(index)

    tested = Counted(SyntheticDomain("lesions", 2, size=64, split="test"))
    given = stream(stage(0, "lesions", tested), stage(1, "cracks"))
    run(given, config("zero-shot", baseline=False), tmp_path / "run", micro)
    assert asked == [0, 1] * 3  # Tried, and scored after each of two stages.


def test_images_that_are_scored_by_name_have_names_of_their_own() -> None:
    sample = SyntheticDomain("cracks", 1, size=64)[0]
    twice = [sample, sample, replace(sample, name="other")]
    read_ahead(twice, "cracks/test", 0)
    with pytest.raises(UserError, match=rf"cracks/test: the split has two samples named {sample.name}; "):
        read_ahead(twice, "cracks/test", 0, by_name=True)


@pytest.mark.parametrize("split", ["val", "train"])
def test_a_fault_in_validation_images_is_found_before_training(
    split: str, micro: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether the stream names them or they are held out of the training images."""

    class Named(Faulty, Described[Any]):
        def image_name(self, index: int) -> str:
            return str(index)

    broken = Named(SyntheticDomain("cracks", 4, size=64), 0, 1, 2, 3)
    whole = stage(0, "cracks")
    given = replace(whole, **{split: broken})
    monkeypatch.setattr("everseg.domains.methods.samcl.prepare", None)
    settings = configure("samcl", assignments=[*SMALL, "val=0.3"])
    with pytest.raises(UserError, match=rf"^stage 'cracks', {split}: image \d is empty; remove it"):
        run(stream(given), RunConfig("samcl", settings, "micro"), tmp_path / "run", micro)


def test_mended_test_data_keep_unfinished_work(
    micro: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found: list[bool] = []
    load_scratch = StageScratch.load

    def noted(self: StageScratch, name: str) -> Any:
        state = load_scratch(self, name)
        found.append(state is not None)
        return state

    monkeypatch.setattr(StageScratch, "load", noted)
    with monkeypatch.context() as patch:
        patch.setattr("everseg.domains.remembered.kept_as", None)
        with pytest.raises(TypeError):  # Right after the fit.
            run(stream(stage(0, "lesions")), config(), tmp_path / "run", micro)
    mended = stream(stage(0, "lesions", count=3))
    run(mended, config(), tmp_path / "run", micro)
    run(mended, config(), tmp_path / "fresh", micro)
    assert found == [False, True, False]
    states = [next((tmp_path / name).glob("state-*")).read_bytes() for name in ("run", "fresh")]
    assert states[0] == states[1]


def test_other_test_data_of_a_learned_stage_are_refused_or_scored(micro: Any, tmp_path: Path) -> None:
    out = tmp_path / "run"
    before = run(stream(stage(0, "lesions"), stage(1, "cracks")), config(), out, micro)
    [first, second] = before.record.learned
    assert first.train and first.test and first.train != first.test
    changed = stream(stage(0, "lesions", count=3), stage(1, "cracks"))
    with pytest.raises(UserError, match=r"test data of 'lesions' .* differ .* add --retest, which"):
        run(changed, config(), out, micro)
    assert load(out, micro).record == before.record
    after = run(changed, config(), out, micro, retest=True)
    fresh = run(changed, config(), tmp_path / "fresh", micro)
    assert [s.fingerprint for s in after.record.learned] == [s.fingerprint for s in fresh.record.learned]
    assert after.record.learned[1] == second
    assert after.record.oracle == fresh.record.oracle
    # The last row and the base are what they would be; what came before was measured on other images.
    wanted = {cell: v for cell, v in fresh.results.cells.items() if cell != (0, "lesions")}
    assert after.results.cells == wanted
    for row in (BASE, 1):
        ours, theirs = (
            {(s.column, s.image): (s.values, s.route) for s in of.results.scores[row]}
            for of in (after, fresh)
        )
        assert ours == theirs
    assert {s.column for s in after.results.scores[0]} == {"cracks"}
    one, two = (load_state(next(f.glob("state-*"))) for f in (out, fresh.folder))
    assert one.keys() == two.keys()
    assert run(changed, config(), out, micro).results.cells == wanted
    grown = stream(*changed.stages, stage(2, "nuclei"))
    assert run(grown, config(), out, micro).learned == ["lesions", "cracks", "nuclei"]


def test_all_classes_are_scored_anew(micro_backbone: Any, tmp_path: Path) -> None:
    def given(count: int) -> Stream:
        images = SyntheticClasses(4, "train", size=64, kinds=["ball", "tile"])
        tested = SyntheticClasses(count, "test", size=64, kinds=["ball", "tile"])
        return Stream((Stage(0, "step-0", images, tested, ("ball", "tile")),))

    settings = ["tune.crop=64", "tune.first.epochs=1", "tune.first.batch=4"]
    how = RunConfig("fine-tuning", configure("fine-tuning", assignments=settings), "micro")
    run(given(2), how, tmp_path / "run", micro_backbone)
    with pytest.raises(UserError, match=r"the test data of 'step-0' .* add --retest"):
        run(given(3), how, tmp_path / "run", micro_backbone)
    again = run(given(3), how, tmp_path / "run", micro_backbone, retest=True)
    assert again.results.cells == again.problem.now(again, given(3), how.score, oracle=False).cells
    assert run(given(3), how, tmp_path / "run", micro_backbone).record == again.record


def test_a_run_that_knows_one_fingerprint_is_held_to_both(micro: Any, tmp_path: Path) -> None:
    given = stream(stage(0, "lesions"))
    run(given, config(), tmp_path / "run", micro)
    path = tmp_path / "run" / "run.json"
    record = json.loads(path.read_text())
    for entry in record["learned"]:
        del entry["train"], entry["test"]
    path.write_text(json.dumps(record))
    assert run(given, config(), tmp_path / "run", micro).learned == ["lesions"]
    changed = stream(stage(0, "lesions", count=3))
    with pytest.raises(UserError, match="stage 'lesions' was learned from other data"):
        check_learned(changed, changed.stages, load(tmp_path / "run", micro).record)


class InFiles(list[Path]):
    """Samples of which only the image files matter."""

    def file(self, index: int) -> str:
        return str(self[index])


def test_images_that_are_trained_and_tested_on_are_named(tmp_path: Path) -> None:
    files = [tmp_path / f"{name}.png" for name in "abcdxy"]
    for file in files:
        file.touch()
    a, b, c, d, x, y = files
    old, new = InFiles([a, b]), InFiles([c, d])
    apart = stream(Stage(0, "old", old, InFiles([x])), Stage(1, "new", new, InFiles([y])))
    assert trained_tests(apart) == ""
    mixed = stream(Stage(0, "old", old, InFiles([x, d, c])), apart.stages[1])
    told = trained_tests(mixed)
    assert f"stage 'new' trains on {c}, which stage 'old' tests on (and 1 more)" in told
    assert "which stage 'far' tests on" in trained_tests(
        stream(*apart.stages, unseen=[Stage(2, "far", (), InFiles([a]))])
    )


def test_samples_in_memory_and_names_that_come_again_are_no_trained_tests() -> None:
    kinds = ["ball", "tile"]
    painted = [list(SyntheticClasses(6, split, size=64, kinds=kinds)) for split in ("train", "test")]
    assert trained_tests(Stream.of_classes(*painted, [["ball"], ["tile"]], classes=kinds)) == ""
    assert trained_tests(stream(Stage(0, "names", InFiles([Path("1.png")]), InFiles([Path("1.png")])))) == ""
