"""Samples in columns: the same as objects, and little memory for many."""

from __future__ import annotations

import gc
import json
import pickle
import tracemalloc
from pathlib import Path

import pytest

from everseg.data.alike import alike, file_names
from everseg.data.columns import ClickColumn, Paths, Texts
from everseg.data.domains.folder import FolderReader
from everseg.data.domains.prompts import StoredClicks
from everseg.data.pairing import _by_rules
from everseg.data.pairs import Pair, Pairs

NAMES = ["b.png", "", "é\u0301.png", "\udce9.png", "a/ü.png"]
CLICKS = [StoredClicks(((1.5, 2.25), (0.1, 1023.0)), (1, 0)), None, StoredClicks(((7.0, 8.0),), (1,))]


def test_columns_give_back_what_they_were_given() -> None:
    for texts in (Texts(NAMES), pickle.loads(pickle.dumps(Texts(NAMES)))):
        assert list(texts) == NAMES and texts[-1] == NAMES[-1] and len(texts) == len(NAMES)
        assert list(texts[1:4:2]) == NAMES[1:4:2] and list(texts[::-1]) == NAMES[::-1]
        with pytest.raises(IndexError):
            texts[len(NAMES)]
    column = pickle.loads(pickle.dumps(ClickColumn(CLICKS)))
    assert list(column) == CLICKS and list(column[1:]) == CLICKS[1:] and column[-1] == CLICKS[-1]
    for root in (Path("/data"), Path("data"), Path(), Path("images")):
        paths = [root / "images" / "a.png", root / ".." / "b.png", Path("/elsewhere/c.png"), root / "d.png"]
        assert list(Paths(root, paths)) == paths and list(Paths(root, paths)[1:3]) == paths[1:3]
        pairs = [Pair(paths[0], (paths[1],), "a"), Pair(paths[3], (paths[2], paths[0]), "b")]
        found = Pairs(root, pairs)
        assert list(found) == pairs and list(found[1:]) == pairs[1:] and list(found.at([1, 0])) == pairs[::-1]
        assert [list(found.at([1]).masks), len(found.masks)] == [paths[2::-2], 3]


@pytest.mark.parametrize(
    ("images", "masks", "suffix", "found"),
    [
        (["b.JPG", "a.x.jpg", ".c.png", "d"], ["a.x.png", "d.png", "b.gif", ".c.tif"], "", 4),
        (["e\u0301.png", "f.png"], ["\u00e9_m.png", "f_m.png"], "_m", 2),
        (["a.png", "a.jpg"], ["a.png", "b.png"], "", None),
        (["a.png"], ["A.png"], "", None),
        (["a.png", "b.png"], ["a.png"], "", None),
    ],
)
def test_folders_that_are_alike_pair_as_by_the_rules(
    images: list[str], masks: list[str], suffix: str, found: int | None
) -> None:
    pairs = alike(images, masks, suffix)
    if pairs is None or found is None:
        assert pairs is found
        return
    problems: list[str] = []
    ruled = _by_rules(Path("i"), Path("m"), suffix, (images, masks), problems)
    assert sorted(ruled) == sorted(pairs) and len(pairs) == found and not problems


@pytest.mark.slow
def test_a_sample_of_many_costs_a_few_hundred_bytes(tmp_path: Path) -> None:
    def opened(count: int) -> tuple[int, int]:
        """Bytes that a split of so many samples takes, and at most took while it was opened."""
        folder = tmp_path / str(count)
        names = [f"image_{n:06d}.png" for n in range(count)]
        for part in ("images", "masks"):
            (folder / part).mkdir(parents=True)
            for name in names:
                (folder / part / name).touch()
        clicks = [[[n / 7, 1000 / 3] for n in range(3)], [1, 1, 1]]
        (folder / "masks" / "points.json").write_text(json.dumps({name: clicks for name in names}))
        tracemalloc.start()
        reader = FolderReader(folder, mask_values=(1,))
        most = tracemalloc.get_traced_memory()[1]
        gc.collect()  # Python keeps some freed tuples for later.
        held = tracemalloc.get_traced_memory()[0]
        tracemalloc.stop()
        assert len(reader) == count and [e.name for e in reader.entries[1:3]] == names[1:3]
        assert file_names(folder / "images", []) == names == list(reader.names())
        return held, most

    opened(10)  # What is kept once for all, such as compiled patterns.
    few, many = opened(100), opened(1100)
    held, most = ((b - a) / 1000 for a, b in zip(few, many, strict=True))
    assert held < 250 and most < 1000, (held, most)
