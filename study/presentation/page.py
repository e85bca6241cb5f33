"""Onto a page of the book: a figure with its files, its caption and its description in words; HTML; a sentence."""

import re
from pathlib import Path

import matplotlib.pyplot as plt
from IPython.display import HTML, Markdown, display
from markdown_it import MarkdownIt
from markupsafe import Markup, escape
from matplotlib.figure import Figure

from study.machine.folders import project_folder, replacing
from study.presentation.markup import element

_CODE_OR_LESS = re.compile(r"(?<!`)(`+)(?!`).+?(?<!`)\1(?!`)|<")
FOLDER = Path("book", "static", "figures")  # of the project, from where Sphinx copies it into the book


def show(figure: Figure, name: str, *, caption: str, alt: str, tall: Figure | None = None) -> Markup:
    """Keep ``figure`` as ``name``.svg and return what stands on the page, for :func:`html`.

    ``alt`` says in words what is seen, for readers who do not see it. ``tall``: the same for a phone. The file can be
    downloaded from the page.
    """
    address, size = _kept(figure, name)
    image = element("img", src=address, alt=alt, **size, loading="lazy")
    if tall:
        other, of_other = _kept(tall, f"{name}-tall")
        image = element("picture", element("source", media="(max-width: 576px)", srcset=other, **of_other), image)
    scrolls = element("div", image, class_="scrolls", tabindex=0, role="region", aria_label=caption.split(".")[0])
    file = element("a", "SVG", href=address, download=f"{name}.svg", class_="files")
    about = element("figcaption", caption, " ", file)
    return element("figure", scrolls, about, class_="drawn", id=name)


def _kept(figure: Figure, name: str) -> tuple[str, dict[str, int]]:
    """Write ``figure`` as ``name``.svg; its address from the page, and its width and height."""
    project = project_folder() or Path.cwd()
    # without a date, and with ids that do not change, the same records give the same file
    with replacing(project / FOLDER / f"{name}.svg") as partial, plt.rc_context({"svg.hashsalt": name}):
        figure.savefig(partial, format="svg", metadata={"Date": None})
    plt.close(figure)
    width, height = (round(144 * size) for size in figure.get_size_inches())
    up = "../" * len(Path.cwd().relative_to(project.resolve()).parts)
    return f"{up}_static/figures/{name}.svg", {"width": width, "height": height}


def html(*parts: str) -> None:
    """Put generated HTML onto the page; what is no ``Markup`` is text. Parts that are empty leave no trace."""
    for part in filter(None, parts):
        display(HTML(escape(part)))


def say(*sentences: str) -> None:
    """Put generated sentences of Markdown onto the page; those that are empty leave no trace. None of them has HTML."""
    for sentence in filter(None, sentences):
        display(Markdown(_without_html(sentence)))


def _without_html(sentence: str) -> str:
    """Each ``<`` outside of code as an entity; those inside, where an entity is not read as one, stay as they are.

    The parser of the page has the last word: should it see one of those outside of code, none stays.
    """
    said = _CODE_OR_LESS.sub(lambda found: found[0] if found[1] else "&lt;", sentence)
    inline = (child for block in MarkdownIt().parse(said) for child in block.children or ())
    inside = sum(token.content.count("<") for token in inline if token.type == "code_inline")
    return said if inside == said.count("<") else sentence.replace("<", "&lt;")
