"""Build the book from a clean start, with warnings as errors, and check what came out; says where to open it.

A build that "succeeds" is not enough: a page of the table of contents that was not written, or a number that is not
one, fails here as well.
"""

import base64
import hashlib
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import lighten
import yaml

from study.machine.folders import alone

ROOT = Path(__file__).resolve().parent.parent
CELL = re.compile(r"<t[dh]\b[^>]*>(.*?)</t[dh]>", re.DOTALL)
NOT_A_NUMBER = re.compile(r"^\s*(None|-)\s*%?\s*$|(?<![\w-])[+-]?(nan|NaN|inf)(?![\w-])")  # in the text of a cell
NOT_A_PAGE = re.compile(r"&lt;IPython\.core[^&]*&gt;|Traceback \(most recent call last\)")  # what a cell failed to show


def pages(root: Path) -> list[str]:
    """The pages that the table of contents names, in reading order, without suffix."""

    def walk(node):
        if isinstance(node, dict):
            yield from (re.sub(r"\.(md|ipynb)$", "", node[key]) for key in ("root", "file") if key in node)
            for value in node.values():
                yield from walk(value)
        elif isinstance(node, list):
            for item in node:
                yield from walk(item)

    return list(walk(yaml.safe_load((root / "_toc.yml").read_text(encoding="utf-8"))))


def typed_numbers(text: str) -> list[str]:
    """Percentages and points that somebody typed into the prose of a page; a result comes from a record.

    The level of an interval, as in "the 95 % interval" or "holds at 95 %", is none.
    """
    prose = re.sub(r"\A---\n.*?^---$|^```.*?^```|`[^`\n]*`", "", text, flags=re.DOTALL | re.MULTILINE)
    prose = re.sub(r"95 % intervals?|\bat 95 %", "", prose)
    return re.findall(r"[+-]?\d+(?:[.,]\d+)?\s*(?:%|per ?cent\b|(?:percentage )?points?\b|pp\b)", prose)


# What the theme puts on every page and this book does not use: a reader from disk would get errors for it.
UNUSED = re.compile(
    r'<link rel="preload"[^>]*>\s*'  # a font that is read from disk is loaded by its style sheet alone
    r'|<script[^>]*src="[^"]*fontawesome[^"]*"[^>]*></script>\s*'  # the icons are in the font
    r'|<li><a href="[^"]*_sources/[^"]*".*?</a>\s*</li>\s*'  # a page's source, which is in the repository
    r"|<script>const THEBE_JS_URL = .*?</script>\s*"  # cells that run on a server, declared twice
    r'|<script[^>]*src="[^"]*sphinx-thebe\.js[^"]*"[^>]*></script>\s*'
    r'|<link[^>]*href="[^"]*sphinx-thebe\.css[^"]*"[^>]*>\s*'
    r'|<script type="text/x-thebe-config">.*?</script>\s*<script>kernelName = .*?</script>\s*'
    r"|<script>\s*// Activate the search field on page load.*?</script>\s*",
    re.DOTALL,
)
PICTURE = re.compile(r"(?<=_images/)[\w.-]+\.png")
STATIC = (
    "**/*.map",
    "locales/*/*/*",
    "vendor/fontawesome/*/js/*",
    "sphinx-thebe.*",
)
DEAD = [*(f"_static/{pattern}" for pattern in STATIC), "_sources/**/*"]  # what no page loads or links to


# Colab runs the notebooks of this name alone: it opens no Markdown, and of a run it has no data.
LAUNCH = re.compile(r'<div class="dropdown dropdown-launch-buttons">.*?</ul>\s*</div>\s*', re.DOTALL)
# What leads to a repository that has no address yet: `make address` gives it one.
NOWHERE = r'href="https://[^"]*\bOWNER\b[^"]*"[^>]*>'
BUTTONS = re.compile(
    rf'<div class="dropdown dropdown-(?:launch|source)-buttons">(?:(?!</ul>).)*?{NOWHERE}.*?</ul>\s*</div>\s*',
    re.DOTALL,
)
LINK = re.compile(rf'<link rel="canonical" {NOWHERE}\s*|<a\b[^>]*{NOWHERE}(?P<text>.*?)</a>', re.DOTALL)


CHARSET = '<meta charset="utf-8" />'
INLINE = re.compile(r"<script\b(?![^>]*\bsrc=)[^>]*>(.*?)</script>", re.DOTALL)
# of the theme, for who has JavaScript
BUTTON = re.compile(r"\s*document\.write\(`\s*<button [^`$]*</button>\s*`\);?\s*")
HANDLERS = ("window.print()", "toggleFullScreen()")  # of the theme's other buttons


def policy(page: str) -> str:
    """What a browser is told to run on a page: the book's own files, and what the theme writes into every page.

    So nothing that a record or a notebook says runs, whatever it looks like. ``file:`` is for who opens it from disk.
    """
    head, _, body = page.partition("</head>")
    scripts = [*INLINE.findall(head), *filter(BUTTON.fullmatch, INLINE.findall(body)), *HANDLERS]
    digests = (base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in dict.fromkeys(scripts))
    own = " ".join(f"'sha256-{digest}'" for digest in digests)
    return (
        f"default-src 'none'; script-src 'self' file: 'unsafe-hashes' {own}; style-src 'self' file: 'unsafe-inline'; "
        "img-src 'self' file: data:; font-src 'self' file: data:; connect-src 'self' file:; form-action 'self' file:; "
        "base-uri 'none'"
    )


def tidy(html: Path) -> None:
    """Take out of every page what is not used and would complain in a browser, and buttons that do not work.

    Then say which scripts may run on it.
    """
    for path in (path for pattern in DEAD for path in html.glob(pattern) if path.is_file()):
        path.unlink()
    smaller = dict(map(lighten.shrink, (html / "_images").glob("*.png")))
    for drawing in html.glob("_static/figures/*.svg"):
        drawing.write_text(lighten.slim(drawing.read_text(encoding="utf-8")), encoding="utf-8")
    for fonts in html.glob("_static/vendor/fontawesome/*"):
        lighten.keep_icons(html, fonts)
    for page in html.rglob("*.html"):
        text = UNUSED.sub("", page.read_text(encoding="utf-8"))
        text = text if page.parent == html / "notebooks" else LAUNCH.sub("", text)
        text = LINK.sub(lambda found: found["text"] or "", BUTTONS.sub("", text))
        text = lighten.without_the_needless(text)
        text = PICTURE.sub(lambda found: smaller[found.group()], text)
        guard = f'<meta http-equiv="Content-Security-Policy" content="{policy(text)}" />'
        page.write_text(text.replace(CHARSET, CHARSET + guard, 1), encoding="utf-8")


def faults(root: Path, html: Path) -> list[str]:
    """What is wrong with the built pages, a sentence each."""
    found = []
    for page in pages(root):
        path = html / f"{page}.html"
        source = root / f"{page}.md"
        if source.is_file() and "results_folder" in (prose := source.read_text(encoding="utf-8")):  # it shows results
            found += [f"{page}: {number!r} is typed; results come from records" for number in typed_numbers(prose)]
        if not path.is_file():
            found.append(f"{page}: the table of contents names it and no page was written")
            continue
        if (heavy := lighten.weight(path)) > lighten.HEAVY:
            found.append(f"{page}: weighs {heavy / 1e6:.2f} MB with what it loads, and may weigh {lighten.HEAVY / 1e6}")
        shown = path.read_text(encoding="utf-8")
        cells = (re.sub(r"<[^>]+>", " ", cell) for cell in CELL.findall(shown))
        wrong = [match for cell in cells if (match := NOT_A_NUMBER.search(cell))]
        found += [f"{page}: shows {match.group().strip()!r} where a number belongs" for match in wrong[:1]]
        found += [f"{page}: shows {match.group()!r}" for match in [NOT_A_PAGE.search(shown)] if match]
    return found


def build(root: Path) -> int:
    """Build the book at `root` into `root/_build/html`; returns 0, or 1 after printing what is wrong.

    Another build at `root` would delete what this one has written: the second is refused.
    """
    try:
        with alone(root / "checkpoints" / "book.lock", what="a build of this book"):
            return _build(root)
    except RuntimeError as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


def _build(root: Path) -> int:
    shutil.rmtree(root / "_build", ignore_errors=True)
    shutil.rmtree(root / "book" / "static" / "figures", ignore_errors=True)  # an older build's: pages draw them anew
    print("Building the book (a minute or two) ...", flush=True)
    begin = time.monotonic()
    command = [Path(sys.executable).parent / "jupyter-book", "build", ".", "-W", "-n", "--keep-going", "-q"]
    done = subprocess.run(command, cwd=root, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    html = root / "_build" / "html"
    if done.returncode == 0:
        tidy(html)
    wrong = faults(root, html) if done.returncode == 0 else ["the build failed: see the messages above"]
    if wrong:
        print(*(line for line in done.stdout.splitlines() if "IPKernelApp" not in line), *wrong, sep="\n")
        return 1
    size = sum(path.stat().st_size for path in html.rglob("*") if path.is_file())
    print(
        f"The book is ready: {len(pages(root))} chapters, {size / 1e6:.1f} MB, "
        f"built in {time.monotonic() - begin:.0f} s."
        f"\nOpen _build/html/index.html in a browser; it needs no network."
    )
    return 0


if __name__ == "__main__":
    sys.exit(build(ROOT))
