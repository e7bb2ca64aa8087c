"""Run docs/quickstart.ipynb against a results folder: `python tests/run_notebook.py RESULTS`."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import nbformat
from nbclient import NotebookClient

NOTEBOOK = Path(__file__).parents[1] / "docs" / "quickstart.ipynb"


def run_notebook(results: Path) -> nbformat.NotebookNode:
    """Execute every cell; returns the notebook with its outputs, and raises nbclient's error where a cell fails."""
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    client = NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(NOTEBOOK.parents[1])}})
    return client.execute(env=os.environ | {"MFQL_RESULTS": str(results.absolute())})


if __name__ == "__main__":
    run_notebook(Path(sys.argv[1]))
    print(f"{NOTEBOOK.name}: every cell ran")
