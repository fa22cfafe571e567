"""The notebook runs top to bottom: here on a toy base in few steps, in full by `make notebook`."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import nbformat
import pytest
from IPython.core.inputtransformer2 import TransformerManager
from nbclient import NotebookClient

NOTEBOOK = Path(__file__).parents[1] / "FineTuningWithLorA.ipynb"
FEW_STEPS = [
    "training.max_steps=4", "training.eval_steps=2", "training.save_steps=2",
    "data.num_evaluation=16", "data.num_test=20",
]  # fmt: skip


def test_notebook_is_committed_without_outputs():
    """None of it then is of another machine or an older version; running it makes them."""
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert len(code) >= 10
    assert not any(cell.outputs or cell.execution_count for cell in code)


def run_first_cell(folder, monkeypatch):
    """The sources it found, and the lines it gave to %pip, where sentilora is not installed."""
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    cell = next(cell for cell in notebook.cells if cell.cell_type == "code")
    source = TransformerManager().transform_cell(cell.source)
    lines = []
    shell = SimpleNamespace(run_line_magic=lambda magic, line: lines.append((magic, line)))
    names = {"get_ipython": lambda: shell}
    monkeypatch.chdir(folder)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    exec(compile(source, "first cell", "exec"), names)
    return names["sources"], lines


@pytest.mark.parametrize(
    ("file", "source"),
    [("pyproject.toml", "."), ("sentilora-0.1.0-py3-none-any.whl",) * 2],
    ids=["in a checkout", "beside a wheel"],
)
def test_first_cell_installs_from_what_lies_beside_it(file, source, tmp_path, monkeypatch):
    (tmp_path / file).touch()
    sources, lines = run_first_cell(tmp_path, monkeypatch)
    assert sources == [source]
    assert lines == [("pip", "install -q {sources[-1]} -c keep-torch.txt")]
    assert (tmp_path / "keep-torch.txt").read_text().startswith("torch==")


def test_first_cell_says_what_to_do_without_a_checkout(tmp_path, monkeypatch):
    with pytest.raises(FileNotFoundError, match="no checkout and no sentilora"):
        run_first_cell(tmp_path, monkeypatch)


@pytest.mark.slow
def test_notebook_runs_with_few_steps(tmp_path, toy_base):
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    replaced = 0
    for cell in notebook.cells:
        if cell.cell_type == "code" and "OVERRIDES = []" in cell.source:
            overrides = [f"base.name={toy_base}", *FEW_STEPS]
            cell.source = cell.source.replace("OVERRIDES = []", f"OVERRIDES = {overrides}")
            replaced += 1
    assert replaced == 1
    shutil.copytree(NOTEBOOK.parent / "examples", tmp_path / "examples")
    client = NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(tmp_path)}})
    client.execute()
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert len(code) >= 10
    assert all(cell.execution_count for cell in code)
    assert (tmp_path / "notebook-run/adapter_model.safetensors").is_file()
    classifier = json.loads((tmp_path / "notebook-support/classifier.json").read_text())
    assert classifier["prompt"]["labels"] == ["billing", "delivery", "returns", "technical"]
