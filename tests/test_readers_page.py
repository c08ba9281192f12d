"""What the page on readers shows runs as it stands, and it names every kind and extra there is."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import yaml

from everseg.data import CLASS_READERS, READERS
from everseg.data.readers import parameters

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs" / "readers.md").read_text(encoding="utf-8")
DATA = (ROOT / "docs" / "data.md").read_text(encoding="utf-8")


def test_the_code_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "patients").mkdir()
    for seed, name in enumerate(("train-1", "train-2", "test-1")):
        image = np.random.default_rng(seed).integers(0, 256, (24, 24, 3), dtype=np.uint8)
        np.savez(tmp_path / "patients" / f"{name}.npz", image=image, mask=np.eye(24, dtype=bool))
    names: dict[str, Any] = {}
    for language, code in re.findall(r"```(\w+)\n(.*?)```", PAGE, re.DOTALL):
        if (file := re.match(r"# (\w+\.\w+)\n", code)) is not None:
            (tmp_path / file[1]).write_text(code)
        elif language == "python":
            exec(compile(code, "readers.md", "exec"), names)
            if "Squares" in names and "squares" not in names:
                names["squares"] = names["stream"]
    with rasterio.open("scene_mask.tif") as made:
        assert made.crs == rasterio.CRS.from_epsg(32633) and made.read(1).sum() == 255 * 20 * 30
    assert [len(s.train) for s in names["squares"].stages] == [8, 4]
    assert names["squares"].stages[0].train[7].masks.sum() == 400
    assert [s.name for s in names["stream"].stages[0].train] == ["train-1.npz", "train-2.npz"]
    assert "0 errors" in capsys.readouterr().out


def test_every_kind_and_option_is_there() -> None:
    kinds = {*READERS, *CLASS_READERS}
    for kind in kinds:
        assert f"| `{kind}` |" in DATA, kind
    (text,) = re.findall(r"## What other tools write\n\n```yaml\n(.*?)```", PAGE, re.DOTALL)
    for stage in yaml.safe_load(text)["stages"]:
        for split in (stage["train"], stage["test"]):
            kind = split.pop("kind")
            known = parameters(kind, READERS[kind])
            assert known is not None and set(split) <= known


def test_every_extra_is_there() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    readers = next(d for d in project["optional-dependencies"]["dev"] if d.startswith("everseg["))
    for extra in readers.removeprefix("everseg[").removesuffix("]").split(","):
        assert extra in project["optional-dependencies"] and f"everseg[{extra}]" in PAGE
