"""README.md: its code runs and prints what it says, and its links work outside of the repository."""

from __future__ import annotations

import contextlib
import io
import re
import tomllib
from pathlib import Path

import pytest

from everseg.data import Stream

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
URLS = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["urls"]
BLOB = f"{URLS['Homepage']}/blob/main/"
RAW = BLOB.replace("github.com", "raw.githubusercontent.com").replace("/blob/", "/")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def test_the_first_sentence_says_what_it_is() -> None:
    first = README.split("\n\n")[1].split(". ")[0]
    assert "continual learning" in first and "Segment Anything" in first


@pytest.mark.usefixtures("micro_model")  # which makes it run in one thread, see conftest.py
@pytest.mark.slow
def test_six_lines_of_python_print_what_the_readme_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (code,), (shown,) = blocks("python"), blocks("text")
    assert len([line for line in code.splitlines() if line]) == 6
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(code, "README.md", "exec"), {})
    assert printed.getvalue() == shown


def test_the_stream_file_is_one(tmp_path: Path) -> None:
    """Its options are known; the data are not there, which is the only thing wrong with it."""
    (text,) = blocks("yaml")
    path = tmp_path / "stream.yaml"
    path.write_text(text)
    with pytest.raises(Exception, match=r"site-a.*(folder|exist)"):
        Stream.from_yaml(path)


def test_links_are_absolute_and_lead_to_files_of_the_repository() -> None:
    """PyPI shows the README without the repository around it."""
    targets = re.findall(r"\]\(([^)\s]+)\)", README)
    assert len(targets) > 20
    for target in targets:
        if target.startswith((BLOB, RAW)):
            path = target.removeprefix(BLOB).removeprefix(RAW).partition("#")[0]
            assert (ROOT / path).is_file(), target
        else:
            assert target == URLS["Documentation"], target


def test_the_site_and_the_project_have_the_same_urls() -> None:
    """pyproject.toml is where they are defined; the configuration of the site cannot read it."""
    site = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    assert URLS["Changelog"] == f"{BLOB}CHANGELOG.md" and URLS["Documentation"] in README
    assert f"site_url: {URLS['Documentation']}\n" in site and f"link: {URLS['Homepage']}}}" in site


def test_no_row_of_a_table_comes_twice() -> None:
    rows = [line.split("|")[1].strip() for line in README.splitlines() if line.startswith("| `")]
    assert len(rows) == len({*rows}) > 10
