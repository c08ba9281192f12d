"""Drawn shapes: polygons cover what faster_coco_eval's do, and patches are cut off at the border."""

import numpy as np
import pytest
from faster_coco_eval.core import mask as coco

from everseg.data.domains.areas import fill_polygons, paste


def test_polygons_agree_within_a_pixel_of_the_border() -> None:
    polygons = [
        [10.2, 5.5, 80.7, 12.1, 60.0, 70.9, 20.0, 55.0],
        [70.0, 60.0, 95.0, 60.0, 95.0, 90.0, 70.0, 90.0],
    ]
    theirs = coco.decode(coco.merge(coco.frPyObjects(polygons, 100, 120))).astype(bool)
    ours = fill_polygons(polygons, 100, 120)
    assert (ours & theirs).sum() / (ours | theirs).sum() > 0.98


def test_upright_polygons_agree_exactly() -> None:
    for a, b in ((2, 8), (0, 10), (3, 4)):
        square = [a, a, b, a, b, b, a, b]
        theirs = coco.decode(coco.merge(coco.frPyObjects([square], 10, 20)))
        assert np.array_equal(fill_polygons([square], 10, 20), theirs)


def test_polygons_are_a_union_and_even_odd_within() -> None:
    square, inner = [0, 0, 10, 0, 10, 10, 0, 10], [2, 2, 8, 2, 8, 8, 2, 8]
    assert np.array_equal(fill_polygons([square, inner], 12, 12), fill_polygons([square], 12, 12))
    bow_tie = fill_polygons([[0, 0, 10, 10, 10, 0, 0, 10]], 12, 12)
    assert bow_tie[5, 1] and bow_tie[5, 8] and not bow_tie[1, 5] and not bow_tie[9, 5]


@pytest.mark.parametrize("polygon", [[0, 0, 1, 1], [0, 0, 1, 1, 2], [0, 0, 1, 1, 2, float("nan")]])
def test_wrong_polygons(polygon: list[float]) -> None:
    with pytest.raises(ValueError):
        fill_polygons([polygon], 4, 4)


def test_a_mask_is_cut_off_at_the_border() -> None:
    whole = np.ones((4, 5), bool)
    assert paste(whole, -2, -1, 30, 40)[:3, :3].all() and paste(whole, -2, -1, 30, 40).sum() == 9
    assert paste(whole, 38, 29, 30, 40).sum() == 2
    assert not paste(whole, 41, 2, 30, 40).any() and not paste(whole, 2, -9, 30, 40).any()
