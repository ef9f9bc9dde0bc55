"""Run the notebooks, and keep their output: `python docs/run_notebooks.py`."""

import os
from pathlib import Path

import nbformat
from nbclient import NotebookClient

FOLDER = Path(__file__).parent / "notebooks"


def run(file: Path) -> nbformat.NotebookNode:
    """A notebook with its output, as a reader sees it: without times of execution."""
    os.environ["PYTHONWARNINGS"] = "ignore"  # of packages that miss a widget
    notebook = nbformat.read(file, as_version=4)
    client = NotebookClient(
        notebook, timeout=600, resources={"metadata": {"path": file.parent}}, record_timing=False
    )
    client.execute()
    return notebook


if __name__ == "__main__":
    for file in sorted(FOLDER.glob("*.ipynb")):
        nbformat.write(run(file), file)
        print(file)
