"""The paper as published: all the points, and effects that come from records or say that there is none yet."""

import re

import fake_records as fake
import pytest
from places import ROOT

from study.evidence import selection
from study.findings.as_published import points, report
from study.findings.as_published.points import COMPARISONS
from study.findings.dissection import report as dissection
from study.plan import catalogue
from study.plan.attacks import suite

PAGE = (ROOT / "book" / "as-published.md").read_text()
MEASURED = [point for point in points.POINTS if point.switch or point.comparisons]


@pytest.fixture
def results(tmp_path):
    """Every row of Table 1 under both protocols, with made-up numbers."""
    for key, row in catalogue.rows().items():
        for protocol in catalogue.PROTOCOLS:
            if row.paper_table == 1:
                fake.put(fake.record(key, protocol), tmp_path)
    return tmp_path


def test_the_nineteen_points_are_all_there_in_order():
    assert [point.number for point in points.POINTS] == list(range(1, 20))
    assert [int(n) for n in re.findall(r"^\(point-(\d+)\)=\n### \1\. ", PAGE, re.MULTILINE)] == list(range(1, 20))
    for point in points.POINTS:
        assert f'href="#{point.anchor}"' in report.overview()


def test_every_switch_stands_for_one_point_and_every_measurable_point_shows_its_effect():
    assert sorted(point.switch for point in points.POINTS if point.switch) == sorted(catalogue.SWITCHES)
    shown = {int(n) for n in re.findall(r"report\.effects\(RESULTS, (\d+)\)", PAGE)}
    assert shown == {point.number for point in MEASURED}
    for point in points.POINTS:
        assert bool(point.always) != bool(point.switch or point.comparisons), point.name


@pytest.mark.parametrize("name", COMPARISONS)
def test_the_evaluation_measures_what_is_compared(name):
    comparison = COMPARISONS[name]
    for row in catalogue.rows().values():
        if comparison.applies(row):
            names = {attack.name for attack in suite(dual=row.advprop, surrogate=row.sat)} | {
                f"corrected:steps-{k}" for k in (1, 2, 5, 10, 20, 50)
            }
            for _, before, after in comparison.pairs:
                assert {before, after} <= names, row.label


def test_every_comparison_is_shown_somewhere():
    book = "\n".join(path.read_text() for path in (ROOT / "book").rglob("*.md"))
    used = {name for point in points.POINTS for name in point.comparisons}
    assert used | set(re.findall(r'report\.comparison\(\S+, "([\w-]+)"\)', book)) == COMPARISONS.keys()


@pytest.mark.parametrize("point", MEASURED, ids=lambda point: point.name)
def test_effects_come_from_records_and_what_was_not_run_has_no_table(point, results):
    html = report.effects(results, point.number)
    assert html.count("<figure") == len(point.comparisons) and bool(html) == bool(point.comparisons)


def test_what_was_not_run_is_named_once_with_a_command_that_the_program_takes(results):
    fake.put(fake.record("advprop", "published-space"), results)
    (group,) = selection.best(results)
    said = dissection.missing(group, "advprop")
    assert "Not run yet of AdvProp: 17 trainings" in said and "moved alone: mode, branch, layers, update" in said
    (command,) = re.findall("`python -m study (.+?)`", said)
    assert command == "run advprop --protocol published-mode --budget lite --dataset cifar10-jpeg"
    assert catalogue.config("advprop", protocol="published-mode", budget="lite", dataset="cifar10-jpeg")
    group += [fake.record("advprop", protocol) for protocol in catalogue.rows()["advprop"].dissection()]
    assert dissection.missing(group, "advprop") == ""


def test_without_records_there_is_no_table_and_a_point_that_changes_nothing_is_refused(tmp_path):
    assert report.effects(tmp_path, 1) == report.effects(tmp_path, 3) == ""
    with pytest.raises(ValueError, match="the same SGD"):
        report.effects(tmp_path, 11)


def test_the_published_rows_that_are_one_experiment_train_alike_and_are_set_side_by_side():
    configs = [catalogue.config(key, protocol="published") for key in points.REPLICATE]
    assert configs[0].differences(configs[1]) == {"train_eps": (0.1, 0.5)}
    assert {config.reach for config in configs} == {4 / 255}
    html = report.replicate()
    assert all(f"<td>{value}</td>" in html for value in ("+0.17", "+0.35", "-0.38", "+1.06", "+0.99", "+1.11"))


def test_the_published_tables_have_the_shorter_attack_stronger_in_most_rows():
    html = report.weaker_and_stronger()
    assert "in 14 of the 18 published methods (6 of the 9 of Table 1)" in html
    assert "Only Adversarial, SAT, ALS + SAT, ALS + Adversarial" in html


def test_a_switch_that_was_run_fills_its_table(results):
    fake.put(fake.record("adversarial", "published-space", **{"published:clean": 0.5}), results)
    html = report.switch_moved(results, "space")
    before = 100 * fake.record("adversarial", "published").measurement("published:clean").accuracy
    assert f"{before:.1f} → 50.0" in html
    assert html.count('<th scope="row">') == 1
    with pytest.raises(ValueError, match="unknown switch"):
        report.switch_moved(results, "tuesday")


def test_a_record_that_lacks_what_is_compared_fails(results):
    fake.put(fake.record("advprop", "published", drop=["published:clamp-alone"]), results)
    with pytest.raises(ValueError, match="it lacks .'published:clamp-alone'."):
        report.comparison(results, "clamp")


def test_two_measurements_of_different_length_are_compared_on_the_images_they_share(results):
    record = fake.record("sat", "corrected", **{"corrected:steps-20": 1.0, "corrected:pgd-20-8/255": 0.3})
    fake.put(record, results)
    (line,) = re.findall(r'<th scope="row">SAT</th>(.*?)</tr>', report.comparison(results, "random-start"))
    assert "100.0 → 60.0" in line, "the first 60 of 200 images are the first 60 of the sweep's 100"
