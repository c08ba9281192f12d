"""Text from any system, names that are not UTF-8, and names that no system takes."""

import os
from pathlib import Path

import pytest

from everseg.errors import UserError, brief, printable
from everseg.files import path_from, read_json, write_json, write_text
from everseg.text import is_file_name, lines_of, read_text

BYTES = os.fsdecode(b"M\xfcller\n1.png")


@pytest.mark.parametrize(
    "encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-le"]
)
def test_encodings_are_recognised(tmp_path: Path, encoding: str) -> None:
    path = tmp_path / "list.txt"
    path.write_bytes("first é\r\nsecond".encode(encoding))
    assert read_text(path) == read_text(path, names=True) == "first é\r\nsecond"


def test_bytes_that_are_not_utf8(tmp_path: Path) -> None:
    path = tmp_path / "list.txt"
    path.write_bytes(b"M\xfcller")
    assert os.fsencode(read_text(path, names=True)) == b"M\xfcller"
    with pytest.raises(UnicodeDecodeError):
        read_text(path)


def test_only_ends_of_lines_end_a_line() -> None:
    assert lines_of("a\r\nb\rc\n\nd\x0be\u2028f\x85g") == ["a", "b", "c", "", "d\x0be\u2028f\x85g"]


def test_what_cannot_be_shown_is_escaped() -> None:
    assert printable(f"café {BYTES}\0") == "café M\\xfcller\\n1.png\\x00"
    assert brief("x" * 5000) == "x" * 60 + "..." + "x" * 30


def test_text_files_take_any_name_and_json_gives_it_back(tmp_path: Path) -> None:
    write_text(tmp_path / "page.html", BYTES)
    assert (tmp_path / "page.html").read_text() == "M\\xfcller\n1.png"
    write_json(tmp_path / "a.json", {"image": BYTES})
    assert read_json(tmp_path / "a.json") == {"image": BYTES}


@pytest.mark.parametrize("name", ["", "a\0b", "x" * 256, "é" * 128, "/".join(["x" * 200] * 30), "\ud800"])
def test_names_that_no_system_takes(name: str) -> None:
    assert not is_file_name(name)


@pytest.mark.parametrize("name", ["a b", "x" * 255, "/".join(["x" * 200] * 3), BYTES, "."])
def test_names_that_systems_take(name: str) -> None:
    assert is_file_name(name)


def test_paths_that_people_write(tmp_path: Path) -> None:
    assert path_from(tmp_path, "a/b", "root") == tmp_path / "a/b"
    assert path_from(tmp_path, "~", "root") == Path.home()
    for given, says in (
        ("~nobody-of-this-name/x", "no such user"),
        ("a\0b", "NUL"),
        ("x" * 5000, "too long"),
    ):
        with pytest.raises(UserError, match=says) as caught:
            path_from(tmp_path, given, "option 'path'")
        assert "option 'path' is " in str(caught.value) and len(str(caught.value)) < 400
