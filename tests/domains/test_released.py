"""The published modules and those that the published code trains: read as data, and made a run."""

from __future__ import annotations

import dataclasses
import json
import os
import pickle
import shutil
import signal
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
import yaml
from torch import Tensor, nn

from everseg import cli
from everseg.data import Stream, write_synthetic_stream
from everseg.domains.adapters.aug import RELEASED, AugModule
from everseg.domains.methods.samcl import SAMCL
from everseg.domains.released import (
    ORDER,
    SELECTOR,
    check_fits,
    read_folder,
    read_module,
)
from everseg.domains.scoring import score
from everseg.domains.selector import ModuleSelector
from everseg.errors import UserError
from everseg.files import sha256_file
from everseg.methods import configure
from everseg.results import average, forgetting, routing
from everseg.runs.adopt import ROW, adopt_samcl
from everseg.runs.folder import load
from everseg.runs.learn import run
from everseg.runs.run import Run
from everseg.types import NoScratch

SMALL = ("tune.fit.epochs=1", "tune.fit.batch=4", "selector.size=3", "selector.epochs=2")
NAMES = ("lesions", "cracks", "natural")


# ---------------------------------------------------------------- files as the published code writes them


class Extra(nn.Module):
    """Has the name and the children that the published files name; the names are all there is in common."""

    def __init__(self, children: Mapping[str, nn.Module]) -> None:
        super().__init__()
        for name, child in children.items():
            self.add_module(name, child)


def linear(weights: Mapping[str, Tensor], name: str) -> nn.Linear:
    weight = weights[f"{name}.weight"]
    made = nn.Linear(weight.shape[1], weight.shape[0])
    made.load_state_dict({"weight": weight, "bias": weights[f"{name}.bias"]})
    return made


def norm(weights: Mapping[str, Tensor], name: str) -> nn.LayerNorm:
    made = nn.LayerNorm(len(weights[f"{name}.bias"]))
    made.load_state_dict({"weight": weights[f"{name}.weight"], "bias": weights[f"{name}.bias"]})
    return made


def write_module(path: Path, weights: Mapping[str, Tensor], blocks: Sequence[int], **more: Any) -> Path:
    """Our weights as a pickled dict of modules, as specified; more: entries in addition or instead."""
    inside = {"layer": linear(weights, "map_layer"), "norm": norm(weights, "map_norm")}
    if "neck_in.weight" in weights:
        inside |= {"upward": linear(weights, "neck_in"), "upward_": linear(weights, "neck_out")}
    content: dict[str, Any] = {
        "extra": Extra(inside),
        "lora_layer": list(blocks),
        "A": linear(weights, "down"),
    }
    for i in range(len(blocks)):
        content[f"B_{i:03}"] = linear(weights, f"up.{i}")
        content[f"norm1_{i:03}"] = norm(weights, f"norm_tokens.{i}")
        content[f"norm2_{i:03}"] = norm(weights, f"norm_map.{i}")
    package, inner = ModuleType("module"), ModuleType("module.SAMCL")
    Extra.__module__ = "module.SAMCL"
    inner.Extra = Extra  # type: ignore[attr-defined]
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "module", package)
        patch.setitem(sys.modules, "module.SAMCL", inner)
        torch.save(content | more, path)
    return path


def write_selector(path: Path, selector: ModuleSelector) -> Path:
    torch.save({k: v for k, v in selector.state_dict().items() if k != "seen"}, path)
    return path


@dataclasses.dataclass(frozen=True)
class Trained:
    """A learner of two domains and the background, its stream file, and its modules in published form."""

    learner: SAMCL
    stream: Path
    folder: Path
    base: Path


@pytest.fixture(scope="module")
def trained(micro: Any, micro_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    torch.set_num_threads(1)
    place = tmp_path_factory.mktemp("released")
    stream = write_synthetic_stream(place / "data", ("lesions", "cracks"), train=4, test=2, size=64)
    learner = SAMCL(micro, configure("samcl", "reference", SMALL))
    for stage in Stream.from_yaml(stream).stages:
        learner.learn(stage, NoScratch())
    folder = place / "modules"
    folder.mkdir()
    for name, module in learner.modules.items():
        write_module(folder / f"{name}.pth", module.state_dict(), module.blocks)
    write_selector(folder / SELECTOR, learner.selector)
    return Trained(learner, stream, folder, micro_folder)


@pytest.fixture
def folder(trained: Trained, tmp_path: Path) -> Path:
    """A copy of the modules that may be damaged."""
    shutil.copytree(trained.folder, tmp_path / "modules")
    return tmp_path / "modules"


def adopt(trained: Trained, micro: Any, out: Path, folder: Path | None = None, **more: Any) -> Run:
    given = {"order": NAMES, "background": "natural", "settings": SMALL, "model": micro} | more
    return adopt_samcl(folder or trained.folder, str(trained.base), out, **given)


# ---------------------------------------------------------------- a run like any other


def test_an_imported_run_predicts_as_the_learner_did(trained: Trained, micro: Any, tmp_path: Path) -> None:
    adopt(trained, micro, tmp_path / "run")
    found = load(tmp_path / "run", micro)
    assert found.learned == list(NAMES)
    assert found.config.preset == "reference"
    assert (found.config.score.size, found.config.score.resize) == (1024, "nearest")
    theirs, ours = trained.learner.state_dict(), found.learner.state_dict()
    assert ours["buffer"] == {}
    torch.testing.assert_close(ours["modules"], theirs["modules"], rtol=0, atol=0)
    assert ours["selector"]["names"] == theirs["selector"]["names"]
    torch.testing.assert_close(ours["selector"]["weights"], theirs["selector"]["weights"], rtol=0, atol=0)
    asked = [s.query() for stage in Stream.from_yaml(trained.stream).stages for s in stage.test]
    for a, b in zip(found.learner.predict(asked), trained.learner.predict(asked), strict=True):
        assert torch.equal(a.logits, b.logits)
        assert a.route == b.route


def test_the_record_says_where_all_of_it_is_from(trained: Trained, micro: Any, tmp_path: Path) -> None:
    made = adopt(trained, micro, tmp_path / "run")
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert record == made.record.to_json()
    for entry in record["learned"][:2]:
        file = trained.folder / f"{entry['name']}.pth"
        assert entry["imported"] == {"file": file.name, "sha256": sha256_file(file)}
        assert not entry["background"]
    assert record["learned"][2]["imported"] is None
    assert record["learned"][2]["background"]
    selector = {"file": SELECTOR, "sha256": sha256_file(trained.folder / SELECTOR)}
    assert record["imported"] == {"from": "samcl", "selector": selector}
    summary = made.summary()
    assert summary["trainable_parameters"] == sum(
        p.numel() for p in trained.learner.modules["cracks"].parameters()
    )
    assert len(summary["stage_seconds"]) == len(made.results.stages) == 1
    matrix = made.results.matrix("iou")
    assert matrix.stages == (ROW,)
    assert matrix.columns == NAMES
    assert average(matrix) != average(matrix)  # nothing was measured
    assert routing(made.results) is None


def test_without_the_buffer_no_further_domain_is_learned(
    trained: Trained, micro: Any, tmp_path: Path
) -> None:
    made = adopt(trained, micro, tmp_path / "run")
    state = (tmp_path / "run" / made.record.state).read_bytes()
    more = write_synthetic_stream(tmp_path / "d", ("lesions", "cracks", "nuclei"), train=4, test=2, size=64)
    with pytest.raises(UserError, match=r"no embeddings of lesions, cracks, natural.*with --stream"):
        run(Stream.from_yaml(more), made.config, tmp_path / "run", micro)
    # Nothing new is nothing wrong, although nobody knows what the modules were trained on.
    assert run(Stream.from_yaml(trained.stream), made.config, tmp_path / "run", micro).learned == list(NAMES)
    assert (tmp_path / "run" / made.record.state).read_bytes() == state


def test_with_a_stream_it_learns_on(trained: Trained, micro: Any, tmp_path: Path) -> None:
    out = tmp_path / "run"
    made = adopt(trained, micro, out, stream=Stream.from_yaml(trained.stream))
    buffer = made.learner.state_dict()["buffer"]
    # The very images that learning kept, up to what a batch's make-up does to rounding.
    torch.testing.assert_close(buffer, trained.learner.remembered.embeddings, rtol=1e-3, atol=1e-3)
    known = {e.name: e.figures["selector_accuracy"] for e in made.record.learned}
    told = (
        trained.learner.selector.probabilities(trained.learner.remembered.embeddings["cracks"]).argmax(-1)
        == 1
    )
    assert known["cracks"] == pytest.approx(float(told.float().mean()))

    data = tmp_path / "data"
    more = write_synthetic_stream(data, ("lesions", "cracks", "nuclei"), train=4, test=2, size=64)
    done = run(Stream.from_yaml(more), made.config, out, micro)
    assert done.learned == [*NAMES, "nuclei"]
    assert set(done.learner.state_dict()["modules"]) == {"lesions", "cracks", "nuclei"}
    for name, weights in made.learner.state_dict()["modules"].items():
        torch.testing.assert_close(done.learner.state_dict()["modules"][name], weights, rtol=0, atol=0)
    assert done.results.stages == (ROW, "nuclei")
    assert len(done.summary()["stage_seconds"]) == 2
    matrix = done.results.matrix("iou")
    assert 0 <= average(matrix) <= 1
    assert forgetting(matrix) != forgetting(matrix)  # nobody measured what could be forgotten


def test_a_selector_with_more_classes_than_were_learned(trained: Trained, folder: Path) -> None:
    (folder / "cracks.pth").unlink()
    found = read_folder(folder, ("lesions",))
    assert found.names == ("lesions",)
    assert found.background == ()
    selector = ModuleSelector(32, found.names)
    selector.load_state_dict(found.selector.first(1))
    selector.eval()
    e = torch.randn(5, 32)
    # Close, not equal: a product with one column less may be summed in another order.
    torch.testing.assert_close(selector(e), trained.learner.selector(e)[:, :1], rtol=0, atol=1e-6)


# ---------------------------------------------------------------- the command line

Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def everseg_command(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Iterator[Command]:
    """The console command in this process: exit code, output, errors."""
    monkeypatch.setenv("COLUMNS", "200")
    before = signal.getsignal(signal.SIGINT)

    def call(*arguments: object) -> tuple[int, str, str]:
        capfd.readouterr()
        monkeypatch.setattr(sys, "argv", ["everseg", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
            sys.exit(0)
        said = capfd.readouterr()
        code = ended.value.code
        return code if isinstance(code, int) else 0, said.out, said.err

    yield call
    signal.signal(signal.SIGINT, before)


@pytest.mark.slow
def test_every_verb_takes_an_imported_run(everseg_command: Command, trained: Trained, tmp_path: Path) -> None:
    out = tmp_path / "run"
    given = ["--base", trained.base, "--background", "natural"]
    code, said, err = everseg_command(
        "import", "samcl", trained.folder, *given, "--out", out, "--order", ",".join(NAMES)
    )
    assert code == 0 and err.startswith("the files hold no embeddings") and len(err.splitlines()) == 1
    assert f"lesions: lesions.pth {sha256_file(trained.folder / 'lesions.pth')[:16]}\n" in said
    assert "natural: the untouched base\n" in said
    assert said.endswith(f"{out}\n")

    # As where only the test images are at hand.
    data = tmp_path / "data"
    shutil.copytree(trained.stream.parent, data)
    for domain in NAMES:
        shutil.rmtree(data / domain / "train")
    code, said, err = everseg_command("evaluate", out, "--stream", data / "stream.yaml", "--json")
    assert (code, err) == (0, "")
    assert set(json.loads(said)) == set(NAMES)
    code, said, err = everseg_command("evaluate", out, "--stream", data / "stream.yaml", "--oracle")
    assert (code, err) == (0, "")
    assert "(natural)" in said
    image = next((data / "lesions" / "test" / "images").iterdir())
    for more in ([], ["--stage", "cracks"]):
        click = ["--point", "30,30", "--out", tmp_path / "masks"]
        code, said, err = everseg_command("predict", out, image, *click, *more)
        assert (code, err) == (0, ""), more
    code, said, err = everseg_command("report", out)
    assert (code, err) == (0, "")
    assert "(imported)" in (out / "report.html").read_text()
    code, said, err = everseg_command("compare", out, out)
    assert (code, err) == (0, "")
    code, said, err = everseg_command("compare", out, "--json")
    assert json.loads(said)[str(out)]["scores"]["iou"]["AA"] is None
    code, said, err = everseg_command("evaluate", out)
    assert (code, "--stream" in err) == (2, True)


@pytest.mark.slow
def test_importing_with_a_stream_and_learning_on(
    everseg_command: Command, trained: Trained, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    small = [flag for setting in SMALL for flag in ("--set", setting)]
    order = ["--order", ",".join(NAMES), "--background", "natural"]
    given = ["--base", trained.base, "--out", out, *small]
    code, said, err = everseg_command(
        "import", "samcl", trained.folder, *given, *order, "--stream", trained.stream, "--json"
    )
    assert code == 0, err
    told = json.loads(said)
    assert [e["images"] for e in told["learned"]] == [4, 4, 4]
    doubtful = [e["name"] for e in told["learned"] if e["figures"]["selector_accuracy"] < 0.5]
    assert all(f"{name}: the selector recognises only" in err for name in doubtful)
    # The stream is the run's own now.
    assert everseg_command("evaluate", out)[0] == 0
    assert everseg_command("report", out)[0] == 0
    more = write_synthetic_stream(
        tmp_path / "data", ("lesions", "cracks", "nuclei"), train=4, test=2, size=64
    )
    code, said, err = everseg_command("learn", more, *given, "--preset", "reference")
    assert code == 0 and err.startswith("nuclei: step 1/1, ") and err.count("\n") == 1
    for verb in ("report", "compare", "evaluate"):
        code, said, err = everseg_command(verb, out)
        assert (code, err) == (0, ""), verb
    code, said, err = everseg_command("learn", more, *given)
    assert (code, "preset is 'paper' now and was 'reference'" in err) == (2, True)


# ---------------------------------------------------------------- what is refused


def poison(path: Path, target: Path, legacy: bool = False) -> None:
    """A file that writes `target` when it is unpickled."""

    class Poison:
        def __reduce__(self) -> Any:
            return (exec, (f"open({str(target)!r}, 'w').close()",))

    content = {"lora_layer": [0], "B_000": Poison()}
    if legacy:
        path.write_bytes(pickle.dumps(content, protocol=2))
    else:
        torch.save(content, path)


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("name", ["cracks.pth", SELECTOR])
def test_a_file_that_would_run_code_runs_none(folder: Path, tmp_path: Path, name: str, legacy: bool) -> None:
    target = tmp_path / "written"
    poison(folder / name, target, legacy)
    with pytest.raises(UserError, match=rf"{name} holds \S*exec, which is not part.*nothing in it was run"):
        read_folder(folder, NAMES, "natural")
    assert not target.exists()
    # The file would do what it is feared for.
    with (folder / name).open("rb") as file:
        pickle.load(file) if legacy else torch.load(file, weights_only=False)
    assert target.exists()


def rewrite(path: Path, change: Callable[[dict[str, Tensor]], object] = dict, **more: Any) -> None:
    """The module with other weights or entries."""
    found = read_module(path)
    weights = dict(found.weights)
    change(weights)
    write_module(path, weights, found.shape.blocks, **more)


def narrower(weights: dict[str, Tensor]) -> None:
    weights["up.0.weight"], weights["up.0.bias"] = torch.zeros(31, 10), torch.zeros(31)


def for_another_base(path: Path) -> None:
    module = AugModule(64, 32, (2, 3), RELEASED)
    write_module(path, module.state_dict(), module.blocks)


def truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def unsettled(path: Path) -> None:
    torch.save(torch.load(path) | {"norm2.running_var": torch.full((8,), torch.nan)}, path)


Hurt = Callable[[Path], object]

MODULES: dict[str, tuple[Hurt, str]] = {
    "truncated": (truncated, r"is truncated or not a file of torch\.save"),
    "empty": (lambda f: f.write_bytes(b""), "is truncated or not a file"),
    "text": (lambda f: f.write_text("hello"), "is not a file|is truncated or not a file"),
    "a list": (lambda f: torch.save([1], f), "holds no dict"),
    "a selector": (
        lambda f: shutil.copy(f.parent / SELECTOR, f),
        "is not a SAMCL module: it has no 'lora_la",
    ),
    "no blocks": (lambda f: rewrite(f, lora_layer=[]), r"is not a SAMCL module: lora_layer is \[\]"),
    "a block twice": (lambda f: rewrite(f, lora_layer=[2, 2]), r"lora_layer is \[2, 2\]"),
    "one block": (lambda f: rewrite(f, lora_layer=[2]), r"has an unknown tensor 'norm_map\.1"),
    "three blocks": (lambda f: rewrite(f, lora_layer=[1, 2, 3]), r"has no tensor 'norm_map\.2"),
    "a stranger": (lambda f: rewrite(f, C=nn.Linear(1, 1)), r"'C\.weight' is not a tensor of a released"),
    "a number": (lambda f: rewrite(f, B_000=3), "'B_000' is a int"),
    "NaN": (lambda f: rewrite(f, lambda w: w["up.1.weight"].fill_(torch.nan)), r"up\.1\.weight holds NaN"),
    "infinity": (lambda f: rewrite(f, lambda w: w["down.bias"].fill_(torch.inf)), r"down\.bias holds NaN or"),
    "a shape": (
        lambda f: rewrite(f, narrower),
        r"up\.0\.weight is torch\.float32 \(31, 10\), not .*\(32, 10\)",
    ),
    "mixed": (for_another_base, r"lesions\.pth was made for width 32.* cracks\.pth for width 64"),
    "missing": (lambda f: f.unlink(), r"has no cracks\.pth for the selector's class 'cracks'"),
    "one too many": (
        lambda f: shutil.copy(f, f.parent / "rails.pth"),
        r"rails\.pth belongs to none of the selector",
    ),
    "nothing": (lambda f: [p.unlink() for p in f.parent.iterdir()], r"holds no modules \(\*\.pth\)"),
}
SELECTORS: dict[str, tuple[Hurt, str]] = {
    "missing": (lambda f: f.unlink(), r"has no Module_Selector\.pth, and without it no image finds"),
    "a module": (
        lambda f: shutil.copy(f.parent / "cracks.pth", f),
        r"holds module\.SAMCL\.Extra, which is no",
    ),
    "half": (lambda f: torch.save({"layer4.bias": torch.zeros(3)}, f), "is not a SAMCL selector"),
    "narrow": (
        lambda f: write_selector(f, ModuleSelector(16, NAMES)),
        "reads features of width 16, but the modules were made for width 32",
    ),
    "NaN": (unsettled, r"norm2\.running_var holds NaN"),
}
DAMAGE = {f"module: {k}": ("cracks.pth", *v) for k, v in MODULES.items()} | {
    f"selector: {k}": (SELECTOR, *v) for k, v in SELECTORS.items()
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damage_is_one_sentence(
    trained: Trained, micro: Any, folder: Path, tmp_path: Path, damage: str
) -> None:
    file, hurt, said = DAMAGE[damage]
    hurt(folder / file)
    with pytest.raises(UserError, match=said) as raised:
        adopt(trained, micro, tmp_path / "run", folder)
    assert "\n" not in str(raised.value)
    assert str(folder) in str(raised.value)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"order": ()}, r"is not a published one, so the order of its 3 classes.*--order Kvasir,camo"),
        (
            {"order": ("cracks", "natural")},
            r"lesions\.pth belongs to none of the selector's classes cracks, natural",
        ),
        ({"order": (*NAMES, "rails")}, r"has 3 classes, but --order names 4"),
        ({"order": ("cracks", "Cracks", "natural")}, r"names a domain twice"),
        ({"order": ("../cracks",)}, r"'\.\./cracks' cannot be a domain"),
        ({"background": "COCO"}, r"no natural\.pth for the selector's class 'natural'.*--background"),
        ({"settings": ["aug.rank=4"]}, r"lesions\.pth has rank 10, not 4; add --set aug\.rank=10"),
        ({"settings": ["aug.neck=false"]}, r"leave aug\.prompt_map and aug\.neck"),
        ({"settings": ["aug.nek=1"]}, r"did you mean 'neck'"),
    ],
)
def test_wrong_options(trained: Trained, micro: Any, tmp_path: Path, given: Any, said: str) -> None:
    with pytest.raises(UserError, match=said):
        adopt(trained, micro, tmp_path / "run", **given)
    assert not (tmp_path / "run" / "run.json").exists()


def test_wrong_places(trained: Trained, micro: Any, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is not a folder; give the one that holds the modules"):
        adopt(trained, micro, tmp_path / "run", tmp_path / "none")
    with pytest.raises(UserError, match=r"its folders modules do: give one of them"):
        adopt(trained, micro, tmp_path / "run", trained.folder.parent)
    adopt(trained, micro, tmp_path / "run")
    with pytest.raises(UserError, match="holds a run already"):
        adopt(trained, micro, tmp_path / "run")
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(UserError, match="is not empty and holds no run"):
        adopt(trained, micro, tmp_path)


def test_wrong_streams(trained: Trained, micro: Any, tmp_path: Path) -> None:
    other = write_synthetic_stream(tmp_path / "a", ("lesions", "nuclei"), train=2, test=1, size=64)
    with pytest.raises(UserError, match=r"no stage 'cracks'.*: lesions, cracks, natural"):
        adopt(trained, micro, tmp_path / "run", stream=Stream.from_yaml(other))
    stream = Stream.from_yaml(trained.stream)
    odd = dataclasses.replace(
        stream, stages=tuple(dataclasses.replace(s, background=False) for s in stream.stages)
    )
    with pytest.raises(UserError, match=r"'natural' must be background"):
        adopt(trained, micro, tmp_path / "run", stream=odd)


def base_like(width: int, blocks: tuple[int, ...], neck: bool, name: str = "mine") -> Any:
    return SimpleNamespace(name=name, width=width, adapted=blocks, channels=256, has_neck=neck)


# ---------------------------------------------------------------- the published files

RELEASED_FILES = pytest.mark.realdata
LAYOUT = Path(__file__).parents[2] / "examples" / "samcl_layout.yaml"


@RELEASED_FILES
@pytest.mark.parametrize(
    ("family", "width", "blocks", "neck"),
    [("SAM1", 768, (7, 8, 9, 10, 11), True), ("SAM2", 384, (6, 7, 8, 9), False)],
)
def test_the_published_folders(
    data_root: Path, family: str, width: int, blocks: tuple[int, ...], neck: bool
) -> None:
    found = read_folder(data_root / "samcl_released" / family)
    assert found.names == ORDER
    assert tuple(found.modules) == ORDER[:-1]
    assert found.background == ("COCO",)
    assert found.selector.classes == 6
    check_fits(found, base_like(width, blocks, neck), RELEASED)
    made_for = "SAM ViT-B" if neck else r"SAM 2\.1 Hiera-tiny"
    for wrong in (
        base_like(160, (3, 4, 5), True),
        base_like(width, blocks, not neck),
        base_like(width, blocks[1:], neck),
    ):
        with pytest.raises(UserError, match=rf"{made_for} \(width {width}.*base 'mine' has .*width"):
            check_fits(found, wrong, RELEASED)
    with pytest.raises(UserError, match="was published with the order Kvasir,camo"):
        read_folder(data_root / "samcl_released" / family, order=[*ORDER[1:], ORDER[0]])
    with pytest.raises(UserError, match="its folders SAM1, SAM2 do"):
        read_folder(data_root / "samcl_released")


@RELEASED_FILES
def test_published_modules_of_two_bases_do_not_mix(data_root: Path, tmp_path: Path) -> None:
    shutil.copytree(data_root / "samcl_released" / "SAM1", tmp_path / "both")
    shutil.copy(data_root / "samcl_released" / "SAM2" / "cod.pth", tmp_path / "both" / "cod.pth")
    with pytest.raises(UserError, match=r"Kvasir\.pth was made for SAM ViT-B.*cod\.pth for SAM 2\.1 Hiera"):
        read_folder(tmp_path / "both")
    shutil.copytree(data_root / "samcl_released" / "SAM1", tmp_path / "other")
    shutil.copy(data_root / "samcl_released" / "SAM2" / SELECTOR, tmp_path / "other" / SELECTOR)
    with pytest.raises(UserError, match=r"reads features of width 384, but .* SAM ViT-B"):
        read_folder(tmp_path / "other")


@pytest.fixture(scope="module")
def wide_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random base of ViT-B's width and depth that sees 64 x 64 pixels and has next to no MLP."""
    from transformers import SamConfig, SamModel
    from transformers.models.sam.configuration_sam import (
        SamMaskDecoderConfig,
        SamPromptEncoderConfig,
        SamVisionConfig,
    )

    small = {"image_size": 64, "patch_size": 16}
    vision = SamVisionConfig(**small, window_size=3, num_attention_heads=4, mlp_ratio=0.02)
    prompt = SamPromptEncoderConfig(**small)
    decoder = SamMaskDecoderConfig(mlp_dim=32)
    model = SamModel(
        SamConfig(vision_config=vision, prompt_encoder_config=prompt, mask_decoder_config=decoder)
    )
    folder = tmp_path_factory.mktemp("wide") / "base"
    model.save_pretrained(folder)
    return folder


@RELEASED_FILES
def test_the_published_modules_on_the_published_layout(
    everseg_command: Command,
    data_root: Path,
    wide_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The base is random, so the scores mean nothing: all of it runs, with all six classes at hand."""
    monkeypatch.setenv("EVERSEG_DATA", str(data_root.resolve()))
    out, source = tmp_path / "run", data_root / "samcl_released" / "SAM1"
    code, said, err = everseg_command("import", "samcl", source, "--base", wide_folder, "--out", out)
    assert code == 0 and err.startswith("the files hold no embeddings") and len(err.splitlines()) == 1
    assert "Kvasir: Kvasir.pth b788c663291f864e\n" in said
    assert "COCO: the untouched base\n" in said
    settings = json.loads((out / "run.json").read_text())["config"]["settings"]
    assert settings["aug"]["neck_transposed"] is True
    assert settings["aug"]["window_heatmap"] == "thumbnail"
    # One test image a domain.
    tree = yaml.safe_load(LAYOUT.read_text())
    for stage in [*tree["stages"], tree["background"]]:
        stage["test"] = {"path": stage["test"], "limit": 1}
    stream = tmp_path / "one.yaml"
    stream.write_text(yaml.safe_dump(tree))
    code, said, err = everseg_command("evaluate", out, "--stream", stream, "--json")
    assert (code, err) == (0, "")
    assert set(json.loads(said)) == set(ORDER)


WEIGHTS = {
    "EVERSEG_SAM_B": ("SAM1", "SAM ViT-B", 0.646, 0.841),
    "EVERSEG_SAM2_TINY": ("SAM2", "SAM 2.1 Hiera-tiny", 0.650, 0.853),
}
"""Base by variable: the modules' folder, its name, and the mean IoU of the paper's table 2 over the five
domains, for the untouched base and for each domain's own AugModule."""


@pytest.mark.slow
@RELEASED_FILES
@pytest.mark.parametrize("variable", WEIGHTS)
def test_with_real_weights(
    data_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    """Five test images a domain are at hand, not the published hundreds. The IoU of single images scatters by
    about 0.25 untouched and 0.15 adapted, so a mean over 25 lies within 0.15 and 0.09 of the table's in 99 of
    100 draws. That tells a wrong base, order or orientation, not a difference in the third digit."""
    family, name, untouched, adapted = WEIGHTS[variable]
    given = os.environ.get(variable)
    if not given:
        pytest.skip(f"{variable} is not set: it names {name}, a folder, a file or a hub id")
    monkeypatch.setenv("EVERSEG_DATA", str(data_root.resolve()))
    made = adopt_samcl(data_root / "samcl_released" / family, given, tmp_path / "run")
    assert isinstance(made.learner, SAMCL)
    stages = Stream.from_yaml(LAYOUT, made.learned).stages
    means: dict[str, list[float]] = {"plain": [], "oracle": []}
    right = 0
    for stage in stages:
        queries = [sample.query() for sample in stage.test]
        routes = [p.route for p in made.learner.predict(queries)]
        right += sum(r is not None and r.name == stage.name for r in routes)
        if stage.background:
            continue
        for kind, told in (("plain", "the untouched base"), ("oracle", stage.name)):
            found = score(
                lambda asked, told=told: made.learner.predict_as(asked, told),  # type: ignore[misc]
                stage.test,
                stage.name,
                made.config.score,
            )
            means[kind] += [s.values["iou"] for s in found]
    plain, oracle = (sum(v) / len(v) for v in means.values())
    assert right >= 27, f"{right} of 30 images reach their own class"
    assert plain == pytest.approx(untouched, abs=0.15)
    assert oracle == pytest.approx(adapted, abs=0.1)
    assert oracle > plain + 0.08
