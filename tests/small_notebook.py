"""The experiment notebook at a size for tests. ``python tests/small_notebook.py`` executes the reference anew.

The reference is an executed copy: nbval compares outputs only with cells that have been executed, so a stripped
notebook would pass whatever it printed.
"""

import os
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SOURCE = ROOT / "notebooks" / "experiment.ipynb"
REFERENCE = ROOT / "tests" / "references" / "experiment.ipynb"
SMALL = {"epochs": 1, "train_size": 192, "test_size": 64, "sweep_size": 8, "width": 8}


def environment(folder: Path) -> dict[str, str]:
    """The variables that keep a notebook's records and checkpoints in ``folder``, and its kernel on one thread."""
    places = {"ADVLIB_RESULTS": str(folder / "results"), "ADVLIB_WORK": str(folder / "work")}
    return os.environ | places | {"OMP_NUM_THREADS": "1"}


def write_reference() -> None:
    import nbformat
    import papermill

    from advlib.execute import anonymise

    with tempfile.TemporaryDirectory() as folder:
        os.environ.update(environment(Path(folder)))
        papermill.execute_notebook(
            SOURCE, REFERENCE, {"key": "advprop", "overrides": SMALL}, kernel_name="python3", cwd=SOURCE.parent
        )
    anonymise(REFERENCE)
    notebook = nbformat.read(REFERENCE, as_version=4)
    for cell in notebook.cells:  # pictures are not compared
        if cell.cell_type == "code":
            cell.outputs = [output for output in cell.outputs if "image/png" not in output.get("data", {})]
    nbformat.write(notebook, REFERENCE)


if __name__ == "__main__":
    sys.exit(write_reference())
