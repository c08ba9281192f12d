import math
from pathlib import Path

import pytest
import torch
from PIL import Image

from everseg.report import MaskExample, plot_curves, plot_matrix, story
from everseg.report.figures import colour, colour_range, png, svg
from everseg.results import Results


def results() -> Results:
    def cells(*values: float) -> dict[str, dict[str, float]]:
        return {name: {"iou": v} for name, v in zip("abc", values, strict=False)}

    found = Results({"iou": False}).with_baseline(cells=cells(0.4, 0.5, 0.3))
    return found.with_stage("a", cells=cells(0.8, 0.5)).with_stage("b", cells=cells(0.6, 0.9, 0.3))


@pytest.mark.parametrize("plot", [plot_matrix, plot_curves])
def test_figures_repeat_and_hold_their_names(plot: object) -> None:
    def drawn() -> str:
        return svg(plot(results(), "iou"), "x")  # type: ignore[operator]

    text = drawn()
    assert text == drawn() and text.startswith("<svg")
    assert "untouched base" in text and "currentColor" in text and "viewBox" in text
    assert "<metadata" not in text and "DejaVu" not in text and 'id="figure' not in text


@pytest.mark.parametrize("plot", [plot_matrix, plot_curves])
def test_names_are_text_whatever_is_in_them(plot: object) -> None:
    """Markup is escaped, and a dollar sign starts no formula."""
    names = ("<b>&\"'", "$x$ $")
    cells = {name: {"iou": 0.5} for name in names}
    found = Results({"iou": False}).with_stage(names[0], cells=cells).with_stage(names[1], cells=cells)
    text = svg(plot(found, "iou"), "x")  # type: ignore[operator]
    assert "<b>" not in text and "&lt;b&gt;&amp;" in text and text.count(">$x$ $<") >= 2


def test_a_figure_of_nothing_is_still_a_figure() -> None:
    nothing = Results({"iou": False}).with_stage("a", cells={})
    assert "<svg" in svg(plot_curves(nothing, "iou"), "x") and "<svg" in svg(plot_matrix(nothing, "iou"), "x")
    assert png(plot_curves(nothing, "iou"))[:4] == b"\x89PNG"


def test_bright_is_good_whichever_way_the_metric_goes() -> None:
    high, low = colour(1.0, (0.0, 1.0), False), colour(0.0, (0.0, 1.0), False)
    assert high[1] == "#000" and low[1] == "#fff", "dark letters on a bright ground"
    assert colour(0.0, (0.0, 1.0), True) == high and colour(1.0, (0.0, 1.0), True) == low


def test_the_scale_does_not_magnify_noise() -> None:
    low, high = colour_range([0.80, 0.81, math.nan])
    assert high - low == pytest.approx(0.25 * 0.81) and low < 0.8 < 0.81 < high
    assert colour_range([0.1, 0.9]) == (0.1, 0.9)
    assert colour_range([]) == (0.0, 1.0) and colour_range([0.0])[0] < 0.0


def test_the_story_is_one_wide_picture(tmp_path: Path) -> None:
    mask = torch.ones(8, 12, dtype=torch.bool)
    image = torch.zeros(3, 8, 12, dtype=torch.uint8)
    shown = MaskExample("a", "x", image, mask, mask, mask, torch.zeros(1, 2), torch.ones(1), "", 0.1, 0.9)
    path = story(tmp_path / "story.png", {"fine-tuning": results(), "SAMCL": results()}, [shown])
    with Image.open(path) as picture:
        assert picture.size == (1400, 500)
    again = story(tmp_path / "again.png", {"fine-tuning": results(), "SAMCL": results()}, [shown])
    assert again.read_bytes() == path.read_bytes()
    story(tmp_path / "alone.png", {"SAMCL": results()}, [])
