"""Rewrite the table of defaults and their sources in docs/defaults.md, a part of `make results`.

    python tools/defaults.py            # rewrite
    python tools/defaults.py --check    # exit code 1 if a default or a source differs from the table

A row is a setting whose docstring names a source in square brackets, with its value in the presets `paper`
and `reference`. Methods whose setting has the same name, values and source share the row.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

from everseg.config import describe
from everseg.methods import METHODS, find

PAGE = Path(__file__).resolve().parents[1] / "docs" / "defaults.md"
MARKED = re.compile(r"(<!-- defaults -->\n).*?(<!-- /defaults -->)", re.DOTALL)


def rows() -> list[tuple[str, str, str, str, str]]:
    """(setting, methods, value in paper, value in reference, source) of every default with a source."""
    found: dict[tuple[str, str, str, str], list[str]] = {}
    for method in METHODS:
        presets = {name: describe(config) for name, config in find(method).Config.presets().items()}
        values = {s.name: s.value for s in presets["reference"]}
        for setting in presets["paper"]:
            if setting.kind != "group" and setting.source:
                key = (setting.name, _text(setting.value), _text(values.get(setting.name)), setting.source)
                found.setdefault(key, []).append(method)
    return [
        (name, ", ".join(methods), paper, other, source)
        for (name, paper, other, source), methods in found.items()
    ]


def _text(value: Any) -> str:
    return value if isinstance(value, str) and value else json.dumps(value)


def table() -> str:
    lines = ["| setting | methods | `paper` | `reference` | source |", "|---|---|---|---|---|"]
    for name, methods, paper, other, source in sorted(rows()):
        shown = f"`{other}`" if other != paper else ""
        source = source.replace("|", "\\|").replace("*", "\\*")
        lines.append(f"| `{name}` | {methods} | `{paper}` | {shown} | {source} |")
    return "\n".join(lines)


def main() -> None:
    text = PAGE.read_text(encoding="utf-8")
    new = MARKED.sub(lambda m: f"{m[1]}{table()}\n{m[2]}", text)
    if new == text:
        return
    if "--check" in sys.argv:
        print(
            "docs/defaults.md differs from the methods' defaults; run make results and look at what changed"
        )
        sys.exit(1)
    PAGE.write_text(new, encoding="utf-8")
    print("docs/defaults.md: rewritten")


if __name__ == "__main__":
    main()
