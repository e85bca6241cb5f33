"""A copy of the project with made-up records, and its book: built, or a page at a time without Sphinx."""

import ast
import contextlib
import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import fake_records as fake
import jupytext
import pytest
from IPython import display
from places import ROOT

from study.findings.runs import report

LITE_ROWS = ("traditional", "advprop", "sat")
WAITING = """[[conclusion]]
id = "{}"
page = "claims"
sentence = "Nobody knows."
conditions = [{{ name = "x", more = "gelu corrected corrected:clean", than = "silu corrected corrected:clean" }}]
"""
CONCLUSIONS = Path("study", "findings", "conclusions", "conclusions.toml")


def project(folder: Path) -> Path:
    """A copy of what a build reads, with the six smoke records and what a killed run left behind.

    Its sentences that conclude wait for a row that nobody ran: made-up records bear none of the real ones out.
    """
    for name in ("book", "advlib", "study", "notebooks", "tools"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("_config.yml", "_toc.yml"):
        shutil.copy(ROOT / name, folder)
    config = folder / "_config.yml"
    config.write_text(config.read_text().replace("OWNER", "somebody"))  # a book with an address
    ids = [entry["id"] for entry in tomllib.loads((ROOT / CONCLUSIONS).read_text())["conclusion"]]
    (folder / CONCLUSIONS).write_text("".join(map(WAITING.format, ids)))
    (folder / "models").mkdir()
    shutil.copy(ROOT / "models" / "advprop.safetensors", folder / "models")
    for key in report.SMOKE_ROWS:
        fake.put(fake.record(key, budget="smoke"), folder / "results")
    fake.put(fake.record(), folder / "results" / ".partial-123")
    return folder


def page(folder: Path, name: str) -> str:
    """The prose of a page of the project in ``folder``, and what its code cells show: without a kernel or Sphinx.

    Run where a build runs it, in the folder of the page.
    """
    shown, path = [], folder / f"{name}.md"

    def show(*outputs, **_) -> None:
        for one in outputs:
            shown.append(getattr(one, "data", None) or str(one))

    with contextlib.ExitStack() as stack:
        patch = stack.enter_context(pytest.MonkeyPatch.context())
        patch.chdir(path.parent)
        for variable in [variable for variable in os.environ if variable.startswith("ADVLIB_")]:
            patch.delenv(variable)
        patch.setattr(display, "display", show)
        patch.setattr("study.presentation.page.display", show)
        names: dict = {}
        for cell in jupytext.read(path).cells:
            if cell.cell_type != "code":
                shown.append(cell.source)
                continue
            *body, last = ast.parse(cell.source).body
            if not isinstance(last, ast.Expr):
                body, last = [*body, last], None
            exec(compile(ast.Module(body, []), str(path), "exec"), names)  # noqa: S102 - the book's own cells
            if last and (value := eval(compile(ast.Expression(last.value), str(path), "eval"), names)) is not None:
                show(value)
    return "\n".join(shown)


def small_book(folder: Path, code: str, prose: str = "Nothing.") -> subprocess.CompletedProcess:
    """The build of a book of one page, which has that code and prose."""
    head = (
        "---\njupytext:\n  text_representation: {extension: .md, format_name: myst}\nkernelspec: {name: python3}\n---\n"
    )
    (folder / "_toc.yml").write_text("format: jb-book\nroot: book/reproduce\nchapters:\n  - file: book/references\n")
    (folder / "book" / "reproduce.md").write_text(
        f"{head}\n# A page\n\n{prose}\n\n```{{code-cell}} ipython3\n{code}\n```\n"
    )
    return build(folder)


def build(folder: Path) -> subprocess.CompletedProcess:
    command = [sys.executable, folder / "tools" / "build_book.py"]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("ADVLIB")}
    return subprocess.run(
        command, env=environment | {"PYTHONPATH": str(folder)}, capture_output=True, text=True, check=False
    )
