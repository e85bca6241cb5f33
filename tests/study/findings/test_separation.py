"""What AdvProp separates: the table says what was measured and what was not, and its sentence only what holds."""

import dataclasses
import re

import fake_records as fake
import numpy as np
import pytest

from study.experiment.controls import NORMS, JointBatchNorm2d
from study.findings.columns import report
from study.plan import catalogue
from study.records import Measurement, Record
from study.records.columns import Columns
from study.records.packing import pack_mask

N = 400


def put(tmp_path, key: str, clean: float, again: float | None = None, **changes) -> Record:
    """A made-up record of ``key`` and, with ``again``, the file beside it: clean accuracies, of the first images."""
    record = fake.record(key, **{"corrected:clean": clean}, **changes)
    fake.put(record, tmp_path)
    if again is not None:
        masks = {
            "corrected:clean": np.arange(N) % 200 < 200 * clean,
            "recalibrated:clean": np.arange(N) % 200 < 200 * again,
        }
        attack = record.measurement("corrected:clean").attack
        made = [Measurement(name, "clean", attack, N, pack_mask(mask)) for name, mask in masks.items()]
        Columns(**fake.about(record, N), measurements=tuple(made), training_images=64).write(tmp_path, record)
    return record


def cells(html: str, head: str) -> list[str]:
    """What the cells of a line say, their intervals left out."""
    (line,) = [line for line in html.split("<tr") if f'scope="row">{head}</th>' in line]
    bare = re.sub('<span class="interval">.*?</span>', "", line.partition("</th>")[2])
    return [re.sub("<[^>]+>", "", cell) for cell in re.findall("<td>(.*?)</td>", bare)]


def test_the_kinds_in_the_table_are_those_of_the_configs():
    for key, (statistics, averages, affine) in report.SEPARATION.items():
        made = catalogue.config(key)
        assert statistics == ("joint" if made.update == "one-forward" else "separate")
        assert averages == ("separate" if made.norm == "dual" else "shared")
        assert affine == ("shared" if made.norm == "shared" else "separate")
    assert NORMS["dual-affine"] == (JointBatchNorm2d, JointBatchNorm2d)
    for after, before in report.STEPS.values():
        assert {after, before} <= report.SEPARATION.keys()
    for key in report.LARGE_EPS:
        row = catalogue.rows()[key]
        assert (row.paper_table, catalogue.config(key).norm, row.adversarial) == (2, "shared", True)


def test_what_was_not_run_or_not_measured_is_said(tmp_path):
    assert report.separation(tmp_path).count("not run") == 4 * 4 + 3 * 4
    put(tmp_path, "adversarial", 0.5)
    html = report.separation(tmp_path)
    assert cells(html, "Adversarial")[:5] == ["separate", "shared", "shared", "50.0", "not measured"]
    assert cells(html, "AdvProp") == ["separate"] * 3 + ["not run"] * 4


def test_accuracies_and_what_each_separation_gains_are_in_the_table(tmp_path):
    put(tmp_path, "adversarial", 0.5, 0.7, **{"corrected:pgd-0.1": 0.3})
    put(tmp_path, "advprop", 0.75, 0.75, **{"corrected:pgd-0.1": 0.1})
    put(tmp_path, "adversarial-one-forward", 0.4)
    html = report.separation(tmp_path)
    assert cells(html, "Adversarial")[3:6] == ["50.0", "70.0", "30.0"] and "+20.0 (" in html
    assert cells(html, "running averages and affine parameters")[3:6] == ["+25.0", "+5.0", "-20.0"]
    assert cells(html, "batch statistics")[3:5] == ["+10.0", "not measured"]
    assert cells(html, "affine parameters, with joint statistics")[3] == "not run"


@pytest.mark.parametrize(
    ("first", "second", "said", "unsaid"),
    [
        (
            (0.2, 0.6),
            (0.2, 0.6),
            "did not fit the clean ones. With them, each of these networks kept less than half",
            "explain",
        ),
        ((0.5, 0.6), (0.5, 0.6), "did not fit the clean ones.", "half"),
        ((0.2, 0.6), (0.2, 0.2), "explain it in some; of the others it cannot be decided", "did not fit"),
        ((0.2, 0.2), (0.3, 0.2), "cannot be decided at this size", "did not fit"),
    ],
)
def test_the_sentence_says_only_what_the_networks_show(first, second, said, unsaid, tmp_path):
    for key, accuracies in zip(report.LARGE_EPS, (first, second), strict=True):
        put(tmp_path, key, *accuracies)
    found = report.collapse(tmp_path)
    assert said in found and unsaid not in found
    assert f"from {100 * first[0]:.1f} to {100 * first[1]:.1f} % (*Adversarial*)" in found


def test_without_a_measurement_the_command_that_makes_it_is_said(tmp_path):
    assert "python -m study measure columns adversarial-large-eps sat-large-eps" in report.collapse(tmp_path)
    put(tmp_path, "adversarial-large-eps", 0.2)
    assert "sat-large-eps --budget lite --dataset cifar10-jpeg`" in report.collapse(tmp_path)
    record = put(tmp_path, "sat-large-eps", 0.2, 0.6)
    path = tmp_path / record.where / Columns.FILE
    whole = Columns.read(path, record)
    dataclasses.replace(whole, measurements=whole.measurements[:1]).write(tmp_path, record)
    assert "not measured yet" in report.collapse(tmp_path), "broken off before the control"
