"""A run of classes on a transformer from the command line: learned behind the gate, compared, shown a folder
of images, and written for others."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from everseg.cli import main
from everseg.testing import micro_segformer

COLOURS = np.array([[110, 110, 110], [230, 30, 30], [30, 230, 30], [40, 60, 240]], np.uint8)
SMALL = ["tune.crop=64", *(f"tune.{w}.{k}" for w in ("first", "later") for k in ("epochs=2", "batch=4"))]
STREAM = """\
classes: [red, green, blue]
train: train
test: test
stages:
  - {name: one, classes: [red, green]}
  - {name: two, classes: [blue]}
"""

pytestmark = pytest.mark.usefixtures("micro_backbone")


def everseg(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, str, str]:
    capsys.readouterr()
    with pytest.MonkeyPatch.context() as patch, pytest.raises(SystemExit) as ended:
        patch.setattr(sys, "argv", ["everseg", *map(str, words)])
        main()
    told = capsys.readouterr()
    return int(ended.value.code or 0), told.out, told.err


@pytest.fixture(scope="module")
def stream(tmp_path_factory: pytest.TempPathFactory) -> Path:
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
    (root / "stream.yaml").write_text(STREAM)
    return root / "stream.yaml"


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("base") / "segformer"
    micro_segformer().backbone.model.save_pretrained(folder)
    return folder


@pytest.mark.slow
def test_it_is_gated_predicted_and_exported(
    stream: Path, base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    # With a posterior of classes it could not be written as a plain SegFormer.
    given = [word for setting in (*SMALL, "tune.posterior=0") for word in ("--set", setting)]
    how = ["--method", "mib", "--base", base, "--score", "size=64", "--gate", "--undecided", "accept"]
    code, said, told = everseg(capsys, "learn", stream, *how, "--out", out, *given)
    assert code in (0, 1), told
    assert "gate: 'one' is the first stage, so there is nothing to compare it with" in told
    kept = [path.parent.name for path in out.glob("rejected/*/gate.json")]
    accepted = (out / "history" / "gate-002.json").is_file()
    assert accepted != bool(kept) and (code == 1) == bool(kept), (kept, said)
    code, said, told = everseg(capsys, "gate", out, "--against", out)
    assert code == 0 and "PASS" in said, told
    code, said, told = everseg(
        capsys, "predict", out, stream.parent / "test" / "images", "--out", tmp_path / "p"
    )
    assert code == 0, told
    assert sorted(p.name for p in (tmp_path / "p").rglob("*_classes.png")) == [
        f"{i}_classes.png" for i in range(3)
    ]
    code, said, told = everseg(capsys, "export", out, "--to", "torch", "--out", tmp_path / "x", "--json")
    assert code == 0, told
    manifest = json.loads(said)
    assert manifest["module"] == "transformers.SegformerForSemanticSegmentation"
    legend = json.loads((tmp_path / "x" / "legend.json").read_text())
    assert [c["name"] for c in legend["classes"]][:3] == ["background", "red", "green"]
    code, said, told = everseg(capsys, "export", out, "--to", "sam", "--out", tmp_path / "y")
    assert code == 2 and "learned classes; export it with --to onnx or --to torch" in told


@pytest.mark.slow
def test_a_graph_is_written(
    stream: Path, micro_backbone_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("onnxruntime")
    out = tmp_path / "run"
    given = [word for setting in SMALL for word in ("--set", setting)]
    how = ["--method", "eir", "--base", micro_backbone_folder, "--score", "size=64"]
    assert everseg(capsys, "learn", stream, *how, "--out", out, *given)[0] == 0
    code, said, told = everseg(capsys, "export", out, "--to", "onnx", "--out", tmp_path / "x")
    assert code == 0, told
    assert "one, two in" in said and "model.onnx" in said
    manifest = json.loads((tmp_path / "x" / "everseg.json").read_text())
    assert manifest["opset"] == 18 and manifest["parity"] <= 1e-4
