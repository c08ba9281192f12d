"""The gate's files: one page without requests, and XML that CI systems read."""

from __future__ import annotations

import re
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import torch

from everseg.pictures.tile import tile
from everseg.report.cells import picture
from everseg.report.gate import FlipExample, page, write_gate_page
from everseg.report.junit import write_junit
from everseg.results.gate import GateConfig, judge
from everseg.results.health import MOVED, NOTHING, health
from everseg.results.paired import Pairs
from everseg.runs.gate import Gate
from everseg.runs.verdict import advice, headline, power

ODD = "<b>&\"'"
CONFIG = GateConfig(samples=200)


def pairs(column: str, prompt: str, difference: np.ndarray) -> Pairs:
    units = tuple(f"{n}<i>.png" for n in range(len(difference)))
    return Pairs(column, "learned", prompt, units, np.full(len(difference), 0.6), 0.6 + difference)


def gated(drop: float = 0.3, images: int = 40, *, left_out: tuple[str, ...] = ()) -> Gate:
    noise = np.random.default_rng(0).normal(0, 0.01, images)
    measured = (
        pairs(ODD, "clicks", noise),
        pairs(ODD, "box", noise - drop),
        pairs("few", "clicks", noise[:2]),
        pairs("still", "clicks", np.zeros(3)),
    )
    checked = [pairs(ODD, prompt, noise + drop) for prompt in (MOVED, NOTHING)]
    clicks = [pairs(ODD, "1", noise), pairs(ODD, "2", noise - drop)]
    said = ([0.5, 0.7, 0.9], [0.1, float("nan"), 0.9])
    told = health(checked, clicks, said, ([0.6, 0.6, 0.6], [0.3, 0.3, 0.3]), samples=200)
    judged = judge(measured, CONFIG)
    return Gate(judged.verdict, f"new {ODD}", "plain", "tiny", False, judged, told, left_out, measured)


def example(gate: Gate) -> FlipExample:
    drawn = tile(torch.zeros(3, 20, 30, dtype=torch.uint8))
    return FlipExample(gate.flips[0], [picture(drawn, "image")])


def test_the_page_needs_nothing_else_and_shows_everything(tmp_path: Path) -> None:
    gate = gated()
    write_gate_page(gate, [example(gate)], tmp_path / "gate.html")
    text = (tmp_path / "gate.html").read_text()
    assert not re.search(r"(src|href)=\"(?!data:)", text) and "<script" not in text and "url(" not in text
    assert ODD not in text and "&lt;b&gt;&amp;" in text and "<i>.png" not in text
    assert "FAIL" in text.upper() and text.count("<svg") == len(gate.comparisons)
    for shown in ("✕ worse", "✓ not worse", "? cannot tell", "no score changed", "data:image/jpeg"):
        assert shown in text
    for said in gate.health.warnings if gate.health else ():
        assert said.split(":")[0].replace("'", "&#39;") in text
    assert "nan" not in re.sub(r"data:[^\"]*", "", text).lower().replace("tenance", "")


def test_a_finding_has_a_mark_of_its_own_and_not_only_a_colour() -> None:
    text = page(gated())
    assert text.count('<rect class="dot"') == text.count("✕ worse") > 0
    assert text.count('<path class="dot"') == text.count("? cannot tell") > 0
    assert text.count('<circle class="dot"') == text.count("✓ not worse") > 0


def test_ci_reads_the_xml(tmp_path: Path) -> None:
    gate = gated(left_out=("'gone\x00' is not compared",))
    write_junit(gate, tmp_path / "gate.xml")
    root = ElementTree.parse(tmp_path / "gate.xml").getroot()
    cases = root.findall("./testsuite/testcase")
    assert [len(cases), len(root.findall(".//failure")), len(root.findall(".//skipped"))] == [
        int(root.attrib[key]) for key in ("tests", "failures", "skipped")
    ]
    assert {case.attrib["name"] for case in cases if case.find("failure") is not None} >= {f"{ODD}, box"}
    said = root.findtext("./testsuite/system-out") or ""
    assert said.startswith("fail: ") and "warning: " in said


def test_sentences_say_what_to_do() -> None:
    failed = gated()
    assert headline(failed).startswith(f"new {ODD} is worse than plain on {ODD}, box")
    assert any("Only box prompts are worse" in text for text in advice(failed))
    unsure = gated(0.0)
    assert unsure.verdict == "cannot tell" and "none is excluded on few, clicks" in headline(unsure)
    assert any(re.search(r"--margin 0\.\d+", text) for text in advice(unsure))
    seen = {c.column: power(unsure, c) for c in unsure.comparisons}
    assert "with 2 images no drop can be seen" in seen["few"]
    assert "harm to fewer than 63.2 % of such images could still go unseen" in seen["still"]
    assert re.search(
        r"a drop of less than 0\.0\d+ cannot be seen, nor one of 0.2 or more in fewer", seen[ODD]
    )


@pytest.mark.parametrize("images", [1, 2])
def test_one_image_is_a_page_too(images: int) -> None:
    gate = gated(0.01, images)
    assert gate.verdict == "cannot tell"
    assert "cannot tell" in page(gate)
