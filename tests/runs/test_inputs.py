"""Which images a command reads and what their results are called."""

from __future__ import annotations

from pathlib import Path

import pytest

from everseg.errors import UserError
from everseg.runs.inputs import find_images


def files(root: Path, *names: str) -> Path:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
    return root


def names(root: Path, *given: str, out: str = "out") -> list[tuple[str, str]]:
    """(path below the root, name) of what is found."""
    found = find_images([root / g for g in given], root / out)
    return [(str(s.path.relative_to(root)), s.name) for s in found]


def test_a_file_is_called_by_its_stem_and_given_twice_is_one(tmp_path: Path) -> None:
    files(tmp_path, "a/x.png", "odd")
    assert names(tmp_path, "a/x.png", "odd", "a/../a/x.png") == [("a/x.png", "x"), ("odd", "odd")]


def test_a_folder_is_searched_and_mirrored(tmp_path: Path) -> None:
    litter = ("Thumbs.db", ".DS_Store", "._b.png", "notes.txt", "points.json", ".git/x.png")
    files(tmp_path, *(f"f/{name}" for name in ("b.png", "s/a.JPG", "s/t/c.tiff", *litter)))
    (tmp_path / "f" / "s" / "loop").symlink_to(tmp_path / "f")
    found = [("f/b.png", "b"), ("f/s/a.JPG", "s/a"), ("f/s/t/c.tiff", "s/t/c")]
    assert names(tmp_path, "f") == found
    files(tmp_path, "f/out/b_mask.png")
    assert names(tmp_path, "f", out="f/out") == found


def test_patterns_are_called_below_their_fixed_part(tmp_path: Path) -> None:
    files(tmp_path, "d/p1/images/1.png", "d/p2/images/1.png", "d/p2/images/Thumbs.db", "d/p1/masks/1.png")
    assert names(tmp_path, "d/*/images/*") == [
        ("d/p1/images/1.png", "p1/images/1"),
        ("d/p2/images/1.png", "p2/images/1"),
    ]
    assert [n for _, n in names(tmp_path, "d/**/*.png")] == ["p1/images/1", "p1/masks/1", "p2/images/1"]


def test_a_file_whose_name_looks_like_a_pattern_is_a_file(tmp_path: Path) -> None:
    files(tmp_path, "x[1].png", "x1.png")
    assert names(tmp_path, "x[1].png") == [("x[1].png", "x[1]")]


def test_no_two_images_share_a_name(tmp_path: Path) -> None:
    files(tmp_path, "a/1.png", "b/1.png", "a/2.png", "c/x.jpg", "c/x.png", "c/y.png")
    assert [n for _, n in names(tmp_path, "a/1.png", "b/1.png", "a/2.png")] == ["a/1", "b/1", "2"]
    assert [n for _, n in names(tmp_path, "c")] == ["x.jpg", "x.png", "y"]
    assert [n for _, n in names(tmp_path, "a", "b")] == ["a/1", "2", "b/1"]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("none.png", "none.png does not exist"),
        ("x" * 5000, "does not exist"),
        ("empty", "empty holds no images"),
        ("*.png", r"no file matches .*\*\.png"),
        ("out", "out is .*, which is searched for images; choose another --out"),
    ],
)
def test_what_is_no_image_is_refused(tmp_path: Path, given: str, said: str) -> None:
    files(tmp_path, "empty/notes.txt", "out/x.png")
    with pytest.raises(UserError, match=said):
        names(tmp_path, given)
