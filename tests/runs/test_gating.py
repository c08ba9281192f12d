"""Stages that the gate lets into a run, those that it does not, and which stage harmed a domain."""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from everseg import cli
from everseg.data import Stream, SyntheticDomain, write_synthetic_stream
from everseg.domains.methods.zero_shot import ZeroShot
from everseg.errors import UserError
from everseg.files import read_json
from everseg.methods import configure
from everseg.results.gate import GateConfig
from everseg.runs.bisect import bisect
from everseg.runs.folder import is_run, load, read_record
from everseg.runs.forget import forget
from everseg.runs.gate import gate
from everseg.runs.gating import Gating, gating_of
from everseg.runs.history import history, rejected, restore
from everseg.runs.learn import run
from everseg.runs.run import RunConfig
from everseg.types import PromptPrediction, Query, Scratch, Stage, State
from everseg.types.abilities import Archive, Forgotten

METHOD = f"{__name__}:Planted"

TRUTH: dict[str, tuple[str, Tensor]] = {}
"""The domain and the masks of every test image, by the image's key."""

HARM = {"cracks": (("lesions", 0.5),), "shadows": (("lesions", 0.1),)}
"""What learning a stage does to other domains: the share of the rows of every mask that it cuts off; 0.1 only
in one image of three."""


class Planted(ZeroShot):
    """Knows the truth, and loses a part of it when it learns certain stages."""

    def __init__(self, base: Any, config: Any = None, *, seed: int = 0) -> None:
        super().__init__(base, config, seed=seed)
        self.harm: dict[str, float] = {}
        self.names: list[str] = []

    def learn(self, stage: Stage, scratch: Scratch) -> Mapping[str, float]:
        self.harm |= dict(HARM.get(stage.name, ()))
        self.names.append(stage.name)
        return {}

    def predict(self, queries: Sequence[Query]) -> list[PromptPrediction]:
        return [self._one(query) for query in queries]

    def _one(self, query: Query) -> PromptPrediction:
        domain, masks = TRUTH[query.key]
        cut = self.harm.get(domain, 0.0)
        if cut == 0.1 and sum(map(ord, query.key)) % 3:
            cut = 0.0
        found = masks[: len(query.prompts)].clone()
        rows = masks.any(0).any(1).nonzero().flatten()
        found[:, rows[: round(cut * len(rows))]] = False
        size = (int(masks.shape[1]), int(masks.shape[2]))
        return PromptPrediction(found.float() * 20 - 10, torch.full((len(found),), 0.9), size)

    def state_dict(self) -> State:
        return {"harm": dict(self.harm), "names": list(self.names)}

    def load_state_dict(self, state: State) -> None:
        self.harm, self.names = dict(state["harm"]), list(state["names"])

    def forget(self, domain: str, archive: Archive) -> Forgotten:
        self.names.remove(domain)
        return Forgotten(True, "it is gone", {})


def known(stream: Stream) -> Stream:
    """The stream, whose test images are in `TRUTH` from now on."""
    for stage in (*stream.stages, *stream.unseen):
        for sample in stage.test:
            TRUTH[sample.key] = (stage.name, sample.masks)
    return stream


def stream(*domains: str, unseen: Sequence[str] = (), images: int = 9) -> Stream:
    def stage(index: int, name: str, train: bool) -> Stage:
        tests = SyntheticDomain(name, images, size=64, split="test")
        return Stage(index, name, SyntheticDomain(name, 2, size=64) if train else (), tests)

    stages = [stage(i, name, True) for i, name in enumerate(domains)]
    later = [stage(len(stages) + i, name, False) for i, name in enumerate(unseen)]
    return known(Stream(tuple(stages), tuple(later)))


def config(**changed: Any) -> RunConfig:
    return RunConfig(METHOD, configure(METHOD), "micro", **changed)


def files(folder: Path) -> dict[str, bytes]:
    record = read_record(folder)
    return {name: (folder / name).read_bytes() for name in ("run.json", record.state, record.results)}


def numbers(folder: Path) -> list[tuple[int | None, str, str]]:
    return [(each.number, each.what, each.gate) for each in history(folder)]


# ---------------------------------------------------------------- let in


@pytest.mark.slow
def test_where_every_stage_passes_the_run_is_the_one_without_a_gate(micro: Any, tmp_path: Path) -> None:
    given, gating = stream("lesions", "nuclei", unseen=("polyps",)), Gating()
    plain = run(given, config(), tmp_path / "plain", micro)
    run(given, config(), tmp_path / "gated", micro, gating=gating)
    assert files(tmp_path / "gated") == files(plain.folder)
    assert [(s.stage, s.verdict, s.folder) for s in gating.stages] == [
        ("lesions", "pass", None),
        ("nuclei", "pass", None),
    ]
    assert numbers(tmp_path / "gated") == [(1, "lesions", "pass"), (2, "nuclei", "pass")]
    assert not (tmp_path / "gated" / "rejected").exists()
    first, second = (s.gate for s in gating.stages)
    assert first is not None and first.old == "plain"
    assert {c.column: c.kind for c in first.comparisons if c.prompt}.items() >= {"polyps": "unseen"}.items()
    assert second is not None and {c.column for c in second.comparisons} >= {"lesions", "nuclei", "polyps"}


@pytest.mark.slow
def test_a_method_that_trains_ends_with_the_same_bytes(micro: Any, tmp_path: Path) -> None:
    small = ["tune.fit.epochs=1", "tune.fit.batch=2", "selector.size=3", "selector.epochs=2"]
    how = RunConfig("samcl", configure("samcl", assignments=small), "micro")
    given = stream("lesions", "nuclei", images=2)
    run(given, how, tmp_path / "plain", micro)
    gating = Gating(GateConfig(margin=0.99, flip=0.99), undecided="accept")
    run(given, how, tmp_path / "gated", micro, gating=gating)
    assert files(tmp_path / "gated") == files(tmp_path / "plain")
    assert not gating.rejected


# ---------------------------------------------------------------- kept aside


def test_a_stage_that_harms_another_is_kept_aside_and_the_run_is_what_it_was(
    micro: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, given, gating = tmp_path / "run", stream("lesions", "cracks", "nuclei"), Gating()
    run(given, config(), out, micro, until="lesions", gating=gating)
    before = files(out)
    run(given, config(), out, micro, until="cracks", gating=gating)
    assert files(out) == before
    (aside,) = gating.rejected
    assert aside.folder is not None and aside.stage == "cracks" and aside.verdict == "fail"
    record = read_record(aside.folder)
    assert record.sha256 is not None
    assert aside.folder == out / "rejected" / f"cracks-{record.sha256.state[:12]}"
    assert "worse than" in capsys.readouterr().err
    (told,) = rejected(out)
    assert (told.stage, told.verdict, told.folder) == ("cracks", "fail", aside.folder)
    assert told.why[0].startswith("lesions, ") and "falls by 0.5" in told.why[0]
    # It is a run of its own, which the gate still finds worse.
    kept = load(aside.folder, micro)
    assert kept.learned == ["lesions", "cracks"]
    assert gate(kept, load(out, micro), stream=given).verdict == "fail"
    # The same command judges it again, keeps it once, and goes on with the next stage.
    run(given, config(), out, micro, gating=gating)
    assert numbers(out) == [(1, "lesions", "pass"), (2, "nuclei", "pass")]
    assert [each.folder for each in rejected(out)] == [aside.folder]
    assert load(out, micro).learner.state_dict() == {"harm": {}, "names": ["lesions", "nuclei"]}
    assert load(out, micro).summary()["history_bytes"] > 0


def test_a_stage_of_which_the_gate_cannot_tell(micro: Any, tmp_path: Path) -> None:
    out, given = tmp_path / "run", stream("lesions", "shadows")
    gating = Gating()
    run(given, config(), out, micro, gating=gating)
    assert [(s.stage, s.verdict) for s in gating.rejected] == [("shadows", "cannot tell")]
    assert load(out, micro).learned == ["lesions"]
    accepting = Gating(undecided="accept")
    run(given, config(), out, micro, gating=accepting)
    assert not accepting.rejected and accepting.stages[0].verdict == "cannot tell"
    assert numbers(out) == [(1, "lesions", "pass"), (2, "shadows", "cannot tell")]
    assert rejected(out) == [], "what was accepted since is not kept twice"
    with pytest.raises(UserError, match="answer to an undecided gate 'perhaps'"):
        Gating(undecided="perhaps")  # type: ignore[arg-type]


def test_a_first_stage_that_is_rejected_leaves_no_run(micro: Any, tmp_path: Path) -> None:
    out, given = tmp_path / "run", stream("cracks", unseen=("lesions",))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(f"{__name__}.Planted.predict", lambda self, queries: empty(queries))
        with pytest.raises(UserError, match=r"no stage passed the gate, so .* holds no run; see .*cracks-"):
            run(given, config(), out, micro, gating=Gating())
    assert not is_run(out) and len(rejected(out)) == 1
    assert run(given, config(), out, micro).learned == ["cracks"]


def empty(queries: Sequence[Query]) -> list[PromptPrediction]:
    """Predictions without a pixel, of which the base has more."""
    return [
        PromptPrediction(torch.full((len(q.prompts), 64, 64), -10.0), torch.zeros(len(q.prompts)), (64, 64))
        for q in queries
    ]


def test_a_stage_that_cannot_be_compared_is_refused_before_it_is_learned(micro: Any, tmp_path: Path) -> None:
    bare = Stream((Stage(0, "lesions", SyntheticDomain("lesions", 2, size=64), ()),))
    with pytest.raises(UserError, match=r"stage 'lesions' cannot be gated: .* has no test images"):
        run(bare, config(), tmp_path / "run", micro, gating=Gating())
    assert not (tmp_path / "run" / "work").exists()


def test_a_later_call_that_does_not_say_uses_the_gate_again(micro: Any, tmp_path: Path) -> None:
    out, given = tmp_path / "run", stream("lesions", "cracks", "nuclei")
    assert gating_of(out, None) is None and gating_of(out, False) is None
    fine = GateConfig(margin=0.02)
    run(given, config(), out, micro, until="lesions", gating=Gating(fine, undecided="accept"))
    again = gating_of(out, None)
    assert again is not None and again.config == fine and again.undecided == "aside"
    run(given, config(), out, micro, until="cracks", gating=again)
    assert [each.stage for each in again.rejected] == ["cracks"]
    assert gating_of(out, True).config == fine and gating_of(out, False) is None  # type: ignore[union-attr]
    assert numbers(out) == [(1, "lesions", "pass")]
    (out / "history" / "gating.json").write_text('{"margin": "much"}')
    with pytest.raises(UserError, match=r"gating.json: setting 'margin' is damaged"):
        gating_of(out, None)


def test_forgetting_takes_rejected_stages_and_verdicts_with_it(micro: Any, tmp_path: Path) -> None:
    out, given = tmp_path / "run", stream("lesions", "nuclei", "cracks")
    run(given, config(), out, micro, gating=Gating())
    assert len(rejected(out)) == 1 and (out / "history" / "gate-001.json").is_file()
    certificate = forget(out, "nuclei", base=micro)
    assert "the rejected stages that were learned after it or compared on it (1)" in certificate.removed
    assert rejected(out) == []
    for path in out.rglob("*"):
        if path.is_file() and path.name not in ("run.json", "nuclei.json"):
            assert "nuclei" not in path.read_text(errors="replace").replace("(without nuclei)", ""), path
    assert numbers(out)[0] == (1, "lesions", "pass")


# ---------------------------------------------------------------- which stage it was


def test_the_stage_that_harmed_a_domain_is_found(micro: Any, tmp_path: Path) -> None:
    done = run(stream("lesions", "nuclei", "cracks", "polyps"), config(), tmp_path / "run", micro)
    found = bisect(done.folder, "lesions")
    assert [(s.stage, s.state, s.before) for s in found.steps] == [
        ("nuclei", 2, 1),
        ("cracks", 3, 2),
        ("polyps", 4, 3),
    ]
    assert found.culprit == found.steps[1]
    assert found.culprit.old == 1 and found.culprit.new == pytest.approx(0.5, abs=0.1)
    assert found.culprit.p_value < 0.02 and found.culprit.images == 9
    assert found.steps[0].p_value == found.steps[2].p_value == 1
    assert f"everseg restore {done.folder} --to 2 (without cracks, polyps;" in found.advice[0]
    assert f"everseg forget {done.folder} --stage cracks" in found.advice[1]
    assert bisect(done.folder, "nuclei").culprit is None
    lower = bisect(done.folder, "lesions", metric="mae").culprit
    assert lower is not None and lower.stage == "cracks" and lower.new > lower.old


def test_what_was_not_scored_is_scored_with_the_states_that_are_kept(micro: Any, tmp_path: Path) -> None:
    """An unseen domain is scored after the last stage only."""
    given = stream("nuclei", "cracks", "polyps", unseen=("lesions",))
    done = run(given, config(), tmp_path / "run", micro)
    found = bisect(done.folder, "lesions", stream=given, base=micro)
    assert [s.stage for s in found.steps] == ["nuclei", "cracks", "polyps"]
    assert found.culprit is not None and found.culprit.stage == "cracks"
    assert load(done.folder, micro).results.cells == done.results.cells, "nothing is written"
    assert [s.stage for s in bisect(done.folder, "lesions").steps] == ["polyps"]
    restore(done.folder, 1)
    with pytest.raises(UserError, match="unknown domain 'polyps'"):
        bisect(done.folder, "polyps")
    with pytest.raises(UserError, match="unknown metric 'dice'"):
        bisect(done.folder, "nuclei", metric="dice")
    with pytest.raises(UserError, match="was scored on 'nuclei' after one stage only"):
        bisect(done.folder, "nuclei")


# ---------------------------------------------------------------- the commands

Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def everseg_command(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Any:
    """The console command in this process: exit code, standard output, standard error."""
    monkeypatch.setenv("COLUMNS", "200")
    before = signal.getsignal(signal.SIGINT)

    def call(*arguments: object) -> tuple[int, str, str]:
        capfd.readouterr()
        monkeypatch.setattr(sys, "argv", ["everseg", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        said = capfd.readouterr()
        return int(ended.value.code or 0), said.out, said.err

    yield call
    signal.signal(signal.SIGINT, before)


@pytest.mark.slow
def test_the_commands_say_what_became_of_each_stage(
    everseg_command: Command, micro_folder: Path, tmp_path: Path
) -> None:
    path = write_synthetic_stream(
        tmp_path / "data", ("lesions", "shadows", "cracks"), train=2, test=9, size=64, background=False
    )
    known(Stream.from_yaml(path))
    out = tmp_path / "run"
    given = ["learn", path, "--out", out, "--base", micro_folder, "--method", METHOD]
    code, said, err = everseg_command(*given, "--margin", "0.1")
    assert code == 2 and "--margin is an option of the gate; give --gate as well" in err
    code, said, err = everseg_command(*given, "--gate", "--until", "shadows")
    assert code == 3 and "gate: cannot tell:" in err and "it is kept aside in" in err
    assert "repeat the command with --undecided accept" in err
    code, said, err = everseg_command(*given, "--gate", "--undecided", "accept", "--json")
    assert code == 1 and "gate: fail:" in err
    told = json.loads(said)
    assert told["learned"] == ["lesions", "shadows"]
    assert [(s["stage"], s["verdict"], s["accepted"]) for s in told["gate"]] == [
        ("shadows", "cannot tell", True),
        ("cracks", "fail", False),
    ]
    folder = Path(told["gate"][1]["folder"])
    assert (
        "<html" in (folder / "gate.html").read_text() and read_json(folder / "gate.json")["verdict"] == "fail"
    )
    code, said, err = everseg_command("history", out)
    assert code == 0 and "gate: cannot tell" in said
    assert f"rejected: cracks (fail), kept in {folder}" in said
    code, said, err = everseg_command(*given)  # As before: with the gate.
    assert code == 1 and "gate: fail:" in err
    assert everseg_command(*given, "--no-gate")[0] == 0  # Without the gate it is learned.
    code, said, err = everseg_command("bisect", out, "--domain", "lesions")
    assert code == 0 and "cracks harmed lesions: iou" in said and f"everseg restore {out} --to 2" in said
    told = json.loads(everseg_command("bisect", out, "--domain", "lesions", "--json")[1])
    assert told["culprit"]["stage"] == "cracks" and len(told["steps"]) == 2
