"""The check of the built book finds what a reader would stumble over. Tests in a browser skip where there is none."""

import shutil
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from places import ROOT

sys.path.insert(0, str(ROOT / "tools"))
import browser
import check_book

needs_browser = pytest.mark.skipif(not browser.find(), reason="no Chromium here (apt-get install chromium)")
needs_axe = pytest.mark.skipif(
    not find_spec("axe_playwright_python"), reason="no axe-core here: `make test` installs it"
)

GOOD = """<!doctype html><html lang="en"><head><title>A page</title></head><body><main><h1 id="top">A page</h1>
<p><a href="#top">up</a> <a href="other.html#there">there</a></p></main></body></html>"""


@pytest.fixture
def html(tmp_path):
    (tmp_path / "page.html").write_text(GOOD)
    (tmp_path / "other.html").write_text('<h2 id="there">There</h2>')
    return tmp_path


def changed(html: Path, old: str, new: str) -> Path:
    assert old in GOOD
    (html / "page.html").write_text(GOOD.replace(old, new))
    return html / "page.html"


def test_links_that_lead_nowhere_are_found(html):
    page = html / "page.html"
    assert check_book.broken_links(html, page) == []
    changed(html, 'href="other.html#there"', 'href="another.html"')
    assert check_book.broken_links(html, page) == ["links to another.html, which is not there"]
    changed(html, "#there", "#nowhere")
    assert check_book.broken_links(html, page) == ["links to other.html#nowhere, and that page has no #nowhere"]


def test_what_a_page_loads_from_elsewhere_is_found(html):
    page = changed(html, "</head>", '<script src="https://example.org/a.js"></script></head>')
    assert check_book.loads_from_elsewhere(page) == ["loads https://example.org/a.js"]


@needs_browser
def test_a_sound_page_has_no_fault_in_the_browser(html):
    assert check_book.looks(html / "page.html") == []


@needs_browser
def test_complaints_requests_formulas_and_sideways_scrolling_are_found(html):
    broken = (
        "<script>console.error('it broke')</script><script src='gone.js'></script>"
        "<img src='http://example.org/a.png' alt='elsewhere'>"
        "<span class='math notranslate'>x</span><div style='width: 3000px'>wide</div></main>"
    )
    faults = check_book.looks(changed(html, "</main>", broken))
    for part in ("it broke", "gone.js", "asks the network for http://example.org/a.png", "1 of 1 formulas", "sideways"):
        assert any(part in fault for fault in faults), (part, faults)


@needs_browser
def test_a_formula_that_katex_does_not_read_or_has_no_font_for_is_found_and_a_sound_one_is_none(html):
    shutil.copytree(ROOT / "book" / "static", html / "_static")
    loaded = "".join(f'<script src="_static/{name}.js"></script>' for name in ("katex/katex.min", "formulas"))
    style = '<link rel="stylesheet" href="_static/katex/katex.min.css">'
    for formula, said in (
        (r"\(x \le \alpha\)", None),
        (r"\(\frac{1}\)", r"\frac{1}"),
        (r"\(\nosuch\)", r"\nosuch"),
        (r"\(\mathfrak{a}\)", "a is set in KaTeX_Fraktur, which is not in the book"),
    ):
        page = changed(html, "</main>", f'<span class="math notranslate">{formula}</span></main>{style}{loaded}')
        faults = check_book.looks(page)
        assert f"a formula is wrong: {said}" in faults if said else faults == [], (formula, faults)


@needs_browser
def test_a_long_equation_scrolls_inside_itself_and_keeps_its_number_beside_it(html):
    shutil.copytree(ROOT / "book" / "static", html / "_static")
    written = r'<div class="math notranslate"><span class="eqno">(1)</span>\[' + "x + " * 200 + r"x\]</div>"
    loaded = "".join(f'<script src="_static/{name}.js"></script>' for name in ("katex/katex.min", "formulas"))
    style = "".join(f'<link rel="stylesheet" href="_static/{name}.css">' for name in ("katex/katex.min", "custom"))
    theme = "<style>div.math { display: flex; flex-direction: row-reverse; max-width: 100%; overflow: hidden }</style>"
    page = changed(html, "</main>", f"{written}</main>{theme}{style}{loaded}")
    asked = (
        "const [number, formula] = document.querySelector('div.math').children;"
        "answer([number.textContent, formula.tabIndex, formula.scrollWidth > formula.clientWidth]);"
    )
    assert check_book.looks(page) == [] and browser.ask(page, asked, width=500) == ["(1)", 0, True]


@needs_browser
@needs_axe
def test_axe_finds_a_picture_without_words_and_a_faint_text(html):
    broken = '<img src="data:image/gif;base64,R0lGODlhAQABAAAAACw="><p style="color: #eee">faint</p></main>'
    faults = check_book.axe(changed(html, "</main>", broken), "light")
    assert any("image-alt" in fault for fault in faults) and any("color-contrast" in fault for fault in faults)
