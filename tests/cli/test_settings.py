"""`everseg settings`: every value, its meaning and its source, for people and as JSON."""

from __future__ import annotations

import json

import pytest

from everseg.cli.settings import settings
from everseg.config import describe
from everseg.errors import UserError
from everseg.methods import configure


def test_a_preset_is_compared_with_the_paper(capsys: pytest.CaptureFixture[str]) -> None:
    settings("samcl", "reference")
    out = capsys.readouterr().out
    assert "samcl, preset reference (of paper, reference)" in out
    for setting in describe(configure("samcl", "reference")):
        assert setting.name in out
    lines = {line.split()[0]: line for line in out.splitlines() if line.strip()}
    assert lines["tune.fit.optimiser"].split()[1] == "adam"
    assert "(paper: adamw)" in out
    assert "[SAMCL, eq. 7]" in out
    assert lines["resize"].split()[1] == "nearest"
    settings("samcl", "paper")
    assert "(paper:" not in capsys.readouterr().out


def test_settings_that_learn_chooses_by_the_images_are_named(capsys: pytest.CaptureFixture[str]) -> None:
    settings("dkd", "paper")
    (line,) = (line for line in capsys.readouterr().out.splitlines() if "by the images" in line)
    assert "tune.crop, " in line and "gamma, gamma_later" in line and "replay_new" not in line
    assert "tune.later.lr, " in line and "score.size. 'everseg doctor --stream FILE --method dkd'" in line
    settings("mib", "paper")
    (line,) = (line for line in capsys.readouterr().out.splitlines() if "by the images" in line)
    assert "tune.crop" in line and ".lr" not in line, "its rates stay as published"
    for method, preset in (("dkd", "reference"), ("samcl", "paper")):
        settings(method, preset)
        assert "by the images" not in capsys.readouterr().out
    settings("eir", "paper", as_json=True)
    assert {"tune.crop", "replay_new"} <= set(json.loads(capsys.readouterr().out)["proposed"])


def test_json_has_what_the_table_has(capsys: pytest.CaptureFixture[str]) -> None:
    settings("eir", "reference_ade", as_json=True)
    told = json.loads(capsys.readouterr().out)
    assert told["presets"] == ["paper", "reference", "reference_ade"]
    assert {"name": "count", "kind": "int", "value": 300}.items() <= told["settings"][0].items()
    assert {s["name"] for s in told["settings"]} >= {"paste.jitter", "tune.later.lr", "harvest.single"}
    assert [s["name"] for s in told["score"]] == ["size", "absent", "batch", "workers"]


def test_unknown_names_are_refused_with_the_nearest() -> None:
    with pytest.raises(UserError, match="did you mean 'samcl'"):
        settings("samlc", "paper")
    with pytest.raises(UserError, match="did you mean 'paper'"):
        settings("samcl", "papre")
