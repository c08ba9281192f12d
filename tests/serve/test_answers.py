"""The server says what the command says, byte for byte."""

from __future__ import annotations

import io
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from starlette.testclient import TestClient

from everseg import cli
from everseg.errors import UserError
from everseg.serve.runlengths import counts_of, mask_of

CLICK = {"clicks": [{"x": 30, "y": 31.5}, {"x": 5, "y": 6, "on": 0}]}
TYPED = ["--point", "30,31.5", "--negative", "5,6"]


def command(monkeypatch: pytest.MonkeyPatch, *words: object) -> int:
    monkeypatch.setattr(sys, "argv", ["everseg", *map(str, words)])
    with pytest.raises(SystemExit) as ended:
        cli.main()
        sys.exit(0)
    return int(ended.value.code or 0)


def first(client: TestClient) -> tuple[str, str]:
    """The id of the first image and a session."""
    return client.get("/api/images").json()["images"][0]["id"], client.post("/api/sessions").json()["session"]


@pytest.mark.parametrize("form", ["masks", "labels", "coco"])
@pytest.mark.parametrize(
    ("objects", "typed"),
    [
        ([CLICK], TYPED),
        (
            [{"box": [10, 12, 50, 60]}, {"box": [1, 2, 30, 30]}],
            ["--box", "10,12,50,60", "--box", "1,2,30,30"],
        ),
    ],
)
def test_files_are_those_of_predict(
    client: TestClient,
    place: Path,
    monkeypatch: pytest.MonkeyPatch,
    form: str,
    objects: Any,
    typed: list[str],
) -> None:
    image, session = first(client)
    asked = {"session": session, "objects": objects, "form": form}
    answer = client.post(f"/api/images/{image}/files", json=asked)
    assert answer.status_code == 200
    with zipfile.ZipFile(io.BytesIO(answer.content)) as archive:
        ours = {name: archive.read(name) for name in archive.namelist()}
    out = place / "out"
    code = command(
        monkeypatch, "predict", place / "run", place / "images", *typed, "--format", form, "--out", out
    )
    name = next(iter(sorted((place / "images" / "deep").iterdir()))).stem
    theirs = {p.name: p.read_bytes() for p in sorted((out / "deep").iterdir()) if p.name.startswith(name)}
    assert code == 0 and len(ours) >= 2
    assert ours == theirs


def test_a_click_gives_masks_and_the_modules_reasons(client: TestClient) -> None:
    image, session = first(client)
    asked = {"session": session, "objects": [CLICK]}
    path = f"/api/images/{image}/segment"
    answer = client.post(path, json=asked).json()
    (entry,) = answer["record"]["masks"]
    assert mask_of(answer["masks"][0], 64, 64).sum() == entry["pixels"]
    assert {"module", "probability", "probabilities"} <= set(answer["record"])
    plain = client.post(path, json={**asked, "stage": "plain"}).json()
    forced = client.post(path, json={**asked, "stage": "cracks"}).json()
    assert plain["record"]["module"] is None and forced["stage"] == "cracks"
    assert len({a["record"]["inputs"] for a in (answer, plain, forced)}) == 3


def test_a_further_click_runs_no_trunk(start: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    server, client = start()
    image, session = first(client)
    cache = server.answers.run.learner.cache
    for stage in (None, "plain", "cracks"):
        for x in (20, 30):
            asked = {"session": session, "objects": [{"clicks": [{"x": x, "y": 30}]}], "stage": stage}
            assert client.post(f"/api/images/{image}/segment", json=asked).status_code == 200
    assert cache.misses == 1


def test_the_truth_of_the_runs_own_images_is_known(start: Any, base: Any) -> None:
    data = Path(base.name).parent / "data" / "polyps" / "test"
    _, client = start(images=data / "images")
    image, session = first(client)
    mask = np.asarray(Image.open(next(iter(sorted((data / "masks").glob("*.png")))))) > 127
    answer = client.post(f"/api/images/{image}/segment", json={"session": session, "objects": [CLICK]}).json()
    assert np.array_equal(mask_of(answer["truth_masks"], 64, 64), mask)
    assert 0 <= answer["iou"][0] <= 1


@pytest.mark.parametrize(
    ("body", "status", "says"),
    [
        ({"objects": []}, 400, "no prompt points at an object"),
        ({"objects": [{"clicks": [{"x": 1, "y": 1, "on": 0}]}]}, 400, "has no click on it"),
        ({"objects": [{"clicks": [{"x": 99, "y": 1}]}]}, 400, "lies outside the image"),
        ({"objects": [{"box": [5, 5, 5, 9]}]}, 400, "is empty"),
        ({"objects": [CLICK], "stage": "fields"}, 404, "no module 'fields'"),
        ({"objects": [CLICK] * 65}, 413, "at most 64"),
        ({"objects": [{"clicks": [{"x": 1, "y": 1}] * 201}]}, 413, "more than 200"),
        ({"objects": [CLICK], "colour": 1}, 422, "colour"),
        ({"objects": [CLICK], "session": "gone"}, 410, "reload"),
    ],
)
def test_what_cannot_be_answered_is_a_sentence(client: TestClient, body: Any, status: int, says: str) -> None:
    image, session = first(client)
    answer = client.post(f"/api/images/{image}/segment", json={"session": session, **body})
    assert answer.status_code == status
    assert says in answer.json()["error"]


@pytest.mark.parametrize("shape", [(1, 1), (3, 5), (64, 48)])
def test_run_lengths_are_the_mask(shape: tuple[int, int]) -> None:
    rng = np.random.default_rng(0)
    for share in (0.0, 0.3, 1.0):
        mask = rng.random(shape) < share
        counts = counts_of(mask)
        assert np.array_equal(mask_of(counts, *shape), mask)
        assert sum(counts) == mask.size
    with pytest.raises(UserError, match="do not add up"):
        mask_of([3], *shape) if shape != (1, 3) else None
