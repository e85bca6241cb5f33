"""Make the built pages lighter, at no loss to who reads them, and weigh them.

Sphinx, its theme and extensions load on every page what some page may need; a drawing has more digits than a screen.
"""

import re
from pathlib import Path

from fontTools.subset import Subsetter
from fontTools.ttLib import TTFont
from PIL import Image

HEAVY = 1_500_000  # bytes of a page with all that it may load
# What every page is told to load -> what is on a page that needs it.
NEEDED_BY = {
    r"katex/|/formulas\.js": r'class="math notranslate',
    r"copybutton|clipboard": r'class="highlight\b',
    r"sphinx-design|design-tabs": r'class="[^"]*\bsd-',
    r"togglebutton": r'class="(?:[^"]* )?toggle[ "]|class="(?=[^"]*\badmonition\b)[^"]*\bdropdown[ "]',
}
LOADS = re.compile(r'<(?:script|img|link(?=[^>]*stylesheet))\b[^>]*?\b(?:src|href)="([^":]*)"')  # of a page
NAMES = re.compile(r'(?:url\(|@import )"?([^":)]*)')  # of a style
COLOURS = 4096  # a drawing has fewer, a photograph more


def without_the_needless(page: str) -> str:
    """The page without scripts and styles for what is not on it."""
    for loaded, needing in NEEDED_BY.items():
        if not re.search(needing, page):
            page = re.sub(rf"<(?:script|link)\b[^>]*(?:{loaded})[^>]*>(?:</script>)?\s*", "", page)
    return page


def shrink(path: Path) -> tuple[str, str]:
    """Keep a picture in fewer bytes: a drawing by a palette, a photograph without loss. Returns both names."""
    with Image.open(path) as image:
        picture = image.convert("RGB")
    if picture.getcolors(COLOURS):
        picture.quantize(256).save(path, optimize=True)
        return path.name, path.name
    picture.save(path.with_suffix(".webp"), lossless=True, quality=20, method=2)
    path.unlink()
    return path.name, path.with_suffix(".webp").name


def slim(drawing: str) -> str:
    """An SVG of Matplotlib without indentation, comments, names that nothing uses, and digits that no screen shows."""
    drawing = re.sub(r"<!--.*?-->|<metadata>.*?</metadata>", "", drawing, flags=re.DOTALL)
    drawing = re.sub(r">\s+<", "><", drawing).replace("DejaVuSans-", "d")  # in the name of each letter's shape
    drawing = re.sub(r"((?:scale|matrix)\([^)]*\))|(\.\d\d)\d+", lambda found: found[1] or found[2], drawing)
    drawing = re.sub(r'(<use [^>]*) transform="translate\(([\d.]+) 0\)"', r'\1 x="\2"', drawing)
    used = set(re.findall(r"#([\w.-]+)", drawing))
    return re.sub(r' id="([\w.-]+)"', lambda found: found[0] if found[1] in used else "", drawing)


def keep_icons(html: Path, fonts: Path) -> None:
    """Cut Font Awesome, in the folder ``fonts``, to the icons that a page, a script or a style of the book has.

    It names them, as in ``fa-list``, or has their letter in the font, as itself or as in ``\\f03a``.
    """
    names, letters = set(), set()
    for path in (path for kind in ("html", "js", "css") for path in html.rglob(f"*.{kind}")):
        if fonts not in path.parents:
            text = path.read_text(encoding="utf-8")
            names |= set(re.findall(r"\bfa-[a-z][\w-]*", text))
            letters |= {int(code, 16) for code in re.findall(r"\\(f[0-9a-f]{3})\b", text)}
            letters |= set(map(ord, re.findall("[\ue000-\uf8ff]", text)))

    def kept(rule: re.Match) -> str:
        letter = int(rule[2], 16)
        if letter not in letters and not names & set(re.findall(r"fa-[\w-]+", rule[1])):
            return ""
        letters.add(letter)
        return rule[0]

    style = fonts / "css" / "all.min.css"
    text = re.sub(r'([^{}]*:before)\{content:"\\([0-9a-f]+)"\}', kept, style.read_text(encoding="utf-8"))
    style.write_text(re.sub(r'woff2\) format\("woff2"\),url\([^)]*\)[^;}]*', "woff)", text), encoding="utf-8")
    for path in fonts.glob("webfonts/*.ttf"):
        _cut(path, letters)
    for path in fonts.glob("webfonts/*.woff2"):
        path.unlink()


def _cut(path: Path, letters: set[int]) -> None:
    with TTFont(path) as font:
        subset = Subsetter()
        subset.populate(unicodes=letters)
        subset.subset(font)
        font.flavor = "woff"
        font.save(path.with_suffix(".woff"))
    path.unlink()


def weight(page: Path) -> int:
    """Bytes of a page and of what it may load: scripts, pictures, styles with all that they name, such as fonts."""
    files = {page, *_named(LOADS, page)}
    files |= {named for style in files if style.suffix == ".css" for named in _named(NAMES, style)}
    return sum(file.stat().st_size for file in files)


def _named(pattern: re.Pattern, path: Path) -> set[Path]:
    places = (re.split("[?#]", place)[0] for place in pattern.findall(path.read_text(encoding="utf-8")))
    return {file for place in places if (file := (path.parent / place).resolve()).is_file()}
