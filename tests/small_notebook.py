"""The notebooks at a size for tests."""

import os
import tempfile
from pathlib import Path

import nbformat
from places import ROOT

import advlib

SMALL = {"epochs": 1, "train_size": 192, "test_size": 64, "sweep_size": 8, "width": 8}
INJECTED = {  # notebook -> its parameters in tests
    "experiment": {"key": "advprop", "overrides": SMALL},
    "attacks": {"overrides": {"epochs": 2, "augmentation": "none"}, "images": 50, "steps": 10},
    "advprop": {
        "overrides": {"epochs": 2, "augmentation": "none", "train_step_size": 0.05, "train_size": 1024},
        "images": 100,
    },
    "als": {"overrides": {"epochs": 2, "augmentation": "none"}, "images": 50},
    "sat": {
        "overrides": {"epochs": 1, "augmentation": "none"},
        "images": 40,
        "alphas": [0.1, 10.0],
        "steps": 5,
    },
}


def source(name: str) -> Path:
    return ROOT / "notebooks" / f"{name}.ipynb"


def small(name: str) -> nbformat.NotebookNode:
    """The notebook with the parameters that tests give it, as papermill would inject them, and what nbval compares."""
    notebook = nbformat.read(source(name), as_version=4)
    (at,) = [k for k, cell in enumerate(notebook.cells) if "parameters" in cell.metadata.get("tags", [])]
    lines = "\n".join(f"{parameter} = {value!r}" for parameter, value in INJECTED[name].items())
    for cell in notebook.cells:
        if cell.cell_type == "code" and "NBVAL_CHECK_OUTPUT" not in cell.source:
            cell.outputs, cell.execution_count = [], None  # of the reader's size
    notebook.cells.insert(at + 1, nbformat.v4.new_code_cell(lines, id="injected"))
    return notebook


def environment(folder: Path) -> dict[str, str]:
    """The variables that keep a notebook's records and checkpoints in ``folder``, and its kernel on one thread."""
    places = {"ADVLIB_RESULTS": str(folder / "results"), "ADVLIB_WORK": str(folder / "work")}
    return os.environ | places | {"OMP_NUM_THREADS": "1"}


def bare_environment(home: Path) -> dict[str, str]:
    """The variables of somebody who has just installed the package: no settings, an empty home, one thread."""
    kept = {name: os.environ[name] for name in ("PATH", "LANG", "SYSTEMROOT") if name in os.environ}
    here = {"PYTHONPATH": str(Path(advlib.__file__).parents[1]), "OMP_NUM_THREADS": "1"}
    return kept | here | {"HOME": str(home), "TMPDIR": tempfile.gettempdir()}
