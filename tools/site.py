"""What `make docs` adds to the pages in docs/: a hook of MkDocs (see mkdocs.yml).

index, contributing, changelog   README.md, CONTRIBUTING.md and CHANGELOG.md, with links that stay in the site
commands                         the help of every command
api/                             a page per package, from the docstrings
first-run                        the notebook docs/notebooks/first-run.ipynb with its outputs

The page of a method ends with the table of its settings in all presets and with the API of its class.
`<!-- published: voc -->` and the like become the tables of examples/published.py.
"""

from __future__ import annotations

import base64
import html
import json
import posixpath
import re
import runpy
import tomllib
from pathlib import Path
from typing import Any

import typer
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

from everseg.cli import app
from everseg.config import describe
from everseg.methods import METHODS, find

ROOT = Path(__file__).resolve().parents[1]
URLS = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["urls"]
BLOB = f"{URLS['Homepage']}/blob/main/"
RAW = BLOB.replace("github.com", "raw.githubusercontent.com").replace("/blob/", "/")
TOP = {"README.md": "index.md", "CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md"}
"""Pages of the site that lie beside docs/, not in it."""

API = {
    "everseg": "The front door: everything that most programs need.",
    "everseg.types": "The types that everything else speaks in.",
    "everseg.types.abilities": "What only some methods can do.",
    "everseg.data": "Streams, readers, checks and synthetic data.",
    "everseg.results": "Result matrices and what they say about forgetting.",
    "everseg.merge": "Merging rules on named tensors.",
    "everseg.domains.tune": "Parts of methods that learn domains: training an adapter, predicting with it.",
    "everseg.domains.adapters": "Adapters: the small trainable modules of a frozen SAM.",
    "everseg.classes.losses": "Losses of class-incremental segmentation.",
    "everseg.classes.instances": "Cutting, keeping and pasting instances.",
    "everseg.models.promptable.protocol": "What a promptable base model must offer.",
    "everseg.models.semantic.segmenter": "A semantic segmenter that grows by classes.",
    "everseg.testing": "The contract suite for methods and base models.",
    "everseg.runs.history": "Earlier states of a run.",
    "everseg.runs.gate": "Whether a run is worse than another.",
    "everseg.errors": "Errors for people.",
}
"""The pages of the API reference, with one line on each."""

PARTS = {"everseg.domains.adapters": ("aug", "lora", "linear", "kinds")}
"""Modules that share the page of their package."""


# ---------------------------------------------------------------- links


def _moved(target: str, page: str) -> str:
    """Where a link leads from a page of the site.

    target: as written in the file: relative to the file, or absolute in the repository.
    page: the page's path in the site.
    """
    if target.startswith(RAW):
        path = target.removeprefix(RAW)
    elif target.startswith(BLOB):
        path = target.removeprefix(BLOB)
    elif re.match(r"[a-z]+:|#", target):
        return target
    else:  # Relative: from the top of the repository, or from docs/.
        above = "" if page in TOP.values() else posixpath.join("docs", posixpath.dirname(page))
        path = posixpath.normpath(posixpath.join(above, target))
    path, hash_, anchor = path.partition("#")
    if path in TOP:
        path = TOP[path]
    elif path.startswith("docs/"):
        path = path.removeprefix("docs/")
    else:
        return BLOB + path + hash_ + anchor
    return posixpath.relpath(path, posixpath.dirname(page) or ".") + hash_ + anchor


def with_site_links(text: str, page: str) -> str:
    """The text of a page with links that hold in the site; code is left as it is."""
    parts = re.split(r"(^```.*?^```|`[^`\n]+`)", text, flags=re.DOTALL | re.MULTILINE)
    parts[::2] = [
        re.sub(r"(\]\()([^)\s]+)", lambda m: m[1] + _moved(m[2], page), part) for part in parts[::2]
    ]
    return "".join(parts)


# ---------------------------------------------------------------- parts of pages


def settings_table(method: str) -> str:
    """The settings of a method as a table: meaning, value in each preset, source of the default."""
    presets = {name: describe(config) for name, config in find(method).Config.presets().items()}
    values = {name: {s.name: s.value for s in found} for name, found in presets.items()}
    # The meaning comes first: with four presets, what is last can only be seen by scrolling.
    lines = [f"| setting | meaning | {' | '.join(f'`{p}`' for p in presets)} | source |"]
    lines.append("|---" * (len(presets) + 3) + "|")
    for setting in presets["paper"]:
        if setting.kind == "group":
            lines.append(f"| **{setting.name}** | **{_cell(setting.meaning)}** | {'| ' * len(presets)}|")
            continue
        given = [_value(values[name].get(setting.name)) for name in presets]
        meaning = setting.meaning
        if "|" in setting.kind:
            meaning += f" One of: {setting.kind.replace(' | ', ', ')}."
        cells = [f"`{setting.name}`", _cell(meaning), *given, _cell(setting.source)]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(['<div class="settings" markdown>', "", *lines, "", "</div>"])


def _cell(text: str) -> str:
    """Text that a table's cell can hold. Backquotes stay code, everything else is taken literally."""
    parts = re.split(r"(`[^`]*`)", text.replace("|", "&#124;"))
    parts[::2] = [re.sub(r"([*_<\[])", r"\\\1", part) for part in parts[::2]]
    return "".join(parts)


def _value(value: Any) -> str:
    return f"`{value if isinstance(value, str) and value else json.dumps(value)}`"


def method_parts(method: str) -> str:
    """What the page of a method ends with."""
    return "\n".join(
        [
            "",
            "## Settings",
            "",
            f"Set them with `--set KEY=VALUE`; `everseg settings {method}` prints the same list.",
            "",
        ]
        + [settings_table(method), "", "## Python", "", f"::: {METHODS[method].replace(':', '.')}"]
        + ["    options: {heading_level: 3}", ""]
    )


def with_parts(text: str, page: str) -> str:
    """The page with what is generated for it."""
    published = runpy.run_path(str(ROOT / "examples" / "published.py"))
    tables = {"voc": lambda: published["overview"]("voc"), "ade": lambda: published["overview"]("ade")}
    tables["table"] = published["table"]
    text = re.sub(r"<!-- published: (\w+) -->", lambda m: tables[m[1]](), text)
    stem = posixpath.basename(page).removesuffix(".md")
    return text + method_parts(stem) if stem in METHODS else text


# ---------------------------------------------------------------- generated pages


def commands_page() -> str:
    """The help of every command."""
    lines = ["# Commands", "", "The help of each command, as `everseg COMMAND --help` prints it.", ""]

    def add(command: Any, name: str) -> None:
        with typer.Context(command, info_name=name) as context:
            text = command.get_help(context)
        lines.extend([f"## {name}", "", "```text", text.rstrip(), "```", ""])

    group: Any = typer.main.get_command(app)
    for name, command in group.commands.items():
        if command.hidden:
            continue
        subcommands = getattr(command, "commands", None)
        if subcommands is None:
            add(command, f"everseg {name}")
        for second, below in (subcommands or {}).items():
            add(below, f"everseg {name} {second}")
    return "\n".join(lines)


def api_page(module: str, about: str) -> str:
    """The page of a module, or of the modules of a package whose `__init__` exports nothing."""
    options = "    options: {show_root_heading: false}"
    parts = [f"::: {module}\n{options}\n"]
    for name in PARTS.get(module, ()):
        parts.append(
            f"## {name}\n\n::: {module}.{name}\n    options: {{show_root_heading: false, heading_level: 3}}\n"
        )
    return "\n".join([f"---\ntitle: {module}\n---\n\n# {module}\n\n{about}\n", *parts])


def api_index() -> str:
    rows = [f"| [`{module}`]({module}.md) | {about} |" for module, about in API.items()]
    methods = [
        f"| `{name}` | [`{path.replace(':', '.')}`][{path.replace(':', '.')}] |"
        for name, path in METHODS.items()
    ]
    return "\n".join(
        ["# Python API", "", "| module | what |", "|---|---|", *rows, ""]
        + ["The classes of the methods are on the pages of the [methods](../methods/index.md):", ""]
        + ["| method | class |", "|---|---|", *methods]
    )


def notebook_page(path: Path) -> tuple[str, dict[str, bytes]]:
    """A notebook with its outputs as Markdown, and the pictures that it shows by their names."""
    lines: list[str] = []
    pictures: dict[str, bytes] = {}
    for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            lines += [source, ""]
            continue
        lines += ["```python", source, "```", ""]
        for output in cell["outputs"]:
            data = output.get("data", {})
            shown = next((kind for kind in ("image/jpeg", "image/png") if kind in data), None)
            if shown is not None:
                name = f"{path.stem}-{len(pictures)}.{shown.removeprefix('image/')}"
                pictures[name] = base64.b64decode(data[shown])
                lines += [f"![Output of the cell above]({name})", ""]
            else:
                text = "".join(output.get("text", data.get("text/plain", "")))
                lines += [f'<pre class="output">{html.escape(text.rstrip())}</pre>', ""]
    return "\n".join(lines), pictures


# ---------------------------------------------------------------- what MkDocs calls


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Every page of the API reference in the navigation, below its index."""
    pages = ["api/index.md", *({module: f"api/{module}.md"} for module in API)]
    for section in config.nav or []:
        for entries in section.values() if isinstance(section, dict) else ():
            for entry in entries if isinstance(entries, list) else ():
                if isinstance(entry, dict) and entry.get("Python API") == "api/index.md":
                    entry["Python API"] = pages
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    pages = {page: (ROOT / source).read_text(encoding="utf-8") for source, page in TOP.items()}
    pages["commands.md"] = commands_page()
    pages["api/index.md"] = api_index()
    pages |= {f"api/{module}.md": api_page(module, about) for module, about in API.items()}
    notebook = ROOT / "docs" / "notebooks" / "first-run.ipynb"
    if notebook.exists():
        pages["first-run.md"], pictures = notebook_page(notebook)
        for name, data in pictures.items():
            files.append(File.generated(config, name, content=data))
    for name, text in pages.items():
        files.append(File.generated(config, name, content=text))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    generated = page.file.src_uri.startswith("api/") or page.file.src_uri in ("commands.md", "first-run.md")
    return (
        markdown if generated else with_parts(with_site_links(markdown, page.file.src_uri), page.file.src_uri)
    )
