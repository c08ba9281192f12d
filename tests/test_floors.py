"""The laws of the house: who may import whom, how long a file is, which names and words have no place here.

A module imports only from shelves below its own. Two on one shelf are siblings and know nothing of each
other. So a change in a method cannot reach another method, and whatever lies low can be read, tested and
reused by itself.

When a test here fails on your module: move the shared part down a shelf, or hand the object in as an
argument. A new module gets one word in `SHELVES`, on the lowest shelf from which it sees what it needs.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "src" / "everseg"

SHELVES = (
    # Floor 0 knows nothing but Python, torch and the file system.
    ("0a", "errors seed types"),
    ("0b", "config distributed files"),
    # Floor 1: the parts a method is made of.
    (
        "1a",
        "confusion data heatmap instances losses merge metrics models progress results schedule "
        "semantic_losses",
    ),
    ("1b", "aug cache fit linear lora selector"),
    ("1c", "adapters classlearner classtune released tune"),
    ("1d", "contribution memory"),
    ("1e", "mergers"),
    # Floor 2: the methods, each a unit of its own, and what scores and runs any of them.
    ("2a", "classscoring methods methods.* scoring"),
    ("2b", "problems"),
    ("2c", "runfolder"),
    ("2d", "adopt forget pools rows"),
    ("2e", "join run"),
    # Floor 3: what is made of a run. The demo runs a stream and reports on it.
    ("3a", "classinference doctor export inference report serve"),
    ("3b", "demo"),
    # Floor 4: the doors. The package's own __init__ gathers what four lines of Python need.
    ("4a", "__init__"),
    ("4b", "cli cli.*"),
    ("4c", "__main__"),
)

INWARD = {
    "cli": "groups of verbs hang on one app and share their arguments",
    "data": "readers of several formats share how a sample is decoded and prompted",
    "doctor": "a forecast multiplies what the probe measured on the machine that was looked at",
    "instances": "harvesting, pool and pasting share what an instance is",
    "merge": "the rules of merging share the statistics they merge by",
    "mergers": "the mergers share what a rule is given and how the domains are kept account of",
    "models": "the families of base models share the protocol and the windows",
    "report": "a page is put together from its figures, tables and pictures",
    "results": "tables and intervals are read off the matrix and the store",
    "semantic_losses": "the package gathers its functions",
}
"""Packages whose modules may import one another, without a cycle, and why. Elsewhere each is on its own."""

MAX_LINES = 400
BANNED_NAMES = re.compile(r"manager|handler|utils", re.IGNORECASE)
# Work put off, and folders of somebody's machine. Spelled so that this file may be searched as well.
BANNED_WORDS = re.compile(r"\bTO[D]O\b|\bFIX[M]E\b|(?<![\w./*{}])/(?:work|home|root|Users)/")
TEXT = {"", ".cfg", ".css", ".html", ".ini", ".js", ".json", ".md", ".py", ".toml", ".txt", ".yaml", ".yml"}
PLACES = ("src", "tests", "tools", "docs", "benchmarks", "examples", ".ci")


# ---------------------------------------------------------------- reading a package


@dataclass(frozen=True)
class Edge:
    """Module `user` imports module `used`, both as names below the package ("models.sam", "__init__")."""

    user: str
    used: str
    line: int

    def __str__(self) -> str:
        return f"{self.user} (line {self.line}) imports {self.used}"


def modules(package: Path) -> dict[str, Path]:
    """Every module of a package by its dotted name below it. A package's __init__ has the package's name."""
    found = {}
    for path in sorted(package.rglob("*.py")):
        parts = path.relative_to(package).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)
        found[name] = path
    return found


def edges(package: Path) -> list[Edge]:
    """Every import between modules of a package, wherever it stands, in functions and type checking too."""
    found = modules(package)
    known = set(found) | {name.rpartition(".")[0] for name in found if "." in name}
    return [edge for name, path in found.items() for edge in _imports(name, path, package.name, known)]


def _imports(user: str, path: Path, top: str, known: set[str]) -> Iterator[Edge]:
    full = [top, *user.split(".")] if user != "__init__" else [top]
    here = full if path.name == "__init__.py" else full[:-1]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"), str(path))):
        if isinstance(node, ast.Import):
            targets = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            above = here[: len(here) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            targets = [f"{base}.{alias.name}" for alias in node.names]
        else:
            continue
        for target in targets:
            used = _resolve(target, top, known)
            if used is not None and used != user:
                yield Edge(user, used, node.lineno)


def _resolve(target: str, top: str, known: set[str]) -> str | None:
    """The module or folder that a dotted name lies in: the longest part of it that is one; None outside."""
    first, *rest = target.split(".")
    if first != top:
        return None
    for length in range(len(rest), 0, -1):
        if ".".join(rest[:length]) in known:
            return ".".join(rest[:length])
    return "__init__"  # as in `from everseg import Name`


# ---------------------------------------------------------------- the laws


def unit(module: str) -> str:
    """What stands on a shelf: a package as a whole, a method by itself."""
    if module.startswith("methods."):
        return "methods.*"
    return module.split(".")[0]


LEVEL = {name: level for level, (_, names) in enumerate(SHELVES) for name in names.split()}


def strangers(package: Path) -> list[str]:
    return [
        f"{path.name}: {unit(module)!r} is on no shelf. Add it to SHELVES in tests/test_floors.py, "
        "on the lowest shelf from which it sees what it imports"
        for module, path in modules(package).items()
        if unit(module) not in LEVEL
    ]


def trespasses(package: Path) -> list[str]:
    found = []
    for edge in edges(package):
        user, used = unit(edge.user), unit(edge.used)
        if user not in LEVEL or used not in LEVEL:
            continue
        if user == used and user in INWARD:
            continue
        if LEVEL[used] >= LEVEL[user]:
            way = "upward" if LEVEL[used] > LEVEL[user] else "sideways"
            shelves = f"shelf {SHELVES[LEVEL[user]][0]} to shelf {SHELVES[LEVEL[used]][0]}"
            found.append(f"{edge}: {way}, from {shelves}")
    return found


def cycle(package: Path) -> list[str]:
    """The modules of one import cycle, the first again at the end; empty if there is none."""
    graph: dict[str, list[str]] = {}
    for edge in edges(package):
        graph.setdefault(edge.user, []).append(edge.used)
    done: set[str] = set()

    def walk(module: str, trail: list[str]) -> list[str]:
        if module in trail:
            return [*trail[trail.index(module) :], module]
        if module in done:
            return []
        for used in graph.get(module, []):
            if found := walk(used, [*trail, module]):
                return found
        done.add(module)
        return []

    return next((found for module in graph if (found := walk(module, []))), [])


def long_files(package: Path) -> list[str]:
    lengths = [(path, len(path.read_text(encoding="utf-8").splitlines())) for path in package.rglob("*.py")]
    return [f"{path}: {lines} lines, at most {MAX_LINES}" for path, lines in lengths if lines > MAX_LINES]


def given_names(tree: ast.AST) -> Iterator[tuple[str, int]]:
    """The names a file gives to things: classes, functions, arguments, variables, imports it renames."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield node.name, node.lineno
        elif isinstance(node, ast.arg):
            yield node.arg, node.lineno
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id, node.lineno
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            yield node.attr, node.lineno
        elif isinstance(node, ast.Import | ast.ImportFrom):
            yield from ((alias.asname, node.lineno) for alias in node.names if alias.asname)


def bad_names(package: Path) -> list[str]:
    found = []
    for module, path in modules(package).items():
        names = [(module, 1), *given_names(ast.parse(path.read_text(encoding="utf-8")))]
        found += [
            f"{module}, line {n}: {name!r} says nothing" for name, n in names if BANNED_NAMES.search(name)
        ]
    return found


def bad_words(files: list[Path]) -> list[str]:
    found = []
    for path in files:
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            found += [f"{path}, line {number}: {word.group()!r}" for word in BANNED_WORDS.finditer(line)]
    return found


def project_files() -> list[Path]:
    """The text of the project: the top folder's own files and the places above, without what tools leave."""
    within = (path for place in PLACES for path in (ROOT / place).rglob("*"))
    files = [path for path in [*ROOT.iterdir(), *within] if path.is_file() and path.suffix in TEXT]
    return sorted(path for path in files if not {"__pycache__", ".git"} & {*path.parts})


# ---------------------------------------------------------------- everseg obeys


def test_every_module_is_on_a_shelf() -> None:
    assert not strangers(PACKAGE), "\n".join(strangers(PACKAGE))


def test_imports_go_down() -> None:
    assert not trespasses(PACKAGE), "\n".join(trespasses(PACKAGE))


def test_imports_have_no_cycle() -> None:
    assert not cycle(PACKAGE), " -> ".join(cycle(PACKAGE))


def test_files_fit_in_the_head() -> None:
    assert not long_files(PACKAGE), "\n".join(long_files(PACKAGE))


def test_names_say_what_a_thing_is() -> None:
    assert not bad_names(PACKAGE), "\n".join(bad_names(PACKAGE))


def test_no_word_that_has_no_place_here() -> None:
    assert not bad_words(project_files()), "\n".join(bad_words(project_files()))


def test_a_shelf_has_each_module_once() -> None:
    names = [name for _, shelf in SHELVES for name in shelf.split()]
    assert len(names) == len(set(names))
    assert set(INWARD) <= set(names)


# ---------------------------------------------------------------- and the laws have teeth


def house(folder: Path, **files: str) -> Path:
    """A package `everseg` with the given modules; a double underscore in a name stands for a folder."""
    package = folder / "everseg"
    for name, text in files.items():
        path = package / (name.replace("__", "/") + ".py")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return package


UPWARD = {
    "plain": "import everseg.run\n",
    "from": "from everseg.run import learn\n",
    "from the package": "from everseg import run\n",
    "renamed": "import everseg.run as go\n",
    "in a function": "def f():\n    from everseg.run import learn\n",
    "in a method": "class A:\n    def f(self):\n        import everseg.run\n",
    "for type checking": "import typing\nif typing.TYPE_CHECKING:\n    from everseg.run import learn\n",
    "in a try": "try:\n    import everseg.run\nexcept ImportError:\n    pass\n",
    "relative": "from .run import learn\n",
    "relative to the package": "from . import run\n",
}


@pytest.mark.parametrize("text", UPWARD.values(), ids=UPWARD.keys())
def test_an_upward_import_is_found(tmp_path: Path, text: str) -> None:
    package = house(tmp_path, fit=text, run="")
    (found,) = trespasses(package)
    assert "fit (line" in found and "imports run: upward, from shelf 1b to shelf 2e" in found


@pytest.mark.parametrize(
    ("user", "text"),
    [
        ("lora", "from everseg.fit import fit"),
        ("methods__samcl", "from everseg.methods.regcl import merge"),
        ("methods__samcl", "from . import regcl"),
        ("methods__samcl", "from ..scoring import score"),
        ("serve__app", "from everseg.report import page"),
        ("serve__app", "from everseg.serve.page import html"),
    ],
)
def test_a_sideways_import_is_found(tmp_path: Path, user: str, text: str) -> None:
    names = dict.fromkeys(["fit", "scoring", "methods__regcl", "report__page", "serve__page", "lora"], "")
    (found,) = trespasses(house(tmp_path, **{**names, user: text}))
    assert "sideways" in found


def test_everything_may_not_import_the_front_door(tmp_path: Path) -> None:
    package = house(tmp_path, fit="from everseg import SAMCL", __init__="")
    assert "fit (line 1) imports __init__: upward, from shelf 1b to shelf 4a" in trespasses(package)


def test_downward_and_inward_imports_are_no_trespass(tmp_path: Path) -> None:
    package = house(
        tmp_path,
        types="import torch\nfrom torch.utils.data import Dataset\n",
        models__protocol="from everseg.types import Stage",
        models__sam="from everseg.models.protocol import Base\nfrom .protocol import Base\n",
        methods__samcl="from everseg.models import sam\nfrom everseg.types import Stage",
        run="from everseg import methods\nfrom everseg.methods import samcl",
    )
    assert edges(package) and not trespasses(package) and not strangers(package) and not cycle(package)


def test_a_cycle_is_found_even_where_imports_may_go_inward(tmp_path: Path) -> None:
    package = house(
        tmp_path,
        data__coco="from everseg.data.masks import read",
        data__masks="from everseg.data.voc import read",
        data__voc="def f():\n    from everseg.data.coco import read",
    )
    assert not trespasses(package)
    assert cycle(package) == ["data.coco", "data.masks", "data.voc", "data.coco"]


def test_a_package_that_its_modules_reach_through_is_a_cycle(tmp_path: Path) -> None:
    package = house(tmp_path, data__coco="from everseg.data import Stream")
    (tmp_path / "everseg" / "data" / "__init__.py").write_text("from everseg.data.coco import Stream")
    assert set(cycle(package)) == {"data.coco", "data"}


def test_a_stranger_is_told_where_it_belongs(tmp_path: Path) -> None:
    (found,) = strangers(house(tmp_path, distill="", fit=""))
    assert "'distill' is on no shelf. Add it to SHELVES in tests/test_floors.py" in found


def test_a_long_file_is_found(tmp_path: Path) -> None:
    package = house(tmp_path, fit="\n" * MAX_LINES, run="\n" * (MAX_LINES + 1))
    (found,) = long_files(package)
    assert "run.py: 401 lines" in found


def test_an_empty_name_is_found(tmp_path: Path) -> None:
    text = "class RunManager:\n    pass\n\ndef f(error_handler): ...\n\nimport numpy as np_utils\n"
    package = house(tmp_path, fit=text, imgutils="from http.server import BaseHTTPRequestHandler\n")
    assert len(bad_names(package)) == 4


def test_a_banned_word_is_found(tmp_path: Path) -> None:
    file = tmp_path / "page.md"
    later, mine = "TO" + "DO", "/ho" + "me/"
    file.write_text(f"fine, and so is runs/work/tune.json\n{later}: later\nsee {mine}me/data\n")
    assert bad_words([file]) == [f"{file}, line 2: {later!r}", f"{file}, line 3: {mine!r}"]
