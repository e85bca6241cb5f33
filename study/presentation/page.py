"""Onto a page of the book: a figure with its files, its caption and its description in words; HTML; a sentence."""

from pathlib import Path

import matplotlib.pyplot as plt
from IPython.display import HTML, Markdown, display
from markupsafe import Markup, escape
from matplotlib.figure import Figure

from study.machine.folders import project_folder, replacing
from study.presentation.markup import element

FOLDER = Path("book", "static", "figures")  # of the project, from where Sphinx copies it into the book


def show(figure: Figure, name: str, *, caption: str, alt: str) -> Markup:
    """Keep ``figure`` as ``name``.svg and return what stands on the page, for :func:`html`.

    ``alt`` says in words what is seen, for readers who do not see it. The file can be downloaded from the page.
    """
    project = project_folder() or Path.cwd()
    # without a date, and with ids that do not change, the same records give the same file
    with replacing(project / FOLDER / f"{name}.svg") as partial, plt.rc_context({"svg.hashsalt": name}):
        figure.savefig(partial, format="svg", metadata={"Date": None})
    plt.close(figure)
    width, height = (round(144 * size) for size in figure.get_size_inches())
    address = f"{'../' * len(Path.cwd().relative_to(project.resolve()).parts)}_static/figures/{name}.svg"
    image = element("img", src=address, alt=alt, width=width, height=height, loading="lazy")
    scrolls = element("div", image, class_="scrolls", tabindex=0, role="region", aria_label=caption.split(".")[0])
    file = element("a", "SVG", href=address, download=f"{name}.svg", class_="files")
    about = element("figcaption", caption, " ", file)
    return element("figure", scrolls, about, class_="drawn", id=name)


def html(*parts: str) -> None:
    """Put generated HTML onto the page; what is no ``Markup`` is text. Parts that are empty leave no trace."""
    for part in filter(None, parts):
        display(HTML(escape(part)))


def say(*sentences: str) -> None:
    """Put generated sentences of Markdown onto the page; those that are empty leave no trace. None of them has HTML."""
    for sentence in filter(None, sentences):
        display(Markdown(sentence.replace("<", "&lt;")))
