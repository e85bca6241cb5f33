"""The notebooks: what papermill, nbval, Colab and the book rely on. nbval itself runs here, on small copies.

What a cell prints that says NBVAL_CHECK_OUTPUT is the same on every machine and at every size.

Each notebook is run alone in an empty folder, with nothing set and an empty home, as Colab would start it.
"""

import ast
import copy
import os
import re
import subprocess
import sys

import nbformat
import pytest
from places import ROOT
from small_notebook import INJECTED, bare_environment, small, source

sys.path.insert(0, str(ROOT / "tools"))
import build_book
import run_as_colab

from study.machine.folders import BY_HAND

NBVAL = [
    sys.executable,
    "-m",
    "pytest",
    "--nbval",
    "--nbval-current-env",
    "-q",
    "-p",
    "no:cacheprovider",
    "--rootdir",
]
LESSONS = [name for name in INJECTED if name != "experiment"]

# One change to each lesson that makes a value wrong, and what the lesson's own assert says to it.
BREAKS = {
    "attacks": ("fgsm(model, x, y, eps=eps)", "fgsm(model, x, y, eps=2 * eps)", "FGSM is not its formula"),
    "advprop": (
        "craft(model, x, y, attack)",
        'craft(model.train(), x, y, attack, mode="train")',
        "crafting moved statistics",
    ),
    "als": (
        "als_targets(logits, y, alpha)",
        "als_targets(logits.roll(1, dims=1), y, alpha)",
        "alpha is not on the least likely class",
    ),
    "sat": ("SurrogateReLU(1.0)", "torch.nn.Softplus(1.0)", "forward is not the ReLU"),
}

every_notebook = pytest.mark.parametrize("name", INJECTED)
every_lesson = pytest.mark.parametrize("name", LESSONS)


@pytest.fixture
def notebook(name):
    return nbformat.read(source(name), as_version=4)


@pytest.fixture(scope="session")
def home(tmp_path_factory):
    """An empty home, one for all: matplotlib looks through the fonts once in each."""
    return tmp_path_factory.mktemp("home")


def code(notebook) -> list:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def tagged(notebook, tag: str) -> list:
    return [cell for cell in notebook.cells if tag in cell.metadata.get("tags", [])]


def marked(notebook) -> list:
    return [cell for cell in code(notebook) if "NBVAL_CHECK_OUTPUT" in cell.source]


def values(cell) -> dict:
    """The names that a parameters cell sets. ValueError on anything but a literal."""
    return {line.targets[0].id: ast.literal_eval(line.value) for line in ast.parse(cell.source).body}


def body(cell) -> ast.Module:
    return ast.parse(cell.source.replace("%pip", "# %pip").replace("\n    #", "\n    pass  #"))


def nbval(notebook, folder, home) -> subprocess.CompletedProcess:
    """Run nbval, strict, on a notebook alone in a folder."""
    path = folder / "notebook.ipynb"
    nbformat.write(notebook, path)
    command = [*NBVAL, str(folder), str(path)]
    return subprocess.run(command, cwd=folder, env=bare_environment(home), capture_output=True, text=True, check=False)


# nbval


def test_nbval_passes_on_the_small_notebook(tmp_path, home):
    notebook = small("experiment")
    done = nbval(notebook, tmp_path, home)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{len(code(notebook))} passed" in done.stdout
    assert set(os.listdir(tmp_path)) == {"notebook.ipynb", BY_HAND}, "by hand, a record goes into a folder of its own"


def test_nbval_fails_when_a_marked_cell_printed_something_else_and_when_the_record_says_something_else(tmp_path, home):
    """In one run: the marked cell with another output, then once more with another mask of the record."""
    broken = small("experiment")
    (cell,) = marked(broken)
    other = copy.deepcopy(cell)
    other.source, other.id = cell.source.replace(".mask[:64]", ".mask[:64] ^ True"), "other"
    assert other.source != cell.source
    cell.outputs[0].text = "outside the ball\n"
    broken.cells.insert(broken.cells.index(cell) + 1, other)
    done = nbval(broken, tmp_path, home)
    assert done.returncode == 1 and "2 failed" in done.stdout, done.stdout
    assert "mismatch" in done.stdout and "the record does not say what the model does" in done.stdout


@every_lesson
def test_nbval_passes_a_lesson_and_fails_it_with_another_output_and_with_a_wrong_value(name, tmp_path, home):
    """In one run, as starting a kernel takes seconds: all cells pass; then the marked cell again, with another word in
    its output; then a cell that makes a value wrong, and the marked cell once more."""
    executed = small(name)
    right, wrong, message = BREAKS[name]
    (check,), (maker,) = marked(executed), [cell for cell in code(executed) if right in cell.source]
    other_output, wrong_value, check_again = (copy.deepcopy(cell) for cell in (check, maker, check))
    other_output.outputs[0].text = check.outputs[0].text.replace(" the ", " no ", 1)
    wrong_value.source = maker.source.replace(right, wrong)
    assert other_output.outputs != check.outputs and wrong_value.source != maker.source
    cells = len(code(executed))
    executed.cells += [other_output, wrong_value, check_again]
    for number, cell in enumerate(executed.cells):
        cell.id = f"cell-{number:02d}"

    done = nbval(executed, tmp_path, home)
    assert f"2 failed, {cells + 1} passed" in done.stdout, done.stdout + done.stderr
    failed = re.findall(r"^FAILED .*::Cell (\d+)", done.stdout, re.MULTILINE)
    assert [int(number) for number in failed] == [cells, cells + 2]
    assert "mismatch" in done.stdout and message in done.stdout
    assert os.listdir(tmp_path) == ["notebook.ipynb"], "a lesson leaves nothing behind"


@every_notebook
def test_what_is_compared_is_the_same_on_every_machine(name):
    (cell,) = marked(nbformat.read(source(name), as_version=4))
    (output,) = cell.outputs
    assert output.name == "stdout" and not re.search(r"\d\.\d", output.text), "words and whole numbers only"


# what a reader starts


def test_a_figure_is_shown_also_where_the_machine_draws_to_no_screen(tmp_path, home):
    """As on a cluster or in CI, which set the backend; what the lessons draw is committed with them."""
    draw = "from study.presentation.figures import style\nimport matplotlib.pyplot as plt\nfigure, _ = plt.subplots()"
    nbformat.write(nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(draw)]), tmp_path / "draw.ipynb")
    script = (
        "import papermill; papermill.execute_notebook('draw.ipynb', 'done.ipynb', kernel_name='python3', "
        "progress_bar=False, kernel_manager_class='study.machine.kernel.IPCKernelManager')"
    )
    environment = bare_environment(home) | {"MPLBACKEND": "Agg"}
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (cell,) = nbformat.read(tmp_path / "done.ipynb", as_version=4).cells
    assert any("image/png" in output.get("data", {}) for output in cell.outputs)


def test_a_notebook_that_could_not_draw_a_figure_has_failed_as_colab_would_run_it_and_is_not_kept(
    tmp_path, monkeypatch
):
    """In the notebook itself the figure alone is lost; whoever checks the notebooks wants to know."""
    code = "from study.drawings import portrait\nfigure = portrait.learning_curve(None)\nprint('and goes on')"
    nbformat.write(nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(code)]), tmp_path / "broken.ipynb")
    before = (tmp_path / "broken.ipynb").read_bytes()
    monkeypatch.setattr(run_as_colab, "NOTEBOOKS", tmp_path)
    monkeypatch.setattr(sys, "argv", ["run_as_colab.py", "--keep"])
    assert run_as_colab.main() == 1 and (tmp_path / "broken.ipynb").read_bytes() == before


def test_there_is_a_notebook_for_each_of_these_and_for_no_other():
    assert {path.stem for path in (ROOT / "notebooks").glob("*.ipynb")} == INJECTED.keys()
    assert set(LESSONS) == BREAKS.keys()


@every_notebook
def test_the_parameters_are_literals_of_the_smoke_budget(name, notebook):
    (cell,) = tagged(notebook, "parameters")
    common = {"budget": "smoke", "dataset": "", "seed": 0}
    assert values(cell).items() >= common.items()
    assert values(cell).keys() >= INJECTED[name].keys()
    if name == "experiment":
        assert values(cell) == common | {"key": "advprop", "protocol": "corrected", "overrides": {}}


@every_notebook
def test_a_notebook_is_committed_with_the_outputs_of_its_code_and_for_the_python3_kernel(notebook):
    assert notebook.metadata.executed == run_as_colab.digest(notebook), "its code has changed: run `make notebooks`"
    assert all(cell.execution_count for cell in code(notebook)), "nbval compares nothing with a cell that was not run"
    for cell in code(notebook):
        drawn = [output for output in cell.outputs if "image/png" in output.get("data", {})]
        assert len(drawn) == ("figure = " in cell.source)
        assert {output.get("name") for output in cell.outputs} <= {None, "stdout"}
    assert notebook.metadata.kernelspec.name == "python3"


@every_notebook
def test_a_notebook_defines_nothing_and_every_figure_has_alt_text(notebook):
    for cell in code(notebook):
        kinds = {type(node) for node in ast.walk(body(cell))}
        assert not kinds & {ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Lambda}
        assert ("figure = " in cell.source) == ("mystnb" in cell.metadata)
        if "figure = " in cell.source:
            assert len(cell.metadata["mystnb"]["image"]["alt"].split()) > 12


@every_notebook
def test_a_notebook_types_no_result_into_its_prose(notebook):
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            assert build_book.typed_numbers(cell.source) == []


@every_lesson
def test_a_lesson_is_short_and_says_what_it_tests(notebook):
    assert len(notebook.cells) <= 12
    first, last = notebook.cells[0].source, notebook.cells[-1].source
    assert "**Question.**" in first and "**Hypothesis.**" in first
    assert "## What to change next" in last
    asserts = [node for node in ast.walk(body(marked(notebook)[0])) if isinstance(node, ast.Assert)]
    assert len(asserts) >= 5 and all(node.msg for node in asserts), "an assert says what is wrong"


@every_notebook
def test_the_first_code_cell_installs_in_colab_only(notebook):
    first = copy.deepcopy(code(notebook)[0].source)
    assert "torch==" not in first and "--upgrade" not in first, "Colab's own torch stays"
    installs: list[str] = []
    source = first.replace("%pip install", "installs.append('''").rstrip() + "''')"
    exec(source, {"installs": installs})  # noqa: S102 - our own cell; elsewhere it does nothing
    assert installs == []
    sys.modules["google.colab"] = sys
    try:
        exec(source, {"installs": installs})  # noqa: S102
    finally:
        del sys.modules["google.colab"]
    assert len(installs) == 1 and "advlib[study] @ git+https://github.com/" in installs[0]


def test_no_committed_notebook_holds_a_path_of_a_machine():
    home = os.path.expanduser("~")
    for path in [*map(source, INJECTED), *(ROOT / "results").glob("*/*/*/*/*/run.ipynb")]:
        text = path.read_text()
        assert str(ROOT) not in text and f"{home}/" not in text, path
