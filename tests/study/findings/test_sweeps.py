"""What is said of an experiment beyond the paper, and of rounding, follows from the masks of two records."""

import re

import matplotlib.pyplot as plt
import pytest

from study.evidence.comparisons import FOUR_COLUMNS, STRONG
from study.findings.performance import rounding
from study.findings.sweeps import report
from study.plan import catalogue
from tests.fake_records import IMAGES, record

ALS = [extension for extension in catalogue.extensions().values() if extension.key in ("als-0.02", "als-0.2")]


def made(key: str, clean: float, robust: float, seed: int = 0):
    return record(key, seed=seed, **{"corrected:clean": clean, f"corrected:{STRONG}": robust})


@pytest.fixture(autouse=True)
def no_links(monkeypatch):
    monkeypatch.setattr("study.presentation.markup.links", lambda runs: "")


def cells(*group) -> list[str]:
    """Clean and robust, of the one experiment of the group, as text."""
    (line,) = re.findall(r'<tr><th scope="row">.*?</tr>', report.answers(list(group)))
    return [re.sub(r"<[^>]+>", " ", cell).strip() for cell in re.findall(r"<td>(.*?)</td>", line)[:2]]


def test_every_extension_belongs_to_one_question_or_to_the_page_on_rounding():
    asked = [extension.key for group_ in report.questions().values() for extension in group_]
    about_rounding = [key for key in rounding.MODES if key in catalogue.extensions()]
    assert sorted(asked + about_rounding) == sorted(catalogue.extensions())


def test_the_difference_is_that_of_the_shares_of_images():
    found = report.differences([made("als", 0.5, 0.2), made("als-0.02", 0.6, 0.1)], ALS[0])
    assert found["clean"].value == pytest.approx(0.1, abs=1 / IMAGES)
    assert found[STRONG].value == pytest.approx(-0.1, abs=1 / IMAGES)


def test_a_gain_a_loss_and_what_cannot_be_told_are_said_as_what_they_are():
    clean, robust = cells(made("als", 0.5, 0.3), made("als-0.02", 0.7, 0.1))
    assert "+20.0 (" in clean and clean.endswith("more") and "-20.0 (" in robust and robust.endswith("less")
    clean, robust = cells(made("als", 0.5, 0.3), made("als-0.02", 0.505, 0.3))
    assert "+0.5 (" in clean and "cannot be decided; smallest visible" in clean
    assert "+0.0 (" in robust and "cannot be decided; smallest visible" in robust


def test_the_figure_and_its_words_have_a_line_for_every_experiment_that_stands_beside_its_row():
    group = [made("als", 0.5, 0.3), made("als-0.02", 0.7, 0.1), made("als-0.2", 0.4, 0.3), made("silu", 0.5, 0.5)]
    figure = report.settings(group)
    for panel, expected in zip(figure.axes, ([20, -10], [-20, 0]), strict=True):
        assert [line.lines[0].get_xdata()[0] for line in panel.containers] == pytest.approx(expected)
        assert panel.get_ylim() == (1.5, -0.5)
    assert [text.get_text() for text in figure.axes[0].get_yticklabels()] == [
        "ALS, alpha 0.02\n− ALS",
        "ALS, alpha 0.2\n− ALS",
    ]
    plt.close(figure)
    assert (
        "ALS, alpha 0.02 against ALS: +20.0 on clean images, -20.0 under PGD-20 8/255"
        in report.settings_words(group)["alt"]
    )


def test_what_was_not_run_or_has_no_partner_is_named(tmp_path):
    said = report.missing([made("als", 0.5, 0.3), made("als-0.02", 0.7, 0.1), made("silu", 0.7, 0.1)])
    assert "ALS, alpha 0.2" in said and "SiLU" in said and "alpha 0.02" not in said


def test_without_an_experiment_nothing_is_shown_or_said():
    alone = [made("als", 0.5, 0.3)]
    assert report.answers(alone) == "" and report.answers([made("als-0.02", 0.7, 0.1)]) == ""
    assert rounding.comparison([]) == "" and rounding.said(alone) == ""


def test_seeds_that_only_one_of_two_has_do_not_enter_their_difference():
    records_ = [made("als", 0.5, 0.3), made("als", 0.9, 0.9, seed=1), made("als-0.02", 0.5, 0.3)]
    assert report.differences(records_, ALS[0])["clean"].value == 0


def test_a_gap_between_one_step_and_ten_is_shown(monkeypatch):
    overfit = record("adversarial", **{"corrected:fgsm-8/255": 0.6, "corrected:pgd-10-8/255": 0.0})
    shown = report.gap([overfit], ["adversarial", "advprop"])
    assert "<strong>+60.0</strong>" in shown and "30.0" in shown and "AdvProp" not in shown
    assert report.gap([], ["adversarial"]) == ""


def test_a_mode_that_changes_an_accuracy_is_found_and_one_that_does_not_is_bounded(monkeypatch):
    monkeypatch.setattr("study.presentation.markup.links", lambda runs: "")
    keys = {"adversarial-float32": 0.5, "adversarial-fast": 0.5, "adversarial": 0.8}
    same = {f"corrected:{column}": 0.2 for column in FOUR_COLUMNS}
    found = [record(key, **same | {"corrected:clean": clean}) for key, clean in keys.items()]
    said = rounding.said(found)
    assert "Training by default differs from float32 for certain in Test accuracy (1 seed)." in said
    assert "Training fast differs from float32 in no column for certain" in said
    assert rounding.comparison(found).count("minus float32") == 2
