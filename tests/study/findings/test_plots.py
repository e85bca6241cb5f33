"""Figures show the records' numbers, say them in words as well, and leave the reader's settings alone."""

import dataclasses
import re
from functools import partial
from itertools import pairwise, product

import fake_records as fake
import matplotlib.pyplot as plt
import numpy as np
import pytest

from study.drawings import diagrams
from study.evidence import comparisons
from study.evidence.comparisons import STRONG
from study.findings.claims import judge, report
from study.findings.dissection.judge import path
from study.findings.dissection.report import waterfall, waterfall_words
from study.findings.numbers import mixtures, results, robustness, training
from study.plan import catalogue
from study.presentation.page import show


@pytest.fixture(autouse=True)
def no_figure_stays_open():
    yield
    plt.close("all")


@pytest.fixture(scope="module")
def group():
    found = [fake.record(key, protocol) for key in catalogue.rows() for protocol in catalogue.PROTOCOLS]
    return found + [
        fake.record(key, protocol)
        for key in catalogue.DISSECTED
        for protocol in catalogue.rows()[key].dissection()[1:-1]
    ]


def test_the_tradeoff_has_the_papers_points_and_ours(group):
    paper, published, corrected = results.tradeoff(group, "fgsm-0.1").axes
    rows = [row for row in catalogue.rows().values() if row.paper_table == 1]
    assert len(paper.lines) == len(published.containers) == len(corrected.containers) == len(rows)
    assert published.get_xlim() == corrected.get_xlim() != paper.get_xlim(), "like is compared with like"
    assert len(results.tradeoff(group).axes) == 2, "the paper has no such attack"
    assert paper.lines[2].get_xydata()[0] == pytest.approx([rows[2].published["fgsm-0.1"], rows[2].published["clean"]])
    x, y = corrected.containers[2].lines[0].get_xydata()[0]
    record = next(r for r in group if (r.key, r.protocol) == ("advprop", "corrected"))
    assert (x, y) == pytest.approx([100 * record.measurement(f"corrected:{c}").accuracy for c in ("fgsm-0.1", "clean")])


def test_a_figure_of_no_record_is_refused():
    with pytest.raises(ValueError, match="no record to draw"):
        results.tradeoff([])
    with pytest.raises(ValueError, match="the factorial needs"):
        mixtures.factorial([fake.record()])
    with pytest.raises(ValueError, match="has a gap for advprop"):
        waterfall([fake.record(), fake.record(protocol="published")], "advprop", "clean")


def test_a_waterfall_leads_from_one_protocol_to_the_other(group):
    """Ends and steps are over the same images, so the bars add up, though some rules saw half of the images only."""
    panel = waterfall(group, "advprop", "clean").axes[0]
    first, *steps, last = [bar.get_width() for bar in panel.patches]
    assert first + sum(steps) == pytest.approx(last)
    for end, protocol in ((first, "published"), (last, "corrected")):
        run = next(r for r in group if (r.key, r.protocol) == ("advprop", protocol))
        assert end == pytest.approx(100 * run.measurement(f"{protocol}:clean").mask[: fake.SWEEP].mean())
    assert f"the same {fake.SWEEP} images" in waterfall_words(group, "advprop", "clean")["caption"]


def test_a_waterfall_is_over_the_seeds_that_every_step_has(group):
    more = [*group, fake.record("advprop", "published", seed=1, **{"published:clean": 0.1})]
    panels = [waterfall(g, "advprop", "clean").axes[0] for g in (group, more)]
    widths = [[bar.get_width() for bar in panel.patches] for panel in panels]
    assert widths[0] == widths[1]


def test_a_curve_against_eps_starts_on_the_images_that_it_goes_on_with():
    """The first half of the images is easier than the second: the point of no attack must be that of the first half."""
    record = fake.record("traditional", **{"corrected:clean": 0.5})
    panel = robustness.against_eps([record]).axes[0]
    assert [line.get_ydata()[0] for line in panel.lines] == [100, 100, 100]  # right on the first 100 of 200


def test_the_dots_of_a_network_with_two_branches_are_over_the_same_images():
    record = fake.record("advprop", **{"corrected:clean": 0.5, f"corrected:{STRONG}": 0.4})
    clean, itself, _ = robustness.by_branch([record]).axes
    assert clean.containers[0].lines[0].get_xdata()[0] == 100
    assert itself.containers[0].lines[0].get_xdata()[0] == 80


def test_the_way_from_published_to_corrected_moves_every_switch_once():
    for key in catalogue.DISSECTED:
        steps = path(key, "clean")
        assert len(steps) == 2 + len(catalogue.rows()[key].switches())
        assert steps[0].before[1:] == ("published", "published:clean")
        assert steps[-1].after[1:] == ("corrected", "corrected:clean")
        for before, after in pairwise(steps):
            assert before.after == after.before


def test_every_comparison_of_the_claims_is_drawn(group):
    panels = report.forest(judge.Evidence([group]).rulings).axes
    compared = {comparison for claim in judge.claims() for comparison in claim.comparisons}
    for panel, column in zip(panels, catalogue.COLUMNS, strict=True):
        drawn = sorted(line.get_xdata()[0] for line in panel.lines if line.get_marker() == "D")
        of_column = [comparison for comparison in compared if comparison.column == column]
        printed = [100 * comparison.published for comparison in of_column if comparison.published is not None]
        assert drawn == pytest.approx(sorted(printed))
        assert len(panel.containers) == 2 * len(printed)  # what is not of the paper was not run here


def test_a_comparison_that_several_claims_rest_on_is_drawn_with_the_widest_interval(group):
    """ALS against Traditional under PGD 0.5 is a claim alone, and one of four comparisons of another."""
    panels = report.forest(judge.Evidence([group]).rulings).axes
    position = [text.get_text() for text in panels[0].get_yticklabels()].index("ALS − Traditional")
    drawn = [
        tuple(bars.get_segments()[0][:, 0])
        for container in panels[-1].containers
        for bars in container.lines[2]
        if round(container.lines[0].get_ydata()[0]) == position
    ]
    by_claim = {r.claim.id: r for r in judge.Evidence([group]).rulings if r.trial == "published"}
    alone, (*_, among_four) = (by_claim[id].findings for id in ("als-robustness", "als-all-attackers"))
    assert among_four.estimate.low < alone[0].estimate.low
    assert drawn[0] == pytest.approx((100 * among_four.estimate.low, 100 * among_four.estimate.high))


def test_accuracy_by_class_is_the_mean_of_the_masks_of_that_class():
    record = fake.record("traditional", **{"corrected:clean": 0.5})
    labels = np.arange(fake.IMAGES) % len(fake.CLASSES)
    labels[:10] = 0  # of the 100 images that are right, class 0 has more than its share
    panel = robustness.per_class([record], labels).axes[0]
    shown = [float(text.get_text()) for text in panel.texts]
    mask = record.measurement("corrected:clean").mask
    assert shown == [round(100 * mask[labels == k].mean()) for k in range(len(fake.CLASSES))]


def test_of_a_hundred_classes_the_hardest_and_the_easiest_are_drawn():
    record = fake.record("traditional", **{"corrected:clean": 0.5})  # of 200 images the first half is right
    record = dataclasses.replace(record, data=record.data | {"classes": [f"class {k}" for k in range(100)]})
    labels = np.arange(fake.IMAGES) // 2  # so the first 50 classes are always right, and the others never
    labels[-2:] = 0  # nothing is left of class 99: it is neither hard nor easy
    panels = robustness.per_class([record], labels).axes
    for panel in panels:
        names = [tick.get_text() for tick in panel.get_xticklabels()]
        assert len(set(names)) == len(names) == robustness.READABLE and "class 99" not in names
    classes = [int(tick.get_text().split()[1]) for tick in panels[0].get_xticklabels()]
    assert min(classes[:10]) >= 50 and max(classes[10:]) < 50
    assert [float(text.get_text()) for text in panels[0].texts] == [0] * 10 + [100] * 10
    assert "Of 100 classes the 10 hardest and the 10 easiest" in robustness.per_class_words([record])["caption"]


def test_what_a_figure_says_in_words_has_the_records_numbers(group):
    accuracy = 100 * comparisons.accuracy(group, "sat", "corrected", "clean").value
    words = results.tradeoff_words(group)
    assert f"SAT {accuracy:.1f} % clean" in words["alt"] and "Small setting" in words["caption"]


def at_two_sizes(group):
    """The rulings by ``group``, and by two rows of it at a larger size."""
    larger = [fake.record(key, budget="ladder-10") for key in ("advprop", "traditional")]
    return judge.Evidence([larger, group]).rulings


def test_a_difference_is_drawn_at_each_size_from_the_smallest_to_the_largest(group, monkeypatch):
    monkeypatch.setattr(judge.Evidence, "silent", lambda *_: None)
    rulings = at_two_sizes(group)
    moving = {r.claim.id: r for r in rulings if r.trial == "corrected" and len(r.by_size) == 2}
    panels = report.by_size(rulings).axes
    assert set(moving) == {"advprop-accuracy", "advprop-robustness"} and len(panels) == 2
    for panel, ruling in zip(panels, moving.values(), strict=True):
        names = [report._name(finding.comparison) for finding in ruling.findings]
        k = names.index(panel.get_title(loc="left") or panel.get_title())
        drawn = [container.lines[0].get_ydata()[0] for container in panel.containers]
        assert drawn == pytest.approx([100 * findings[k].estimate.value for _, findings in ruling.by_size[::-1]])
        assert [label.get_text() for label in panel.get_xticklabels()] == ["lite", "ladder-10"]


def test_what_is_drawn_of_a_claim_says_something_under_as_many_protocols_as_can_be(monkeypatch):
    """By the text neither network is better than guessing under FGSM 0.1, so PGD 0.1 is what both can show."""
    monkeypatch.setattr(judge.Evidence, "silent", lambda *_: None)
    weak = {"corrected:fgsm-0.1": 0.05, "corrected:pgd-0.1": 0.5, "published:fgsm-0.1": 0.5, "published:pgd-0.1": 0.5}
    group = [
        fake.record(key, protocol, budget=budget, **weak)
        for key, protocol, budget in product(("adversarial", "traditional"), catalogue.PROTOCOLS, ("lite", "ladder-10"))
    ]
    by_budget = [[r for r in group if r.budget == budget] for budget in ("ladder-10", "lite")]
    said = report.by_size_words(judge.Evidence(by_budget).rulings)["alt"]
    assert "Adversarial − Traditional, PGD 0.1, published" in said and "PGD 0.1, corrected" in said
    assert "FGSM 0.1" not in said
    assert report.by_size(judge.Evidence([group]).rulings) is None


LABELS = np.arange(fake.IMAGES) % len(fake.CLASSES)
DRAWN = {  # figure -> how it is drawn from the records, and its words
    "tradeoff": (results.tradeoff, results.tradeoff_words),
    "learning": (training.learning, training.learning_words),
    "against_eps": (robustness.against_eps, robustness.against_eps_words),
    "against_steps": (robustness.against_steps, robustness.against_steps_words),
    "by_branch": (robustness.by_branch, robustness.by_branch_words),
    "per_class": (lambda group: robustness.per_class(group, LABELS), robustness.per_class_words),
    "factorial": (mixtures.factorial, mixtures.factorial_words),
    "waterfall": tuple(partial(f, key="adversarial", column="clean") for f in (waterfall, waterfall_words)),
    "by size": (
        lambda group: report.by_size(at_two_sizes(group)),
        lambda group: report.by_size_words(at_two_sizes(group)),
    ),
    "forest": (
        lambda group: report.forest(judge.Evidence([group]).rulings),
        lambda group: report.forest_words(judge.Evidence([group]).rulings),
    ),
}


@pytest.mark.parametrize("name", DRAWN)
def test_every_figure_can_be_shown_and_is_described(group, name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    draw, words = DRAWN[name]
    html = show(draw(group), name, **words(group))
    assert (tmp_path / f"book/static/figures/{name}.svg").stat().st_size > 1000
    alt = re.search('alt="([^"]*)"', html).group(1)
    assert len(alt.split()) > 8 and "nan" not in alt
    assert not plt.get_fignums(), "a figure that was shown is closed"


def test_a_phone_gets_a_tall_figure_of_the_same_points_with_labels_of_nine_pixels_and_a_key_that_fits(
    group, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    wide, tall = (results.tradeoff(group, "fgsm-0.1", tall=tall) for tall in (False, True))
    for beside, below in zip(wide.axes, tall.axes, strict=True):
        points = [[line.get_xydata().tolist() for line in panel.lines] for panel in (beside, below)]
        assert points[0] == points[1]
    tall.canvas.draw()
    phone = 390 - 2 * 24  # what a page leaves of a phone's width, in pixels
    texts = [text for panel in tall.axes for text in (panel.xaxis.label, panel.title, *panel.get_xticklabels())]
    texts += tall.legends[0].get_texts()
    assert min(text.get_fontsize() for text in texts) * phone / (72 * tall.get_size_inches()[0]) >= 9
    key = tall.legends[0].get_window_extent()
    assert key.x0 >= 0 and key.x1 <= tall.bbox.x1
    html = show(wide, "cover", tall=tall, **results.tradeoff_words(group, "fgsm-0.1"))
    of_a_phone, of_all = re.search("<picture><source ([^>]*)/><img ([^>]*)/>", html).groups()
    assert 'srcset="_static/figures/cover-tall.svg"' in of_a_phone and 'src="_static/figures/cover.svg"' in of_all
    assert (tmp_path / "book/static/figures/cover-tall.svg").is_file() and not plt.get_fignums()


def test_the_same_records_give_the_same_file(group, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    files = []
    for _ in range(2):
        show(robustness.against_steps(group), "steps", caption="", alt="")
        files.append((tmp_path / "book/static/figures/steps.svg").read_bytes())
    assert files[0] == files[1]


def test_drawing_leaves_the_readers_settings_alone():
    before = dict(plt.rcParams)
    diagrams.surrogate_gradient()
    diagrams.attack_paths()
    robustness.against_steps([fake.record("advprop")])
    assert dict(plt.rcParams) == before


def test_the_slopes_drawn_are_the_derivatives_of_the_values_drawn():
    value, slope = diagrams.surrogate_gradient().axes
    for curve, derivative in zip(value.lines[1:], slope.lines[1:], strict=True):
        z, g = curve.get_data()
        np.testing.assert_allclose(np.gradient(g, z)[1:-1], derivative.get_ydata()[1:-1], atol=1e-3)


def test_the_factorials_answer_names_the_effects_that_are_told_from_none_and_no_others():
    def answer(with_advprop: float, without: float) -> str:
        group = []
        for (advprop, _, sat), key in catalogue.factorial().items():
            levels = {"corrected:clean": with_advprop if advprop else without, f"corrected:{STRONG}": 0.3}
            group.append(fake.record(key, **levels | ({f"corrected:{STRONG}:surrogate": 0.3} if sat else {})))
        return mixtures.answer(group)

    said = answer(0.9, 0.5)
    assert "1 of 14 effects" in said and "AdvProp +40.0 (" in said and "points on clean images" in said
    assert "ALS" not in said and "SAT" not in said and "No interaction does" in said
    assert "none of 14 effects" in answer(0.5, 0.5)
    assert mixtures.answer([fake.record()]) == ""
