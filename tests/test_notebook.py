"""The notebook runs top to bottom, here with few steps; `make notebook` runs it in full."""

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOK = Path(__file__).parents[1] / "FineTuningWithLorA.ipynb"
FEW_STEPS = (
    'OVERRIDES = ["training.max_steps=4", "training.eval_steps=2", "training.save_steps=2", '
    '"data.num_evaluation=16", "data.num_test=20"]'
)


def test_notebook_is_committed_without_outputs():
    """None of it then is of another machine or an older version; running it makes them."""
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert len(code) >= 10
    assert not any(cell.outputs or cell.execution_count for cell in code)


@pytest.mark.slow
def test_notebook_runs_with_few_steps(tmp_path):
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    replaced = 0
    for cell in notebook.cells:
        if cell.cell_type == "code" and "OVERRIDES = []" in cell.source:
            cell.source = cell.source.replace("OVERRIDES = []", FEW_STEPS)
            replaced += 1
    assert replaced == 1
    client = NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(tmp_path)}})
    client.execute()
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert len(code) >= 10
    assert all(cell.execution_count for cell in code)
    assert (tmp_path / "notebook-run/adapter_model.safetensors").is_file()
