"""The built book: complete, honest about what is missing, self-contained. The records are made up, the builds real."""

import math
import re
import shutil
import sys
import tempfile
from html.parser import HTMLParser
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path

import fake_records as fake
import pytest
from made_up_book import CONCLUSIONS, LITE_ROWS, page, project, small_book
from places import ROOT

from study.evidence.estimates import Estimate
from study.findings.runs import report
from study.machine.folders import alone
from study.plan import catalogue
from study.presentation import markup

sys.path.insert(0, str(ROOT / "tools"))
import browser
import build_book
import check_book
import lighten

needs_browser = pytest.mark.skipif(not browser.find(), reason="no Chromium here (apt-get install chromium)")


def text(html: Path, page: str) -> str:
    return (html / f"{page}.html").read_text()


def pages(html: Path) -> list[Path]:
    return [path for path in html.rglob("*.html") if "_static" not in path.parts]


class Tags(HTMLParser):
    """Every start tag of a page, as (name, attributes)."""

    def __init__(self, path: Path):
        super().__init__()
        self.found: list[tuple[str, dict]] = []
        self.feed(path.read_text())

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))


def test_every_page_of_the_contents_is_written(book):
    for name in build_book.pages(ROOT):
        assert (book / f"{name}.html").is_file(), name
    assert 'url=book/index.html"' in text(book, "index")
    assert not list((book / "results" / "smoke").glob("**/*.html")), "a smoke run is no result"


@pytest.mark.parametrize(
    "name",
    [
        "index",
        "claims",
        "numbers",
        "branches",
        "trust",
        "as-published",
        "beyond",
        "runs",
    ],
)
def test_a_book_without_results_says_so_and_shows_no_smoke_number_as_one(fresh, name):
    shown = page(fresh, f"book/{name}")
    assert "There is no result yet" in shown and "scikit-learn" not in shown
    assert ("<td>" in shown) == (name in ("as-published", "beyond")), "facts of the paper and of others stand there"


def test_an_explorer_without_data_says_how_to_make_them(fresh):
    shown = page(fresh, "book/explorer")
    assert "The explorer has no data here" in shown and "python -m study measure explorer" in shown
    assert 'id="explorer" hidden' in shown, "no empty controls"


def test_the_machinery_check_is_labelled_as_no_result(fresh):
    shown = page(fresh, "book/reproduce")
    assert "Machinery check, not a result" in shown and shown.count('<th scope="row">') == len(report.SMOKE_ROWS)


def test_a_book_without_the_machinery_check_says_what_would_show_it(tmp_path):
    folder = project(tmp_path)
    shutil.rmtree(folder / "results")
    assert "When `make book` has built this page" in page(folder, "book/reproduce")


def test_the_results_page_shows_the_numbers_of_the_records_and_links_to_their_notebooks(book):
    page = text(book, "book/numbers")
    for key in LITE_ROWS:
        for protocol in catalogue.PROTOCOLS:
            record = fake.record(key, protocol)
            assert f"<td>{100 * record.measurement(f'{protocol}:clean').accuracy:.1f}<" in page
            assert f'href="../results/{record.where}/run.html"' in page
            assert (book / "results" / f"{record.where.removeprefix('results/')}" / "run.html").is_file()
    assert "CIFAR-10, JPEG copy" in page and "There is no result yet" not in page
    assert "scikit-learn" not in page, "smoke records stay out of the results"


SMOKE = """from study.findings.runs import report
from study.machine.folders import results_folder
print(report.smoke(results_folder()))"""
TABLE = """from study.evidence import selection
from study.findings.numbers import results
from study.machine.folders import results_folder
print(results.paper_table(selection.groups(results_folder())[0]))"""


def test_a_book_of_one_page_is_built_and_the_build_says_where(tmp_path):
    folder = project(tmp_path)
    fake.put(fake.record(), folder / "results")
    done = small_book(folder, f"{SMOKE}\n{TABLE}")
    assert done.returncode == 0 and "Open _build/html/index.html" in done.stdout, done.stdout


FINDING = """from study.findings import conclusions
from study.findings.claims import judge
from study.machine.folders import results_folder
print(conclusions.say("planted", judge.evidence(results_folder())))"""
FALSE = """[[conclusion]]
id = "planted"
page = "claims"
sentence = "AdvProp is more accurate under an attack than without one."
conditions = [{ name = "x", more = "advprop corrected corrected:pgd-0.5", than = "advprop corrected corrected:clean" }]
"""


def test_a_removed_record_a_missing_number_a_missing_reference_and_a_false_finding_each_fail_the_build(tmp_path):
    """Each alone: beside it the page is that of the test above."""
    for place, code, prose, said in (
        ("record", SMOKE, "Nothing.", "no smoke record of row 'als'"),
        ("number", TABLE, "Nothing.", "it lacks ['corrected:fgsm-0.5']"),
        ("reference", "1", "See {eq}`eq-that-nobody-wrote`.", "eq-that-nobody-wrote"),
        ("finding", FINDING, "Nothing.", "the conclusion 'planted' does not hold"),
    ):
        folder = project(tmp_path / place)
        if place == "finding":
            (folder / CONCLUSIONS).write_text(FALSE)
        fake.put(fake.record(drop=["corrected:fgsm-0.5"] if place == "number" else []), folder / "results")
        if place == "record":
            (folder / "results" / fake.record("als", budget="smoke").where / "record.json").unlink()
        done = small_book(folder, code, prose)
        assert done.returncode != 0 and said in done.stdout, place


@pytest.mark.parametrize(
    ("prose", "typed"),
    [
        ("AdvProp gains 1.29 % here.", ["1.29 %"]),
        ("It gains +3.2 percentage points, or 4 percent.", ["+3.2 percentage points", "4 percent"]),
        ("The 95 % interval of `91.9 %`.", []),
        ("```python\nx = '50 %'\n```\nNothing typed.", []),
        ("Two steps of 2/255 at 0.1.", []),
        ("It holds at 95 %, and it lost 95 % of its accuracy.", ["95 %"]),
        ("---\ntitle: 5 %\n---\nOne.\n\n---\n\nAdvProp gains 5.5 %, or 3.2pp.\n\n---\n", ["5.5 %", "3.2pp"]),
    ],
)
def test_a_percentage_typed_into_the_prose_of_a_results_page_is_found(prose, typed):
    assert build_book.typed_numbers(prose) == typed


def test_a_typed_percentage_fails_the_build(tmp_path):
    folder = project(tmp_path)
    done = small_book(folder, SMOKE, "AdvProp gains 1.29 % of accuracy.")
    assert done.returncode != 0 and "book/reproduce: '1.29 %' is typed" in done.stdout


def test_what_is_not_a_number_is_found_on_a_page_that_was_built(tmp_path):
    (tmp_path / "_toc.yml").write_text("format: jb-book\nroot: page\n")
    html = tmp_path / "html"
    html.mkdir()
    for cell, wrong in [
        ("<td>nan</td>", True),
        ("<td> None </td>", True),
        ("<td>81.2</td>", False),
        ("<td>Nantes</td>", False),
        (f"<td>{markup.accuracy(Estimate(math.nan, math.nan, math.nan, 1, 1))}</td>", True),
        (f"<td>{markup.points(Estimate(math.nan, math.nan, math.nan, 1, 1))}</td>", True),
        (f"<td>{markup.points(Estimate(0.1, 0.0, 0.2, 1, 1))}</td>", False),
        (f"<td>{markup.NO_NUMBER}</td>", False),
        ("<td>&lt;IPython.core.display.Markdown object&gt;</td>", True),
    ]:
        (html / "page.html").write_text(f"<table><tr>{cell}</tr></table>")
        assert bool(build_book.faults(tmp_path, html)) == wrong, cell


def test_nothing_is_loaded_from_elsewhere(book):
    for path in pages(book):
        assert check_book.loads_from_elsewhere(path) == [], path.name


def test_no_page_tells_whose_machine_built_it(book):
    root, built_in, home = str(ROOT), str(book.parents[1]), str(Path.home())
    for path in book.rglob("*"):
        if path.suffix in {".html", ".md", ".ipynb", ".js", ".txt", ".json"}:
            content = path.read_text(errors="ignore")
            for place in (root, built_in, tempfile.gettempdir() + "/", home + "/"):
                assert place not in content, f"{path.relative_to(book)} names {place}"


def test_every_picture_is_described_in_words(book):
    seen, shown = 0, 0
    for path in [book / f"{name}.html" for name in build_book.pages(ROOT)]:
        for tag, attributes in Tags(path).found:
            source = attributes.get("src", "") if tag == "img" else ""
            if "_static/figures" in source:
                shown += 1
                assert len(attributes["alt"].split()) > 8, path.name
                assert (path.parent / source).is_file(), f"{path.name} shows {source}, which is not in the book"
            if "_images" in source:
                seen += 1
                alt = attributes.get("alt", "")
                assert len(alt.split()) > 5 and "_images" not in alt and not alt.endswith(".png"), (
                    f"{path.name}: {alt!r}"
                )
    sources = [path for name in build_book.pages(ROOT) for path in ROOT.glob(f"{name}.*")]
    assert seen == sum(
        len(re.findall(r'^[ "]*figure = \w+\.\w+\(', path.read_text(), re.MULTILINE)) for path in sources
    ), "a figure that a page draws is not on it"
    assert shown >= 7, "the results pages have lost figures"


def test_headings_descend_one_level_at_a_time(book):
    for name in build_book.pages(ROOT):
        article = text(book, name).split("<article", 1)[1].split("</article>")[0]
        levels = [int(level) for level in re.findall(r"<h([1-6])", article)]
        assert levels[0] == 1 and levels.count(1) == 1, name
        assert all(after <= before + 1 for before, after in pairwise(levels)), name


def test_a_book_without_an_address_links_to_none_and_keeps_the_words(tmp_path):
    page = """<html><head><link rel="canonical" href="https://{0}.github.io/x/page.html" /></head><body>
<div class="dropdown dropdown-source-buttons"><ul><li><a href="https://github.com/{0}/x">Repository</a></li></ul></div>
<p>Open it in <a class="reference" href="https://colab.research.google.com/github/{0}/x">Colab</a>, or clone
<code>https://github.com/{0}/x</code>. <a href="other.html">Other</a></p></body></html>"""
    for owner in ("OWNER", "somebody"):
        (tmp_path / f"{owner}.html").write_text(page.format(owner))
    build_book.tidy(tmp_path)
    unset, known = ((tmp_path / f"{owner}.html").read_text() for owner in ("OWNER", "somebody"))
    assert re.findall('href="([^"]*)"', unset) == ["other.html"] and "dropdown" not in unset
    assert "Open it in Colab, or clone" in unset
    assert len(re.findall('href="([^"]*)"', known)) == 4


def test_a_button_opens_colab_on_the_notebooks_and_on_no_other_page(book):
    launching = {path.relative_to(book) for path in pages(book) if "dropdown-launch-buttons" in path.read_text()}
    assert launching == {Path("notebooks", f"{path.stem}.html") for path in (ROOT / "notebooks").glob("*.ipynb")}


def test_a_run_is_evidence_to_link_to_and_no_chapter(book):
    runs = [path.relative_to(book) for path in (book / "results").rglob("run.html")]
    assert runs and not [path for path in (book / "_sources").rglob("*") if path.is_file()]
    for name in build_book.pages(ROOT):
        turned = re.findall(r'<a class="(?:left|right)-(?:prev|next)"\s+href="([^"]*)"', text(book, name))
        assert not any("results/" in address for address in turned), name
    assert "cell_output" in (book / runs[0]).read_text() and "cell_input" not in (book / runs[0]).read_text()
    back = re.findall(r'<a class="left-prev"\s+href="([^"]*)"', (book / runs[0]).read_text())
    assert [address.rpartition("../")[2] for address in back] == ["book/runs.html"]


def test_links_between_pages_lead_somewhere(book):
    for path in pages(book):
        assert check_book.broken_links(book, path) == [], path.name


def test_from_the_cover_the_claims_are_one_click_away_and_the_runs_behind_a_verdict_two(book):
    assert 'href="claims.html"' in text(book, "book/index")
    claims = text(book, "book/claims")
    verdicts = set(re.findall(r'href="#(claim-[\w-]+)"', claims))
    assert verdicts and verdicts <= set(re.findall(r'id="(claim-[\w-]+)"', claims))
    runs = set(re.findall(r'href="\.\./(results/[^"]+/run)\.html"', claims))
    assert runs and all((book / f"{run}.html").is_file() for run in runs)


def test_no_page_weighs_more_than_one_and_a_half_megabytes_with_all_that_it_loads(book):
    for path in pages(book):
        assert lighten.weight(path) < lighten.HEAVY == 1.5e6, path.name


def test_a_page_loads_katex_if_it_has_a_formula_and_not_otherwise(book):
    with_formulas = {path for path in pages(book) if 'class="math notranslate' in path.read_text()}
    loading = {path for path in pages(book) if re.search('(?:src|href)="[^"]*katex', path.read_text())}
    assert loading == with_formulas and 0 < len(loading) < len(pages(book))


@needs_browser
@pytest.mark.skipif(not find_spec("axe_playwright_python"), reason="no axe-core here: `make test` installs it")
def test_a_page_of_the_book_has_no_fault(book):
    """One that has tables, figures and details; `make check-book` looks at all of them."""
    assert check_book.check(book, book / "book" / "claims.html") == []


@needs_browser
def test_the_books_own_search_finds_chapters_from_disk_and_no_runs(book):
    found = check_book.search(book, "AdvProp")
    assert "book/theory/advprop.html" in found and not any("results/" in page for page in found)


@needs_browser
@pytest.mark.parametrize(
    "page",
    [f"book/{name}" for name in ("theory/threat-models", "theory/als", "theory/wrong-numbers", "notation", "claims")],
)
def test_a_browser_typesets_every_formula(book, page):
    shown = browser.dom(book / f"{page}.html")
    source = text(book, page)
    written = source.count('class="math notranslate')
    assert shown.count('class="katex-html"') == shown.count("<math ") == written > 0
    assert 'class="katex-error"' not in shown
    assert 'mathcolor="#cc0000"' not in shown, "a macro that KaTeX does not know is set in red"


GUARDED = """<!DOCTYPE html><html><head><meta charset="utf-8" /><script>window.theme = 1</script></head><body><article>
<script>window.record = 1</script><img src="x" onerror="window.record = 2" /><svg onload="window.record = 3"></svg>
<script src="data:,window.record=4"></script></article><script>window.record = 5</script>
<script>document.write(`<button class="btn">Search</button>`)</script><script src="own.js"></script></body></html>"""


@pytest.mark.skipif(not browser.find(), reason="no Chromium here (apt-get install chromium)")
def test_what_a_record_or_a_notebook_writes_into_a_page_never_runs_and_the_books_scripts_do(tmp_path):
    page, asked = (
        tmp_path / "page.html",
        "answer([window.theme, window.own, document.body.innerText.trim(), window.record]);",
    )
    (tmp_path / "own.js").write_text("window.own = 1")
    page.write_text(GUARDED)
    assert browser.ask(page, asked)[-1] is not None, "without a policy it runs"
    build_book.tidy(tmp_path)
    assert browser.ask(page, asked) == [1, 1, "Search", None]


def test_a_second_build_in_one_folder_is_refused_and_deletes_nothing(tmp_path, capsys):
    (tmp_path / "_build").mkdir()
    with alone(tmp_path / "checkpoints" / "book.lock"):
        assert build_book.build(tmp_path) == 1
    assert "a build of this book is under way in another process" in capsys.readouterr().err
    assert (tmp_path / "_build").is_dir()
