"""The laws of the house: who may import whom, how long a file is, which names and words have no place here.

A module imports only from floors below its own room's, so whatever lies low can be read, tested and reused by
itself, and a change in one method cannot reach another.

When a test here fails on your module: move the shared part down, or pass the object in as an argument.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "src" / "everseg"

FLOORS = """
errors seed distributed text
config files progress types
fit merge methods pictures results
data
models
domains classes
runs
__init__ report doctor serve napari
testing cli
__main__
"""
"""The rooms of the package from the ground up, one floor per line. A room imports lower floors only; inside
a room, modules may import each other without a cycle. A method imports no other method."""

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


@cache
def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


@cache
def edges(package: Path) -> list[Edge]:
    """Every import between modules of a package, wherever it stands, in functions and type checking too."""
    found = modules(package)
    known = set(found) | {name.rpartition(".")[0] for name in found if "." in name}
    return [edge for name, path in found.items() for edge in _imports(name, path, package.name, known)]


def _imports(user: str, path: Path, top: str, known: set[str]) -> Iterator[Edge]:
    full = [top, *user.split(".")] if user != "__init__" else [top]
    here = full if path.name == "__init__.py" else full[:-1]
    for node in ast.walk(parsed(path)):
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


def room(module: str) -> str:
    """The folder or file at the top of the package that a module lies in."""
    return module.split(".")[0]


def method(module: str) -> str:
    """A module of methods, and "" for any other."""
    return module if re.fullmatch(r"(domains|classes)\.methods\.\w+", module) else ""


LEVEL = {name: level for level, line in enumerate(FLOORS.split("\n")) for name in line.split()}


def strangers(package: Path) -> list[str]:
    """Rooms that are on no floor."""
    return [
        f"{room(module)!r} is on no floor. Add it to FLOORS in tests/test_floors.py, the lowest floor above "
        "everything it imports"
        for module in modules(package)
        if room(module) not in LEVEL
    ]


def trespasses(package: Path) -> list[str]:
    """Imports that go up, sideways, or from one method to another."""
    found = []
    for edge in edges(package):
        user, used = room(edge.user), room(edge.used)
        if method(edge.user) and method(edge.used):
            found.append(f"{edge}: sideways, from one method to another")
        if user == used or user not in LEVEL or used not in LEVEL or LEVEL[used] < LEVEL[user]:
            continue
        way = "upward" if LEVEL[used] > LEVEL[user] else "sideways"
        found.append(f"{edge}: {way}, from floor {LEVEL[user]} to floor {LEVEL[used]}")
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
        names = [(module, 1), *given_names(parsed(path))]
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


def test_every_room_is_on_a_floor() -> None:
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


def test_the_plan_is_small_and_names_each_room_once() -> None:
    assert len(FLOORS.split()) == len(set(FLOORS.split())) <= 26
    assert len(FLOORS.strip().splitlines()) <= 10


# ---------------------------------------------------------------- and the laws have teeth


def house(folder: Path, **files: str) -> Path:
    """A package `everseg` with the given modules; a double underscore in a name stands for a folder."""
    package = folder / "everseg"
    for name, text in files.items():
        path = package / (re.sub(r"(?<=[a-z])__(?=[a-z])", "/", name) + ".py")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return package


UPWARD = {
    "plain": "import everseg.runs\n",
    "from": "from everseg.runs import learn\n",
    "from a module": "from everseg.runs.learn import run\n",
    "from the package": "from everseg import runs\n",
    "renamed": "import everseg.runs as go\n",
    "in a function": "def f():\n    from everseg.runs import learn\n",
    "in a method": "class A:\n    def f(self):\n        import everseg.runs\n",
    "for type checking": "import typing\nif typing.TYPE_CHECKING:\n    from everseg.runs import learn\n",
    "in a try": "try:\n    import everseg.runs\nexcept ImportError:\n    pass\n",
    "relative": "from .runs import learn\n",
    "relative to the package": "from . import runs\n",
}


@pytest.mark.parametrize("text", UPWARD.values(), ids=UPWARD.keys())
def test_an_upward_import_is_found(tmp_path: Path, text: str) -> None:
    package = house(tmp_path, fit=text, runs__learn="")
    (found,) = trespasses(package)
    assert "fit (line" in found and "imports runs" in found and "upward, from floor 3 to floor 7" in found


@pytest.mark.parametrize(
    ("user", "text"),
    [
        ("merge__ties", "from everseg.fit import fit"),
        ("domains__methods__samcl", "from everseg.domains.methods.regcl import merge"),
        ("domains__methods__samcl", "from . import regcl"),
        ("domains__methods__samcl", "from everseg.classes.tune import train"),
        ("classes__tune", "from ..domains import tune"),
        ("serve__app", "from everseg.report import page"),
    ],
)
def test_a_sideways_import_is_found(tmp_path: Path, user: str, text: str) -> None:
    names = dict.fromkeys(
        ["fit", "domains__tune", "domains__methods__regcl", "classes__tune", "report__page", "serve__app"], ""
    )
    (found,) = trespasses(house(tmp_path, **{**names, user: text}))
    assert "sideways" in found


def test_everything_may_not_import_the_front_door(tmp_path: Path) -> None:
    package = house(tmp_path, fit="from everseg import SAMCL", __init__="")
    assert "fit (line 1) imports __init__: upward, from floor 3 to floor 8" in trespasses(package)


def test_downward_and_inward_imports_are_no_trespass(tmp_path: Path) -> None:
    package = house(
        tmp_path,
        types="import torch\nfrom torch.utils.data import Dataset\n",
        models__protocol="from everseg.types import Stage",
        models__sam="from everseg.models.protocol import Base\nfrom .protocol import Base\n",
        domains__tune="from everseg.models import sam",
        domains__methods__samcl="from everseg.domains import tune\nfrom everseg.types import Stage",
        runs__learn="from everseg import domains\nfrom everseg.domains.methods import samcl",
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
    assert "'distill' is on no floor. Add it to FLOORS in tests/test_floors.py" in found


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
