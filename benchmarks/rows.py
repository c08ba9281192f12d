"""How benchmarks keep their rows in benchmarks/results, for the tables that `make results` writes."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

import everseg


def write_rows(
    path: Path, about: str, seeds: Sequence[int], rows: Sequence[dict[str, Any]], machine: str = ""
) -> None:
    """Write rows, one a line, with what they were measured with.

    machine: where figures depend on it.
    """
    options = [word for word in sys.argv[1:] if word != str(path)]
    options = [word for word in options if word != "--json"]
    head = {
        "about": about,
        "commands": [" ".join(["python", f"benchmarks/{Path(sys.argv[0]).name}", *options])],
        "versions": {
            "everseg": everseg.__version__,
            "torch": torch.__version__.partition("+")[0],
            **({"machine": machine} if machine else {}),
        },
        "seeds": list(seeds),
    }
    text = json.dumps(head, indent=1)[:-2] + ',\n "rows": [\n  '
    # JSON has no NaN.
    told = [{k: None if v != v else v for k, v in row.items()} for row in rows]
    path.write_text(text + ",\n  ".join(map(json.dumps, told)) + "\n ]\n}\n", encoding="utf-8")
