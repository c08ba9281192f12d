"""Names in lists find their files, whichever system wrote them; nothing is guessed."""

import os
from pathlib import Path

import pytest

from everseg.data.listing import Listing, Meant, Stems


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "cafe\u0301").mkdir()
    for name in ("cafe\u0301/a.png", os.fsdecode(b"M\xfcller.png"), "x.jpeg", "x.png", "y.JPG", "z.b.tif"):
        (tmp_path / name).write_bytes(b"")
    return tmp_path


@pytest.mark.parametrize(
    "name", ["cafe\u0301/a.png", "caf\u00e9/a.png", "caf\u00e9\\a.png", "./caf\u00e9/../caf\u00e9/a.png"]
)
def test_folders_and_letters(folder: Path, name: str) -> None:
    found = Listing(folder).find(name)
    assert found is not None and found.samefile(folder / "cafe\u0301/a.png")


@pytest.mark.parametrize("name", [os.fsdecode(b"M\xfcller.png"), "Müller.png", "Mu\u0308ller.png"])
def test_code_pages(folder: Path, name: str) -> None:
    assert Listing(folder).find(name) == folder / os.fsdecode(b"M\xfcller.png")


@pytest.mark.parametrize("name", ["", ".", "caf\u00e9", "cafe/a.png", "a\0b", "x" * 5000, "x.jpg", "\ud800"])
def test_what_is_not_there(folder: Path, name: str) -> None:
    assert Listing(folder).find(name) is None


def test_two_that_are_meant_are_none() -> None:
    composed, decomposed = "\u00e9\u0323", "e\u0323\u0301"  # One letter with two accents, in two orders.
    names = Meant([decomposed, "\u1eb9\u0301"])
    assert names.find(decomposed) == decomposed and names.find(composed) is None


def test_stems(folder: Path) -> None:
    stems = Stems(folder, ".jpg")
    assert [f.name for f in stems.find("x")] == ["x.jpeg", "x.png"] and [f.name for f in stems.find("y")] == [
        "y.JPG"
    ]
    assert stems.find("z.b") == [folder / "z.b.tif"] and stems.find("z") == stems.find("") == []
    (folder / "x.jpg").write_bytes(b"")
    assert stems.find("x") == [folder / "x.jpg"]
