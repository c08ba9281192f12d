"""The page in a real browser: label, learn, check, accept; and everything is still there after a restart.

The screenshots of docs/serve.md are made by it: EVERSEG_SCREENSHOTS names the folder that they go to,
EVERSEG_PAGE_STEPS how long each domain is trained for them, and EVERSEG_PAGE_FOLDER where the run is kept for
the next time.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from everseg.data import Stream, write_synthetic_classes, write_synthetic_stream
from everseg.data.checks import check
from everseg.data.synthetic.domains import SyntheticDomain
from everseg.files import read_json, write_json
from everseg.methods import configure
from everseg.runs.folder import load, read_record
from everseg.runs.forget import forget
from everseg.runs.learn import run
from everseg.runs.run import RunConfig

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
CHROMIUM = next(
    (p for n in ("chromium", "chromium-browser", "google-chrome") if (p := shutil.which(n))), None
)

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium is installed: apt-get install chromium"),
]

TRUTH = {
    s.name.replace("-serve", ""): s.masks[0].numpy() for s in SyntheticDomain("shadows", 12, split="serve")
}
SCREENSHOTS = os.environ.get("EVERSEG_SCREENSHOTS", "")
EARLIER = Path(__file__).parents[1] / "assets" / "earlier_run"
RUN = Path("runs") / "hospital"
"""As the server is given it, in the folder of a test; the pages show it."""
PATIENCE = 600_000.0
"""Milliseconds that learning may take on a busy machine."""


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the run `RUN`, which knows two domains, and `scans`: what `everseg demo` makes for the
    screenshots, else a run on a base that answers at once and whose masks mean nothing."""
    folder = tmp_path_factory.mktemp("page")
    if SCREENSHOTS and (kept := os.environ.get("EVERSEG_PAGE_FOLDER", "")):
        folder = Path(kept)
    if (folder / RUN).exists():
        return folder
    if SCREENSHOTS:
        source = write_synthetic_stream(
            folder / "data", ("polyps", "lesions"), 24, 8, background=False, unseen=("camouflage",)
        )
        steps = os.environ.get("EVERSEG_PAGE_STEPS", "60")
        config = RunConfig("samcl", configure("samcl", assignments=[f"tune.fit.steps={steps}"]), "tiny")
        run(Stream.from_yaml(source), config, folder / RUN)
        shutil.copytree(folder / "data" / "polyps" / "test" / "images", folder / "scans")
        return folder
    shutil.copytree(EARLIER / "runs" / "samcl", folder / RUN)
    record = read_json(folder / RUN / "run.json")
    record["stream"], record["config"]["base"] = str(EARLIER / "data" / "stream.yaml"), str(EARLIER / "base")
    write_json(folder / RUN / "run.json", record)
    (folder / "scans").symlink_to(EARLIER / "data" / "polyps" / "test" / "images")
    return folder


@pytest.fixture(scope="module")
def classes(micro_backbone_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the run `RUN` of two classes and its data. For the screenshots it is trained."""
    kept = os.environ.get("EVERSEG_PAGE_FOLDER", "") if SCREENSHOTS else ""
    folder = Path(kept) / "classes" if kept else tmp_path_factory.mktemp("classes")
    if (folder / RUN).exists():
        return folder
    if SCREENSHOTS:
        source = write_synthetic_classes(folder / "data", "2-1", 60, 8, kinds=["ball", "ring", "leaf"])
        stream, base = Stream.from_yaml(source), "mobilenet"
        stream = replace(stream, stages=stream.stages[:1])
        settings = ("tune.crop=64", "tune.first.batch=8", "tune.first.epochs=8", "tune.first.lr=0.01")
    else:
        source = write_synthetic_classes(folder / "data", "1-1", 12, 4, size=64, kinds=["ball", "ring"])
        stream, base = Stream.from_yaml(source), str(micro_backbone_folder)
        settings = ("tune.crop=64", "tune.first.epochs=1", "tune.later.epochs=1")
    config = RunConfig("fine-tuning", configure("fine-tuning", assignments=settings), base)
    run(stream, config, folder / RUN)
    (folder / "scans").symlink_to((folder / "data" / "test" / "images").resolve())
    return folder


@contextmanager
def serving(folder: Path, *more: str) -> Iterator[str]:
    """The command itself, by its address. It is killed at the end, as by a power cut."""
    words = [sys.executable, "-m", "everseg", "serve", str(RUN), "--port", "0", *more]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, text=True, cwd=folder)
    try:
        assert process.stdout is not None
        address = next(m[1] for line in process.stdout if (m := re.match(r"open:\s+(\S+)", line)))
        yield address
    finally:
        process.kill()
        process.communicate()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    sync_api.expect.set_options(timeout=120_000)
    with sync_api.sync_playwright() as started:
        opened = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield opened
        opened.close()


class Page:
    """A page of the browser, which fails a test when a script does."""

    def __init__(self, browser: Any, address: str, **how: Any) -> None:
        self.page = browser.new_page(**{"viewport": {"width": 1360, "height": 860}, **how})
        self.page.set_default_timeout(120_000)
        self.faults: list[str] = []
        self.page.on("pageerror", lambda error: self.faults.append(str(error)))
        self.page.on("console", lambda m: self.faults.append(m.text) if m.type == "error" else None)
        for _ in range(300):
            try:
                self.page.goto(address)
                break
            except sync_api.Error:
                time.sleep(0.2)
        self.page.wait_for_selector("body[data-ready]", timeout=120_000)

    def at(self, x: float, y: float, side: int = 256) -> tuple[float, float]:
        """Where a pixel of a square image lies on the screen."""
        box = self.page.locator("#canvas").bounding_box()
        scale = 0.96 * min(box["width"], box["height"]) / side
        left = box["x"] + (box["width"] - side * scale) / 2
        return left + x * scale, box["y"] + (box["height"] - side * scale) / 2 + y * scale

    def says(self, text: str, timeout: float = 120_000) -> None:
        sync_api.expect(self.page.locator("#status")).to_contain_text(text, timeout=timeout)

    def picture(self, name: str) -> None:
        if SCREENSHOTS:
            self.page.screenshot(path=Path(SCREENSHOTS) / f"{name}.png")

    def close(self) -> None:
        self.page.close()
        assert not self.faults, self.faults


def middle(mask: Any) -> tuple[float, float]:
    """A pixel deep inside a mask."""
    from scipy import ndimage

    row, column = np.unravel_index(ndimage.distance_transform_edt(np.pad(mask, 1)).argmax(), (258, 258))
    return float(column) - 0.5, float(row) - 0.5


def test_a_domain_is_labelled_learned_and_accepted(demo: Path, browser: Any) -> None:
    before = read_record(demo / RUN).names
    with serving(demo) as address:
        began = time.monotonic()
        page = Page(browser, address)
        the, expect = page.page, sync_api.expect
        page.says("paint some")
        the.locator("#paint-domain").select_option("shadows")
        the.locator("#paint-go").click()
        expect(the.locator("#image-list li")).to_have_count(12)
        page.says("Click on an object")
        name = "shadows-00000.png"
        x, y = middle(TRUTH[name])
        the.mouse.click(*page.at(x, y))
        page.says(" ms.")
        expect(the.locator("#objects li")).to_have_count(1)
        expect(the.locator("#objects")).to_contain_text("predicted IoU")
        the.mouse.click(*page.at(8, 8), button="right")
        page.says(" ms.")
        the.locator("#undo").click()
        page.says("Undone")
        rows, columns = np.nonzero(TRUTH[name])
        the.mouse.move(*page.at(columns.min(), rows.min()))
        the.mouse.down()
        the.mouse.move(*page.at(columns.max() - 4, rows.max() - 4), steps=4)
        the.mouse.move(*page.at(columns.max(), rows.max()), steps=2)
        the.mouse.up()
        page.says(" ms.")
        the.keyboard.press("Control+z")
        page.says("Undone")
        the.keyboard.press("Control+Shift+Z")
        page.says("Done again")
        the.locator("#compare").click()
        expect(the.locator("#route")).to_contain_text("Plain SAM")
        page.picture("serve-click")
        the.locator("#compare").click()

        brush(page, name)
        for number in range(6):
            if number:
                name = f"shadows-{number:05d}.png"
                expect(the.locator('[aria-current="true"]')).to_contain_text(name[7:13])
                shown = the.locator('#image-list [aria-current="true"]').get_attribute("title")
                assert shown == name
                the.mouse.click(*page.at(*middle(TRUTH[name])))
                page.says(" ms.")
            dab(page, *middle(TRUTH[name]))  # Whatever the model answered, there is a pixel.
            the.locator("#accept").click()
            page.says("is accepted")
        expect(the.locator("#domain-list")).to_contain_text("held out")
        page.picture("serve-label")

        the.locator("#domain-list button").click()
        expect(the.locator("#jobs")).to_contain_text("is being learned")
        expect(the.locator("#jobs")).to_contain_text("step ", timeout=PATIENCE)
        page.picture("serve-learn")
        expect(the.locator("#verdict")).to_be_visible(timeout=PATIENCE)
        expect(the.locator("#verdict-title")).to_contain_text("shadows is learned")
        expect(the.locator("#comparisons tbody tr")).not_to_have_count(0)
        page.picture("serve-check")
        assert read_record(demo / RUN).names == before  # Not before somebody says so.
        accept = the.locator("#accept-job")
        accept.click()
        if "anyway" in (accept.text_content() or ""):
            accept.click()
        page.says("has learned shadows")
        expect(the.locator("#run")).to_contain_text("shadows")
        print(f"labelled, learned and accepted in {time.monotonic() - began:.0f} s")
        page.close()
    assert load(demo / RUN).learned == [*before, "shadows"]
    found = check(demo / "runs" / "hospital-labels" / "labels.yaml")
    assert found.ok, str(found)

    with serving(demo) as address:  # After the kill.
        page = Page(browser, address)
        expect(page.page.locator("#run")).to_contain_text("shadows")
        expect(page.page.locator("#image-list .mark")).to_have_count(6)
        page.page.locator("#image-list button").first.click()
        page.says("these masks are accepted")
        expect(page.page.locator("#objects")).to_contain_text("px")
        page.close()


def brush(page: Page, name: str) -> None:
    """Paint a stroke into the mask, or out of one that covers all, and undo it."""
    the, objects = page.page, page.page.locator("#objects")
    before = objects.text_content()
    the.locator('[data-tool="brush"]' if SCREENSHOTS else '[data-tool="eraser"]').click()
    the.mouse.move(*page.at(20, 20))
    the.mouse.down()
    the.mouse.move(*page.at(60, 20), steps=3)
    the.mouse.up()
    sync_api.expect(objects).not_to_have_text(before or "")
    the.locator("#undo").click()
    sync_api.expect(objects).to_have_text(before or "")
    the.locator('[data-tool="click"]').click()


def dab(page: Page, x: float, y: float, side: int = 256) -> None:
    """Paint a dot into the mask."""
    page.page.locator('[data-tool="brush"]').click()
    page.page.mouse.click(*page.at(x, y, side))
    page.page.locator('[data-tool="click"]').click()


def test_everything_can_be_done_by_keys(demo: Path, browser: Any) -> None:
    with serving(demo, "scans") as address:
        page = Page(browser, address)
        the, expect = page.page, sync_api.expect
        page.says("Click on an object")
        for _ in range(60):  # From the top of the page to the image.
            the.keyboard.press("Tab")
            if the.locator("#canvas:focus").count():
                break
        else:
            raise AssertionError("the image cannot be reached by Tab")
        the.keyboard.press("ArrowRight")
        the.keyboard.press("Shift+ArrowDown")
        the.keyboard.press("Space")
        page.says("IoU with the truth")
        the.keyboard.press("ArrowUp")
        the.keyboard.press("x")
        page.says(" ms.")
        the.keyboard.press("n")
        expect(the.locator("#objects li")).to_have_count(2)
        the.keyboard.press("b")
        for key in ("Shift+ArrowRight", "Shift+ArrowDown") * 3:
            the.keyboard.press(key)
        the.keyboard.press("b")
        page.says("2 objects")
        the.keyboard.press("t")
        the.keyboard.press("Delete")
        expect(the.locator("#objects li")).to_have_count(1)
        the.keyboard.press("p")
        the.keyboard.press("Space")
        the.keyboard.press("v")
        the.locator("#domain").fill("by-keys")
        the.locator("#domain").press("Enter")
        page.says("is accepted")
        the.keyboard.press("Escape")
        the.locator("#canvas").focus()
        the.keyboard.press("?")
        expect(the.locator("#help")).to_be_visible()
        page.close()


def test_a_tablet_taps(demo: Path, browser: Any) -> None:
    how = {"viewport": {"width": 820, "height": 1180}, "has_touch": True}
    with serving(demo, "scans") as address:
        page = Page(browser, address, **how)
        box = page.page.locator("#canvas").bounding_box()
        page.page.touchscreen.tap(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
        page.says(" ms.")
        page.page.locator("#off").tap()
        page.page.touchscreen.tap(box["x"] + box["width"] / 2, box["y"] + box["height"] / 4)
        page.says(" ms.")
        side = page.page.locator("aside").bounding_box()
        assert side["x"] + side["width"] <= 820  # Nothing lies beyond the edge.
        page.picture("serve-tablet")
        page.close()


def test_a_run_of_classes_shows_its_map_and_its_legend(classes: Path, browser: Any) -> None:
    with serving(classes, "scans") as address:
        page = Page(browser, address)
        the, expect = page.page, sync_api.expect
        page.says("% of the pixels are wrong")
        expect(the.locator("#legend")).to_be_visible()
        # So short a training may find one class alone.
        expect(the.locator("#legend")).to_have_text(re.compile(r"((background|ball|ring)[\d.]+ %)+"))
        for hidden in ("#objects li", "#label-box", "#learn-box", "#steps", "#live-row"):
            expect(the.locator(hidden)).to_be_hidden()
        page.picture("serve-classes")
        drawn = the.locator("#canvas").screenshot()
        the.locator("#truth").click()
        expect(the.locator("#truth")).to_contain_text("Hide truth")
        assert the.locator("#canvas").screenshot() != drawn
        the.keyboard.press("PageDown")
        expect(the.locator("#image-list li").nth(1).locator("button")).to_have_attribute(
            "aria-current", "true"
        )
        page.says("% of the pixels are wrong")
        page.close()


def test_a_live_session_learns_while_somebody_clicks(demo: Path, browser: Any) -> None:
    with serving(demo, "scans", "--labels", "live-labels", "--live") as address:
        page = Page(browser, address)
        the, expect = page.page, sync_api.expect
        page.says("Click on an object")
        expect(the.locator("#live")).to_have_attribute("aria-pressed", "true")
        expect(the.locator("#live-state")).to_contain_text("from your first correction")
        the.mouse.click(*page.at(32, 32, 64) if not SCREENSHOTS else page.at(128, 128))
        page.says(" ms.")
        expect(the.locator("#live-undo")).to_be_disabled()
        the.mouse.click(*page.at(4, 4, 64) if not SCREENSHOTS else page.at(8, 8), button="right")
        expect(the.locator("#live-state")).to_contain_text("1 correction, 0 objects")
        expect(the.locator("#route")).to_contain_text("live session")
        dab(page, *((30.0, 30.0, 64) if not SCREENSHOTS else (128.0, 128.0)))
        the.locator("#domain").fill("more-polyps")
        the.locator("#accept").click()
        page.says("is accepted")
        expect(the.locator("#live-state")).to_contain_text("2 corrections, 1 object")
        page.picture("serve-live")
        the.locator("#live-undo").click()
        expect(the.locator("#live-state")).to_contain_text("1 correction, 0 objects")
        the.locator("#live-discard").click()
        expect(the.locator("#live-state")).to_contain_text("from your first correction")
        the.locator("#canvas").focus()
        the.keyboard.press("l")
        expect(the.locator("#live")).to_have_attribute("aria-pressed", "false")
        page.close()


def test_labelled_images_continue_a_known_domain(demo: Path, browser: Any, tmp_path: Path) -> None:
    """Also where another command forgets the domain while the page is open."""
    shutil.copytree(demo / "runs" / "hospital", tmp_path / RUN)
    (tmp_path / "scans").symlink_to((demo / "scans").resolve())
    with serving(tmp_path, "scans") as address:
        page = Page(browser, address)
        the, expect, side = page.page, sync_api.expect, 256 if SCREENSHOTS else 64
        page.says("Click on an object")
        the.locator("#domain").fill("clinic")
        for _ in range(min(the.locator("#image-list li").count(), 4)):
            the.mouse.click(*page.at(side / 2, side / 2, side))
            page.says(" ms.")
            dab(page, side / 2, side / 2, side)
            the.locator("#accept").click()
            page.says("is accepted")
        how = the.get_by_label("How clinic is learned")
        expect(how).to_be_visible()
        how.select_option(label="continue with polyps")
        the.locator("#domain-list button").click()
        expect(the.locator("#verdict")).to_be_visible(timeout=PATIENCE)
        expect(the.locator("#verdict-title")).to_contain_text("clinic is learned")
        accept = the.locator("#accept-job")
        accept.click()
        if "anyway" in (accept.text_content() or ""):
            accept.click()
        page.says("has learned clinic")
        assert list(load(tmp_path / RUN).results.later.values()) == ["polyps"]

        forget(tmp_path / RUN, "lesions" if SCREENSHOTS else "cracks")
        page.says("changed elsewhere: it knows polyps")
        expect(the.locator("#module")).not_to_contain_text("cracks")
        page.close()
