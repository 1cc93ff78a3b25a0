"""Run the notebook of the pages and keep what it showed, without what differs from machine to machine.

make notebook          # or: python docs/notebook.py [NOTEBOOK]
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOK = ROOT / "docs" / "examples" / "quickstart.ipynb"
PLOTLY = "application/vnd.plotly.v1+json"


def execute(path: Path, folder: Path, *, timeout: int = 1200) -> Any:
    """The notebook after all its cells have run in ``folder``; raises nbclient's CellExecutionError where one fails."""
    notebook = nbformat.read(path, as_version=4)
    given = os.environ.get("PYTHONPATH", "")
    os.environ["PYTHONPATH"] = os.pathsep.join(part for part in (str(ROOT), given) if part)
    try:
        NotebookClient(
            notebook, timeout=timeout, kernel_name="python3", resources={"metadata": {"path": str(folder)}}
        ).execute()
    finally:
        os.environ["PYTHONPATH"] = given
    return notebook


def tidied(notebook: Any) -> Any:
    """Outputs without logs, times and HTML: text, and figures as their data."""
    for number, cell in enumerate(notebook.cells):
        cell.id = f"cell-{number:02d}"
        cell.metadata = {}
        if cell.cell_type != "code":
            continue
        cell.execution_count = None
        kept = []
        for output in cell.outputs:
            if output.output_type == "stream" and output.name == "stderr":
                continue
            if output.output_type == "display_data" and PLOTLY not in output.data:
                continue  # scripts and progress bars
            if output.output_type in ("display_data", "execute_result"):
                data = output.data
                output.data = {PLOTLY: data[PLOTLY]} if PLOTLY in data else {"text/plain": data["text/plain"]}
                output.metadata = {}
                if "execution_count" in output:
                    output.execution_count = None
            kept.append(output)
        cell.outputs = kept
    notebook.metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    return notebook


def main() -> None:
    path = Path(sys.argv[1]) if len(sys.argv) > 1 else NOTEBOOK
    with tempfile.TemporaryDirectory() as folder:
        notebook = tidied(execute(path, Path(folder)))
    path.write_text(nbformat.writes(notebook) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
