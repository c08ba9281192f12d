import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch

from everseg.classes.problem import Classes
from everseg.domains.problem import Domains
from everseg.report import MaskExample, ReportData, pick, write_report
from everseg.report.data import TrainingCurve
from everseg.report.page import TEMPLATES
from everseg.report.panels import PANELS
from everseg.results import ImageScore, Results, Summary

DOMAINS = ("<b>&\"'", "nuclei")


def results(routed: bool = True) -> Results:
    rng = np.random.default_rng(0)

    def row(level: float) -> list[ImageScore]:
        return [
            ImageScore(
                domain, f"{i}.png", {"iou": v, "mae": 1 - v}, route=domain if routed else "", probability=0.9
            )
            for domain in (*DOMAINS, "unseen")
            for i, v in enumerate(np.clip(rng.normal(level, 0.05, 8), 0, 1).tolist())
        ]

    found = Results({"iou": False, "mae": True}).with_baseline(row(0.4))
    return found.with_stage(DOMAINS[0], row(0.6)).with_stage(DOMAINS[1], row(0.7))


def example(number: int = 0, size: tuple[int, int] = (40, 60)) -> MaskExample:
    generator = torch.Generator().manual_seed(number)
    truth = torch.zeros(size, dtype=torch.bool)
    truth[10:30, 10:30] = True
    return MaskExample(
        domain=DOMAINS[number % 2],
        name=f"{number % 8}.png",
        image=torch.randint(0, 256, (3, *size), dtype=torch.uint8, generator=generator),
        truth=truth,
        plain=~truth,
        adapted=truth,
        points=torch.tensor([[20.0, 15.0], [50.0, 5.0], [0.0, 0.0]]),
        labels=torch.tensor([1, 0, -10]),
        route="nuclei",
        iou_plain=0.0,
        iou_adapted=1.0,
    )


SUMMARY: Summary = {
    "method": "samcl & co",
    "base": "tiny",
    "base_hash": "abc" * 20,
    "preset": "paper",
    "seed": 3,
    "stored_bytes": {"modules": 2048, "buffer": 1024},
    "trainable_parameters": 61524,
    "stage_seconds": [1.0, 2.0],
    "peak_memory_bytes": [10**6, 2 * 10**6],
}


def data(examples: int = 2) -> ReportData:
    shown = [example(i) for i in range(examples)]
    return report("<script>run</script>", results(), SUMMARY, {"a": {"b": "<i>"}}, shown)


def report(
    name: str,
    found: Results,
    summary: Summary,
    config: Mapping[str, object] | None = None,
    masks: Sequence[MaskExample] = (),
) -> ReportData:
    return ReportData(name, config or {}, found, summary, Domains.panels, masks)


class Reader(HTMLParser):
    """Collects tags and what they refer to; fails on tags that do not nest."""

    void = frozenset(("meta", "img", "input", "br", "link", "path", "use", "rect"))

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[str] = []
        self.links: list[str] = []
        self.alts: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append(tag)
        self.links += [
            value or "" for name, value in attrs if name in ("src", "href", "xlink:href", "action")
        ]
        self.alts += [value or "" for name, value in attrs if tag == "img" and name == "alt"]
        if tag not in self.void:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in self.void:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.void:
            assert self.open.pop() == tag


def read(path: Path) -> tuple[str, Reader]:
    text = path.read_text(encoding="utf-8")
    reader = Reader()
    reader.feed(text)
    assert not reader.open, "every tag is closed"
    return text, reader


def test_the_page_is_whole_and_fetches_nothing(tmp_path: Path) -> None:
    text, reader = read(write_report(data(), tmp_path))
    assert "script" not in reader.seen and "b" in reader.seen
    assert all(link.startswith(("data:", "#")) for link in reader.links)
    addresses = set(re.findall(r"https?://[^\"' )]+", text))
    assert all("www.w3.org" in address for address in addresses), "only the names of SVG's namespaces"
    assert "url(http" not in text and "@import" not in text


def test_what_people_named_is_escaped(tmp_path: Path) -> None:
    text, _ = read(write_report(data(), tmp_path / "page.html"))
    assert "<script>" not in text and "&lt;script&gt;run" in text
    assert "<b>&" not in text and 'b>&"' not in text, "in text, attributes, captions and charts"
    assert text.count("&lt;b&gt;&amp;") > 10
    assert "samcl &amp; co" in text and "&lt;i&gt;" in text


def test_every_part_is_there(tmp_path: Path) -> None:
    text, reader = read(write_report(data(), tmp_path))
    for title in (
        "IoU after each stage",
        "What happens",
        "Which module",
        "Examples",
        "What is kept",
        "Configuration",
    ):
        assert title in text
    assert reader.seen.count("img") == len(reader.alts) == 8 and all(reader.alts)
    assert reader.seen.count("svg") == 2, "curves of each metric"
    assert reader.seen.count("table") == reader.seen.count("caption") == 6
    assert "untouched base" in text and "3.0 KiB" in text and "61,524 parameters" in text
    assert text.count('type="radio"') == text.count('<div class="metric">') == 2


def test_every_panel_has_a_template_and_a_place() -> None:
    shared = {"page.html", "parts.html", "report.css", "gate.html", "gate.css"}
    assert set(TEMPLATES.list_templates()) == {f"{name}.html" for name in PANELS} | shared
    assert set(PANELS) == {*Domains.panels, *Classes.panels}


def test_panels_come_in_the_order_asked_for(tmp_path: Path) -> None:
    some = replace(data(), panels=("settings", "routing"))
    text, _ = read(write_report(some, tmp_path))
    assert re.findall("<h2>(.*)</h2>", text) == ["Configuration", "Which module was chosen"]


def test_losses_and_validation_scores_are_drawn(tmp_path: Path) -> None:
    trained = [
        TrainingCurve("<b>a", (1, 2, 3), (3.0, 2.0, 1.5), (0.4, 0.6, 0.5), 2),
        TrainingCurve("$b$", (1,), (2.0,)),
    ]
    text, reader = read(write_report(replace(data(), trainings=trained), tmp_path / "both.html"))
    assert "The trainings" in text and "Validation" in text and reader.seen.count("svg") == 4
    assert "&lt;b&gt;a 3.000 after the first epoch, 1.500 after the last; $b$ 2.000" in text
    assert "&lt;b&gt;a 0.400 after the first epoch, 0.500 after the last" in text
    assert "<b>a" not in text and ">$b$<" in text
    text, reader = read(write_report(replace(data(), trainings=trained[1:]), tmp_path / "loss.html"))
    assert "The trainings" in text and "Validation" not in text and reader.seen.count("svg") == 3


def test_what_ends_below_the_untouched_base_is_a_sentence(tmp_path: Path) -> None:
    def cells(**iou: float) -> dict[str, dict[str, float]]:
        return {name: {"iou": value} for name, value in iou.items()}

    found = Results({"iou": False}).with_baseline(cells=cells(a=0.4, nuclei=0.331, horses=0.5))
    found = found.with_stage("a", cells=cells(a=0.7, nuclei=0.133, horses=0.6))
    text, _ = read(write_report(report("run", found, {}), tmp_path))
    (item,) = re.findall("<li>(.*)</li>", text)
    assert item == "nuclei (never learned) ends below the untouched base: IoU 0.133, untouched base 0.331"
    (cell,) = re.findall('<td class="unseen below"[^>]*>(.*?)</td>', text)
    assert cell == "! 0.133" and "worse than the untouched base at the end" in text
    assert "nuclei (unseen)" in text and "Untouched base: 0.415." in text, "the mean over unseen domains"
    better = Results({"iou": False}).with_baseline(cells=cells(a=0.4)).with_stage("a", cells=cells(a=0.7))
    text, _ = read(write_report(report("run", better, {}), tmp_path))
    assert "<li>" not in text and "! 0." not in text and "exclamation" not in text


def test_equal_runs_give_equal_bytes(tmp_path: Path) -> None:
    first = write_report(data(), tmp_path / "a.html").read_bytes()
    assert write_report(data(), tmp_path / "b.html").read_bytes() == first


def test_a_run_that_knows_little_gives_a_short_page(tmp_path: Path) -> None:
    """No baseline, routes, examples, summary or configuration, and nothing learned yet."""
    bare = Results({"iou": False}).with_stage("a", cells={"a": {"iou": 0.5}})
    text, reader = read(write_report(report("bare", bare, {}), tmp_path))
    assert "Examples" not in text and "Which module" not in text and reader.seen.count("table") == 1
    read(write_report(report("empty", Results({"iou": False}), {}), tmp_path))


def test_sixteen_examples_stay_small(tmp_path: Path) -> None:
    """Blobs as rough as a photograph: sixteen medical and road images took 1.3 MB."""
    smooth = torch.nn.functional.interpolate(
        torch.rand(1, 3, 30, 40, generator=torch.Generator().manual_seed(0)),
        size=(900, 1200),
        mode="bicubic",
    )[0]
    big = (smooth.clamp(0, 1) * 255).to(torch.uint8)
    mask = torch.zeros(900, 1200, dtype=torch.bool)
    mask[200:500, 300:900] = True
    shown = [
        MaskExample(DOMAINS[0], str(i), big, mask, mask, mask, torch.zeros(1, 2), torch.ones(1), "", 1.0, 1.0)
        for i in range(16)
    ]
    path = write_report(report("big", results(), SUMMARY, masks=shown), tmp_path)
    assert path.stat().st_size < 2_000_000


def test_pick_takes_the_worst_the_median_and_the_best() -> None:
    scores = [ImageScore("a", str(i), {"iou": i / 10, "mae": i / 10}) for i in range(9)]
    found = Results({"iou": False, "mae": True}).with_stage("a", scores)
    assert pick(found, "iou") == {"a": ["0", "4", "8"]}
    assert pick(found, "mae") == {"a": ["8", "4", "0"]}, "the worst has the highest error"
    assert pick(found, "iou", count=2) == {"a": ["0", "4"]}
    assert pick(found, "iou", count=1) == {"a": ["0"]}
    assert pick(found, "iou", count=20)["a"] == [str(i) for i in range(9)]


def test_an_example_of_two_sizes_is_a_mistake_of_ours() -> None:
    with pytest.raises(AssertionError, match="one size"):
        MaskExample(
            "a",
            "x",
            torch.zeros(3, 4, 4),
            *[torch.zeros(4, 5)] * 3,
            torch.zeros(0, 2),
            torch.zeros(0),
            "",
            0,
            0,
        )
