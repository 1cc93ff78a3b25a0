"""The examples in docs/ run as they stand, and so does the notebook."""

import importlib.util
import json
import re
import runpy
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
EXAMPLES = sorted((ROOT / "docs" / "examples").glob("*.py"))


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda p: p.stem)
def test_an_example_runs_and_prunes(example, monkeypatch, capsys):
    """As a program, from the folder that it lies in; in this process, which has imported torch already."""
    monkeypatch.chdir(ROOT)
    monkeypatch.syspath_prepend(example.parent)
    runpy.run_path(str(example), run_name="__main__")
    assert re.search(r"units removed|% of the MACs removed", capsys.readouterr().out)


def _notebook_module():
    """docs/notebook.py, which runs the notebook."""
    spec = importlib.util.spec_from_file_location("docs_notebook", ROOT / "docs" / "notebook.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _code_cells(notebook):
    return [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]


@pytest.mark.integration
@pytest.mark.timeout(1500)
def test_the_notebook_goes_from_a_sweep_to_a_chosen_exported_model(tmp_path):
    """nbclient raises where a cell fails."""
    module = _notebook_module()
    notebook = module.tidied(module.execute(module.NOTEBOOK, tmp_path))
    said = json.dumps(notebook)
    assert "complete {'complete': 3}" in said
    assert "lowest MACs" in said or "has the lowest" in said, "the choice with its reason"
    assert (tmp_path / "model" / "MODEL_CARD.md").is_file()
    figures = [
        o for cell in _code_cells(notebook) for o in cell["outputs"] if module.PLOTLY in o.get("data", {})
    ]
    assert len(figures) == 3


def test_the_notebook_of_the_pages_has_its_outputs_and_nothing_of_this_machine():
    path = ROOT / "docs" / "examples" / "quickstart.ipynb"
    text = path.read_text(encoding="utf-8")
    assert len(text) < 200_000
    assert not re.search(r"/home/|/tmp/|/root/|\u001b", text)
    cells = _code_cells(json.loads(text))
    assert [cell["outputs"] for cell in cells[1:]].count([]) == 0, "make notebook"
    assert all(cell["execution_count"] is None for cell in cells)
