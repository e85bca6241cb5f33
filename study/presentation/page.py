"""Onto a page of the book: a figure with its files, its caption and its description in words; a generated sentence."""

from html import escape
from pathlib import Path

import matplotlib.pyplot as plt
from IPython.display import HTML, Markdown, display
from matplotlib.figure import Figure

from study.machine.folders import project_folder, replacing

FOLDER = Path("book", "static", "figures")  # of the project, from where Sphinx copies it into the book


def show(figure: Figure, name: str, *, caption: str, alt: str) -> HTML:
    """Keep ``figure`` as ``name``.svg and return what stands on the page, from which it can be downloaded.

    ``alt`` says in words what is seen, for readers who do not see it.
    """
    project = project_folder() or Path.cwd()
    # without a date, and with ids that do not change, the same records give the same file
    with replacing(project / FOLDER / f"{name}.svg") as partial, plt.rc_context({"svg.hashsalt": name}):
        figure.savefig(partial, format="svg", metadata={"Date": None})
    plt.close(figure)
    width, height = (round(144 * size) for size in figure.get_size_inches())
    up = "../" * len(Path.cwd().relative_to(project.resolve()).parts)
    address = f"{up}_static/figures/{name}.svg"
    return HTML(
        f'<figure class="drawn" id="{name}">'
        f'<img src="{address}" alt="{escape(alt)}" width="{width}" height="{height}" loading="lazy"/>'
        f'<figcaption>{escape(caption)} <a class="files" href="{address}" download>SVG</a></figcaption></figure>'
    )


def say(*sentences: str) -> None:
    """Put generated sentences of Markdown onto the page; those that are empty leave no trace."""
    for sentence in filter(None, sentences):
        display(Markdown(sentence))
