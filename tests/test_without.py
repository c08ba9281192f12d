"""The scripts in examples/without use other tools only, and give the run's masks."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.util import find_spec
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import SamModel

from everseg.methods import build, configure
from everseg.models.promptable.load import load_base
from everseg.runs.export import export
from everseg.runs.exports.onnx import export_onnx
from everseg.runs.folder import new_run, write
from everseg.runs.run import Run, RunConfig

SCRIPTS = sorted((Path(__file__).parents[1] / "examples" / "without").glob("*.py"))


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_no_script_imports_everseg(script: Path) -> None:
    tree = ast.parse(script.read_text())
    names = [n.name for node in ast.walk(tree) if isinstance(node, ast.Import) for n in node.names]
    names += [str(node.module) for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    assert not any(name.split(".")[0] == "everseg" for name in names)
    assert len(script.read_text().splitlines()) <= 50


@pytest.fixture(scope="module")
def run(micro_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run with one adapter that changes the masks."""
    base = load_base(str(micro_folder))
    config = configure("sequential", assignments=["adapter=linear", "cache.precision=fp32"])
    learner: Any = build("sequential", base, config, 0)
    draw = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in learner.adapter.parameters():
            p.add_(0.1 * torch.randn(p.shape, generator=draw))
    made = new_run(
        tmp_path_factory.mktemp("run") / "one",
        RunConfig("sequential", config, str(micro_folder)),
        learner,
        base,
    )
    made.folder.mkdir()
    write(made)
    return made


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "image.png")
    return tmp_path / "image.png"


def script(name: str, *words: object, **environment: str) -> str:
    path = next(path for path in SCRIPTS if path.stem == name)
    known = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | {"QT_QPA_PLATFORM": "offscreen"}
    known |= environment
    done = subprocess.run(
        [sys.executable, str(path), *map(str, words)], env=known, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def same(run: Run, picture: Path, out: Path) -> bool:
    mask = np.asarray(Image.open(out)) == 255
    wanted = run.predict(picture, points=[(20, 30)]).masks[0]
    return float((mask != wanted).mean()) < 0.002


@pytest.mark.slow
def test_onnxruntime_alone(run: Run, picture: Path, tmp_path: Path) -> None:
    pytest.importorskip("onnxscript", reason="ONNX files need everseg[onnx]")
    export_onnx(run, tmp_path / "x")
    said = script("onnx_clicks", tmp_path / "x", picture, 20, 30, tmp_path / "mask.png")
    assert "predicted IoU" in said and same(run, picture, tmp_path / "mask.png")


@pytest.mark.slow
def test_transformers_alone(run: Run, picture: Path, tmp_path: Path) -> None:
    export(run, "sam", tmp_path / "x")
    script("transformers_sam", tmp_path / "x", picture, 20, 30, tmp_path / "mask.png")
    assert same(run, picture, tmp_path / "mask.png")


@pytest.mark.slow
def test_peft_alone(run: Run, picture: Path, micro_folder: Path, tmp_path: Path) -> None:
    export(run, "peft", tmp_path / "x")
    said = script("peft_adapter", micro_folder, tmp_path / "x", tmp_path / "merged")
    assert "merged into" in said
    assert isinstance(SamModel.from_pretrained(tmp_path / "merged"), SamModel)
    script("transformers_sam", tmp_path / "merged", picture, 20, 30, tmp_path / "mask.png")
    assert same(run, picture, tmp_path / "mask.png")


@pytest.mark.slow
def test_napari_alone(picture: Path, tmp_path: Path) -> None:
    if find_spec("napari") is None:
        pytest.skip("napari is not installed: pip install 'everseg[napari]'")
    (tmp_path / "predicted").mkdir()
    Image.fromarray(np.ones((64, 64), np.uint8)).save(tmp_path / "predicted" / "image_labels.png")
    said = script("napari_masks", picture.parent, tmp_path / "predicted", "--no-window")
    assert said.startswith("1 images with masks")


@pytest.mark.slow
@pytest.mark.parametrize(("form", "name"), [("onnx", "onnx_classes"), ("torch", "torch_classes")])
def test_classes_alone(form: str, name: str, picture: Path, tmp_path: Path) -> None:
    from everseg.methods import find
    from everseg.testing import micro_backbone, micro_step
    from everseg.testing.classes import ClassTrial
    from everseg.types import ImageQuery

    if form == "onnx":
        pytest.importorskip("onnxscript", reason="ONNX files need everseg[onnx]")
    learner: Any = ClassTrial(find("eir"), base=micro_backbone).taught(micro_step(0), micro_step(1))
    (tmp_path / "x").mkdir()
    learner.write_model(form, tmp_path / "x", ("background", "red", "green", "blue"), 64)
    said = script(name, tmp_path / "x", picture, tmp_path / "map.png")
    assert [line.partition(":")[0] for line in said.splitlines()] == ["background", "red", "green", "blue"]
    pixels = torch.tensor(np.asarray(Image.open(picture))).permute(2, 0, 1)
    (wanted,) = learner.predict([ImageQuery(pixels)])
    assert float((np.asarray(Image.open(tmp_path / "map.png")) != wanted.numpy()).mean()) < 0.002


@pytest.fixture
def studio() -> Iterator[tuple[str, list[tuple[str, Any]]]]:
    """A stand-in of Label Studio's API, and what it was sent."""
    seen: list[tuple[str, Any]] = []

    class Answering(BaseHTTPRequestHandler):
        def log_message(self, *arguments: Any) -> None:
            pass

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers.get("Content-Length", 0))) or b"{}")
            seen.append((self.path, body))
            content = json.dumps({"id": 7, "title": "everseg", "task_count": 1, "access": "short"}).encode()
            self.send_response(201)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Answering)
    Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}", seen
    server.shutdown()
    server.server_close()


@pytest.mark.slow
def test_label_studios_sdk_alone(studio: tuple[str, list[tuple[str, Any]]], picture: Path) -> None:
    if find_spec("label_studio_sdk") is None:
        pytest.skip("Label Studio's SDK is not installed: pip install label-studio-sdk")
    address, seen = studio
    backend = "http://localhost:8008/label-studio/"
    said = script("label_studio_connect", address, backend, picture.parent, LABEL_STUDIO_API_KEY="0" * 40)
    assert said.strip() == f"{address}/projects/7"
    sent = {path.partition("?")[0].rstrip("/"): body for path, body in seen}
    assert 'smart="true"' in sent["/api/projects"]["label_config"]
    assert sent["/api/projects/7/import"][0]["image"].startswith("data:image/png;base64,")
    assert (sent["/api/ml"]["url"], sent["/api/ml"]["project"]) == (backend, 7)
