"""Run the notebook of the documentation: `make notebook`.

python tools/notebook.py            # run docs/notebooks/first-run.ipynb and keep its outputs
python tools/notebook.py --check    # run it and keep nothing; exit code 1 if a cell fails
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

NOTEBOOK = Path(__file__).resolve().parents[1] / "docs" / "notebooks" / "first-run.ipynb"


def executed(path: Path = NOTEBOOK) -> nbformat.NotebookNode:
    """The notebook after all cells have run in an empty folder, without what differs from run to run.

    Raises:
        CellExecutionError: a cell failed.
    """
    notebook = nbformat.read(path, as_version=4)
    with tempfile.TemporaryDirectory() as folder:
        where = {"metadata": {"path": folder}}
        client = NotebookClient(notebook, timeout=900, kernel_name="python3", resources=where)
        client.execute()
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)
        if cell.cell_type == "code":
            cell.outputs = [o for o in cell.outputs if o.get("name") != "stderr"]  # progress, in seconds
            for output in cell.outputs:
                if "image/jpeg" in output.get("data", {}):  # Pillow gives both; this one is smaller.
                    output.data.pop("image/png", None)
    notebook.metadata = {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}}
    return notebook


def main() -> None:
    try:
        notebook = executed()
    except CellExecutionError as error:
        sys.exit(str(error))
    if "--check" not in sys.argv:
        nbformat.write(notebook, NOTEBOOK)


if __name__ == "__main__":
    main()
