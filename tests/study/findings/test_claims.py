"""The claims: their data are the paper's, their rules are the written ones, and what was not run has no verdict."""

import json
import re

import fake_records as fake
import pytest

from study.evidence.comparisons import STRONG
from study.evidence.estimates import Estimate
from study.findings.claims import judge, report
from study.plan import catalogue


def estimate(value, low, high):
    return Estimate(value, low, high, 1000, 3)


@pytest.fixture(scope="module")
def group():
    return [fake.record(key, protocol) for key in catalogue.rows() for protocol in catalogue.PROTOCOLS]


def test_the_numbers_that_a_sentence_prints_are_differences_of_the_papers_tables():
    for claim in judge.claims():
        differences = [round(100 * comparison.published, 2) for comparison in claim.comparisons]
        for stated in claim.stated:
            assert stated in differences, claim.id
        for printed in re.findall(r"[+-]\d+\.\d+(?=%)", claim.sentence):
            assert float(printed) in claim.stated, f"{claim.id}: {printed} is in the sentence and not in `stated`"


def test_every_number_of_the_papers_abstract_is_in_a_claim():
    stated = {abs(number) for claim in judge.claims() for number in claim.stated}
    assert {1.29, 6.79, 15.19, 3.21, 1.26, 3.67, 0.56} <= stated


def test_a_claim_knows_where_the_papers_own_numbers_do_not_support_a_sentence():
    unsupported = {claim.id for claim in judge.claims() if not judge.supported_by_the_paper(claim)}
    assert unsupported == {"als-all-attackers", "mixtures-robustness"}  # FGSM 0.5 fell; ALS + SAT rose by 4.78


@pytest.mark.parametrize(
    ("interval", "published", "direction", "verdict"),
    [
        ((0.02, 0.01, 0.03), 0.03, "more", "reproduced"),
        ((0.01, 0.005, 0.015), 0.03, "more", "smaller"),
        ((0.00, -0.01, 0.01), 0.03, "more", "not reproduced"),
        ((0.01, -0.01, 0.03), 0.03, "more", "undecided"),
        ((-0.02, -0.03, -0.01), 0.03, "more", "contradicted"),
        ((-0.02, -0.03, -0.01), -0.03, "less", "reproduced"),
        ((-0.01, -0.012, -0.008), -0.03, "less", "smaller"),
        ((0.00, -0.01, 0.01), -0.03, "less", "not reproduced"),
        ((-0.01, -0.03, 0.01), -0.03, "less", "undecided"),
        ((0.02, 0.01, 0.03), -0.03, "less", "contradicted"),
        ((0.00, -0.02, 0.009), 0.0, "no more", "reproduced"),
        ((0.00, -0.02, 0.02), 0.0, "no more", "undecided"),
        ((0.02, 0.01, 0.03), 0.0, "no more", "contradicted"),
        ((0.02, 0.01, 0.03), -0.01, "more", "reproduced"),  # the paper's own sign is wrong: any gain will do
    ],
)
def test_a_verdict_follows_the_written_rules(interval, published, direction, verdict):
    assert judge.verdict(estimate(*interval), published, direction) == verdict


@pytest.mark.parametrize("direction", judge.SIGN)
@pytest.mark.parametrize("interval", [(0.005, 0.001, 0.009), (0.0, -0.003, 0.003), (-0.005, -0.009, -0.001)])
def test_where_an_attack_leaves_next_to_nothing_to_either_network_there_is_no_room_for_a_verdict(interval, direction):
    assert judge.verdict(estimate(*interval), 0.03, direction, higher=0.009) == "no room"
    assert judge.verdict(estimate(*interval), 0.03, direction, higher=0.010) != "no room"


def test_two_networks_that_lost_every_image_are_not_compared():
    group = [
        fake.record(key, "corrected", **{"corrected:pgd-0.5": accuracy})
        for key, accuracy in {"als": 0.005, "traditional": 0.0}.items()
    ]
    found = {r.claim.id: r for r in judge.rulings(group) if r.trial == "corrected"}
    assert found["als-robustness"].verdict == "no room"
    assert [f.verdict for f in found["als-all-attackers"].findings].count("no room") == 1
    assert found["als-all-attackers"].verdict != "no room"


@pytest.mark.parametrize(
    ("verdicts", "verdict"),
    [
        (["reproduced", "smaller"], "smaller"),
        (["reproduced", "undecided", "contradicted", "not reproduced"], "contradicted"),
        (["no room", "no room"], "no room"),
        (["reproduced", "no room"], "undecided"),
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
    rulings = judge.rulings(group)
    (plain,) = next(e for e in report.as_json(rulings, group) if e["id"] == "advprop-accuracy")["comparisons"]
    assert plain["seeds"] == 1
    assert plain["records"] == [record.where for record in group if record.seed == 1]
    section = (
        report.details(rulings, group, root=tmp_path).split('id="claim-advprop-accuracy"')[1].split("</section>")[0]
    )
    assert "traditional/seed1/run.html" in section and "seed0" not in section and "seed2" not in section


def test_a_claim_is_not_judged_while_a_comparison_was_not_run(group):
    part = [record for record in group if record.key in ("advprop", "traditional")]
    for ruling in judge.rulings(part):
        verdicts = {finding.verdict for finding in ruling.findings}
        assert (judge.NOT_RUN in verdicts) <= (ruling.verdict == judge.NOT_RUN), ruling.claim.id
    assert {r.verdict for r in judge.rulings(part) if r.claim.id == "separate-norms-accuracy"} <= {
        "not run",
        "not asked",
    }


def test_a_sentence_of_ours_is_not_shown_as_a_quotation(group, tmp_path):
    for record in group:
        fake.put(record, tmp_path)
    sections = report.details(judge.rulings(group), group, root=tmp_path).split('<section class="claim"')[1:]
    for claim, section in zip(judge.claims(), sections, strict=True):
        assert ("<blockquote>" in section) == claim.quoted
    assert [claim.id for claim in judge.claims() if not claim.quoted] == ["pgd-above-fgsm"]


def test_a_gain_in_every_column_reproduces_a_claim_of_more_robustness():
    columns = [column for column in catalogue.COLUMNS if column != "clean"]
    group = [
        fake.record("advprop", "published", **{f"published:{c}": 0.6 for c in columns}),
        fake.record("traditional", "published", **{f"published:{c}": 0.3 for c in columns}),
    ]
    verdicts = {ruling.claim.id: ruling.verdict for ruling in judge.rulings(group) if ruling.trial == "published"}
    assert verdicts["advprop-robustness"] == "reproduced"
    assert verdicts["advprop-less-robust"] == "not run"


def test_more_comparisons_ask_for_wider_intervals():
    group = [fake.record(key, "published") for key in ("advprop", "traditional")]
    by_claim = {ruling.claim.id: ruling for ruling in judge.rulings(group) if ruling.trial == "published"}
    (alone,) = by_claim["advprop-accuracy"].findings
    among_four = by_claim["separate-norms-accuracy"].findings[0]
    assert alone.estimate.value == among_four.estimate.value
    assert among_four.estimate.low < alone.estimate.low and alone.estimate.high < among_four.estimate.high


def test_a_stronger_attack_is_asked_about_robustness_only(group):
    for ruling in judge.rulings(group):
        if ruling.trial != "stronger attack":
            continue
        columns = {comparison.column for comparison in ruling.claim.comparisons}
        if columns == {"clean"} or ruling.claim.weak:
            assert ruling.verdict == judge.NOT_ASKED
        for finding in ruling.findings:
            assert finding.a[2] == finding.b[2] == f"corrected:{STRONG}"


def test_a_ruling_of_no_runs_judges_nothing():
    verdicts = {ruling.verdict for ruling in judge.rulings([])}
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


def test_the_summary_counts_every_claim_that_a_trial_asks(group):
    rulings = judge.rulings(group)
    for line, trial in zip(report.summary(rulings).splitlines(), judge.TRIALS, strict=True):
        asked = [r.verdict for r in rulings if r.trial == trial and r.verdict != judge.NOT_ASKED]
        total, *counts = map(int, re.findall(r"\d+", line))
        assert total == sum(counts) == len(asked)
        for verdict in set(asked):
            assert f"{asked.count(verdict)} {verdict}" in line


def test_page_terminal_and_json_tell_the_same(group, tmp_path):
    for record in group:
        fake.put(record, tmp_path)
    rulings = judge.rulings(group)
    page = report.details(rulings, group, root=tmp_path)
    text, plain = report.text(rulings), json.loads(json.dumps(report.as_json(rulings, group)))
    assert len(plain) == 3 * len(judge.claims())
    for entry in plain:
        if entry["trial"] == "stronger attack":
            assert all(c["column"] == STRONG and "paper" not in c for c in entry["comparisons"])
    for entry in plain:
        for comparison in entry["comparisons"]:
            value = f"{comparison['value']:+.1f}"
            assert value in text and value in page
            for where in comparison["records"]:
                assert f'href="../results/{where}/run.html"' in page
