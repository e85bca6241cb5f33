"""Pages are made lighter, nothing that a reader sees is lost, and a page that is too heavy fails the build."""

import re
import shutil
import sys
from importlib.util import find_spec
from pathlib import Path
from xml.etree import ElementTree

import matplotlib.pyplot as plt
import numpy as np
import pytest
from fontTools.ttLib import TTFont
from places import ROOT

sys.path.insert(0, str(ROOT / "tools"))
import build_book
import lighten

KATEX = ROOT / "book" / "static" / "katex"
NUMBER = re.compile(r"(?<![\w#])-?\d+\.?\d*(?:e-?\d+)?")


@pytest.fixture
def html(tmp_path):
    """A book of one page, which loads one file of each kind."""
    (tmp_path / "_toc.yml").write_text("format: jb-book\nroot: page\n")
    page = '<link href="a.css?v=1" rel="stylesheet" /><script defer src="a.js"></script><img alt="a" src="a.png">'
    (tmp_path / "page.html").write_text(page)
    (tmp_path / "a.css").write_text('@import "b.css"; @font-face { src: url(a.woff2) }')
    for name in ("a.js", "a.png", "a.woff2", "b.css", "of-another-page.png"):
        (tmp_path / name).write_bytes(b"0")
    return tmp_path


@pytest.mark.parametrize("name", ["a.js", "a.css", "b.css", "a.png", "a.woff2"])
def test_a_page_that_is_too_heavy_with_what_it_loads_fails_the_build(html, name):
    assert build_book.faults(html, html) == []
    before = lighten.weight(html / "page.html")
    with (html / name).open("ab") as file:
        file.write(b" " * lighten.HEAVY)
    assert lighten.weight(html / "page.html") == before + lighten.HEAVY
    assert build_book.faults(html, html) == ["page: weighs 1.50 MB with what it loads, and may weigh 1.5"]


def test_what_another_page_loads_does_not_count(html):
    (html / "of-another-page.png").write_bytes(b"0" * 2 * lighten.HEAVY)
    assert build_book.faults(html, html) == []


@pytest.mark.parametrize(
    ("shown", "kept"),
    [
        ('<span class="math-eps">e</span>', []),
        ('<span class="math notranslate nohighlight">e</span>', ["katex/k.css", "formulas.js"]),
        ('<div class="docutils sd-row">a</div>', ["sphinx-design.css", "design-tabs.js"]),
        ('<div class="highlight-python notranslate">a</div>', ["copybutton.js"]),
        ('<div class="toggle docutils">a</div>', ["togglebutton.js"]),
        ('<div class="admonition dropdown tip">a</div>', ["togglebutton.js"]),
        ('<div class="dropdown dropdown-download-buttons"><b class="sidebar-toggle primary-toggle">a</b></div>', []),
    ],
)
def test_a_page_loads_what_something_on_it_needs(shown, kept):
    styles = "".join(f'<link href="x/{name}" rel="stylesheet" />' for name in ("katex/k.css", "sphinx-design.css"))
    scripts = "".join(
        f'<script src="x/{name}?v=1"></script>'
        for name in ("formulas.js", "design-tabs.js", "togglebutton.js", "copybutton.js", "own.js")
    )
    page = lighten.without_the_needless(f"<head>{styles}{scripts}</head>{shown}")
    assert set(re.findall(r'"x/([^"?]*)', page)) == {*kept, "own.js"} and page.endswith(shown)


def test_icons_that_are_named_or_written_are_kept_and_the_others_are_not(tmp_path):
    theme = Path(find_spec("pydata_sphinx_theme").origin).parent / "theme" / "pydata_sphinx_theme" / "static"
    (source,) = (theme / "vendor" / "fontawesome").iterdir()
    fonts = shutil.copytree(source, tmp_path / "fonts")
    (tmp_path / "page.html").write_text('<i class="fa-solid fa-list"></i>')
    (tmp_path / "a.js").write_text('let icon = "fa-moon"')
    (tmp_path / "a.css").write_text('b:before { content: "\\f107" } i:before { content: "\uf071" }')
    lighten.keep_icons(tmp_path, fonts)
    with TTFont(fonts / "webfonts" / "fa-solid-900.woff") as font:
        letters = set(font.getBestCmap())
    assert {0xF03A, 0xF186, 0xF107, 0xF071} <= letters and len(letters) < 10
    style = (fonts / "css" / "all.min.css").read_text()
    assert ".fa-list:before" in style and ".fa-moon:before" in style and ".fa-car:before" not in style
    named = {(fonts / "css" / place).resolve() for place in lighten.NAMES.findall(style)}
    assert named == {path.resolve() for path in (fonts / "webfonts").iterdir()}


def test_a_drawing_is_smaller_and_looks_the_same(tmp_path):
    figure, axes = plt.subplots()
    axes.plot(np.random.default_rng(0).normal(size=50), marker="o", label="$\\theta$ of 0.123456")
    axes.imshow(np.eye(3), interpolation="none", extent=(0, 10, 0, 1))
    axes.set(title="AdvProp", xlabel="x")
    axes.legend()
    figure.savefig(tmp_path / "a.svg")
    plt.close(figure)
    written = (tmp_path / "a.svg").read_text()
    small = lighten.slim(written)
    assert len(small) < 0.9 * len(written)
    ElementTree.fromstring(small)
    ids = re.findall(r' id="([^"]+)"', small)
    assert set(re.findall(r'(?:href="|url\()#([\w.-]+)', small)) == set(ids) and len(ids) == len(set(ids))
    before, after = (re.findall(r' d="([^"]*)"', text) for text in (written, small))
    for was, now in zip(before, after, strict=True):
        was, now = ([float(number) for number in NUMBER.findall(path)] for path in (was, now))
        assert was == pytest.approx(now, abs=0.01)
    assert small.count("<use ") == written.count("<use ") and small.count("base64,") == written.count("base64,") == 1
    scales = [set(re.findall(r"(?:scale|matrix)\([^)]*\)", text)) for text in (written, small)]
    assert scales[0] == scales[1]


def test_katex_has_the_fonts_that_its_style_names_and_no_other():
    style = KATEX / "katex.min.css"
    assert sorted(lighten.NAMES.findall(style.read_text())) == sorted(
        f"fonts/{f.name}" for f in (KATEX / "fonts").iterdir()
    )
    assert (KATEX / "LICENSE").is_file()
