"""The notebook: what papermill, nbval, Colab and the book rely on. nbval itself runs here, on the executed copy."""

import ast
import copy
import json
import os
import subprocess
import sys

import nbformat
import pytest
from small_notebook import REFERENCE, ROOT, SMALL, SOURCE, environment

NBVAL = [
    sys.executable,
    "-m",
    "pytest",
    "--nbval-lax",
    "--nbval-current-env",
    "-q",
    "-p",
    "no:cacheprovider",
    "--rootdir",
]


@pytest.fixture
def notebook():
    return nbformat.read(SOURCE, as_version=4)


def code(notebook) -> list:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def tagged(notebook, tag: str) -> list:
    return [cell for cell in notebook.cells if tag in cell.metadata.get("tags", [])]


def nbval(notebook, folder) -> subprocess.CompletedProcess:
    """Run nbval, lax, on a notebook in a folder of its own; only marked cells are compared with what they printed."""
    path = folder / "experiment.ipynb"
    nbformat.write(notebook, path)
    command = [*NBVAL, str(folder), str(path)]
    return subprocess.run(command, cwd=folder, env=environment(folder), capture_output=True, text=True, check=False)


def test_nbval_passes_on_the_small_executed_notebook(tmp_path):
    done = nbval(nbformat.read(REFERENCE, as_version=4), tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{len(code(nbformat.read(REFERENCE, as_version=4)))} passed" in done.stdout


def test_nbval_fails_when_a_marked_cell_printed_something_else(tmp_path):
    broken = nbformat.read(REFERENCE, as_version=4)
    marked = [cell for cell in code(broken) if "NBVAL_CHECK_OUTPUT" in cell.source]
    assert len(marked) == 1
    marked[0].outputs[0].text = "outside the ball\n"
    done = nbval(broken, tmp_path)
    assert done.returncode == 1
    assert "1 failed" in done.stdout


def test_nbval_fails_when_the_record_does_not_say_what_the_model_does(tmp_path):
    broken = nbformat.read(REFERENCE, as_version=4)
    marked = next(cell for cell in code(broken) if "NBVAL_CHECK_OUTPUT" in cell.source)
    marked.source = marked.source.replace(".mask[:64]", ".mask[:64] ^ True")
    done = nbval(broken, tmp_path)
    assert done.returncode == 1
    assert "the record does not say what the model does" in done.stdout


def test_the_reference_is_the_notebook_as_it_is_executed(notebook):
    reference = nbformat.read(REFERENCE, as_version=4)
    injected = tagged(reference, "injected-parameters")
    assert [cell.source for cell in code(reference) if cell not in injected] == [
        cell.source for cell in code(notebook)
    ], "the notebook has changed: run `python tests/small_notebook.py` and commit the new reference"
    assert all(cell.execution_count for cell in code(reference))
    assert json.dumps(SMALL) in injected[0].source


def test_the_parameters_are_literals_of_the_smoke_budget(notebook):
    (cell,) = tagged(notebook, "parameters")
    values = {line.targets[0].id: ast.literal_eval(line.value) for line in ast.parse(cell.source).body}
    assert values == {
        "key": "advprop",
        "protocol": "corrected",
        "budget": "smoke",
        "dataset": "",
        "seed": 0,
        "overrides": {},
    }


def test_the_notebook_is_committed_without_outputs_and_for_the_python3_kernel(notebook):
    assert all(not cell.outputs and cell.execution_count is None for cell in code(notebook))
    assert notebook.metadata.kernelspec.name == "python3"


def test_the_notebook_defines_nothing_and_every_figure_has_alt_text(notebook):
    for cell in code(notebook):
        body = cell.source.replace("%pip", "# %pip").replace("\n    #", "\n    pass  #")
        kinds = {type(node) for node in ast.walk(ast.parse(body))}
        assert not kinds & {ast.FunctionDef, ast.ClassDef, ast.Lambda}
        if "figure = " in cell.source:
            assert len(cell.metadata["mystnb"]["image"]["alt"]) > 40


def test_the_first_code_cell_installs_in_colab_only(notebook):
    first = copy.deepcopy(code(notebook)[0].source)
    assert "--no-deps" in first and "torch==" not in first
    installs: list[str] = []
    source = first.replace("%pip install", "installs.append('''").rstrip() + "''')"
    exec(source, {"installs": installs})  # noqa: S102 - our own cell; elsewhere it does nothing
    assert installs == []
    sys.modules["google.colab"] = sys
    try:
        exec(source, {"installs": installs})  # noqa: S102
    finally:
        del sys.modules["google.colab"]
    assert len(installs) == 1 and "advlib @ git+https://github.com/" in installs[0]


def test_no_committed_notebook_holds_a_path_of_a_machine():
    home = os.path.expanduser("~")
    notebooks = [SOURCE, REFERENCE, *(ROOT / "results").glob("*/*/*/*/*/run.ipynb")]
    for path in notebooks:
        text = path.read_text()
        assert str(ROOT) not in text and f"{home}/" not in text, path
