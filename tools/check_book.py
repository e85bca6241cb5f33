"""Check the built book as its readers meet it: every link, every page in a browser with axe-core, light and dark.

    python tools/check_book.py [page ...]     # such as book/claims; without a page, all chapters and one run

Reports accessibility faults that axe-core calls serious or critical, links that lead nowhere, requests to a network,
complaints of a script, formulas that are not typeset, pages that are too heavy or scroll sideways. Exits 1 if there is
one.
"""

import re
import sys
from importlib.resources import files
from pathlib import Path

import browser
from build_book import ROOT, pages
from lighten import HEAVY, weight

AXE = (
    "axe.run(document, {resultTypes: ['violations']}).then((found) => answer(found.violations"
    ".filter((v) => ['serious', 'critical'].includes(v.impact)).map((v) => ({id: v.id, impact: v.impact, help: v.help,"
    "where: v.nodes.slice(0, 3).map((n) => n.target.join(' '))}))));"
)
LOOK = (
    "const requests = performance.getEntriesByType('resource').map((r) => r.name)"
    ".filter((name) => !/^(file|data|blob):/.test(name));"
    "const red = document.querySelectorAll('.katex-error, .katex [mathcolor=\"#cc0000\"]');"  # what KaTeX cannot read
    "const wrong = [...red].map((e) => e.textContent);"
    "const faces = new Set([...document.fonts].map((face) => face.family.replaceAll('\"', '')));"
    "for (const e of document.querySelectorAll('.katex-html *')) {"
    "const [face] = getComputedStyle(e).fontFamily.replaceAll('\"', '').split(',');"
    "if (!faces.has(face)) wrong.push(`${e.textContent} is set in ${face}, which is not in the book`); }"
    "answer({complaints, requests, formulas: document.querySelectorAll('.math.notranslate').length,"
    "typeset: document.querySelectorAll('.katex-html').length, wrong,"
    "wide: document.documentElement.scrollWidth > window.innerWidth + 1});"
)
NARROW = 500  # pixels: the narrowest window that headless Chromium opens
SEARCH = "answer([...document.querySelectorAll('#search-results li a')].map((a) => a.getAttribute('href')));"


def broken_links(html: Path, page: Path) -> list[str]:
    """Links of a page to files or headings of the book that are not there."""
    text = page.read_text(encoding="utf-8")
    found = []
    for target in set(re.findall(r'<a\b[^>]*\bhref="([^"]*)"', text)):
        place, _, anchor = target.partition("#")
        if re.match(r"\w+:|//", place):
            continue
        other = (page.parent / place).resolve() if place else page
        if not other.exists():
            found.append(f"links to {target}, which is not there")
        elif anchor and other.suffix == ".html" and not _has(other, anchor) and "/" not in anchor and "=" not in anchor:
            found.append(f"links to {target}, and that page has no #{anchor}")
    return sorted(found)


def loads_from_elsewhere(page: Path) -> list[str]:
    """Scripts, styles, pictures and frames of a page that a reader's browser would fetch from the network."""
    text = page.read_text(encoding="utf-8")
    tags = [tag for tag in re.findall(r"<\w[^>]*>", text) if 'rel="canonical"' not in tag]
    return [
        f"loads {address}"
        for tag in tags
        for address in re.findall(r'\bsrc="((?:https?:)?//[^"]*)"', tag)
        + (re.findall(r'\bhref="((?:https?:)?//[^"]*)"', tag) if tag.startswith("<link") else [])
    ]


def axe(page: Path, theme: str) -> list[str]:
    """What axe-core calls serious or critical on a page."""
    source = Path(str(files("axe_playwright_python") / "axe.min.js"))
    faults = browser.ask(page, AXE, sources=(source,), theme=theme)
    return [f"axe, {theme}: {f['impact']} {f['id']}: {f['help']} ({'; '.join(f['where'])})" for f in faults]


def check(html: Path, page: Path) -> list[str]:
    """Every fault of one built page, a sentence each."""
    faults = broken_links(html, page) + loads_from_elsewhere(page)
    if (heavy := weight(page)) > HEAVY:
        faults.append(f"weighs {heavy / 1e6:.2f} MB with what it loads")
    return faults + looks(page) + axe(page, "light") + axe(page, "dark")


def looks(page: Path) -> list[str]:
    """What is wrong with a page in a narrow window of a browser without a network."""
    seen = browser.ask(page, LOOK, width=NARROW)
    faults = [f"the browser complains: {complaint}" for complaint in seen["complaints"]]
    faults += [f"asks the network for {request}" for request in seen["requests"]]
    faults += [f"a formula is wrong: {text}" for text in seen["wrong"]]
    if seen["typeset"] < seen["formulas"]:
        faults.append(f"{seen['formulas'] - seen['typeset']} of {seen['formulas']} formulas are not typeset")
    if seen["wide"]:
        faults.append(f"scrolls sideways in a window of {NARROW} pixels")
    return faults


def search(html: Path, word: str) -> list[str]:
    """The pages that the book's own search finds for a word, from disk."""
    return browser.ask(html / "search.html", SEARCH, address=f"?q={word}")


def _has(page: Path, anchor: str) -> bool:
    return bool(re.search(rf'\b(?:id|name)="{re.escape(anchor)}"', page.read_text(encoding="utf-8")))


def main(asked: list[str]) -> int:
    html = ROOT / "_build" / "html"
    if not (html / "index.html").is_file():
        print("there is no built book: make book", file=sys.stderr)
        return 2
    names = asked or pages(ROOT)
    run = sorted(html.glob("results/*/*/*/*/*/run.html"))[:1]
    chosen = [html / f"{name}.html" for name in names] + ([] if asked else run)
    wrong = 0
    for page in chosen:
        name = page.relative_to(html).with_suffix("").as_posix()
        faults = check(html, page)
        wrong += len(faults)
        print(f"{'ok   ' if not faults else 'FAULT'} {name}", flush=True)
        for fault in faults:
            print(f"      {fault}", flush=True)
    if not search(html, "AdvProp"):
        wrong += 1
        print("FAULT search finds no page for AdvProp")
    print(f"{len(chosen)} pages, {wrong} faults")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
