"""The documentation: commands are parsed, links lead somewhere, tables agree with what they describe."""

from __future__ import annotations

import ast
import importlib.util
import re
import runpy
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import fields
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

import everseg
from everseg.cli.shared import app
from everseg.domains.merging.rules import SHARED
from everseg.merge import RULES, find
from everseg.methods import METHODS

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *sorted(DOCS.rglob("*.md"))]
NAMES = [page.relative_to(ROOT).as_posix() for page in PAGES]


def text_of(page: Path) -> str:
    return page.read_text(encoding="utf-8")


# ---------------------------------------------------------------- commands


@cache
def commands() -> Any:
    return typer.main.get_command(app)


def lines_of_code(text: str) -> Iterator[str]:
    """The lines of indented blocks and of fences in no language or a shell's, with continued lines joined."""
    fence = ""
    joined = ""
    for line in text.splitlines():
        if found := re.match(r"\s*```(\w*)", line):
            fence = "" if fence else found[1] or "none"
            continue
        if not (line.startswith("    ") if not fence else fence in ("none", "console", "bash", "sh")):
            continue
        if line.rstrip().endswith("\\"):
            joined += line.rstrip()[:-1] + " "
            continue
        yield (joined + line).strip()
        joined = ""


def shell_commands(text: str) -> Iterator[list[str]]:
    """Every command of a page that begins with one of our programs, as words without comments."""
    spans = re.findall(r"`((?:everseg|make|pytest|python (?:benchmarks|examples|tools)/)[^`\n]*)`", text)
    for line in [*lines_of_code(text), *spans]:
        line = re.sub(r"^\$ ", "", line)
        line = re.sub(r"^(?:\w+=\S+ )+", "", line)  # variables for one command
        line = line.replace("$rule", "ties").replace("$how", "")
        line = re.sub(r"\$\w+|(?<= )N\b", "0", line)
        line = re.sub(r"^torchrun .*? -m (?=everseg )|^accelerate launch .*?-m (?=everseg )", "", line)
        ours = r"(everseg|make|pytest|python (?:benchmarks|examples|tools)/\S+|pip install) ?"
        if re.match(ours, line) and not line.endswith(":"):
            try:
                yield shlex.split(line, comments=True)
            except ValueError as error:
                raise AssertionError(f"{line}: {error}") from error


def parse(words: list[str]) -> None:
    """Parse a command of everseg as the command line would, without running it."""
    group, rest, said = commands(), words[1:], " ".join(words)
    while rest and hasattr(group, "commands"):
        if rest[0].startswith("-") or rest[0] in ("COMMAND", "…", "..."):
            return
        assert rest[0] in group.commands, f"there is no command {rest[0]!r}: {said}"
        group, rest = group.commands[rest[0]], rest[1:]
    if not rest or {"…", "..."} & {*rest} or rest == ["--help"]:
        return
    try:
        group.make_context(words[1], [*rest])
    except Exception as error:
        wrong = getattr(error, "message", "") or str(error)
        excerpt = "Missing" in type(error).__name__ or "requires an argument" in wrong
        if excerpt or "does not exist" in wrong:  # a file of the reader's
            known = {name for parameter in group.params for name in parameter.opts}
            options = {word.partition("=")[0] for word in rest if word.startswith("--")}
            secondary = {name for parameter in group.params for name in parameter.secondary_opts}
            assert options <= known | secondary, f"{said}: {options - known}"
            return
        raise AssertionError(f"{said}: {wrong}") from error


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_commands_can_be_parsed(page: Path) -> None:
    targets = set(re.findall(r"^([a-z]+):", text_of(ROOT / "Makefile"), re.MULTILINE))
    extras = tomllib.loads(text_of(ROOT / "pyproject.toml"))["project"]["optional-dependencies"]
    for words in shell_commands(text_of(page)):
        said = " ".join(words)
        if words[0] == "everseg":
            parse(words)
        elif words[0] == "make":
            assert {w for w in words[1:] if "=" not in w} <= targets, said
        elif words[0] == "python":
            program = ROOT / words[1]
            source = text_of(program)
            for option in (w.partition("=")[0] for w in words[2:] if w.startswith("--")):
                assert f'"{option}"' in source, f"{said}: {option}"
        elif words[0] == "pytest":
            paths = [w for w in words[1:] if "/" in w]
            assert all((ROOT / path).exists() for path in paths), said
        else:
            for extra in re.findall(r"everseg\[([^\]]*)\]", said):
                assert {e.strip() for e in extra.split(",")} <= set(extras), said


def test_the_parser_of_commands_has_teeth() -> None:
    found = list(
        shell_commands("    everseg learn x.yaml --out runs/x   # why\n\n```\n$ everseg report runs/x\n```\n")
    )
    assert found == [["everseg", "learn", "x.yaml", "--out", "runs/x"], ["everseg", "report", "runs/x"]]
    for wrong in ("everseg lern x.yaml", "everseg learn x.yaml --out r --sede 3", "everseg learn --bse tiny"):
        with pytest.raises(AssertionError):
            parse(shlex.split(wrong))


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_what_is_typed_at_a_prompt_is_a_program_that_the_pages_explain(page: Path) -> None:
    """A command that the test above would not recognise, and so not parse, is found here."""
    known = {"everseg", "make", "pytest", "python", "pip", "hf", "git", "napari", "tensorboard", "torchrun"}
    for line in lines_of_code(text_of(page)):
        if line.startswith("$ "):
            assert line.split()[1] in known, f"{page.name}: {line}"


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_files_of_the_repository_that_a_page_names_exist(page: Path) -> None:
    text = text_of(page).replace("src/everseg/domains/methods/mean.py", "")  # What the reader is to write.
    for path in re.findall(r"\b((?:tests|benchmarks|examples|tools|src)/[\w/.-]+\.\w+)", text):
        assert (ROOT / path).exists(), f"{page.name} names {path}"


# ---------------------------------------------------------------- Python


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_python_is_python_and_its_names_exist(page: Path) -> None:
    for code in re.findall(r"```python\n(.*?)```", text_of(page), re.DOTALL):
        for node in ast.walk(ast.parse(code)):
            if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "everseg":
                module = importlib.import_module(node.module or "")
                for alias in node.names:
                    assert hasattr(module, alias.name), f"{node.module} has no {alias.name}"
            if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "everseg":
                importlib.import_module("everseg")
                assert hasattr(everseg, node.attr) or importlib.util.find_spec(f"everseg.{node.attr}"), (
                    node.attr
                )


@pytest.mark.slow
@pytest.mark.parametrize("name", ["gate.md", "learn.md"])
def test_python_of_a_page_runs(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (code,) = re.findall(r"```python\n(.*?)```", text_of(DOCS / name), re.DOTALL)
    exec(compile(code, name, "exec"), {})


@pytest.mark.slow
def test_the_notebook_runs_and_shows_what_it_did() -> None:
    """The figures may differ from one processor to another; which cells print or draw may not."""
    import nbformat

    tool = runpy.run_path(str(ROOT / "tools" / "notebook.py"))
    kept, now = nbformat.read(tool["NOTEBOOK"], as_version=4), tool["executed"]()
    kinds = [
        [[o.output_type for o in cell.outputs] for cell in notebook.cells if cell.cell_type == "code"]
        for notebook in (kept, now)
    ]
    assert kinds[0] == kinds[1] and any(kinds[0])


# ---------------------------------------------------------------- links


def anchors(text: str) -> set[str]:
    """The anchors of a page's headings, as MkDocs and GitHub make them."""
    text = re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)
    found = set()
    for heading in re.findall(r"^#+ (.*)", text, re.MULTILINE):
        plain = re.sub(r"\[([^\]]*)\]\([^)]*\)|[`*]", r"\1", heading)
        found.add(re.sub(r"[\s]+", "-", re.sub(r"[^\w\s-]", "", plain).strip().lower()))
    return found


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_links_lead_somewhere(page: Path) -> None:
    text = re.sub(r"^```.*?^```", "", text_of(page), flags=re.DOTALL | re.MULTILINE)
    for target, anchor in re.findall(r"\]\(([^)#:\s]*)(?:#([^)]*))?\)", text):
        goal = page.parent / target if target else page
        assert goal.exists(), f"{page.name} links to {target}"
        if anchor and goal.suffix == ".md":
            assert anchor in anchors(text_of(goal)), f"{page.name} links to {target}#{anchor}"


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_a_paragraph_within_a_list_is_indented_by_four(page: Path) -> None:
    """With less, MkDocs ends the list there, and what follows becomes one paragraph."""
    text = re.sub(r"^```.*?^```", "", text_of(page), flags=re.DOTALL | re.MULTILINE)
    found = re.search(r"\n\n {1,3}\S.*", text)
    assert found is None, f"{page.name}: {found[0].strip() if found else ''}"


# ---------------------------------------------------------------- figures and tables


@pytest.mark.parametrize("tool", ["figures.py", "tables.py", "defaults.py"])
def test_what_is_generated_is_up_to_date(tool: str) -> None:
    """`make figures` and `make results` would change nothing."""
    given = [sys.executable, f"tools/{tool}", "--check"]
    done = subprocess.run(given, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_method_has_a_page_and_a_row() -> None:
    index = text_of(DOCS / "methods" / "index.md")
    nav = text_of(ROOT / "mkdocs.yml")
    for name in METHODS:
        page = next((p for p in (DOCS / f"{name}.md", DOCS / "methods" / f"{name}.md") if p.exists()), None)
        assert page is not None, f"the method {name} has no page: write docs/methods/{name}.md"
        assert f"| [`{name}`](" in index and page.relative_to(DOCS).as_posix() in nav, name


@pytest.mark.parametrize("name", METHODS)
def test_the_file_of_a_method_opens_with_an_explanation_and_a_diagram(name: str) -> None:
    module = ROOT / "src" / (METHODS[name].partition(":")[0].replace(".", "/") + ".py")
    opening = ast.get_docstring(ast.parse(text_of(module))) or ""
    drawn = [line for line in opening.splitlines() if line.startswith("    ")]
    assert len(drawn) >= 3 and any("-->" in line for line in drawn), "no diagram"
    assert len(opening.split("\n\n")) >= 3, "no explanation"


def test_every_rule_of_merging_is_in_its_table_as_it_is() -> None:
    page = text_of(DOCS / "merging.md")
    rows = {r: row for r in RULES for row in page.splitlines() if row.startswith(f"| `{r}` |")}
    assert set(rows) == set(RULES)
    words = {"subtract": "subtracting", "refold": "merging again", "drop": "dropping"}
    for name in RULES:
        _, _, _, data, keeps, order, _, forgets, _ = (cell.strip() for cell in rows[name].split("|"))
        rule = find(name)
        assert (data != "none") == ("samples" in keeps) == ("samples" in rule.needs), name
        assert order.startswith("free") == (rule.order_free and name not in ("concrete", "adamerging")), name
        assert forgets == words[rule.forgets], name


def test_every_option_of_a_rule_is_listed_with_its_default() -> None:
    listed = {}
    for name, options in re.findall(
        r"^- `(\S+)`: ((?:`\w+: [^`]+`[,\s]*)+)", text_of(DOCS / "merging.md"), re.M
    ):
        listed[name] = {k: yaml.safe_load(v) for k, v in re.findall(r"`(\w+): ([^`]+)`", options)}
    for name in RULES:
        wanted = {f.name: f.default for f in fields(find(name)) if f.name not in SHARED}
        assert {k: type(wanted.get(k))(v) for k, v in listed.get(name, {}).items()} == wanted, name


def test_every_environment_variable_is_listed() -> None:
    told = (DOCS / "environment.md").read_text(encoding="utf-8")
    files = [*(ROOT / "src").rglob("*.py"), *(ROOT / "tests").rglob("*.py")]
    read = {name for file in files for name in re.findall(r"\"(EVERSEG_[A-Z0-9_]+)\"", text_of(file))}
    lacking = {name for name in read if f"`{name}`" not in told} - {"EVERSEG_NOT_SET"}
    assert not lacking


def test_a_table_that_differs_from_its_file_is_found() -> None:
    tables = runpy.run_path(str(ROOT / "tools" / "tables.py"))
    page = "<!-- table domains.json#iou columns: IoU; AA rows: zero-shot -->\nold\n<!-- /table -->"
    assert tables["filled"](page).splitlines()[1:-1] == ["| IoU | AA |", "|---|---|", "| zero-shot | 0.334 |"]
    with pytest.raises(SystemExit, match="no 'BB'"):
        tables["filled"](page.replace("AA", "BB"))


def test_files_of_results_say_how_they_were_measured() -> None:
    for name in set(re.findall(r"<!-- table (\S+?\.json)#", "".join(map(text_of, PAGES)))):
        file = yaml.safe_load((ROOT / "benchmarks" / "results" / name).read_text(encoding="utf-8"))
        assert file.keys() - {"tables", "rows"} == {"about", "commands", "versions", "seeds"}, name
        assert "torch" in file["versions"] and file["commands"] and file["about"], name
