"""What was learned, without everseg: bare transformers and bare peft give the masks that the run gives."""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from torch import Tensor
from transformers import Sam2Model, SamModel

from everseg import cli
from everseg.data import SyntheticDomain, write_synthetic_stream
from everseg.domains.adapters.linear import LinearConfig, LinearLoRA
from everseg.errors import UserError
from everseg.files import sha256_file
from everseg.methods import build, configure
from everseg.models.promptable import checkpoints
from everseg.models.promptable.checkpoints import HIERA, Hiera
from everseg.models.promptable.load import load_base
from everseg.models.promptable.protocol import to_frame
from everseg.runs import export
from everseg.runs.folder import load, new_run
from everseg.runs.run import Run, RunConfig

FAMILIES = {"micro": ("regcl", SamModel, "sam.pth"), "micro2": ("sequential", Sam2Model, "sam2.pt")}
EXACT = "cache.precision=fp32"  # The cache's half precision would be the greatest difference.
LEARN = (EXACT, "adapter=linear", "rank=3", "tune.fit.epochs=2", "tune.fit.batch=4")


def everseg(*arguments: object) -> tuple[int, str, str]:
    """The console command in this process: its exit code, and what it said."""
    before = signal.getsignal(signal.SIGINT)
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(StringIO()) as out:
        patch.setattr(sys, "argv", ["everseg", *map(str, arguments)])
        with redirect_stderr(StringIO()) as err, pytest.raises(SystemExit) as ended:
            cli.main()
    signal.signal(signal.SIGINT, before)
    return int(ended.value.code or 0), out.getvalue(), err.getvalue()


@pytest.fixture(scope="module")
def folders(
    micro_folder: Path, micro2_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, tuple[Path, Path]]:
    """(base, run) of each family, learned from the command line. Nobody writes to them."""
    torch.set_num_threads(1)
    root = tmp_path_factory.mktemp("export")
    stream = write_synthetic_stream(root / "data", ("lesions", "cracks"), train=3, test=1, size=64)
    made = {}
    for (name, (method, *_)), base in zip(FAMILIES.items(), (micro_folder, micro2_folder), strict=True):
        settings = [flag for setting in LEARN for flag in ("--set", setting)]
        given = ["learn", stream, "--method", method, "--base", base, "--out", root / name, *settings]
        code, _, said = everseg(*given)
        assert code == 0, said
        made[name] = (base, root / name)
    return made


def theirs(model: Any, run: Run) -> list[Tensor]:
    """Logits (N, h, w) of each question, by transformers' own forward pass."""
    out = []
    for sample in questions():
        side = run.base.image_size
        frame = to_frame(sample.prompts, (sample.image.shape[1], sample.image.shape[2]), side)
        pixels = run.base.pixels([sample.image])
        with torch.no_grad():
            found = model(
                pixel_values=pixels,
                input_points=frame.points,
                input_labels=frame.labels,
                multimask_output=False,
            )
        out.append(found.pred_masks[0, :, 0])
    return out


def ours(run: Run) -> list[Tensor]:
    return [p.logits for p in run.learner.predict([sample.query() for sample in questions()])]


def questions() -> SyntheticDomain:
    return SyntheticDomain("nuclei", 2, size=64)


def equal(a: list[Tensor], b: list[Tensor]) -> bool:
    return all(x.shape == y.shape and float((x - y).abs().max()) < 1e-4 for x, y in zip(a, b, strict=True))


def held(base: Any, method: str = "sequential", *settings: str) -> Run:
    """A run that was never written: of a method that has learned nothing yet."""
    config = configure(method, assignments=settings)
    learner = build(method, base, config, 0)
    return new_run(Path("held"), RunConfig(method, config, base.name), learner, base)


def scaled(base: Any) -> Run:
    """One whose adapter is a random one with alpha twice its rank."""
    run = held(base, "sequential", "adapter=linear", EXACT)
    draw = torch.Generator().manual_seed(0)
    adapter = LinearLoRA.beside(base, LinearConfig(rank=3, alpha=6), draw)
    with torch.no_grad():
        for weight in adapter.up.parameters():
            weight.copy_(0.05 * torch.randn(weight.shape, generator=draw))
    run.learner.adapter = adapter  # type: ignore[attr-defined]
    return run


# ---------------------------------------------------------------- domain.json


def test_an_adapter_says_what_it_has_learned(folders: dict[str, tuple[Path, Path]], tmp_path: Path) -> None:
    run = load(folders["micro"][1])
    export.export(run, "peft", tmp_path / "peft")
    told = json.loads((tmp_path / "peft" / "domain.json").read_text())
    assert told["base"]["sha256"] == run.base.fingerprint
    assert [row["id"] for row in told["domains"]] == ["lesions", "cracks"]
    domains = [stage for stage in run.record.learned if not stage.background]
    for row, stage in zip(told["domains"], domains, strict=True):
        assert (row["images"], row["data_sha256"]) == (stage.images, stage.fingerprint)
        assert row["prompts"]["clicks"] and not row["prompts"]["boxes"]
        assert 0 <= row["metrics"]["iou"] <= 1
    assert PeftModel.from_pretrained(SamModel.from_pretrained(folders["micro"][0]), tmp_path / "peft")


# ---------------------------------------------------------------- elsewhere


@pytest.mark.parametrize("name", FAMILIES)
def test_bare_transformers_gives_the_runs_masks(
    folders: dict[str, tuple[Path, Path]], name: str, tmp_path: Path
) -> None:
    (base, folder), (method, kind, _) = folders[name], FAMILIES[name]
    code, said, _ = everseg("export", folder, "--to", "sam", "--out", tmp_path / "sam")
    assert code == 0
    assert said.startswith("lesions, cracks in ")
    run = load(folder)
    assert equal(theirs(kind.from_pretrained(tmp_path / "sam").eval(), run), ours(run))
    assert not equal(theirs(kind.from_pretrained(base).eval(), run), ours(run))
    manifest = json.loads((tmp_path / "sam" / "everseg.json").read_text())
    assert manifest["method"] == method
    assert manifest["learned"] == ["lesions", "cracks"]  # not the background: the base is right there
    assert manifest["base"] == {"name": None, "fingerprint": run.base.fingerprint}
    assert set(manifest["files"]) == {p.name for p in (tmp_path / "sam").iterdir()} - {"everseg.json"}
    assert all(sha256_file(tmp_path / "sam" / n) == digest for n, digest in manifest["files"].items())


@pytest.mark.parametrize("name", FAMILIES)
def test_metas_layout_is_the_same_model(
    folders: dict[str, tuple[Path, Path]], name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(HIERA, (8, (1, 2, 4, 1)), Hiera("micro", 1, (4, 2, 6, 3), (4, 6)))
    monkeypatch.setattr(checkpoints, "SAM2_IMAGE_SIZE", 128)
    run, file = load(folders[name][1]), FAMILIES[name][2]
    manifest = export.export(run, "sam", tmp_path / "sam")
    again, from_meta = load_base(str(tmp_path / "sam")), load_base(str(tmp_path / "sam" / file))
    assert again.fingerprint == from_meta.fingerprint == manifest["fingerprint"] != run.base.fingerprint
    content = torch.load(tmp_path / "sam" / file, weights_only=True)
    tensors = content["model"] if name == "micro2" else content
    assert type(tensors) is dict
    assert all(type(value) is Tensor and value.device.type == "cpu" for value in tensors.values())


@pytest.mark.parametrize("name", FAMILIES)
def test_bare_peft_gives_the_runs_masks(
    folders: dict[str, tuple[Path, Path]], name: str, tmp_path: Path
) -> None:
    (base, folder), (_, kind, _) = folders[name], FAMILIES[name]
    code, said, _ = everseg("export", folder, "--to", "peft", "--out", tmp_path / "peft", "--json")
    assert code == 0
    assert json.loads(said) == json.loads((tmp_path / "peft" / "everseg.json").read_text())
    run = load(folder)
    plain = kind.from_pretrained(base).eval()
    model = PeftModel.from_pretrained(plain, tmp_path / "peft").eval()
    assert equal(theirs(model, run), ours(run))
    merged = model.merge_and_unload()
    assert equal(theirs(merged, run), ours(run))


def test_the_embedded_base_takes_an_adapter_through_peft(tmp_path: Path) -> None:
    run = scaled(load_base())
    export.export(run, "peft", tmp_path / "peft")
    model = PeftModel.from_pretrained(load_base().model, tmp_path / "peft").eval()
    assert equal(theirs(model, run), ours(run))


@pytest.mark.parametrize("form", ["sam", "peft"])
def test_alpha_is_applied_once(micro: Any, micro_folder: Path, form: export.Form, tmp_path: Path) -> None:
    run = scaled(micro)
    export.export(run, form, tmp_path / "out")
    if form == "sam":
        model: Any = SamModel.from_pretrained(tmp_path / "out")
    else:
        model = PeftModel.from_pretrained(SamModel.from_pretrained(micro_folder), tmp_path / "out")
    assert equal(theirs(model.eval(), run), ours(run))


def test_the_runs_own_base_stays_as_it_is(micro: Any, tmp_path: Path) -> None:
    before = {name: value.clone() for name, value in micro.model.state_dict().items()}
    export.export(scaled(micro), "sam", tmp_path / "out")
    assert all(torch.equal(value, before[name]) for name, value in micro.model.state_dict().items())


def test_a_base_is_named_if_others_can_find_it(micro: Any, tmp_path: Path) -> None:
    """A hub id, but not where it lay on this machine."""
    for name, public in (("facebook/sam-vit-base", "facebook/sam-vit-base"), (str(tmp_path), None)):
        run = scaled(micro)
        run.config = RunConfig("sequential", run.config.settings, name)
        manifest = export.export(run, "peft", tmp_path / "out")
        config = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
        assert manifest["base"]["name"] == config["base_model_name_or_path"] == public


# ---------------------------------------------------------------- what has no such form


@pytest.mark.parametrize("form", ["sam", "peft"])
@pytest.mark.parametrize(
    ("method", "settings", "why"),
    [
        ("samcl", (), "method 'samcl', which does not use one adapter for all images"),
        ("independent", (), "method 'independent', which does not use one adapter"),
        ("zero-shot", (), "method 'zero-shot', which does not use one adapter"),
        ("regcl", (), "made with adapter=aug, which also reads the clicks, so that it folds into no linear"),
        (
            "regcl",
            ("adapter=lora",),
            "made with adapter=lora, which stands beside the attention, so that it folds into no",
        ),
        ("joint", ("adapter=aug",), "made with adapter=aug, which also reads the clicks"),
    ],
)
def test_other_adapters_are_refused_with_the_way_out(
    micro: Any, form: export.Form, method: str, settings: tuple[str, ...], why: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError) as refused:
        export.export(held(micro, method, *settings), form, tmp_path / "out")
    assert why in str(refused.value)
    assert str(refused.value).endswith(
        "learn with --method regcl, sequential or joint and --set adapter=linear"
    )
    assert not any(tmp_path.iterdir())


def test_the_embedded_base_is_no_plain_sam(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"convolutional stem .* --to peft, or learn on a SAM with --base"):
        export.export(held(load_base(), "joint", "adapter=linear"), "sam", tmp_path / "out")
    assert not any(tmp_path.iterdir())


def test_refusals_end_with_code_2(folders: dict[str, tuple[Path, Path]], tmp_path: Path) -> None:
    run = folders["micro"][1]
    for given, words in (
        ((tmp_path, "--to", "sam"), "holds no run"),
        ((run, "--to", "torch"), "are for runs of classes"),
    ):
        code, said, complaint = everseg("export", *given, "--out", tmp_path / "out")
        assert (code, said) == (2, "")
        assert words in complaint
        assert complaint.count("\n") == 1


# ---------------------------------------------------------------- the folder


def listing(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_wrong_options_and_missing_packages_end_with_code_2(
    folders: dict[str, tuple[Path, Path]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, out = folders["micro"][1], tmp_path / "out"
    for options, said in {
        ("--to", "tflite"): "Invalid value for '--to': 'tflite' is not one of",
        ("--to", "onnx", "--quantize", "int4"): "Invalid value for '--quantize'",
        ("--to", "sam", "--quantize", "int8"): "--quantize are for --to onnx",
        ("--to", "onnx", "--domain", "elsewhere"): "has one adapter for all domains; leave --domain out",
        ("--to", "torch"): "--to torch and --size are for runs of classes",
    }.items():
        code, told, error = everseg("export", run, *options, "--out", out)
        assert (code, told, error.count("\n")) == (2, "", 1) and said in error
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    code, told, error = everseg("export", run, "--to", "onnx", "--out", out)
    assert (code, told) == (2, "")
    assert error == "error: ONNX files need onnxruntime; run: pip install 'everseg[onnx]'\n"

    def load(*_: object) -> None:
        raise ModuleNotFoundError("No module named 'huggingface_hub'", name="huggingface_hub")

    monkeypatch.setattr("everseg.runs.folder.load", load)
    code, told, error = everseg("push", run, "clinic/polyps")
    assert (code, told, error.count("\n")) == (2, "", 1)
    assert error.startswith("error: the package huggingface_hub is missing")
    assert not out.exists()


def test_an_earlier_export_is_replaced(micro: Any, tmp_path: Path) -> None:
    export.export(scaled(micro), "sam", tmp_path / "out")
    export.export(scaled(micro), "peft", tmp_path / "out")
    assert set(listing(tmp_path / "out")) == {
        "everseg.json",
        "adapter_config.json",
        "adapter_model.safetensors",
        "domain.json",
    }
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_the_same_run_gives_the_same_bytes(micro: Any, tmp_path: Path) -> None:
    for form in ("sam", "peft"):
        for name in ("one", "two"):
            export.export(scaled(micro), form, tmp_path / name)  # type: ignore[arg-type]
        assert listing(tmp_path / "one") == listing(tmp_path / "two")


FOREIGN: dict[str, tuple[Callable[[Path], object], str]] = {
    "somebody's file": (lambda out: (out / "thesis.tex").write_text("x"), r"holds thesis\.tex, which no exp"),
    "beside an export": (lambda out: (out / "notes.md").write_text("x"), r"holds notes\.md, which no export"),
    "another everseg.json": (
        lambda out: (out / "everseg.json").write_text("[]"),
        "holds everseg.json, ",
    ),
    "a damaged one": (lambda out: (out / "everseg.json").write_text("{"), "is not valid JSON"),
}


@pytest.mark.parametrize("what", FOREIGN)
def test_nothing_of_others_is_overwritten(micro: Any, what: str, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    if what == "beside an export":
        export.export(scaled(micro), "peft", out)  # An empty folder is as good as none.
    leave, why = FOREIGN[what]
    leave(out)
    before = listing(out)
    with pytest.raises(UserError, match=why):
        export.export(scaled(micro), "sam", out)
    assert listing(out) == before
    with pytest.raises(UserError, match="is a file"):
        export.export(scaled(micro), "sam", next(path for path in out.iterdir()))


STOPS = {
    "disk": OSError(28, "No space left on device"),
    "torch's disk": RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 704 vs 598"),
    "ctrl-c": KeyboardInterrupt(),
}


@pytest.fixture(params=STOPS.values(), ids=list(STOPS))
def interrupted(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[type]:
    def fail(*_: object) -> None:
        raise request.param

    monkeypatch.setattr(torch, "save", fail)
    yield UserError if isinstance(request.param, Exception) else KeyboardInterrupt


def test_what_is_interrupted_leaves_what_was_there(micro: Any, interrupted: type, tmp_path: Path) -> None:
    with pytest.raises(interrupted):
        export.export(scaled(micro), "sam", tmp_path / "out")
    assert not any(tmp_path.iterdir())
    export.export(scaled(micro), "peft", tmp_path / "out")
    before = listing(tmp_path / "out")
    with pytest.raises(interrupted):
        export.export(scaled(micro), "sam", tmp_path / "out")
    assert listing(tmp_path / "out") == before
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
