"""Stream files with odd values: a sentence for each, never a traceback."""

from collections.abc import Callable
from pathlib import Path

import pytest

from everseg.data import Stream
from everseg.errors import UserError

SPLIT = "stages: [{name: one, train: {%s}, test: two}]"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("stages: &a [*a]", "contains itself by an alias"),
        ("a: &a {stages: *a}", "contains itself by an alias"),
        ("name: 2026-99-99", "not valid YAML"),
        ("seed: !!int 'x'", "not valid YAML"),
        ("seed: " + "9" * 5000, "not valid YAML"),
        ("stages: " + "[" * 600, "not valid YAML"),
        ("name: a\0", "not valid YAML"),
        ('"\\ud83d": 1', "which is not text"),
        (SPLIT % "kind: 'builtins:int'", "is not a reader"),
        (SPLIT % "kind: 'os:getcwd'", "gave a str"),
        (SPLIT % "kind: 'sys:exit'", "failed with SystemExit"),
        (SPLIT % "kind: 'json:loads', s: x", r"failed with JSONDecodeError.*decoder\.py, line"),
        (SPLIT % "kind: '.a:b'", "cannot be imported"),
        (SPLIT % "path: '~nobody-of-this-name/x'", "no such user"),
        (SPLIT % 'path: "a\\0b"', "NUL"),
        (SPLIT % f"path: {'x' * 5000}", "too long"),
        (SPLIT % "kind: synthetic, domain: polyps, count: 1, clicks: 99999999999999", "at most 10,000"),
        (SPLIT % "kind: synthetic, domain: polyps, count: 1, size: 99999999", "to 8192"),
        (SPLIT % "kind: synthetic, domain: polyps, count: 99999999999999999999", "to a million"),
        (SPLIT % "path: x" + f"\nroot: {'x' * 5000}", "too long"),
        ("domains: discover\nbatches: []", "batches: is empty; list at least one batch"),
        (
            "domains: discover\nbatches: [{name: a, train: x}]\nnames: {domain-1: A/b}",
            "the name 'A/b' cannot",
        ),
        (
            "domains: discover\nbatches: [{name: a, train: x}]\ntable: .",
            r"cannot read .*: Is a directory; rest",
        ),
        ("classes: [a]\ntrain: x\ntest: x\nsteps: " + "1" * 5000 + "-1", "not of the form A-B"),
        ("classes: names.csv\ntrain: x\ntest: x\nsteps: 1-1", "a line lacks the columns"),
    ],
    ids=lambda value: value[:40] if isinstance(value, str) else "",
)
def test_odd_values(write_stream: Callable[[str], Path], tmp_path: Path, text: str, says: str) -> None:
    (tmp_path / "names.csv").write_text("Idx,Name\n1\n")
    with pytest.raises(UserError, match=says) as caught:
        Stream.from_yaml(write_stream(text))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le", "utf-32"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_stream_files_of_any_system(tmp_path: Path, encoding: str, end: str) -> None:
    split = "{kind: synthetic, domain: polyps, count: 1, size: 32}"
    lines = ["name: café", "stages:", f"  - {{name: one, train: {split}, test: {split}}}", ""]
    (tmp_path / "stream.yaml").write_bytes(end.join(lines).encode(encoding))
    assert Stream.from_yaml(tmp_path / "stream.yaml").name == "café"


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_class_names_of_any_system(make_maps: Callable[..., Path], tmp_path: Path, encoding: str) -> None:
    make_maps("maps", [[1], [2]])
    (tmp_path / "names.txt").write_bytes("café\r\ndog\r\n".encode(encoding))
    text = "classes: names.txt\ntrain: maps\ntest: maps\nsteps: 1-1"
    (tmp_path / "stream.yaml").write_text(text)
    assert Stream.from_yaml(tmp_path / "stream.yaml").stages[0].classes == ("café",)
