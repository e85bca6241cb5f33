"""Run each notebook as Colab would: the file alone in an empty folder, at the size that a reader gets.

python tools/run_as_colab.py          # with the Python of an environment like Colab's; `make colab` makes one
"""

import sys
import tempfile
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

NOTEBOOKS = Path(__file__).resolve().parent.parent / "notebooks"


def main() -> int:
    failed = 0
    for path in sorted(NOTEBOOKS.glob("*.ipynb")):
        begin = time.monotonic()
        with tempfile.TemporaryDirectory() as folder:
            client = NotebookClient(
                nbformat.read(path, as_version=4), timeout=1200, resources={"metadata": {"path": folder}}
            )
            try:
                client.execute()
                state = "ok"
            except CellExecutionError as error:
                failed += 1
                state = f"FAILED\n{error}"
        print(f"{path.name}: {state} in {time.monotonic() - begin:.0f} s", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
