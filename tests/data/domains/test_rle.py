"""COCO masks: run lengths come back, and polygons cover what faster_coco_eval's do."""

import numpy as np
import pytest
from faster_coco_eval.core import mask as coco

from everseg.data.domains.areas import fill_polygons
from everseg.data.domains.rle import decode_rle


@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (37, 53), (200, 64)])
def test_run_lengths_come_back(shape: tuple[int, int]) -> None:
    rng = np.random.default_rng(0)
    for density in (0.0, 0.02, 0.5, 1.0):
        mask = rng.random(shape) < density
        encoded = coco.encode(np.asfortranarray(mask.astype(np.uint8)))
        columns = mask.T.reshape(-1)
        changes = np.flatnonzero(np.diff(columns, prepend=False, append=not columns[-1]))
        lengths = np.diff(changes, prepend=0).tolist()
        for counts in (encoded["counts"], lengths):
            found = decode_rle(counts, *shape)
            assert found.dtype == bool and np.array_equal(found, mask)


def test_golden_string() -> None:
    # 2x3, columns: (0, 1), (1, 1), (0, 0) -> lengths 1, 3, 2
    for counts in ([1, 3, 2], "132", b"132"):
        assert decode_rle(counts, 2, 3).tolist() == [[False, True, False], [True, True, False]]


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


@pytest.mark.parametrize("counts", [[1, 2], [7, -1], "", "1", "1P", "1~"])
def test_wrong_lengths(counts: str | list[int]) -> None:
    with pytest.raises(ValueError):
        decode_rle(counts, 2, 3)


@pytest.mark.parametrize("polygon", [[0, 0, 1, 1], [0, 0, 1, 1, 2], [0, 0, 1, 1, 2, float("nan")]])
def test_wrong_polygons(polygon: list[float]) -> None:
    with pytest.raises(ValueError):
        fill_polygons([polygon], 4, 4)
