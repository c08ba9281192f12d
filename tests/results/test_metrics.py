import subprocess
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from everseg.results.labels import METRICS, label
from everseg.results.metrics import binary_scores


def test_scores_of_the_published_code_on_a_formula() -> None:
    """Counts and scores that SAMCL's own evaluation gives on the same formula (samcl.md, 7.1 item 5)."""
    i = torch.arange(2**20, dtype=torch.float64)
    logit = (4 * torch.sin(0.001 * i) + torch.cos(0.37 * i)).float().view(1, 1024, 1024)
    truth = (torch.sin(0.0011 * i) > 0.2).view(1, 1024, 1024)
    pred = logit >= 0
    counts = [int((a & b).sum()) for a, b in [(pred, truth), (pred, ~truth), (~pred, truth), (~pred, ~truth)]]
    assert counts == [227370, 297049, 230770, 293387]
    scores = {name: value.item() for name, value in binary_scores(pred, truth).items()}
    assert scores == pytest.approx({"iou": 0.30107695, "f1": 0.46281190, "mae": 0.50336742}, abs=5e-9)


def test_every_metric_is_described_and_computed() -> None:
    masks = torch.zeros(3, 2, 2, dtype=torch.bool)
    scores = binary_scores(masks, masks)
    assert set(scores) == set(METRICS)
    assert all(value.shape == (3,) and value.dtype == torch.float64 for value in scores.values())


def test_empty_masks_agree_and_an_empty_guess_does_not() -> None:
    empty, full = torch.zeros(1, 4, 4, dtype=torch.bool), torch.ones(1, 4, 4, dtype=torch.bool)
    both = {name: value.item() for name, value in binary_scores(empty, empty).items()}
    assert both == {"iou": 1.0, "f1": 1.0, "mae": 0.0}
    for pred, truth in [(empty, full), (full, empty)]:
        one = {name: value.item() for name, value in binary_scores(pred, truth).items()}
        assert one == {"iou": 0.0, "f1": 0.0, "mae": 1.0}


@settings(deadline=None)
@given(st.integers(0, 2**32), st.floats(0, 1), st.floats(0, 1))
def test_laws(seed: int, p: float, q: float) -> None:
    """Symmetric in its arguments, F1 = 2 IoU / (1 + IoU), independent of the other masks of the batch."""
    generator = torch.Generator().manual_seed(seed)
    pred = torch.rand(3, 5, 7, generator=generator) < p
    truth = torch.rand(3, 5, 7, generator=generator) < q
    scores = binary_scores(pred, truth)
    turned = binary_scores(truth, pred)
    for name in METRICS:
        assert torch.equal(scores[name], turned[name])
        assert ((scores[name] >= 0) & (scores[name] <= 1)).all()
        assert torch.equal(scores[name][1:2], binary_scores(pred[1:2], truth[1:2])[name])
    torch.testing.assert_close(scores["f1"], 2 * scores["iou"] / (1 + scores["iou"]))


@pytest.mark.parametrize(
    "pred",
    [torch.zeros(1, 2, 2), torch.zeros(1, 2, 3, dtype=torch.bool), torch.zeros(2, 2, dtype=torch.bool)],
)
def test_masks_of_another_type_or_shape_are_refused(pred: torch.Tensor) -> None:
    with pytest.raises(AssertionError):
        binary_scores(pred, torch.zeros(1, 2, 2, dtype=torch.bool))


def test_results_are_read_and_labelled_without_what_computes_scores() -> None:
    code = "import sys; from everseg.results.labels import label; print(label('iou'), 'torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "IoU False\n" and label("miou") == "miou"
