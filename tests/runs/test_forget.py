"""Forgetting: what is left is what would be had the domain never been learned, and a certificate says so."""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from everseg.data import Stream, SyntheticDomain
from everseg.errors import UserError
from everseg.files import load_state, save_state
from everseg.methods import configure
from everseg.report.collect import collect
from everseg.report.page import page
from everseg.results import Results, as_text, average, domains_table
from everseg.runs.folder import load, load_scores, write
from everseg.runs.forget import forget, reweigh
from everseg.runs.learn import run
from everseg.runs.run import RunConfig
from everseg.types import Stage

SMALL = ("tune.fit.epochs=2", "tune.fit.batch=2")
SELECTOR = ("selector.size=3", "selector.epochs=2")


def stream(*domains: str) -> Stream:
    def stage(index: int, name: str) -> Stage:
        train = SyntheticDomain(name, 5, size=64)
        return Stage(index, name, train, SyntheticDomain(name, 2, size=64, split="test"))

    return Stream(tuple(stage(i, name) for i, name in enumerate(domains)), ())


def config(method: str, *more: str) -> RunConfig:
    known = (*SMALL, *SELECTOR) if method == "samcl" else SMALL
    return RunConfig(method, configure(method, assignments=[*known, *more]), "micro", baseline=False)


def learned(base: Any, out: Path, method: str, *domains: str, more: tuple[str, ...] = ()) -> Path:
    run(stream(*domains), config(method, *more), out, base)
    return out


def state(folder: Path) -> Any:
    record = json.loads((folder / "run.json").read_text())
    return load_state(folder / record["state"])


def distance(ours: Any, theirs: Any) -> float:
    a, b = (torch.cat([v.double().flatten() for v in s["adapter"].values()]) for s in (ours, theirs))
    return float((a - b).norm() / b.norm())


def same_but_for_rounding(ours: Any, theirs: Any) -> bool:
    """Whether the sums in float64 agree to 1e-12, and the adapter in float32, which is solved from them, to
    one unit in the last place."""

    def sums(state: Any) -> list[Tensor]:
        if isinstance(state, dict):
            return [t for name in sorted(state) for t in sums(state[name])]
        return [state] if isinstance(state, Tensor) and state.dtype == torch.float64 else []

    a, b = (torch.cat([t.flatten() for t in sums(s["sums"])]) for s in (ours, theirs))
    last_place = torch.finfo(torch.float32).eps
    return float((a - b).norm() / b.norm()) < 1e-12 and all(
        torch.allclose(ours["adapter"][name], value, rtol=last_place, atol=1e-12)
        for name, value in theirs["adapter"].items()
    )


def content(folder: Path) -> dict[str, str]:
    files = [p for p in folder.rglob("*") if p.is_file() and p.name != ".lock"]
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


@pytest.fixture(scope="module")
def three(micro: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A RegCL run of three domains. Nobody writes to it."""
    torch.set_num_threads(1)
    return learned(micro, tmp_path_factory.mktemp("runs") / "three", "regcl", "lesions", "cracks", "nuclei")


def copied(folder: Path, to: Path) -> Path:
    shutil.copytree(folder, to)
    return to


# ---------------------------------------------------------------- as if it had never been


@pytest.mark.parametrize(
    "domain", ["lesions", *(pytest.param(d, marks=pytest.mark.slow) for d in ("cracks", "nuclei"))]
)
def test_regcl_is_what_it_would_be(three: Path, micro: Any, tmp_path: Path, domain: str) -> None:
    others = [d for d in ("lesions", "cracks", "nuclei") if d != domain]
    folder = copied(three, tmp_path / "run")
    certificate = forget(folder, domain, base=micro)
    never = learned(micro, tmp_path / "never", "regcl", *others)
    assert certificate.exact and "never learned" in certificate.statement
    assert same_but_for_rounding(state(folder), state(never))
    assert set(certificate.remaining) == set(others)
    # And it goes on as that one would.
    for each in (folder, never):
        run(stream(*others, "shadows"), config("regcl"), each, micro)
    assert same_but_for_rounding(state(folder), state(never))


def test_samcl_is_what_it_would_be_to_the_bit(micro: Any, tmp_path: Path) -> None:
    folder = learned(micro, tmp_path / "run", "samcl", "lesions", "cracks", "nuclei")
    certificate = forget(folder, "cracks", base=micro)
    never = learned(micro, tmp_path / "never", "samcl", "lesions", "nuclei")
    assert certificate.exact
    for name, found in (("ours", folder), ("theirs", never)):
        save_state(tmp_path / name, state(found))
    assert (tmp_path / "ours").read_bytes() == (tmp_path / "theirs").read_bytes()


@pytest.mark.slow
def test_every_method_that_can_forgets(micro: Any, tmp_path: Path) -> None:
    for method, more in (
        ("independent", ()),
        ("merged", ("merger.rule=ties",)),
        ("merged", ("merger.rule=opcm",)),
    ):
        folder = learned(micro, tmp_path / "".join(["run", *more]), method, "lesions", "cracks", more=more)
        assert forget(folder, "lesions", base=micro).exact
        never = learned(micro, tmp_path / "".join(["never", *more]), method, "cracks", more=more)
        if method == "independent":
            assert set(state(folder)["modules"]) == {"cracks"}
        else:
            assert distance(state(folder), state(never)) < 1e-7


def test_all_can_be_forgotten(three: Path, micro: Any, tmp_path: Path) -> None:
    folder = copied(three, tmp_path / "run")
    for domain in ("cracks", "lesions", "nuclei"):
        forget(folder, domain, base=micro)
    found = load(folder, micro)
    assert found.learned == []
    with torch.inference_mode():
        features = micro.trunk(micro.pixels([torch.zeros(3, 64, 64, dtype=torch.uint8)]))
        bound = found.learner.merged.bind(torch.zeros(1, 8, 8))  # type: ignore[attr-defined]
        assert torch.equal(micro.tail(features)["image"], micro.tail(features, bound)["image"])


# ---------------------------------------------------------------- what is left behind


def test_nothing_in_the_folder_tells_of_it_but_the_certificate(
    three: Path, micro: Any, tmp_path: Path
) -> None:
    folder = copied(three, tmp_path / "run")
    (folder / "report.html").write_text("a page that shows images of cracks")
    forget(folder, "cracks", base=micro)
    assert not (folder / "domains" / "cracks.safetensors").exists()
    assert not (folder / "report.html").exists()
    certificate = folder / "forgotten" / "cracks.json"
    assert json.loads(certificate.read_text())["forgotten"] == "cracks"
    for path in folder.rglob("*"):
        if path.is_file() and path != certificate:
            text = path.read_bytes().decode("latin1")
            assert "cracks-test" not in text, f"{path} names its images"
            if path.name not in ("run.json",):
                assert "cracks" not in text.replace("(without cracks)", ""), path
    record = json.loads((folder / "run.json").read_text())
    assert [s["name"] for s in record["learned"]] == ["lesions", "nuclei"]
    assert record["forgotten"] == [json.loads(certificate.read_text())]


def test_the_results_go_on_with_a_row_of_how_it_does_now(three: Path, micro: Any, tmp_path: Path) -> None:
    folder = copied(three, tmp_path / "run")
    before = load(folder, micro).results
    forget(folder, "cracks", base=micro, stream=stream("lesions", "cracks", "nuclei"))
    results = load(folder, micro).results
    assert results.stages == ("lesions", "nuclei", "(without cracks)")
    assert results.learned_at == {"lesions": 0, "nuclei": 1}
    assert results.columns == ("lesions", "nuclei", "cracks"), "what it scores on a domain it does not know"
    assert results.cells[(0, "lesions")] == before.cells[(0, "lesions")]
    assert results.cells[(1, "nuclei")] == before.cells[(2, "nuclei")]
    matrix = results.matrix("iou")
    assert average(matrix) == pytest.approx((matrix.last[0] + matrix.last[1]) / 2)
    (line,) = (line for line in as_text(domains_table([("run", results)])).splitlines() if "cracks" in line)
    assert line.endswith("(forgotten)") and "unseen" not in line
    text = page(collect(load_scores(folder), None))
    assert "cracks (forgotten)" in text and "unseen)" not in text
    assert load_scores(folder).results.forgotten == {"cracks"}


@pytest.fixture(scope="module")
def routed(micro: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An independent run of three domains with an unseen one. Nobody writes to it."""
    torch.set_num_threads(1)
    out = tmp_path_factory.mktemp("runs") / "routed"
    given = stream("lesions", "cracks", "nuclei")
    unseen = Stage(3, "shadows", (), SyntheticDomain("shadows", 2, size=64, split="test"))
    run(Stream(given.stages, (unseen,)), config("independent"), out, micro, track="tensorboard")
    return out


def rerouted(results: Results, to: str, where: set[tuple[int, str]]) -> Results:
    """Results in which one image of each of some cells had gone to the module `to`, and no other."""
    scores = {}
    for row, kept in results.scores.items():
        first = {column: next(s.image for s in kept if s.column == column) for r, column in where if r == row}
        scores[row] = tuple(
            replace(
                s,
                route=to if first.get(s.column) == s.image else s.column if row >= 0 else "",
                probability=0.5,
            )
            for s in kept
        )
    return replace(results, scores=scores)


def test_no_score_that_its_module_made_is_left(routed: Path, micro: Any, tmp_path: Path) -> None:
    """Its module answers for images of other domains, too: for learned ones and for those never learned."""
    folder = copied(routed, tmp_path / "run")
    before = load(folder, micro)
    before.results = rerouted(before.results, "cracks", {(1, "nuclei"), (2, "lesions"), (2, "shadows")})
    write(before)
    certificate = forget(folder, "cracks", base=micro, stream=stream("lesions", "nuclei"))
    found = load(folder, micro)
    assert not any(s.route == "cracks" for scores in found.results.scores.values() for s in scores)
    # Of a cell in which one image went there, the others go too: they are no score of the domain.
    assert (1, "lesions") not in found.results.cells and (1, "shadows") not in found.results.cells
    assert {s.column for s in found.results.scores[1]} == {"nuclei"}
    assert found.results.cells[(1, "nuclei")] == before.results.cells[(2, "nuclei")]
    assert set(found.results.cells) >= {(0, "lesions"), (2, "lesions"), (2, "nuclei")}
    assert set(found.record.oracle or {}) == {"lesions", "nuclei"}
    assert found.summary()["oracle"]["iou"] == pytest.approx(
        sum(s["iou"] for s in (found.record.oracle or {}).values()) / 2
    )
    assert not (folder / "tensorboard" / "cracks").exists()
    assert (folder / "tensorboard" / "nuclei").is_dir()
    assert not any(line.stage == "cracks" for line in found.log)
    assert certificate.removed == (
        "its row and its column of the results, with 6 scores of its images",
        "the score of lesions after nuclei: 1 of its images had gone to the module",
        "the score of shadows after nuclei: 1 of its images had gone to the module",
        "its score with its own module (oracle)",
        "its 3 lines of the log",
        "its curves for TensorBoard",
        "the earlier states that held it (2)",
        "its scores in other earlier states (1)",
    )
    assert certificate.kept == ()
    assert json.loads((folder / "forgotten" / "cracks.json").read_text())["removed"] == [*certificate.removed]


def test_the_report_of_what_is_left_shows_no_such_score(routed: Path, micro: Any, tmp_path: Path) -> None:
    folder = copied(routed, tmp_path / "run")
    forget(folder, "cracks", base=micro, stream=stream("lesions", "nuclei"))
    text = page(collect(load(folder, micro), None))
    assert "cracks" not in text.replace("(without cracks)", "")


def test_what_a_shared_adapter_scored_is_kept_and_the_certificate_says_so(
    three: Path, micro: Any, tmp_path: Path
) -> None:
    certificate = forget(copied(three, tmp_path / "run"), "cracks", base=micro)
    assert certificate.kept == (
        "the scores after nuclei, measured when the one adapter of the run held 'cracks'",
    )


def test_an_interruption_before_it_has_cleaned_up_is_made_good(
    three: Path, micro: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, whole = copied(three, tmp_path / "run"), copied(three, tmp_path / "whole")
    forget(whole, "cracks", base=micro)

    def killed(*_: Any) -> None:
        raise KeyboardInterrupt

    for where in ("everseg.runs.folder.save_state", "everseg.runs.forget.forget_events"):
        with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
            patched.setattr(where, killed)
            forget(folder, "cracks", base=micro)
    assert "cracks" not in load(folder, micro).learned
    certificate = forget(folder, "cracks", base=micro)
    assert certificate.to_json() == json.loads((folder / "forgotten" / "cracks.json").read_text())
    ours, theirs = content(folder), content(whole)
    for log in (ours, theirs):
        log.pop("events.jsonl")  # Seconds and memory differ.
    assert ours == theirs
    assert '"cracks"' not in (folder / "events.jsonl").read_text()


def test_it_is_not_learned_again_by_accident(three: Path, micro: Any, tmp_path: Path) -> None:
    folder = copied(three, tmp_path / "run")
    forget(folder, "cracks", base=micro)
    with pytest.raises(UserError, match=r"has forgotten 'cracks'.*give it a new name"):
        run(stream("lesions", "cracks", "nuclei"), config("regcl"), folder, micro)
    run(stream("lesions", "nuclei", "shadows"), config("regcl"), folder, micro)
    assert load(folder, micro).learned == ["lesions", "nuclei", "shadows"]


# ---------------------------------------------------------------- what cannot be exact, or not at all


@pytest.mark.slow
def test_sequential_starts_leave_traces_and_the_certificate_says_which(micro: Any, tmp_path: Path) -> None:
    more = ("start=sequ",)
    folder = learned(micro, tmp_path / "run", "regcl", "lesions", "cracks", "nuclei", more=more)
    last = copied(folder, tmp_path / "last")
    certificate = forget(folder, "cracks", base=micro)
    assert not certificate.exact
    assert "nuclei started from adapters that had seen 'cracks'" in certificate.statement
    # The last domain has taught nobody.
    certificate = forget(last, "nuclei", base=micro)
    never = learned(micro, tmp_path / "never", "regcl", "lesions", "cracks", more=more)
    assert certificate.exact and same_but_for_rounding(state(last), state(never))
    assert all(torch.equal(v, state(never)["last"][n]) for n, v in state(last)["last"].items())


def test_without_what_the_domain_brought_it_says_what_is_missing(
    three: Path, micro: Any, tmp_path: Path
) -> None:
    folder = copied(three, tmp_path / "run")
    kept = tmp_path / "elsewhere.safetensors"
    shutil.move(folder / "domains" / "cracks.safetensors", kept)
    before = content(folder)
    with pytest.raises(UserError, match=r"was not kept.*--from"):
        forget(folder, "cracks", base=micro)
    with pytest.raises(UserError, match="belongs to 'lesions'"):
        forget(folder, "cracks", base=micro, contribution=folder / "domains" / "lesions.safetensors")
    assert content(folder) == before
    assert forget(folder, "cracks", base=micro, contribution=kept).exact


def test_a_mistake_changes_nothing(three: Path, micro: Any, tmp_path: Path) -> None:
    folder = copied(three, tmp_path / "run")
    before = content(folder)
    with pytest.raises(UserError, match=r"has not learned 'crack'; it learned lesions, cracks, nuclei"):
        forget(folder, "crack", base=micro)
    broken = folder / "domains" / "nuclei.safetensors"
    good = broken.read_bytes()
    broken.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    with pytest.raises(UserError, match="checksum differs"):
        forget(folder, "cracks", base=micro)
    broken.write_bytes(good)
    assert content(folder) == before
    other = learned(micro, tmp_path / "sequential", "sequential", "lesions")
    with pytest.raises(UserError, match=r"'sequential' cannot forget a stage.*samcl.*regcl"):
        forget(other, "lesions", base=micro)


def test_no_archive_means_none(micro: Any, tmp_path: Path) -> None:
    how = config("regcl")
    run(
        stream("lesions"),
        RunConfig(how.method, how.settings, "micro", archive=False),
        tmp_path / "run",
        micro,
    )
    assert not (tmp_path / "run" / "domains").exists()
    with pytest.raises(UserError, match="was not kept"):
        forget(tmp_path / "run", "lesions", base=micro)


# ---------------------------------------------------------------- weights


def test_a_domain_can_count_more(three: Path, micro: Any, tmp_path: Path) -> None:
    folder = copied(three, tmp_path / "run")
    original = state(folder)
    reweigh(folder, "cracks", 3.0, base=micro)
    more = state(folder)
    assert more["weights"] == {"lesions": 1.0, "cracks": 3.0, "nuclei": 1.0}
    assert distance(more, original) > 1e-3
    reweigh(folder, "cracks", 1.0, base=micro)
    assert same_but_for_rounding(state(folder), original)
    assert load(folder, micro).results.stages[-2:] == ("(cracks x 3)", "(cracks x 1)")
    # It is forgotten with the weight it has.
    reweigh(folder, "cracks", 0.5, base=micro)
    forget(folder, "cracks", base=micro)
    never = learned(micro, tmp_path / "never", "regcl", "lesions", "nuclei")
    assert same_but_for_rounding(state(folder), state(never))


def test_weights_that_are_none_are_refused(three: Path, micro: Any, tmp_path: Path) -> None:
    folder = copied(three, tmp_path / "run")
    for weight in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(UserError, match="number above 0"):
            reweigh(folder, "cracks", weight, base=micro)
    other = learned(micro, tmp_path / "samcl", "samcl", "lesions")
    with pytest.raises(UserError, match=r"'samcl' cannot weigh domains; methods that can: regcl, merged"):
        reweigh(other, "lesions", 2.0, base=micro)
    with pytest.raises(UserError, match="weighs all domains alike"):
        opcm = learned(micro, tmp_path / "opcm", "merged", "lesions", more=("merger.rule=opcm",))
        reweigh(opcm, "lesions", 2.0, base=micro)
