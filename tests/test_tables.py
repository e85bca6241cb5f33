"""Tables and figures say what the records say, name what is missing, and refuse what cannot be shown."""

import dataclasses
import re
import subprocess
import sys

import fake_records as fake
import matplotlib.pyplot as plt
import numpy as np
import pytest

from advlib import catalogue, figures, records, tables
from advlib.statistics import wilson


@pytest.fixture
def results(tmp_path):
    return tmp_path / "results"


def test_a_cell_is_the_mean_over_seeds_with_the_interval_of_one_test_set():
    name = "corrected:clean"
    group = [fake.record(seed=0, **{name: 0.80}), fake.record(seed=1, **{name: 0.90})]
    cell = tables.cell(group, "advprop", "corrected", "clean")
    low, high = wilson(0.85 * 200, 200)
    assert (cell.accuracy, cell.low, cell.high) == pytest.approx((85, 100 * low, 100 * high))
    assert (cell.n, cell.seeds) == (200, 2)


def test_an_image_must_survive_the_true_and_the_surrogate_gradient():
    record = fake.record("sat", **{"corrected:fgsm-0.1": 0.5})
    last = np.arange(200) >= 80  # 60 % correct, of which 20 points are not in the first half
    twin = dataclasses.replace(
        record.measurement("corrected:fgsm-0.1"), name="corrected:fgsm-0.1:surrogate", correct=records.pack_mask(last)
    )
    record = dataclasses.replace(record, measurements=(*record.measurements, twin))
    assert tables.cell([record], "sat", "corrected", "fgsm-0.1").accuracy == pytest.approx(10)


def test_a_row_that_was_not_run_has_no_cell_and_is_named_as_missing():
    group = [fake.record("advprop")]
    assert tables.cell(group, "sat", "corrected", "clean") is None
    assert "SAT (corrected, `sat`)" in tables.missing(group)
    assert "AdvProp (corrected, `advprop`)" not in tables.missing(group)


def test_a_run_that_lacks_a_measurement_fails_instead_of_leaving_a_gap(results):
    record = fake.record(drop=["corrected:pgd-0.5"])
    fake.put(record, results)
    with pytest.raises(KeyError, match="pgd-0.5"):
        tables.results([record], root=results)


def test_seeds_tested_on_different_numbers_of_images_are_not_averaged():
    short = fake.record(seed=1)
    short = dataclasses.replace(
        short, measurements=tuple(fake.measurement(m.name, 0.5, n=100) for m in short.measurements)
    )
    with pytest.raises(ValueError, match=r"\[100, 200\]"):
        tables.cell([fake.record(seed=0), short], "advprop", "corrected", "clean")


def test_the_results_table_has_each_number_of_paper_and_records(results):
    group = [fake.record("advprop", protocol) for protocol in catalogue.PROTOCOLS]
    for record in group:
        fake.put(record, results)
    html = tables.results(group, root=results)
    for value in catalogue.rows()["advprop"].published.values():
        assert f"<td>{value:.1f}</td>" in html
    for record in group:
        for column in catalogue.COLUMNS:
            assert f"<td>{100 * record.measurement(f'{record.protocol}:{column}').accuracy:.1f}<" in html
        assert f'href="../results/{record.where}/run.html"' in html
    assert "CIFAR-10, JPEG copy" in html and "budget lite" in html


@pytest.fixture(autouse=True)
def no_figure_stays_open():
    yield
    plt.close("all")


def test_every_line_of_every_table_has_a_cell_for_each_heading(results):
    group = [fake.record(key, protocol) for key in catalogue.rows() for protocol in catalogue.PROTOCOLS]
    for record in group:
        fake.put(record, results)
    for key in tables.SMOKE_ROWS:
        fake.put(fake.record(key, budget="smoke"), results)
    for html in [
        tables.results(group, root=results),
        tables.headline(group),
        tables.columns(group),
        tables.smoke(results),
        tables.runs(group, root=results),
    ]:
        heads = len(re.findall('<th scope="col">', html))
        lines = re.findall(r"<tr[^>]*>(.*?)</tr>", html)[1:]
        assert lines
        for line in lines:
            assert len(re.findall(r"<t[hd]", line)) == heads or f'colspan="{heads}"' in line


def test_a_record_without_its_notebook_is_refused(results):
    (fake.put(fake.record(), results) / "run.ipynb").unlink()
    with pytest.raises(FileNotFoundError, match="no run.ipynb"):
        tables.results(tables.groups(results)[0], root=results)


def test_smoke_runs_are_never_results(results):
    fake.put(fake.record(budget="smoke"), results)
    assert tables.groups(results) == []
    assert "There is no result yet" in tables.status(results) and "1 smoke run " in tables.status(results)


def test_full_runs_come_before_lite_runs_and_data_sets_are_kept_apart(results):
    for record in [
        fake.record(budget="lite"),
        fake.record(budget="full"),
        fake.record(budget="lite", dataset="cifar10"),
    ]:
        fake.put(record, results)
    found = [(group[0].budget, group[0].config["dataset"]) for group in tables.groups(results)]
    assert found == [("full", "cifar10-jpeg"), ("lite", "cifar10"), ("lite", "cifar10-jpeg")]


def test_stale_records_are_left_out_and_named(results):
    old = fake.record(seed=3)
    fake.put(dataclasses.replace(old, config=old.config | {"lr": 0.2}), results)
    fake.put(dataclasses.replace(fake.record(seed=4), science_version=records.SCIENCE_VERSION - 1), results)
    assert tables.groups(results) == []
    status = tables.status(results)
    assert "seed3` (config: lr 0.2" in status and "seed4` (science version" in status


def test_the_machinery_table_names_a_row_that_did_not_run(results):
    for key in tables.SMOKE_ROWS[:-1]:
        fake.put(fake.record(key, budget="smoke"), results)
    with pytest.raises(FileNotFoundError, match="als-sat-advprop.*make smoke"):
        tables.smoke(results)


def test_a_description_counts_images_and_seeds():
    group = [fake.record(seed=0), fake.record(seed=1), fake.record("sat")]
    text = tables.describe(group)
    assert "1,000 training images, 200 test images, 1 to 2 seeds a row" in text and "CIFAR-10, JPEG copy" in text


def test_rows_of_one_label_are_told_apart():
    titles = [tables.title(row) for row in catalogue.rows().values()]
    assert len(set(titles)) == len(titles)


def test_the_tradeoff_figure_has_a_point_for_each_row_and_protocol():
    group = [fake.record(key, protocol) for key in ("traditional", "advprop") for protocol in catalogue.PROTOCOLS]
    figure = figures.tradeoff(group)
    assert [len(panel.containers) for panel in figure.axes] == [2, 2]
    x, y = figure.axes[1].containers[1].lines[0].get_xydata()[0]
    record = group[3]
    assert (x, y) == pytest.approx(
        [100 * record.measurement(f"corrected:{c}").accuracy for c in (tables.STRONG, "clean")]
    )


def test_a_figure_of_no_record_is_refused():
    with pytest.raises(ValueError, match="no record to draw"):
        figures.tradeoff([])


def test_drawing_leaves_the_readers_settings_alone():
    before = dict(plt.rcParams)
    figures.surrogate_gradient()
    figures.attack_paths()
    assert dict(plt.rcParams) == before


def test_the_slopes_drawn_are_the_derivatives_of_the_values_drawn():
    value, slope = figures.surrogate_gradient(alphas=(1, 3, 10)).axes
    for curve, derivative in zip(value.lines[1:], slope.lines[1:], strict=True):
        z, g = curve.get_data()
        np.testing.assert_allclose(np.gradient(g, z)[1:-1], derivative.get_ydata()[1:-1], atol=1e-3)


def test_reading_records_and_drawing_needs_no_torch():
    code = "import sys; from advlib import figures, records, statistics, tables; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_order_of_the_rows_is_compared_with_the_papers_column_by_column():
    keys = ["adversarial", "advprop", "als", "als-sat", "als-sat-advprop"]  # told apart by 200 images in every column
    paper = {key: catalogue.rows()[key].published for key in keys}
    alike = {key: {f"published:{column}": value / 100 for column, value in paper[key].items()} for key in keys}
    group = [fake.record(key, "published", **alike[key]) for key in keys]
    lines = tables.order(group).split("<tr>")[2:]
    assert len(lines) == len(catalogue.COLUMNS)
    assert all("<td>+1.00</td>" in line for line in lines)
    reverse = [fake.record(key, "published", **alike[other]) for key, other in zip(keys, keys[::-1], strict=True)]
    assert "<td>+1.00</td>" not in tables.order(reverse)
    assert tables.order(group[:4]) == ""


def test_the_group_with_most_runs_comes_first_among_data_sets_of_a_budget(results):
    """One run on another data set must not take the place of all others on the cover."""
    for key in ("traditional", "als"):
        fake.put(fake.record(key), results)
    fake.put(fake.record("advprop", dataset="cifar10"), results)
    assert tables.groups(results)[0][0].config["dataset"] == "cifar10-jpeg"
