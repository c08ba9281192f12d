"""`learn --natural`: natural images are known from the first stage on, and looked at once for each base."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from everseg.data import Stream, SyntheticDomain, write_synthetic
from everseg.errors import UserError
from everseg.methods import configure
from everseg.runs.learn import run
from everseg.runs.run import RunConfig
from everseg.types import NATURAL, Stage

SMALL = ("tune.fit.epochs=1", "tune.fit.batch=2", "selector.size=6", "selector.epochs=1")


def stream(*domains: str) -> Stream:
    stages = [
        Stage(i, d, SyntheticDomain(d, 6, size=64), SyntheticDomain(d, 2, size=64, split="test"))
        for i, d in enumerate(domains)
    ]
    return Stream(tuple(stages))


def config(method: str = "samcl") -> RunConfig:
    return RunConfig(method, configure(method, assignments=SMALL if method == "samcl" else ()), "micro")


@pytest.fixture
def natural(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setattr(Path, "home", lambda: tmp_path / "home")
    write_synthetic(tmp_path / "pictures", "natural", 8, 64, 0, "train")
    return tmp_path / "pictures" / "images"


def test_a_run_begins_with_them_and_goes_on_without_the_folder(
    natural: Path, tmp_path: Path, micro: Any
) -> None:
    out = tmp_path / "run"
    begun = run(stream("lesions"), config(), out, micro, natural=natural)
    assert begun.learner.selector.names == (NATURAL, "lesions")
    assert micro.natural is None  # The base that was given stays as it was.
    (kept,) = (tmp_path / "home" / ".cache" / "everseg" / "natural").iterdir()
    kept.write_bytes(kept.read_bytes())
    done = run(stream("lesions", "cracks"), config(), out, micro)
    assert done.learner.selector.names == (NATURAL, "lesions", "cracks")
    # The same folder again is the same, and is not looked at again.
    for image in natural.iterdir():
        assert image.exists()
    again = run(stream("lesions", "cracks"), config(), tmp_path / "other", micro, natural=natural)
    assert again.learner.remembered.state_dict()["gaussians"].keys() == {
        NATURAL,
        "lesions",
        "cracks",
    }
    assert (out / done.record.state).read_bytes() == (tmp_path / "other" / again.record.state).read_bytes()


def test_it_is_said_where_they_cannot_be_known(natural: Path, tmp_path: Path, micro: Any) -> None:
    run(stream("lesions"), config(), tmp_path / "run", micro)
    with pytest.raises(UserError, match="was not begun with the natural images"):
        run(stream("lesions", "cracks"), config(), tmp_path / "run", micro, natural=natural)
    with pytest.raises(UserError, match=r"'regcl' has no use for natural images.*samcl"):
        run(stream("lesions"), config("regcl"), tmp_path / "merged", micro, natural=natural)
    with pytest.raises(UserError, match="is not a folder"):
        run(stream("lesions"), config(), tmp_path / "new", micro, natural=tmp_path / "nothing")
    leaving = RunConfig("samcl", configure("samcl", assignments=[*SMALL, "selector.natural=false"]), "micro")
    with pytest.raises(UserError, match="the settings of this run exclude natural images"):
        run(stream("lesions"), leaving, tmp_path / "leaving", micro, natural=natural)
    few = tmp_path / "few"
    few.mkdir()
    sorted(natural.iterdir())[0].rename(few / "one.png")
    with pytest.raises(UserError, match="too few"):
        run(stream("lesions"), config(), tmp_path / "new", micro, natural=few)
    assert not (tmp_path / "new").exists()
