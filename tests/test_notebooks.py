"""The notebooks of the documentation run from end to end, and hold what they gave."""

import os
import sys
from pathlib import Path

import nbformat
import pytest
from conftest import NO_DATA

DOCS = Path(__file__).parents[1] / "docs"
NOTEBOOKS = sorted((DOCS / "notebooks").glob("*.ipynb"))
DATA = Path(os.environ.get("CELLMNN_DATA", "../shared/data"))


@pytest.mark.parametrize("file", NOTEBOOKS, ids=lambda file: file.stem)
def test_output_is_there(file):
    """Figures and tables of every cell, no warning, and no place of the machine that ran it."""
    notebook = nbformat.read(file, as_version=4)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert all(cell.outputs for cell in cells)
    kinds = {output.output_type for cell in cells for output in cell.outputs}
    assert kinds == {"display_data", "execute_result"}
    figures = [
        output for cell in cells for output in cell.outputs if "image/png" in output.get("data", {})
    ]
    assert len(figures) >= 4
    assert "site-packages" not in file.read_text()


@pytest.mark.slow
@pytest.mark.skipif(not DATA.is_dir(), reason=NO_DATA)
@pytest.mark.parametrize("file", NOTEBOOKS, ids=lambda file: file.stem)
def test_a_notebook_runs(file, monkeypatch):
    monkeypatch.setenv("CELLMNN_DATA", str(DATA.resolve()))
    monkeypatch.syspath_prepend(DOCS)
    from run_notebooks import run

    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    again = run(file)
    before = nbformat.read(file, as_version=4)
    for cell, kept in zip(again.cells, before.cells, strict=True):
        if cell.cell_type == "code":
            kinds = [[output.output_type for output in of.outputs] for of in (cell, kept)]
            assert kinds[0] == kinds[1], cell.source
