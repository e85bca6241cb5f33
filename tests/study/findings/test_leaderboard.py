"""Our rows among published ones: each figure has its source, the page shows the file, and nobody is ranked silently."""

import dataclasses
import re

import fake_records as fake
import pytest
from places import ROOT
from pybtex.database import parse_file

from study.findings.numbers import leaderboard
from study.findings.numbers.leaderboard import Figure, Source, figures, lines, sources

PAGE = (ROOT / "book" / "beyond.md").read_text()


@pytest.fixture(scope="module")
def bibliography():
    return parse_file(ROOT / "book" / "references.bib").entries


@pytest.fixture
def group():
    strong, aux = "corrected:pgd-20-8/255", "corrected:pgd-20-8/255:aux"
    return [
        fake.record("traditional", **{strong: 0.0}),
        fake.record("advprop", **{strong: 0.015, aux: 0.445}),
        fake.record("sat", **{strong: 0.17, f"{strong}:surrogate": 0.12}),
        fake.record("sat", "published"),
    ]


def cells(html: str) -> list[list[str]]:
    """The text of every line of a table."""
    rows = re.findall(r"<tr[^>]*>(.*?)</tr>", html, re.DOTALL)
    return [[re.sub(r"<[^>]+>", "", cell) for cell in re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row)] for row in rows]


def test_every_figure_has_sources_that_the_bibliography_knows_and_the_page_cites(bibliography):
    cited = {key for keys in re.findall(r"\{cite:[pt]\}`([^`]+)`", PAGE) for key in keys.split(",")}
    used = {key for one in figures() for key in (one.paper, one.source)}
    assert used == set(sources()), "a source that nothing uses"
    assert used <= set(bibliography) and used <= cited
    assert all(one.place for one in figures())


def test_the_link_of_a_source_is_that_of_its_entry(bibliography):
    for key, source in sources().items():
        entry = bibliography[key]
        if "arxiv.org" in source.url:
            assert source.url.rsplit("/", 1)[1] == entry.fields["doi"].removeprefix("10.48550/arXiv.")
        names = [str(person.last_names[-1]) for person in entry.persons["author"]]
        assert source.label == "RobustBench" or source.label.startswith(names[0]), key
        assert source.label == "RobustBench" or source.label.endswith(entry.fields["year"]), key


def test_no_figure_is_there_twice_and_all_are_of_the_same_task():
    assert len({dataclasses.astuple(one)[:8] for one in figures()}) == len(figures()) <= 12
    for one in figures():
        assert one.network in ("ResNet-18", "PreActResNet-18")
        assert all(value > one.robust for value in one.weaker.values()), "a weaker attack leaves more"
        assert one.clean is None or one.clean > one.robust


def test_figures_that_were_read_by_two_people():
    """From RobustBench's files and the README of Sandwich BN, as read when the tests were written."""
    found = {(one.paper, one.clean, one.robust, one.claimed) for one in figures()}
    assert found >= {
        ("wong2020fast", 83.34, 43.21, 46.06),
        ("jin2020manifold", 90.84, 1.35, 71.22),
        ("rebuffi2021fixing", 83.53, 56.66, 56.66),
        ("gong2022sandwich", 83.42, 41.60, None),
    }


def test_the_page_shows_the_numbers_of_the_file(group):
    shown = cells(leaderboard.board(group))[1:]
    assert len(shown) == len(lines(group))
    by_kind = [(kind, robust, clean) for _, kind, robust, clean, *_ in shown]
    for one in figures():
        assert ("published", f"{one.robust:.2f}", "–" if one.clean is None else f"{one.clean:.2f}") in by_kind


def test_the_most_robust_stands_first(group):
    robust = [line.robust for line in lines(group)]
    assert robust == sorted(robust, reverse=True)
    shown = [float(row[2]) for row in cells(leaderboard.board(group))[1:]]
    assert shown == sorted(shown, reverse=True)


def test_our_rows_are_those_of_the_corrected_protocol_and_say_their_budget(group):
    ours = {re.search("<strong>(.*)</strong>", line.who)[1]: line for line in lines(group) if line.kind != "published"}
    assert set(ours) == {"Traditional", "AdvProp", "AdvProp, auxiliary branch", "SAT"}
    assert {line.kind for line in ours.values()} == {"lite"}
    assert ours["AdvProp, auxiliary branch"].robust == pytest.approx(44.5)
    assert ours["SAT"].robust == pytest.approx(12.0), "an image survives both gradients"
    assert "true and surrogate gradient" in ours["SAT"].what
    assert all("PGD-20, eps 8/255" in line.what and "2 starts" in line.what for line in ours.values())
    html = leaderboard.board(group)
    assert html.count("here, budget lite") == html.count('<tr class="ours">') == 4
    assert html.count(">lite</td>") == 4


def test_a_full_budget_is_marked_as_one():
    group = [fake.record("advprop", budget="full", dataset="cifar10")]
    assert {line.kind for line in lines(group)} == {"published", "full"}
    assert "width" not in leaderboard.why_lower(group) and "reaches 4/255" in leaderboard.why_lower(group)


def test_why_ours_are_lower_is_said_in_the_configs_values(group):
    said = leaderboard.why_lower(group)
    ours = group[0].config
    assert f"width is {ours['width']}, where a ResNet-18 has 64" in said
    assert f"for {ours['epochs']} epochs, where budget full takes 100" in said
    assert f"{group[0].data['train_images']:,} training images of 50,000" in said
    assert "2 steps of 2/255, so it reaches 4/255" in said


def test_without_a_record_the_published_figures_stand_alone():
    assert {line.kind for line in lines(None)} == {"published"}
    assert len(cells(leaderboard.board(None))) == 1 + len(figures())


def test_what_a_stronger_attack_takes_is_the_files_numbers():
    gaps = [
        round(weaker - one.robust, 1)
        for one in figures()
        if one.attack == "AutoAttack"
        for weaker in one.weaker.values()
    ]
    assert f"{min(gaps)} to {max(gaps)} points less than PGD-10" in leaderboard.stronger_attack()
    assert f"On the {len(gaps)} networks" in leaderboard.stronger_attack()
    assert "71.22 claimed, 1.35 left" in leaderboard.claims_fell()


GOOD = Figure("a", "a", "README", "ResNet-18", "PGD", "CIFAR-10", 50.0, "PGD-20")


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"source": "b"}, "no source b"),
        ({"attack": "PGD"}, "unknown attack"),
        ({"weaker": {"FGSM": 60.0}}, "unknown attack"),
        ({"robust": 101.0}, "outside 0 to 100"),
    ],
)
def test_an_entry_that_cannot_be_meant_is_refused(change, why):
    known = {"a": Source("A 2020", "https://example.org")}
    assert leaderboard.check([GOOD], known) == (GOOD,)
    with pytest.raises(ValueError, match=why):
        leaderboard.check([dataclasses.replace(GOOD, **change)], known)
