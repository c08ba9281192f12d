"""Rewrite the tables of results in README.md and docs/ from the files in benchmarks/results: `make results`.

    python tools/tables.py            # rewrite
    python tools/tables.py --check    # exit code 1 if a table differs from its file

A page holds the table between two comments; `columns` and `rows` select by heading and by first cell:

    <!-- table domains.json#iou columns: IoU; AA; FM rows: zero-shot; SAMCL -->
    ...
    <!-- /table -->

A file has "tables", by name, beside what the figures were measured with (commands, versions, seeds), or the
"rows" of a benchmark, from which `tools/summaries.py` makes tables. A table has "columns", "rows", and
optionally "digits" (3). A cell is a number, [mean, standard deviation], a text, or null for a figure that
does not exist.
"""

from __future__ import annotations

import json
import re
import runpy
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
MARKED = re.compile(
    r"(?P<open><!-- table (?P<file>\S+?)#(?P<name>\S+)"
    r"(?: columns: (?P<columns>.+?))?(?: rows: (?P<rows>.+?))? -->\n)"
    r".*?"
    r"(?P<close><!-- /table -->)",
    re.DOTALL,
)
SUMMARIES = runpy.run_path(str(Path(__file__).with_name("summaries.py")))["SUMMARIES"]
"""From the rows of a file to its tables, by the file's name."""


def cell(value: Any, digits: int) -> str:
    """A cell as text."""
    if value is None:
        return "\N{EN DASH}"
    if isinstance(value, list):
        mean, spread = value
        return f"{mean:.{digits}f} ± {spread:.{digits}f}"
    return f"{value:.{digits}f}" if isinstance(value, float) else str(value)


def bare(text: str) -> str:
    """A heading or first cell without emphasis and code marks, by which it is selected."""
    return re.sub(r"[*`]", "", text).strip()


def table(file: dict[str, Any], name: str, columns: str | None = None, rows: str | None = None) -> str:
    """One table of a file as Markdown.

    Raises:
        SystemExit: the file has no such table, column or row.
    """
    if name not in file["tables"]:
        raise SystemExit(f"no table {name!r}; there are {', '.join(file['tables'])}")
    found = file["tables"][name]
    digits = found.get("digits", 3)
    headings, lines = found["columns"], found["rows"]
    if columns is not None:
        wanted = [c.strip() for c in columns.split(";")]
        at = [_index([bare(h) for h in headings], c) for c in wanted]
        headings, lines = [headings[i] for i in at], [[line[i] for i in at] for line in lines]
    if rows is not None:
        names = [bare(str(line[0])) for line in lines]
        lines = [lines[_index(names, row.strip())] for row in rows.split(";")]
    texts = [[cell(value, digits) for value in line] for line in lines]
    out = [f"| {' | '.join(line)} |" for line in [headings, *texts]]
    return "\n".join([out[0], "|---" * len(headings) + "|", *out[1:]])


def _index(names: list[str], wanted: str) -> int:
    if wanted not in names:
        raise SystemExit(f"no {wanted!r}; there are {', '.join(names)}")
    return names.index(wanted)


def filled(text: str) -> str:
    """A page with every marked table written again."""

    def rewrite(found: re.Match[str]) -> str:
        file = json.loads((RESULTS / found["file"]).read_text(encoding="utf-8"))
        if found["file"] in SUMMARIES:
            file["tables"] = SUMMARIES[found["file"]](file["rows"])
        body = table(file, found["name"], found["columns"], found["rows"])
        return f"{found['open']}{body}\n{found['close']}"

    return MARKED.sub(rewrite, text)


def pages() -> list[Path]:
    return [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def main() -> None:
    stale = []
    for page in pages():
        text = page.read_text(encoding="utf-8")
        new = filled(text)
        if new != text:
            stale.append(page.relative_to(ROOT).as_posix())
            if "--check" not in sys.argv:
                page.write_text(new, encoding="utf-8")
    for name in stale:
        print(
            f"{name}: {'differs from its files; run make results' if '--check' in sys.argv else 'rewritten'}"
        )
    sys.exit(bool(stale and "--check" in sys.argv))


if __name__ == "__main__":
    main()
