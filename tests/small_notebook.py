"""The notebooks at a size for tests. ``python tests/small_notebook.py [name ...]`` executes the references anew.

A reference is an executed copy: nbval compares outputs only with cells that have been executed, so a stripped
notebook would pass whatever it printed.
"""

import os
import sys
import tempfile
from pathlib import Path

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


def reference(name: str) -> Path:
    return ROOT / "tests" / "references" / f"{name}.ipynb"


def environment(folder: Path) -> dict[str, str]:
    """The variables that keep a notebook's records and checkpoints in ``folder``, and its kernel on one thread."""
    places = {"ADVLIB_RESULTS": str(folder / "results"), "ADVLIB_WORK": str(folder / "work")}
    return os.environ | places | {"OMP_NUM_THREADS": "1"}


def bare_environment(home: Path) -> dict[str, str]:
    """The variables of somebody who has just installed the package: no settings, an empty home, one thread."""
    kept = {name: os.environ[name] for name in ("PATH", "LANG", "SYSTEMROOT") if name in os.environ}
    here = {"PYTHONPATH": str(Path(advlib.__file__).parents[1]), "OMP_NUM_THREADS": "1"}
    return kept | here | {"HOME": str(home), "TMPDIR": tempfile.gettempdir()}


def write_reference(name: str) -> None:
    import nbformat
    import papermill

    from study.grid.execute import anonymise

    with tempfile.TemporaryDirectory() as folder:
        for variable in [variable for variable in os.environ if variable.startswith("ADVLIB_")]:
            del os.environ[variable]
        papermill.execute_notebook(source(name), reference(name), INJECTED[name], kernel_name="python3", cwd=folder)
    anonymise(reference(name))
    notebook = nbformat.read(reference(name), as_version=4)
    for cell in notebook.cells:
        if cell.cell_type == "code":  # pictures are not compared, and what libraries say of this machine not kept
            cell.outputs = [
                output
                for output in cell.outputs
                if "image/png" not in output.get("data", {}) and output.get("name") != "stderr"
            ]
    nbformat.write(notebook, reference(name))


if __name__ == "__main__":
    for notebook in sys.argv[1:] or INJECTED:
        write_reference(notebook)
