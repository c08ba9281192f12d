"""The verbs of a run on a stream of classes, each as a person types it."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from everseg.cli import main
from everseg.data import Stream, SyntheticDomain
from everseg.methods import METHODS, configure
from everseg.runs.folder import load, write
from everseg.runs.learn import run
from everseg.runs.problem import problem_of
from everseg.runs.record import First
from everseg.runs.run import RunConfig
from everseg.types import Stage

COLOURS = np.array([[110, 110, 110], [230, 30, 30], [30, 230, 30], [40, 60, 240]], np.uint8)
SMALL = ["tune.crop=64", *(f"tune.{w}.{k}" for w in ("first", "later") for k in ("epochs=2", "batch=4"))]
STREAM = """\
classes: [red, green, blue]
train: train
test: test
stages:
  - {name: one, classes: [red, green]}
"""
TWO = "  - {name: two, classes: [blue]}\n"

pytestmark = pytest.mark.usefixtures("micro_backbone")


@dataclass(frozen=True)
class Said:
    code: int
    out: str
    err: str


Command = Callable[..., Said]


@pytest.fixture
def everseg(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    def run(*words: object) -> Said:
        monkeypatch.setattr("sys.argv", ["everseg", *map(str, words)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main()
        told = capsys.readouterr()
        return Said(int(ended.value.code or 0), told.out, told.err)

    return run


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Coloured blocks on grey, with class maps; the stream has one stage yet."""
    root = tmp_path_factory.mktemp("classes")
    rng = np.random.default_rng(0)
    for split, count in (("train", 8), ("test", 3)):
        for kind in ("images", "masks"):
            (root / split / kind).mkdir(parents=True)
        for i in range(count):
            labels = np.zeros((64, 80), np.uint8)
            for c in (1 + i % 2, 3):
                top, left = rng.integers(0, 40), rng.integers(0, 50)
                labels[top : top + 24, left : left + 24] = c
            image = COLOURS[labels] + rng.integers(0, 20, (64, 80, 1)).astype(np.uint8)
            Image.fromarray(image).save(root / split / "images" / f"{i}.png")
            Image.fromarray(labels).save(root / split / "masks" / f"{i}.png")
    (root / "one.yaml").write_text(STREAM)
    (root / "two.yaml").write_text(STREAM + TWO)
    (root / "swapped.yaml").write_text(STREAM.replace("[red, green]", "[green, red]") + TWO)
    return root


@pytest.fixture(scope="module")
def learned(folder: Path, micro_backbone_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """EIR after both stages; nobody changes it."""
    torch.set_num_threads(1)
    out = tmp_path_factory.mktemp("runs") / "eir"
    with pytest.MonkeyPatch.context() as patch:
        for stream in ("one.yaml", "two.yaml"):
            patch.setattr(
                "sys.argv", ["everseg", *command(folder / stream, "eir", micro_backbone_folder, out)]
            )
            with pytest.raises(SystemExit) as ended:
                main()
            assert not ended.value.code
    return out


def command(stream: Path, method: str, base: Path, out: Path, *more: str) -> list[str]:
    given = ["learn", stream, "--method", method, "--base", base, "--out", out, "--score", "size=64"]
    return [str(word) for word in [*given, *(w for s in SMALL for w in ("--set", s)), *more]]


def test_a_stage_was_appended_and_learned(everseg: Command, learned: Path, folder: Path) -> None:
    run = load(learned)
    assert run.learned == ["one", "two"]
    assert run.classes == ("background", "red", "green", "blue")
    assert run.results.columns == run.classes
    assert run.results.learned_at == {"background": 0, "red": 0, "green": 0, "blue": 1}
    assert set(run.summary()["stored_bytes"]) == {"segmenter", "pool", "posterior"}
    assert 0 < run.summary()["stored_bytes"]["pool"] < 50_000


def test_the_figures_of_classes(
    everseg: Command, learned: Path, folder: Path, micro_backbone_folder: Path
) -> None:
    again = everseg(*command(folder / "two.yaml", "eir", micro_backbone_folder, learned, "--json"))
    assert again.code == 0
    told = json.loads(again.out)
    assert set(told["means"]) == {"old", "new", "all", "harmonic", "average_over_steps"}
    cells = load(learned).results.matrix("iou").values
    assert told["means"]["all"] == pytest.approx(cells[1].mean())
    assert told["means"]["old"] == pytest.approx(cells[1, :3].mean())
    assert told["means"]["new"] == pytest.approx(cells[1, 3])
    assert told["means"]["average_over_steps"] == pytest.approx((cells[0, :3].mean() + cells[1].mean()) / 2)


@pytest.mark.slow
def test_compare_holds_each_class_against_a_joint_run(
    everseg: Command, learned: Path, folder: Path, micro_backbone_folder: Path, tmp_path: Path
) -> None:
    joint = tmp_path / "joint"
    assert everseg(*command(folder / "two.yaml", "joint-classes", micro_backbone_folder, joint)).code == 0
    told = json.loads(everseg("compare", learned, joint, "--json").out)[str(learned)]
    assert set(told["alone_from"].values()) == {"joint"} and told["further"]["missing"] == {}
    cells, alone = load(learned).results.cells, load(joint).results.cells
    gains = [
        cells[(row, name)]["iou"] - alone[(0, name)]["iou"]
        for name, row in load(learned).results.learned_at.items()
    ]
    assert told["scores"]["iou"]["plasticity"] == pytest.approx(sum(gains) / 4)
    assert set(told["further"]["domains"]) == {"background", "red", "green", "blue", "one", "two"}
    assert told["further"]["domains"]["two"] == {"flips": 0.0}
    single = json.loads(everseg("compare", learned, "--json").out)[str(learned)]
    assert single["scores"]["iou"]["plasticity"] is None
    assert "red" in single["further"]["missing"]["plasticity"]
    shown = everseg("compare", learned, joint)
    assert shown.code == 0 and "modules trained alone are taken from joint" in shown.out


def test_evaluating_gives_the_last_row_again_and_other_sizes(everseg: Command, learned: Path) -> None:
    found = everseg("evaluate", learned, "--json")
    values = load(learned).results.matrix("iou").values[-1]
    assert [v["iou"] for v in json.loads(found.out).values()] == pytest.approx(list(values))
    full = everseg("evaluate", learned, "--json", "--score", "size=original")
    assert set(json.loads(full.out)) == {"background", "red", "green", "blue"}
    refused = everseg("evaluate", learned, "--oracle")
    assert refused.code == 2 and "learns classes; leave it out" in refused.err


def test_the_gate_compares_classes_and_images_without_prompts(
    everseg: Command, learned: Path, tmp_path: Path
) -> None:
    same = everseg("gate", learned, "--against", learned)
    assert same.code == 0 and "PASS: " in same.out and "so prompts are not checked" in same.out
    refused = everseg("gate", learned, "--against", "plain")
    assert refused.code == 2 and "predicts no classes; name a run" in refused.err
    shutil.copytree(learned, tmp_path / "damaged")
    run = load(tmp_path / "damaged")
    with torch.no_grad():
        run.learner.state_dict()["segmenter"]["classifiers.1.bias"].add_(1000)  # Everything is red.
    write(run)
    files = [word for kind in ("json", "junit", "html") for word in (f"--{kind}", tmp_path / f"gate.{kind}")]
    done = everseg("gate", tmp_path / "damaged", "--against", learned, *files)
    told = json.loads((tmp_path / "gate.json").read_text())
    assert done.code in (1, 3) and told["health"] is None
    assert [c["column"] for c in told["comparisons"]] == ["background", "red", "green", "blue", "images"]
    assert told["comparisons"][-1]["harmed"] == len(told["flips"]) > 0
    assert "mIoU" in (tmp_path / "gate.html").read_text()
    assert (tmp_path / "gate.junit").read_text().count("<testcase") == 5


def test_the_gate_does_not_pass_a_run_that_lacks_a_class(
    everseg: Command, learned: Path, folder: Path, micro_backbone_folder: Path, tmp_path: Path
) -> None:
    first = command(folder / "one.yaml", "mib", micro_backbone_folder, tmp_path / "before")
    assert everseg(*first).code == 0
    fewer = everseg("gate", tmp_path / "before", "--against", learned, "--json", tmp_path / "fewer.json")
    told = json.loads((tmp_path / "fewer.json").read_text())
    assert fewer.code in (1, 3) and told["verdict"] != "pass"
    assert told["left_out"] == [f"'blue' is not compared, since {tmp_path / 'before'} has not learned it"]
    assert told["left_out"][0] in fewer.out
    assert "Compare a run that has learned it in its place" in fewer.out
    assert "Restore its test images" not in fewer.out
    everseg("gate", learned, "--against", tmp_path / "before", "--json", tmp_path / "more.json")
    assert json.loads((tmp_path / "more.json").read_text())["left_out"] == []


def test_predicting_writes_a_class_map(everseg: Command, learned: Path, folder: Path, tmp_path: Path) -> None:
    image = folder / "test" / "images" / "0.png"
    done = everseg("predict", learned, image, "--out", tmp_path, "--json")
    (record,) = json.loads(done.out)
    drawn = Image.open(tmp_path / record["file"])
    assert drawn.mode == "P" and drawn.size == (80, 64)
    channels = np.asarray(drawn)
    assert [c["name"] for c in record["classes"]] == ["background", "red", "green", "blue"]
    assert [c["pixels"] for c in record["classes"]] == np.bincount(channels.ravel(), minlength=4).tolist()
    assert (tmp_path / "0_overlay.png").is_file()
    assert json.loads((tmp_path / "0.json").read_text()) == record
    again = everseg("predict", learned, image, "--out", tmp_path)
    assert again.code == 0 and "0_classes.png" in again.out
    tiles = everseg("predict", learned, image, "--out", tmp_path / "tiles", "--tile", "48", "--halo", "8")
    assert tiles.code == 0
    assert np.asarray(Image.open(tmp_path / "tiles" / "0_classes.png")).shape == (64, 80)
    coco = everseg("predict", learned, image, "--out", tmp_path / "coco", "--format", "coco", "--no-overlay")
    assert coco.code == 0
    results = json.loads((tmp_path / "coco" / "predictions.coco.json").read_text())
    assert {r["category_id"]: r["area"] for r in results} == {
        c["channel"]: c["pixels"] for c in record["classes"][1:] if c["pixels"]
    }
    (tmp_path / "0.json").unlink()
    drawn.save(tmp_path / "0_classes.png")
    refused = everseg("predict", learned, image, "--out", tmp_path)
    assert refused.code == 3 and "already exists and was not written by everseg" in refused.err
    clicked = everseg("predict", learned, image, "--out", tmp_path, "--point", "1,2")
    assert clicked.code == 2 and "leave clicks and boxes out" in clicked.err


def test_joint_is_held_against_steps(
    everseg: Command, learned: Path, folder: Path, micro_backbone_folder: Path, tmp_path: Path
) -> None:
    joint = tmp_path / "joint"
    done = everseg(*command(folder / "two.yaml", "joint-classes", micro_backbone_folder, joint))
    assert done.code == 0
    assert "mean IoU of classes: old 0." in done.out and "new 0." in done.out
    shown = everseg("compare", learned, joint)
    assert shown.code == 0 and "joint-classes" in shown.out
    told = json.loads(everseg("compare", joint, "--json").out)[str(joint)]
    cells = load(joint).results.matrix("iou").values[0]
    assert told["means"]["old"] == pytest.approx(cells[:3].mean())
    assert told["means"]["new"] == pytest.approx(cells[3])
    again = everseg("evaluate", joint, "--json")
    assert [v["iou"] for v in json.loads(again.out).values()] == pytest.approx(list(cells))


def test_runs_of_classes_and_of_domains_are_compared_apart(
    everseg: Command, learned: Path, micro: Any, tmp_path: Path
) -> None:
    stage = Stage(0, "lesions", (), SyntheticDomain("lesions", 1, size=64, split="test"))
    how = RunConfig("zero-shot", configure("zero-shot"), "micro")
    run(Stream((stage,)), how, tmp_path / "plain", micro)
    shown = everseg("compare", learned, tmp_path / "plain")
    assert shown.code == 0 and "are scored differently" in shown.err
    classes, domains = shown.out.split("runs of domains: iou")
    assert "runs of classes: iou" in classes and "zero-shot" not in classes and "zero-shot" in domains
    assert "lesions" in domains and "(base 0." in domains
    assert "scored on different" not in shown.err
    cracks = Stage(0, "cracks", (), SyntheticDomain("cracks", 1, size=64, split="test"))
    run(Stream((cracks,)), how, tmp_path / "other", micro)
    odd = everseg("compare", tmp_path / "plain", tmp_path / "other")
    assert "plain and other were scored on different domains" in odd.err
    alone = everseg("compare", learned)
    assert (alone.code, alone.err) == (0, "") and "runs of" not in alone.out and "at the end" not in alone.out


@pytest.mark.slow
def test_methods_share_a_first_step(
    everseg: Command, folder: Path, micro_backbone_folder: Path, tmp_path: Path
) -> None:
    def learn(method: str, out: str, *more: object, stream: str = "two.yaml") -> Said:
        more = ("--defaults", "preset", *more)
        return everseg(*command(folder / stream, method, micro_backbone_folder, tmp_path / out, *more))

    assert learn("dkd", "given", "--until", "one").code == 0
    given = load(tmp_path / "given")
    assert given.learned == ["one"]
    shared = ("--first-stage", tmp_path / "given")
    assert learn("dkd", "memory", *shared, "--set", "memory=3", "--until", "one").code == 0
    taken = load(tmp_path / "memory")
    assert taken.results.matrix("iou").values[0] == pytest.approx(given.results.matrix("iou").values[0])
    assert len(taken.learner.memory) == 3  # type: ignore[attr-defined]
    assert taken.record.first == First("dkd", 0, given.record.sha256.state)
    for name, tensor in given.learner.state_dict()["segmenter"].items():
        assert torch.equal(tensor, taken.learner.state_dict()["segmenter"][name]), name
    # The same command goes on, as it does after an interruption, and so does one without the other run.
    assert learn("dkd", "memory", *shared, "--set", "memory=3").code == 0
    assert load(tmp_path / "memory").learned == ["one", "two"]
    assert load(tmp_path / "memory").summary()["stored_bytes"]["memory"] > 0

    def refused(*words: Any, **more: Any) -> str:
        said = learn(*words, **more)
        assert said.code == 2 and said.err.count("\n") == 1, said
        assert not (tmp_path / words[1] / "run.json").exists() or words[1] == "fresh"
        return str(said.err)

    told = refused("mib", "a", *shared)
    assert (
        "MiB trains cross-entropy in its first step, but DKD trains BCE (positives times 2) and 1 times AC"
        in told
    )
    assert "SSUL trains BCE of background and classes, with nothing unknown," in refused("ssul", "b", *shared)
    told = refused("eir", "c", *shared, "--set", "background=true")
    assert "EIR trains BCE (positives times 2) with a background channel and 1 times AC" in told
    assert learn("eir", "c", *shared, "--until", "one").code == 0
    told = refused("dkd", "i", *shared, "--set", "gamma=3")
    assert "DKD trains BCE (positives times 3) and 1 times AC" in told and "(positives times 2)" in told
    assert "learned 'one' only" in refused("dkd", "d", "--first-stage", tmp_path / "memory")
    assert "learned 'all-classes' only" in refused("joint-classes", "e", *shared)
    assert "holds no run" in refused("dkd", "f", "--first-stage", tmp_path / "nowhere")
    assert "did you mean 'one'" in refused("dkd", "g", "--until", "onn")
    assert learn("dkd", "fresh", "--until", "one", "--seed", 1).code == 0
    assert "did not start from the present state of" in refused("dkd", "fresh", "--seed", 1, *shared)
    assert "from the same data" in refused("dkd", "h", *shared, stream="swapped.yaml")


def test_eir_cuts_instances_out_of_a_step_that_it_took_over(
    everseg: Command, learned: Path, folder: Path, micro_backbone_folder: Path, tmp_path: Path
) -> None:
    def learn(out: str, *more: object) -> None:
        given = command(folder / "one.yaml", "eir", micro_backbone_folder, tmp_path / out, *more)
        assert everseg(*given).code == 0

    learn("given")
    learn("taken", "--first-stage", tmp_path / "given")
    pools = [load(tmp_path / name).learner.pool.items for name in ("given", "taken")]  # type: ignore[attr-defined]
    assert pools[0].keys() == pools[1].keys() and len(pools[0]) > 0


def test_what_does_not_fit_is_said_in_a_sentence(
    everseg: Command, learned: Path, folder: Path, micro_backbone_folder: Path, tmp_path: Path
) -> None:
    def refused(*words: object) -> str:
        said = everseg(*words)
        assert said.code == 2, said
        assert said.err.count("\n") == 1
        return str(said.err)

    two = folder / "two.yaml"
    wrong = refused("learn", two, "--method", "samcl", "--out", tmp_path / "a")
    assert "has classes, but method 'samcl' learns domains of prompted objects" in wrong
    assert all(m in wrong for m in METHODS if problem_of(m).name == "classes")
    swapped = command(folder / "swapped.yaml", "eir", micro_backbone_folder, learned)
    assert "the run learned red, green as 'one', but " in refused(*swapped)
    shorter = command(folder / "one.yaml", "eir", micro_backbone_folder, learned)
    assert "now has nothing in its place; leave" in refused(*shorter)
    unknown = refused("learn", two, "--method", "eir", "--base", "nowhere", "--out", tmp_path / "b")
    assert "mobilenet_v2" in unknown
    assert "learns classes; give the stream file that has them" in refused("doctor", "--method", "eir")
    assert "has classes, but method 'samcl' learns domains" in refused(
        "doctor", "--method", "samcl", "--stream", two
    )
    assert "only domains are forgotten" in refused("forget", learned, "--stage", "one")
    assert "can be merged" in refused("merge", learned, "--out", tmp_path / "c")
    assert "--to onnx or --to torch" in refused("export", learned, "--to", "sam", "--out", tmp_path / "d")
    domains = tmp_path / "domains.yaml"
    domains.write_text(
        "stages:\n  - {name: a, train: {kind: synthetic, domain: lesions, count: 2},"
        " test: {kind: synthetic, domain: lesions, count: 2}}\n"
    )
    other = refused(
        "learn", domains, "--method", "eir", "--base", micro_backbone_folder, "--out", tmp_path / "e"
    )
    assert "has domains of prompted objects, but method 'eir' learns classes; methods for this" in other


@pytest.mark.slow
def test_an_interrupted_run_of_classes_ends_with_the_same_bytes(
    everseg: Command,
    folder: Path,
    micro_backbone_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from everseg.runs.scratch import StageScratch

    whole, broken = (
        command(folder / "two.yaml", "dkd", micro_backbone_folder, tmp_path / name, "--set", "memory=3")
        for name in ("whole", "broken")
    )
    assert everseg(*whole).code == 0
    save = StageScratch.save

    def once(self: StageScratch, name: str, state: object) -> None:
        save(self, name, state)  # type: ignore[arg-type]
        raise OSError(28, "No space left on device", "disk")

    with monkeypatch.context() as patch:
        patch.setattr(StageScratch, "save", once)
        assert everseg(*broken).code == 2
    assert (tmp_path / "broken" / "work" / "one").is_dir()
    assert everseg(*broken).code == 0
    ours, theirs = (
        sorted(p.read_bytes() for p in (tmp_path / name).glob("state-*")) for name in ("whole", "broken")
    )
    assert ours == theirs


# ---------------------------------------------------------------- defaults from the data


@pytest.mark.slow
def test_a_stream_of_classes_is_learned_by_eir_with_defaults_from_its_images(
    everseg: Command, folder: Path, tmp_path: Path
) -> None:
    """What was chosen is said once, recorded, and kept when the stream has grown; what is given wins."""
    given = ("--set", "tune.first.steps=2", "--set", "tune.later.steps=2", "--set", "tune.first.batch=2")
    first = everseg("learn", folder / "one.yaml", "--out", tmp_path / "run", *given)
    assert first.code == 0 and first.err.count("chosen for 8 images with short sides of 64 pixels") == 1
    begun = load(tmp_path / "run")
    assert begun.config.method == "eir" and begun.config.score.size == "original"
    assert begun.config.settings.tune.first.steps == 2 and begun.config.settings.tune.first.batch == 2
    assert begun.config.settings.tune.crop == begun.config.proposed["tune.crop"] == 96
    again = everseg("learn", folder / "two.yaml", "--out", tmp_path / "run", *given)
    assert again.code == 0 and "chosen" not in again.err
    assert load(tmp_path / "run").learned == ["one", "two"]
    refused = everseg(
        "learn", folder / "two.yaml", "--out", tmp_path / "run", *given, "--set", "tune.crop=64"
    )
    assert refused.code == 2 and "tune.crop is 64 now and was 96" in refused.err
    assert "repeat the command with --set tune.crop=96, or" in refused.err
    refused = everseg("learn", folder / "two.yaml", "--out", tmp_path / "run", *given, "--defaults", "preset")
    told = "(defaults is 'preset' now and was 'data'); repeat the command with --defaults data, or"
    assert refused.code == 2 and told in refused.err
    for words in (("--method", "mib"), ("--preset", "reference")):
        refused = everseg("learn", folder / "two.yaml", "--out", tmp_path / "run", *words)
        option = f"{words[0]} {'eir' if words[1] == 'mib' else 'paper'}"
        told = f"repeat the command with {option} and its --set and --score, if there were any, or"
        assert refused.code == 2 and told in refused.err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--until", "three"), "unknown stage 'three': "),
        (("--first-stage", "nothing"), "nothing holds no run"),
        (("--out", "taken"), "taken is not empty and holds no run; choose another --out"),
        (("--out", "file/run"), "cannot write to file/run: file is a file; choose a folder"),
    ],
)
def test_what_needs_no_image_is_refused_before_images_are_looked_at(
    everseg: Command,
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    words: tuple[str, ...],
    said: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("taken").mkdir()
    Path("taken", "notes.txt").touch()
    Path("file").touch()
    out = () if "--out" in words else ("--out", "run")
    refused = everseg("learn", folder / "two.yaml", *out, *words)
    assert refused.code == 2 and refused.err.startswith(f"error: {said}") and refused.err.count("\n") == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "taken"]


@pytest.mark.slow
def test_a_preset_is_what_it_is_where_that_is_asked_for(
    everseg: Command, folder: Path, tmp_path: Path
) -> None:
    for n, words in enumerate((("--defaults", "preset"), ("--preset", "reference"))):
        run, few = tmp_path / str(n), ("--set", "tune.first.epochs=0", "--set", "paste.cell=8")
        said = everseg("learn", folder / "one.yaml", "--out", run, *few, *words)
        assert said.code == 0 and "chosen" not in said.err
        config = load(run).config
        assert (config.settings.tune.crop, config.score.size, dict(config.proposed)) == (512, 512, {})


def test_a_class_that_is_not_recognised_is_told_with_what_to_try(
    everseg: Command, folder: Path, tmp_path: Path
) -> None:
    few = ("--set", "tune.first.steps=1", "--set", "tune.first.batch=2")
    said = everseg("learn", folder / "one.yaml", "--out", tmp_path / "run", *few)
    told = re.search(
        r"! ((red|green) ends at IoU 0\.0\d\d: it is not recognised(, or no test image shows it)?); "
        "try to train the first",
        said.out,
    )
    assert told, said.out
    assert f"! {told[1]}" in everseg("compare", tmp_path / "run").out
    found = json.loads(everseg("compare", tmp_path / "run", "--json").out)
    assert any(line.startswith(told[1]) for line in next(iter(found.values()))["warnings"])
    assert everseg("report", tmp_path / "run").code == 0
    page = (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    assert "What ended badly" in page and told[1] in page


def test_memory_that_runs_out_is_reported(everseg: Command, folder: Path, tmp_path: Path) -> None:
    said = everseg("learn", folder / "one.yaml", "--out", tmp_path / "run", "--set", "tune.crop=10000000")
    assert (said.code, said.err.count("error: memory ran out; ")) == (2, 1), said.err
    few = ("--set", "tune.first.steps=1", "--set", "tune.first.batch=2")
    assert everseg("learn", folder / "one.yaml", "--out", tmp_path / "run", *few).code == 0


@pytest.mark.slow
def test_the_doctor_says_what_would_be_chosen_and_what_it_would_take(
    everseg: Command, folder: Path, tmp_path: Path
) -> None:
    few = ("--set", "tune.first.batch=2", "--set", "tune.later.batch=2", "--set", "tune.crop=64")
    said = everseg("doctor", "--stream", folder / "two.yaml", *few)
    assert said.code == 0 and "chosen for 8 + 8 images" in said.err
    assert "gamma_later" not in said.out, "said once"
    assert "per gradient step of 2 crops of 64 pixels" in said.out
    assert "one  8 images, 300 gradient steps: training" in said.out
    assert "two  8 images, 450 gradient steps: training" in said.out
    found = json.loads(everseg("doctor", "--stream", folder / "two.yaml", *few, "--json").out)
    assert found["method"] == "eir" and found["proposed"]["tune.later.steps"] == 450
    steps = sum(s["training"] + s["scoring"] for s in found["stages"])
    assert found["seconds"] == pytest.approx(steps) and len(found["step_seconds"]) == 2
