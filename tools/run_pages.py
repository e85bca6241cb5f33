"""A Sphinx extension: the pages of runs are evidence to link to, and no chapters.

They are built without standing in the table of contents, and stay out of Next and Previous and of the search. Each
shows what its notebook printed and drew, without the code, which is the same for all, and leads back to the list of all
runs.
"""

import re

from docutils import nodes

RUN = re.compile(r"results/.+/run(\.ipynb)?")


def keep_pages(app, config):
    """Take them from the files that are left out because no table of contents names them."""
    config.exclude_patterns = [pattern for pattern in config.exclude_patterns if not RUN.fullmatch(pattern)]


def mark(app, doctree):
    if RUN.fullmatch(app.env.docname):
        app.env.metadata[app.env.docname] |= {"orphan": True, "nosearch": True}
        for node in [node for node in doctree.findall(nodes.container) if "cell_input" in node["classes"]]:
            node.parent.remove(node)


def lead_back(app, pagename, templatename, context, doctree):
    if RUN.fullmatch(pagename):
        context["prev"] = {"link": context["pathto"]("book/runs"), "title": "All runs"}


def setup(app):
    app.connect("config-inited", keep_pages, priority=950)  # after the table of contents was read
    app.connect("doctree-read", mark)
    app.connect("html-page-context", lead_back, priority=100)  # before the theme adds its buttons
    return {"parallel_read_safe": True}
