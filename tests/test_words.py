"""Public text reads like the documentation of scikit-learn: known bad patterns stay out.

Public text is README, CONTRIBUTING, CHANGELOG and docs, and the docstrings, comments, messages and templates
of the code.
"""

from __future__ import annotations

import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

UNIT = (
    "(image|domain|class|stage|step|second|sample|map|layer|row|method|rule|file|object|pixel|epoch|run|site)"
)
BETTER = {
    r"\bfor ever\b": "forever",
    r"\bof no account\b": "is ignored",
    r"(?<!there )\bis none\b(?! of)": "say what it is instead",
    r"\b(mend|mends|mended)\b": "fix",
    r"\b(is|are|was|were|be|been|not|who) told\b(?! apart)|\btold of\b": "is given, is reported",
    r"\bhoped for\b": "target",
    r"\btwice and a half\b": "2.5 times",
    r"\b[Ww]hoever\b": "the caller, code that ...",
    r"\bgo(es)? on where\b|\bwent on from\b|\blearning goes on\b": "resumes, continues",
    r"\bso many (of|first|then|epochs|samples|masks|rows|images)\b": "the number of",
    r"\banew\b": "again, from scratch",
    r"\bmade-up\b": "synthetic",
    r"\bit lay\b|\blies now\b": "its path",
    rf"\b(adapter|module|sigmoid|file|line|curve|folder|entry)s? an? {UNIT}\b(?! of)(?!')": "one ... per ...",
    rf"\b(clicks|embeddings|epochs|bytes|KiB|MiB|ms) an? {UNIT}\b(?!')": "per",
    r"\bimages an? (second|domain|class)\b": "per",
    rf"\bbatches of \d+ an? {UNIT}\b": "per",
    r"\ball is said\b|\bsays so in numbers\b": "a verb",
    r"\bat a loss\b|\bin no time\b": "plain words",
    r"(?<!here )\b(is|are|was|were) no (?!longer\b|more\b|less\b|such\b|larger\b|smaller\b|farther\b"
    r"|task\b|news\b|help\b|scores\b)[a-zA-Z]": "is not a ...",
    r"\b(go|goes|went|going) on (with|from|past|as)\b": "continue",
    r"\ball else rests\b|\bsays? no everywhere\b": "is frozen; scores low",
    r"\bnobody gave\b": "is not given",
    r"\bfor those who do not have\b": "without",
    r"\b(it|code|test|server|backend|rule|decoder|data|base|ADE20K|windows) wants?\b": "needs",
    r"\[[a-z-]+\.md\]\(": "the page's title as the link's text",
}
"""Patterns, and what to write instead. A new one belongs here when a reader has stumbled over it."""


def of_python(path: Path) -> Iterator[tuple[int, str]]:
    """The comments and texts of a module with their lines."""
    for token in tokenize.generate_tokens(io.StringIO(path.read_text(encoding="utf-8")).readline):
        if token.type in (tokenize.COMMENT, tokenize.STRING, getattr(tokenize, "FSTRING_MIDDLE", -1)):
            yield token.start[0], token.string


def texts(root: Path = ROOT) -> Iterator[tuple[str, int, str]]:
    """(file, line, text) of all public text."""
    pages = [root / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "Makefile")]
    for path in [*pages, *sorted((root / "docs").rglob("*.md")), *sorted((root / "src").rglob("*.html"))]:
        yield path.relative_to(root).as_posix(), 1, path.read_text(encoding="utf-8")
    for folder in ("src", "tools", "examples", "benchmarks"):
        for path in sorted((root / folder).rglob("*.py")):
            for line, text in of_python(path):
                yield path.relative_to(root).as_posix(), line, text


def faults(text: str, first: int = 1) -> Iterator[tuple[int, str, str]]:
    """(line, what is there, what to write) of each pattern in a text; line breaks count as spaces."""
    flat = re.sub(r"\s*\n[ #]*", lambda m: "\n" if m[0].count("\n") == 1 else "\n\n", text)
    for pattern, better in BETTER.items():
        for found in re.finditer(pattern.replace(" ", r"[ \n]"), flat):
            yield first + flat[: found.start()].count("\n"), found[0].replace("\n", " "), better


def test_public_text_has_none_of_the_bad_patterns() -> None:
    found = [
        f"{name}, line {line}: {there!r}; write: {better}"
        for name, first, text in texts()
        for line, there, better in faults(text, first)
    ]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    "bad",
    [
        "keeps it up to date for ever",
        "clicks are of no account to it",
        "correct it and\nmend the file",
        "trains an adapter a domain",
        "three clicks an image",
        "batches of 8 a domain",
        "the process is\n    told where it is",
        "the map is none",
        "a file that is no image",
        "the run goes on\nwith its settings",
        "with --host it wants a token",
        "see [data.md](data.md)",
    ],
)
def test_a_bad_pattern_is_found(bad: str) -> None:
    assert list(faults(bad))


def test_good_text_passes() -> None:
    good = (
        "There is none of it, and there are no images. It is no longer than this. "
        "A file of a run holds one adapter per domain. They are told apart by name."
    )
    assert not list(faults(good))
