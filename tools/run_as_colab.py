"""Run each notebook as Colab would: the file alone in an empty folder, at the size that a reader gets.

python tools/run_as_colab.py          # with the Python of an environment like Colab's; `make colab` makes one
python tools/run_as_colab.py --keep   # and keep the outputs, which the book shows; `make notebooks` does this
"""

import argparse
import hashlib
import sys
import tempfile
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

NOTEBOOKS = Path(__file__).resolve().parent.parent / "notebooks"


def digest(notebook: nbformat.NotebookNode) -> str:
    """Of a notebook's code but for the cell that installs: its outputs are those of the code of the same digest."""
    code = [cell.source for cell in notebook.cells if cell.cell_type == "code" and "google.colab" not in cell.source]
    return hashlib.sha256("\n\n".join(code).encode()).hexdigest()[:12]


def not_shown(notebook: nbformat.NotebookNode) -> list[str]:
    """What it could not draw or list, each said in a line that stops nothing (see study/drawings/portrait.py)."""
    said = [output.get("text", "") for cell in notebook.cells for output in cell.get("outputs", [])]
    return [text for text in said if text.startswith("not shown: ")]


def keep(notebook: nbformat.NotebookNode, path: Path) -> None:
    """Write an executed notebook, without what a machine's libraries say to the terminal, and whose code it shows."""
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = [output for output in cell.outputs if output.get("name") != "stderr"]
    notebook.metadata["language_info"] = {"name": "python"}
    notebook.metadata["executed"] = digest(notebook)
    nbformat.write(notebook, path)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--keep", action="store_true", help="write the outputs into the notebooks")
    options = parser.parse_args()
    failed = 0
    for path in sorted(NOTEBOOKS.glob("*.ipynb")):
        begin, notebook = time.monotonic(), nbformat.read(path, as_version=4)
        with tempfile.TemporaryDirectory() as folder:
            place = {"metadata": {"path": folder}}
            try:
                NotebookClient(notebook, timeout=3600, resources=place, record_timing=False).execute()
                state = "ok"
                if missed := not_shown(notebook):
                    failed += 1
                    state = f"FAILED\n{''.join(missed)}"
                elif options.keep:
                    keep(notebook, path)
            except CellExecutionError as error:
                failed += 1
                state = f"FAILED\n{error}"
        print(f"{path.name}: {state} in {time.monotonic() - begin:.0f} s", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
