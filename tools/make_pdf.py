"""The whole book as one PDF with bookmarks: every chapter as the browser prints it, in the order of the contents.

python tools/make_pdf.py          # writes _build/book.pdf
"""

import re
import sys
import tempfile
from html import unescape
from pathlib import Path

import browser
from build_book import ROOT, pages
from pypdf import PdfReader, PdfWriter

TARGET = ROOT / "_build" / "book.pdf"


def title(page: Path) -> str:
    """The heading of a built page."""
    heading = re.search(r"<h1>(.*?)<a class=\"headerlink\"", page.read_text(encoding="utf-8"), re.DOTALL)
    return unescape(re.sub(r"<[^>]+>", "", heading.group(1))).strip() if heading else page.stem


def main() -> int:
    html = ROOT / "_build" / "html"
    if not (html / "index.html").is_file():
        print("there is no built book: make book", file=sys.stderr)
        return 2
    writer = PdfWriter()
    with tempfile.TemporaryDirectory() as folder:
        for number, name in enumerate(pages(ROOT)):
            page, printed = html / f"{name}.html", Path(folder) / f"{number}.pdf"
            browser.pdf(page, printed)
            writer.append(PdfReader(printed), outline_item=title(page), import_outline=False)
            print(f"{name}", flush=True)
        writer.add_metadata({"/Title": "Mixture of techniques, reproduced"})
        TARGET.parent.mkdir(exist_ok=True)
        writer.write(TARGET)
    print(f"_build/book.pdf: {len(writer.pages)} pages, {TARGET.stat().st_size / 1e6:.1f} MB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
