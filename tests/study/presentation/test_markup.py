"""Nothing that a record says is markup on a page: its strings may be anybody's, a reader's class names among them."""

import dataclasses
import json
from html.parser import HTMLParser

import fake_records as fake
import pytest
from made_up_book import page, project
from markdown_it import MarkdownIt
from markupsafe import Markup, escape
from mdit_py_plugins.dollarmath import dollarmath_plugin
from places import ROOT

from study import records
from study.findings.explorer import report as explorer
from study.findings.runs import report
from study.presentation import markup
from study.presentation.page import html, say
from study.records import passport
from study.records.literal import code, literal

IMAGE = "<img src=x onerror=alert(1)>"
MARK = (
    f"`{IMAGE}``` ![{IMAGE}](javascript:alert(2)) <!--<script> | $x^$ {{raw}}`y` *a* _b_ &lt; ]]></td></code></details>"
)
# by these a record, or a measurement in it, is looked up, or refused: with another one it is another record, or none
LOOKED_UP = {"key", "protocol", "budget", "config", "name", "column", "correct", "attack"}
PAGES = sorted(path.stem for path in (ROOT / "book").glob("*.md") if "{code-cell}" in path.read_text())


def marked(value):
    """JSON with the mark in the place of each string in it that nothing is looked up by."""
    if isinstance(value, dict):
        return {name: item if name in LOOKED_UP else marked(item) for name, item in value.items()}
    if isinstance(value, list):
        return [marked(item) for item in value]
    return MARK if isinstance(value, str) else value


def hostile(*about, **more) -> records.Record:
    """A made-up record that counts, with the mark wherever it can have one, and two versions of a package so named."""
    raw = marked(json.loads(records.to_json(fake.record(*about, **more))))
    raw["provenance"]["versions"] = {MARK: f"{MARK} {raw['seed']}"}
    raw["measurements"] = tuple(records.Measurement(**one) for one in raw["measurements"])
    return records.Record(**raw)


class Elements(HTMLParser):
    def __init__(self, text: str):
        super().__init__()
        self.tags, self.text = [], ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)

    def handle_data(self, data):
        self.text += data


def rendered(text: str) -> Elements:
    parser = MarkdownIt("commonmark", {"html": True}).enable("table").use(dollarmath_plugin)
    return Elements(parser.render(text))


@pytest.fixture(scope="module")
def spoilt(tmp_path_factory):
    """A project whose records have the mark in each string that is not looked up, and others with it in one that is."""
    folder = project(tmp_path_factory.mktemp("spoilt"))
    for key, protocol in (("advprop", "corrected"), ("sat", "corrected"), ("traditional", "published")):
        for seed in (0, 1):
            fake.put(hostile(key, protocol, seed=seed), folder / "results")
    fake.put(hostile(dataset=f"folder:{MARK}", title="Mine"), folder / "results")
    for key in report.SMOKE_ROWS:
        fake.put(hostile(key, budget="smoke"), folder / "results")
    for name in ("key", "protocol", "budget"):
        fake.put(dataclasses.replace(fake.record(seed=2), **{name: IMAGE}), folder / "results")
    return folder


@pytest.fixture(autouse=True)
def unsaved(monkeypatch):
    """What is in a figure's files takes long to write, and is no markup of the page."""
    monkeypatch.setattr("matplotlib.figure.Figure.savefig", lambda self, path, **_: path.touch())


@pytest.mark.parametrize("name", PAGES)
def test_no_string_of_a_record_is_markup_on_a_page(spoilt, name):
    shown = page(spoilt, f"book/{name}")
    assert IMAGE not in shown and "<!--<" not in shown and "![<" not in shown
    if name in ("as-published", "index", "numbers", "reproduce", "runs", "trust"):
        assert escape(IMAGE) in shown, "the title of the data, or the device, as it is"


@pytest.mark.parametrize(
    "text", [MARK, "`", "``", " `a", "\\`", "a\n\nb", "[a](b)", "# a", "CIFAR-10, JPEG copy", "x_1*2"]
)
def test_a_string_of_a_record_reads_in_markdown_as_it_is(text):
    said, line = rendered(f"On {literal(text)}."), " ".join(text.splitlines())
    assert (said.text.strip(), said.tags) == (f"On {line}.", ["p"])
    command = rendered(f"By {code(text)}.")
    assert (command.text.strip(), command.tags) == (f"By {line}.", ["p", "code"])


def test_a_passport_shows_every_string_of_its_record_as_text():
    record = dataclasses.replace(hostile(), budget=MARK, protocol=MARK)
    record.config.update(dataset=f"folder:{MARK}\n\n# {IMAGE}\n\n```\n{IMAGE}", activation=MARK)
    shown = rendered(passport.markdown(record))
    assert set(shown.tags) <= {"table", "thead", "tbody", "tr", "th", "td", "p", "pre", "code", "details", "summary"}
    assert shown.text.count(MARK) >= 12


def test_what_is_no_markup_is_text_wherever_html_is_made(monkeypatch):
    shown = []
    monkeypatch.setattr("study.presentation.page.display", lambda one: shown.append(one.data))
    line = markup.row(IMAGE, [IMAGE, Markup("<b>1</b>")], IMAGE)
    say(f"Sentences have no HTML: {IMAGE}")
    assert "<" not in shown.pop()
    html(IMAGE, markup.table([IMAGE], [line, markup.group_title(IMAGE, 2)], IMAGE, IMAGE))
    assert IMAGE not in "".join(shown) and "<td><b>1</b></td>" in shown[1]
    assert "img" not in Elements("".join(shown)).tags


@pytest.fixture
def said(monkeypatch):
    """``said(sentence)``: what a reader has of it, by the parser of the page."""
    shown = []
    monkeypatch.setattr("study.presentation.page.display", lambda one: shown.append(one.data))

    def show(sentence: str) -> Elements:
        say(sentence)
        return rendered(shown.pop())

    return show


@pytest.mark.parametrize("command", ["run als --dataset 'folder:<my> images'", "a < b", "`<` <b>", MARK])
def test_code_in_a_sentence_reads_as_it_is_also_where_it_has_a_less_than_sign(said, command):
    read = said(f"Where p < 0.05 and {literal('<i>')}: {code(command)} does it, then {code('<b>')}.")
    assert read.text.strip() == f"Where p < 0.05 and <i>: {command} does it, then <b>."
    assert read.tags == ["p", "code", "code"]


@pytest.mark.parametrize(
    "sentence",
    [
        f"`a` {IMAGE} `b`",
        f"\\`{IMAGE}`",
        f"\\``a` {IMAGE} `",
        f"[a](`b) {IMAGE} `",
        f"`a\n\n{IMAGE} `",
        f"- `a\n- {IMAGE} `",
        f"``` {IMAGE} `",
        f"``a` {IMAGE} `",
        f"`a``{IMAGE}`",
        f"<b title='`'>{IMAGE}`",
        f"<https://a`{IMAGE}`>",
        f"[a]: `b\n\n{IMAGE}`",
    ],
)
def test_no_sentence_has_html_however_its_backticks_stand(said, sentence):
    assert not {"img", "b"} & set(said(sentence).tags)


def test_json_in_a_page_ends_no_script_and_begins_no_comment():
    text = explorer.as_json({"classes": [MARK, "</script"]})
    assert "<" not in text and json.loads(text) == {"classes": [MARK, "</script"]}
