"""COCO masks: run lengths come back."""

import numpy as np
import pytest
from faster_coco_eval.core import mask as coco

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


@pytest.mark.parametrize("counts", [[1, 2], [7, -1], "", "1", "1P", "1~"])
def test_wrong_lengths(counts: str | list[int]) -> None:
    with pytest.raises(ValueError):
        decode_rle(counts, 2, 3)
