"""The claims: their data are the paper's, their rules are the written ones, and what was not run has no verdict."""

import json
import re

import fake_records as fake
import numpy as np
import pytest

from study.evidence import estimates
from study.evidence.comparisons import STRONG
from study.evidence.estimates import Estimate
from study.findings.claims import judge, report
from study.findings.masking import judge as masking
from study.plan import catalogue


def estimate(value, low, high):
    return Estimate(value, low, high, 1000, 3)


@pytest.fixture(autouse=True)
def own_records(tmp_path, monkeypatch):
    monkeypatch.setenv("ADVLIB_RESULTS", str(tmp_path))


@pytest.fixture(scope="module")
def group():
    return [fake.record(key, protocol) for key in catalogue.rows() for protocol in catalogue.PROTOCOLS]


@pytest.fixture(autouse=True)
def unmasked(request, monkeypatch):
    """Made-up accuracies fall and rise as no honest network's do: whether one is masked is asked where it matters."""
    if "masked" not in request.node.name:

        def verdict(group, key, protocol, probes):
            fell = masking.collapsed(group, key, protocol)
            return masking.Verdict(key, protocol, masking.COLLAPSED if fell else masking.CLEAR, ())

        monkeypatch.setattr(masking, "verdict", verdict)


def test_the_numbers_that_a_sentence_prints_are_differences_of_the_papers_tables():
    for claim in judge.claims():
        differences = [round(100 * c.published, 2) for c in claim.comparisons if c.published is not None]
        for stated in claim.stated:
            assert stated in differences, claim.id
        for printed in re.findall(r"[+-]\d+\.\d+(?=%)", claim.sentence):
            assert float(printed) in claim.stated, f"{claim.id}: {printed} is in the sentence and not in `stated`"


def test_every_number_of_the_papers_abstract_is_in_a_claim():
    stated = {abs(number) for claim in judge.claims() for number in claim.stated}
    assert {1.29, 6.79, 15.19, 3.21, 1.26, 3.67, 0.56} <= stated


def test_a_claim_knows_where_the_papers_own_numbers_do_not_support_a_sentence():
    unsupported = {claim.id for claim in judge.claims() if not judge.supported_by_the_paper(claim)}
    assert unsupported == {
        "als-all-attackers",  # FGSM 0.5 fell
        "mixtures-robustness",  # ALS + SAT rose by 4.78
        "advprop-dominant",  # ALS + SAT + AdvProp fell by 6.25
        "sat-not-significant",  # 3.67 points are more than one
    }


@pytest.mark.parametrize("direction", ["same", "no more"])
@pytest.mark.parametrize(("row", "against"), [("sat", "adversarial"), ("adversarial", "sat")])
def test_the_papers_numbers_support_no_difference_where_theirs_is_within_the_margin(row, against, direction):
    asked = [{"row": row, "against": against, "columns": ["clean"]}]
    entry = {"id": "x", "title": "", "sentence": "", "where": "", "direction": direction, "comparisons": asked}
    (printed,) = (comparison.published for comparison in judge.claim(**entry).comparisons)
    for margin, within in ((abs(printed) + 1e-6, True), (abs(printed) - 1e-6, direction == "no more" and printed < 0)):
        assert judge.supported_by_the_paper(judge.claim(**entry, margin=margin)) == within


@pytest.mark.parametrize(
    ("interval", "published", "direction", "verdict"),
    [
        ((0.02, 0.01, 0.03), 0.03, "more", "reproduced"),
        ((0.01, 0.005, 0.015), 0.03, "more", "smaller"),
        ((0.07, 0.02, 0.12), 0.03, "more", "larger"),
        ((-0.07, -0.12, -0.02), -0.03, "less", "larger"),
        ((0.06, 0.02, 0.10), 0.03, "more", "reproduced"),  # twice as large, and no more
        ((0.07, 0.02, 0.12), 0.0, "more", "reproduced"),  # of no size that it could be larger than
        ((0.00, -0.01, 0.01), 0.03, "more", "not reproduced"),
        ((0.01, -0.01, 0.03), 0.03, "more", "cannot be decided"),
        ((-0.02, -0.03, -0.01), 0.03, "more", "contradicted"),
        ((-0.02, -0.03, -0.01), -0.03, "less", "reproduced"),
        ((-0.01, -0.012, -0.008), -0.03, "less", "smaller"),
        ((0.00, -0.01, 0.01), -0.03, "less", "not reproduced"),
        ((-0.01, -0.03, 0.01), -0.03, "less", "cannot be decided"),
        ((0.02, 0.01, 0.03), -0.03, "less", "contradicted"),
        ((0.00, -0.02, 0.009), 0.0, "no more", "reproduced"),
        ((0.00, -0.02, 0.02), 0.0, "no more", "cannot be decided"),
        ((0.02, 0.005, 0.035), 0.0, "no more", "cannot be decided"),  # more for certain, a point more not
        ((0.02, 0.011, 0.03), 0.0, "no more", "contradicted"),
        ((-0.05, -0.06, -0.04), 0.0, "no more", "reproduced"),
        ((0.00, -0.009, 0.009), 0.0, "same", "reproduced"),
        ((0.00, -0.011, 0.009), 0.0, "same", "cannot be decided"),
        ((-0.05, -0.06, -0.04), 0.0, "same", "contradicted"),
        ((0.02, 0.011, 0.03), 0.0, "same", "contradicted"),
        ((0.02, 0.01, 0.03), -0.01, "more", "reproduced"),  # the paper's own sign is wrong: any gain will do
        # at a border: half of the paper's difference is enough, and an interval that ends on one has not left it
        ((0.015, 0.01, 0.02), 0.03, "more", "reproduced"),
        ((0.01, 0.0, 0.015), 0.03, "more", "cannot be decided"),
        ((-0.01, -0.02, 0.0), 0.03, "more", "not reproduced"),
        ((0.00, -0.01, 0.009), 0.0, "same", "cannot be decided"),
        ((0.00, -0.009, 0.01), 0.0, "same", "cannot be decided"),
        ((0.02, 0.01, 0.03), 0.0, "same", "cannot be decided"),
        ((-0.02, -0.03, -0.01), 0.0, "same", "cannot be decided"),
    ],
)
def test_a_verdict_follows_the_written_rules(interval, published, direction, verdict):
    assert judge.verdict(estimate(*interval), published, direction) == verdict


@pytest.mark.parametrize("direction", judge.DIRECTIONS)
def test_verdict_and_p_value_never_disagree(direction):
    """All differences of two made-up networks: a verdict is certain exactly where the p value beside it is small."""
    certain = {"reproduced", "larger", "smaller", "contradicted"}
    for gain in np.linspace(-0.08, 0.08, 33):
        a, b = (np.random.default_rng(1).random((1, 3000)) < 0.6 + shift for shift in (gain, 0.0))
        found = estimates.difference(a, b, 0.95, estimates.Spread(0.02, 6))
        settled = judge.verdict(found, 0.05, direction) in certain
        assert settled == (judge.p_value(found, direction) < 0.05), gain


def test_a_p_value_stands_beside_every_comparison_that_says_something_and_is_small_where_the_verdict_is_certain(group):
    for finding in (finding for ruling in judge.Evidence([group]).rulings for finding in ruling.findings):
        if finding.verdict in (judge.NO_ROOM, judge.SILENT, judge.NOT_RUN):
            assert finding.p is None
        else:
            assert (finding.p < 0.05) == (finding.verdict in ("reproduced", "larger", "smaller", "contradicted"))


def in_trial(rulings, id, trial="corrected"):
    return next(ruling for ruling in rulings if (ruling.claim.id, ruling.trial) == (id, trial))


def test_two_networks_that_do_no_better_than_guessing_are_not_compared():
    """One class for every image is right of a tenth of them, and no robustness."""
    pairs = {"als": (0.08, 0.4), "traditional": (0.0, 0.1)}
    group = [
        fake.record(key, **{"corrected:clean": 0.9, "corrected:pgd-0.5": strong, "corrected:pgd-0.1": weak})
        for key, (strong, weak) in pairs.items()
    ]
    rulings = judge.Evidence([group]).rulings
    assert in_trial(rulings, "als-robustness").verdict == "no room"
    by_column = {f.comparison.column: f.verdict for f in in_trial(rulings, "als-all-attackers").findings}
    assert by_column["pgd-0.5"] == "no room" and by_column["pgd-0.1"] == "larger"


def test_an_image_that_is_wrong_without_an_attack_does_not_survive_one():
    """Right of 30 % without an attack, and of 60 % under it: 30 % survive."""
    als = fake.record("als", **{"corrected:clean": 0.31, "corrected:pgd-0.5": 0.6})
    plain = fake.record("traditional", **{"corrected:clean": 0.9, "corrected:pgd-0.5": 0.25})
    (finding,) = in_trial(judge.Evidence([[als, plain]]).rulings, "als-robustness").findings
    assert finding.estimate.value == pytest.approx(0.31 - 0.25)


@pytest.mark.parametrize("clean", [0.12, 0.9])
def test_a_network_that_has_collapsed_judges_nothing(clean):
    levels = {"corrected:clean": clean, "corrected:pgd-0.5": 0.1, "corrected:fgsm-0.5": 0.1}
    group = [fake.record("sat-large-eps", **levels), fake.record("sat"), fake.record("adversarial")]
    group.append(fake.record("adversarial-large-eps"))
    findings = in_trial(judge.Evidence([group]).rulings, "large-eps-strongest").findings
    assert (findings[0].verdict == judge.SILENT) == (clean < 0.3)


def test_a_network_whose_gradient_is_masked_says_nothing_under_attack_and_something_without():
    """More accurate under the larger attack, by far: the rules of masking say so, and the claims ask them."""
    masked = {"corrected:pgd-10-8/255": 0.2, "corrected:pgd-10-16/255": 0.8, "corrected:clean": 0.9}
    group = [fake.record("als", **masked), fake.record("traditional")]
    assert masking.verdict(group, "als", "corrected", {}).verdict == masking.MASKED
    rulings = judge.Evidence([group]).rulings
    assert in_trial(rulings, "als-robustness").verdict == judge.SILENT
    assert in_trial(rulings, "als-accuracy").verdict != judge.SILENT


def test_a_claim_is_judged_by_the_largest_size_at_which_all_its_rows_were_run():
    small = [fake.record(key, budget="lite") for key in catalogue.rows()]
    large = [fake.record(key, budget="ladder-10") for key in ("advprop", "traditional")]
    rulings = judge.Evidence([large, small]).rulings
    assert in_trial(rulings, "advprop-accuracy").group == large
    assert in_trial(rulings, "als-accuracy").group == small
    of_four_pairs = in_trial(rulings, "separate-norms-accuracy")
    assert of_four_pairs.group == small and len(of_four_pairs.findings) == 4, "one of its pairs is there at both sizes"
    assert [group for group, _ in in_trial(rulings, "advprop-accuracy").by_size] == [large, small]
    assert [group for group, _ in in_trial(rulings, "als-accuracy").by_size] == [small]


@pytest.mark.parametrize("others", [[], [{"row": "als", "against": "traditional", "columns": ["clean"]}]])
def test_a_claim_with_an_experiment_that_the_paper_lacks_is_judged_under_the_corrected_protocol_alone(
    others, monkeypatch
):
    asked = [{"row": "als", "against": "label-smoothing", "columns": ["clean"]}, *others]
    entry = {"id": "x", "title": "", "sentence": "", "where": "", "direction": "more", "comparisons": asked}
    monkeypatch.setattr(judge, "claims", lambda: (judge.claim(**entry),))
    rulings = judge.Evidence([[fake.record(key) for key in ("als", "label-smoothing", "traditional")]]).rulings
    assert in_trial(rulings, "x", "published").verdict == judge.NOT_ASKED
    assert in_trial(rulings, "x").verdict not in (judge.NOT_RUN, judge.NOT_ASKED)


def test_accuracy_is_set_against_a_guess():
    rows = {key: fake.record(key, **{"corrected:clean": 0.9, "corrected:pgd-0.5": 0.3}) for key in catalogue.rows()}
    findings = in_trial(judge.Evidence([list(rows.values())]).rulings, "above-a-guess").findings
    assert [round(finding.estimate.value, 6) for finding in findings] == [0.2] * 3
    assert {finding.verdict for finding in findings} == {"reproduced"}


@pytest.mark.parametrize(
    ("verdicts", "verdict"),
    [
        (["reproduced", "larger", "smaller"], "smaller"),
        (["reproduced", "larger"], "larger"),
        (["reproduced", "cannot be decided", "contradicted", "not reproduced"], "contradicted"),
        (["no room", "no room"], "no room"),
        (["reproduced", "no room"], "reproduced"),
        (["no room", "no evidence"], "no evidence"),
        (["no room", "not reproduced"], "not reproduced"),
        (["contradicted", "not run"], "not run"),
    ],
)
def test_a_claim_is_as_good_as_its_worst_comparison(verdicts, verdict):
    assert judge.overall(verdicts) == verdict
    assert judge.overall(verdicts[::-1]) == verdict


def test_a_claim_cites_the_runs_that_its_estimate_rests_on_and_no_others(tmp_path):
    group = [fake.record("advprop", "published", seed=seed) for seed in (0, 1)]
    group += [fake.record("traditional", "published", seed=seed) for seed in (1, 2)]
    for record in group:
        fake.put(record, tmp_path)
    rulings = judge.Evidence([group]).rulings
    (plain,) = next(e for e in report.as_json(rulings) if e["id"] == "advprop-accuracy")["comparisons"]
    assert plain["seeds"] == 1
    assert plain["records"] == [record.where for record in group if record.seed == 1]
    section = report.details(rulings).split('id="claim-advprop-accuracy"')[1].split("</section>")[0]
    assert "traditional/seed1/run.html" in section and "seed0" not in section and "seed2" not in section


def test_a_claim_is_not_judged_while_a_comparison_was_not_run(group, tmp_path):
    part = [record for record in group if record.key in ("advprop", "traditional")]
    for record in part:
        fake.put(record, tmp_path)
    for ruling in judge.Evidence([part]).rulings:
        verdicts = {finding.verdict for finding in ruling.findings}
        assert (judge.NOT_RUN in verdicts) <= (ruling.verdict == judge.NOT_RUN), ruling.claim.id
    assert {r.verdict for r in judge.Evidence([part]).rulings if r.claim.id == "separate-norms-accuracy"} <= {
        "not run",
        "not asked",
    }
    lines = report.details(judge.Evidence([part]).rulings).split("<tr>")
    sizes = {f">{part[0].budget}<" in line for line in lines if judge.NOT_RUN in line}
    assert sizes == {False}, "no size is named beside what was not run"


def test_a_sentence_of_ours_is_not_shown_as_a_quotation(group, tmp_path):
    for record in group:
        fake.put(record, tmp_path)
    sections = report.details(judge.Evidence([group]).rulings).split('<section class="claim"')[1:]
    for claim, section in zip(judge.claims(), sections, strict=True):
        assert ("<blockquote>" in section) == claim.quoted
    assert [claim.id for claim in judge.claims() if not claim.quoted] == ["pgd-above-fgsm"]


def test_a_gain_in_every_column_reproduces_a_claim_of_more_robustness():
    columns = [column for column in catalogue.COLUMNS if column != "clean"]
    group = [
        fake.record("advprop", "published", **{f"published:{c}": 0.4 for c in columns}),
        fake.record("traditional", "published", **{f"published:{c}": 0.3 for c in columns}),
    ]
    verdicts = {
        ruling.claim.id: ruling.verdict for ruling in judge.Evidence([group]).rulings if ruling.trial == "published"
    }
    assert verdicts["advprop-robustness"] == "reproduced"
    assert verdicts["advprop-less-robust"] == "not run"


def test_more_comparisons_ask_for_wider_intervals():
    group = [fake.record(key, "published") for key in ("advprop", "traditional")]
    by_claim = {ruling.claim.id: ruling for ruling in judge.Evidence([group]).rulings if ruling.trial == "published"}
    (alone,) = by_claim["advprop-accuracy"].findings
    among_four = by_claim["separate-norms-accuracy"].findings[0]
    assert alone.estimate.value == among_four.estimate.value
    assert among_four.estimate.low < alone.estimate.low and alone.estimate.high < among_four.estimate.high


def test_a_stronger_attack_is_asked_about_robustness_only(group):
    for ruling in judge.Evidence([group]).rulings:
        if ruling.trial != "stronger attack":
            continue
        columns = {comparison.column for comparison in ruling.claim.comparisons}
        against_rows = {c.against for c in ruling.claim.comparisons} - {judge.GUESSING}
        if columns == {"clean"} or ruling.claim.weak or not against_rows:
            assert ruling.verdict == judge.NOT_ASKED
        for finding in ruling.findings:
            assert finding.a[2] == finding.b[2] == f"corrected:{STRONG}"


def test_a_ruling_of_no_runs_judges_nothing():
    verdicts = {ruling.verdict for ruling in judge.Evidence([]).rulings}
    assert verdicts == {judge.NOT_RUN, judge.NOT_ASKED}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"comparisons": [{"row": "advprob", "columns": ["clean"]}]}, "unknown row 'advprob'"),
        ({"comparisons": [{"row": "sat", "against": "als", "columns": ["pgd"]}]}, "unknown column 'pgd'"),
        ({"comparisons": [{"row": "sat", "columns": ["clean"]}]}, "compares sat with itself"),
        ({"direction": "better"}, "unknown direction 'better'"),
    ],
)
def test_a_claim_about_what_does_not_exist_is_refused(change, message):
    good = {"id": "x", "title": "", "sentence": "", "where": "", "direction": "more"}
    good["comparisons"] = [{"row": "sat", "against": "adversarial", "columns": ["clean"]}]
    with pytest.raises(ValueError, match=message):
        judge.claim(**good | change)


def test_what_an_update_costs_is_counted_in_passes():
    """Algorithm 1 with two steps of PGD: two passes each way for the attack, two for the halves; plain training one."""
    cells = re.findall(r"<td>(\d+)</td>", report.counted())
    assert cells == ["2", "2", "8", "2"] and report.counted().count("✓ reproduced") == 2


def test_the_summary_counts_every_sentence_of_the_paper_that_a_trial_asks(group):
    rulings = judge.Evidence([group]).rulings
    for line, trial in zip(report.summary(rulings).splitlines(), judge.TRIALS, strict=True):
        quoted = [r for r in rulings if r.trial == trial and r.claim.quoted]
        asked = [r.verdict for r in quoted if r.verdict != judge.NOT_ASKED]
        total, *counts = map(int, re.findall(r"\d+", line))
        assert total == sum(counts) == len(asked)
        for verdict in set(asked):
            assert f"{asked.count(verdict)} {verdict}" in line


def test_page_terminal_and_json_tell_the_same(group, tmp_path):
    for record in group:
        fake.put(record, tmp_path)
    rulings = judge.Evidence([group]).rulings
    page = report.details(rulings)
    text, plain = report.text(rulings), json.loads(json.dumps(report.as_json(rulings)))
    assert len(plain) == 3 * len(judge.claims())
    for entry in plain:
        if entry["trial"] == "stronger attack":
            assert all(c["column"] == STRONG and "paper" not in c for c in entry["comparisons"])
    for entry in plain:
        for comparison in (one for one in entry["comparisons"] if one["verdict"] != judge.NOT_RUN):
            value = f"{comparison['value']:+.1f}"
            assert value in text and value in page
            for where in comparison["records"]:
                assert f'href="../results/{where}/run.html"' in page


def test_comparisons_that_say_nothing_share_a_line_and_all_others_have_their_own(tmp_path):
    """Networks right of a tenth under every attack but one: three comparisons of four have no room."""
    levels = {"adversarial": 0.6, "traditional": 0.2}
    attacked = dict.fromkeys((f"corrected:{c}" for c in catalogue.COLUMNS if c not in ("clean", "pgd-0.1")), 0.05)
    group = [
        fake.record(key, **{"corrected:clean": 0.9, "corrected:pgd-0.1": level} | attacked)
        for key, level in levels.items()
    ]
    for record in group:
        fake.put(record, tmp_path)
    (section,) = [
        section
        for section in report.details(judge.Evidence([group]).rulings).split('<section class="claim"')
        if 'id="claim-adversarial-robustness"' in section
    ]
    lines = re.findall(r"<tr>.*?</tr>", section.partition("<tbody")[2], re.DOTALL)
    corrected = [line for line in lines if "<td>corrected<" in line]
    assert len(corrected) == 2 and "PGD 0.1" in corrected[0] and "3 more comparisons" in corrected[1]
    assert "no room" in corrected[1] and "no room" not in corrected[0]
