"""What the README shows runs as it stands, and every command it names exists."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path

import pytest
import yaml
from typer import Typer

from everseg.cli.shared import app, data_app, import_app, pool_app
from everseg.data import Stream
from everseg.domains.merging.rules import SHARED
from everseg.merge import RULES, find
from everseg.methods import METHODS

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), ROOT / "CONTRIBUTING.md"]


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def test_the_python_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (code,) = blocks("python")
    names: dict[str, object] = {}
    exec(compile(code, "README.md", "exec"), names)
    assert names["found"].masks.shape == (1, 256, 256)  # type: ignore[attr-defined]
    assert "Route(name='polyps'" in capsys.readouterr().out


def test_the_stream_file_is_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its options are known; the data are not there, which is the only thing wrong with it."""
    monkeypatch.delenv("EVERSEG_DATA", raising=False)
    (text,) = blocks("yaml")
    path = tmp_path / "stream.yaml"
    path.write_text(text)
    with pytest.raises(Exception, match=r"kvasir.*(folder|exist)"):
        Stream.from_yaml(path)


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_every_command_exists(page: Path) -> None:
    def names(found: Typer) -> set[str]:
        return {c.name or c.callback.__name__ for c in found.registered_commands if c.callback}

    groups = {"data": names(data_app), "import": names(import_app), "pool": names(pool_app)}
    text = page.read_text(encoding="utf-8")
    for verb, second in re.findall(r"(?:^    |`)everseg ([a-z]+)(?: ([a-z]+))?", text, re.MULTILINE):
        assert verb in names(app) | set(groups), f"{page.name} names 'everseg {verb}'"
        if verb in groups and second:
            assert second in groups[verb], f"{page.name} names 'everseg {verb} {second}'"


def test_every_rule_of_merging_is_in_its_table_as_it_is() -> None:
    page = (ROOT / "docs" / "merging.md").read_text(encoding="utf-8")
    rows = {r: row for r in RULES for row in page.splitlines() if row.startswith(f"| `{r}` |")}
    assert set(rows) == set(RULES)
    words = {"subtract": "subtracting", "refold": "merging anew", "drop": "dropping"}
    for name in RULES:
        _, _, _, data, keeps, order, _, forgets, _ = (cell.strip() for cell in rows[name].split("|"))
        rule = find(name)
        assert (data != "none") == ("samples" in keeps) == ("samples" in rule.needs), name
        assert order.startswith("free") == (rule.order_free and name not in ("concrete", "adamerging")), name
        assert forgets == words[rule.forgets], name


def test_every_option_of_a_rule_is_listed_with_its_default() -> None:
    page = (ROOT / "docs" / "merging.md").read_text(encoding="utf-8")
    listed = {}
    for name, options in re.findall(r"^- `(\S+)`: ((?:`\w+: [^`]+`[,\s]*)+)", page, re.MULTILINE):
        listed[name] = {k: yaml.safe_load(v) for k, v in re.findall(r"`(\w+): ([^`]+)`", options)}
    for name in RULES:
        wanted = {f.name: f.default for f in fields(find(name)) if f.name not in SHARED}
        assert {k: type(wanted.get(k))(v) for k, v in listed.get(name, {}).items()} == wanted, name


def test_every_method_is_in_the_table() -> None:
    for name in METHODS:
        assert f"| `{name}` |" in README


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
        assert (page.parent / target).exists(), f"{page.name} links to {target}"
