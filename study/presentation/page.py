"""Onto a page of the book: a figure with its files, its caption and its description in words; HTML; a sentence."""

from pathlib import Path

import matplotlib.pyplot as plt
from IPython.display import HTML, Markdown, display
from markupsafe import Markup, escape
from matplotlib.figure import Figure

from study.machine.folders import replacing
from study.presentation.markup import element, together

FOLDER = Path("static") / "figures"  # below the page's folder, from where Sphinx copies it into the book


def show(figure: Figure, name: str, *, caption: str, alt: str) -> Markup:
    """Keep ``figure`` as ``name``.svg and ``name``.png and return what stands on the page, for :func:`html`.

    ``alt`` says in words what is seen, for readers who do not see it. The two files can be downloaded from the page.
    """
    for suffix, metadata in {"svg": {"Date": None}, "png": {}}.items():
        # without a date, and with ids that do not change, the same records give the same file
        with replacing(FOLDER / f"{name}.{suffix}") as partial, plt.rc_context({"svg.hashsalt": name}):
            figure.savefig(partial, format=suffix, dpi=200, metadata=metadata)
    plt.close(figure)
    width, height = (round(144 * size) for size in figure.get_size_inches())
    address = f"../_static/figures/{name}"
    files = {suffix: f"{address}.{suffix}" for suffix in ("svg", "png")}
    links = [element("a", suffix.upper(), href=place, download=Path(place).name) for suffix, place in files.items()]
    image = element("img", src=f"{address}.svg", alt=alt, width=width, height=height, loading="lazy")
    about = element("figcaption", caption, " ", element("span", together(links, " · "), class_="files"))
    return element("figure", image, about, class_="drawn", id=name)


def html(*parts: str) -> None:
    """Put generated HTML onto the page; what is no ``Markup`` is text. Parts that are empty leave no trace."""
    for part in filter(None, parts):
        display(HTML(escape(part)))


def say(*sentences: str) -> None:
    """Put generated sentences of Markdown onto the page; those that are empty leave no trace. None of them has HTML."""
    for sentence in filter(None, sentences):
        display(Markdown(sentence.replace("<", "&lt;")))
