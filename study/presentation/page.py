"""Onto a page of the book: a figure with its files, its caption and its description in words; a generated sentence."""

from html import escape
from pathlib import Path

import matplotlib.pyplot as plt
from IPython.display import HTML, Markdown, display
from matplotlib.figure import Figure

from study.machine.folders import replacing

FOLDER = Path("static") / "figures"  # below the page's folder, from where Sphinx copies it into the book


def show(figure: Figure, name: str, *, caption: str, alt: str) -> HTML:
    """Keep ``figure`` as ``name``.svg and ``name``.png and return what stands on the page.

    ``alt`` says in words what is seen, for readers who do not see it. The two files can be downloaded from the page.
    """
    for suffix, metadata in {"svg": {"Date": None}, "png": {}}.items():
        # without a date, and with ids that do not change, the same records give the same file
        with replacing(FOLDER / f"{name}.{suffix}") as partial, plt.rc_context({"svg.hashsalt": name}):
            figure.savefig(partial, format=suffix, dpi=200, metadata=metadata)
    plt.close(figure)
    width, height = (round(144 * size) for size in figure.get_size_inches())
    address = f"../_static/figures/{name}"
    files = " · ".join(f'<a href="{address}.{suffix}" download>{suffix.upper()}</a>' for suffix in ("svg", "png"))
    return HTML(
        f'<figure class="drawn" id="{name}">'
        f'<img src="{address}.svg" alt="{escape(alt)}" width="{width}" height="{height}" loading="lazy"/>'
        f'<figcaption>{escape(caption)} <span class="files">{files}</span></figcaption></figure>'
    )


def say(*sentences: str) -> None:
    """Put generated sentences of Markdown onto the page; those that are empty leave no trace."""
    for sentence in filter(None, sentences):
        display(Markdown(sentence))
