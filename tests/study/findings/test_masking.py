"""Verdicts on masking: an honest network passes, every rule fails when its sign is turned, and no rule is too eager."""

import dataclasses
import json
import re

import fake_records as fake
import numpy as np
import pytest
from places import ROOT

from study import records
from study.evidence import estimates, selection
from study.findings.masking import checks, judge, probes, report
from study.findings.masking.checks import CHECKS
from study.findings.masking.probes import Probe
from study.plan import catalogue
from study.records.packing import pack_mask

RECORD_CHECKS = {check.id for check in CHECKS if not check.of_probe}


def honest(attack) -> float:
    """The accuracy of a network whose attacks work: it falls with the size and the number of steps."""
    easier = 0.04 * (attack.gradient == "surrogate") + 0.3 * (attack.through != attack.branch)
    if attack.method in ("none", "noise"):
        return 0.9 - 0.1 * attack.eps
    if attack.method == "fgsm":
        return 0.8 - min(0.7, 5 * attack.eps) + easier
    hardest = 0.02 * (attack.steps >= 20) - 0.01 * (attack.steps == 50)
    return max(0.0, 0.78 - min(0.76, 10 * min(attack.eps, attack.step_size * attack.steps)) + hardest) + easier


def network(key="sat-advprop", protocol="corrected", seed=0, drop=(), **changes):
    """A record of an honest network, but for the accuracies in ``changes``; all over the same number of images."""
    rates = {attack: changes.get(attack.name, honest(attack)) for attack in fake.attacks(key)}
    measured = [fake.measurement(attack, rate) for attack, rate in rates.items() if attack.name not in drop]
    return dataclasses.replace(fake.record(key, protocol, seed=seed), measurements=tuple(measured))


def judged(*group, **beside_them):
    (verdict,) = judge.verdicts(list(group), beside_them)
    return verdict


def failing(verdict) -> set[str]:
    return {result.check.id for result in verdict.failing}


@pytest.mark.parametrize("protocol", catalogue.PROTOCOLS)
@pytest.mark.parametrize("key", ["traditional", "advprop", "sat", "sat-advprop"])
def test_an_honest_network_shows_no_sign_of_masking(key, protocol):
    verdict, row = judged(network(key, protocol)), catalogue.rows()[key]
    assert verdict.verdict == "no sign of masking" and not verdict.failing
    not_asked = {check.id for check in CHECKS if not check.asked(row)}
    technique = {"gradient": row.sat, "branches": row.advprop, "target": row.als}
    assert not_asked == {id for id, has in technique.items() if not has}
    assert {r.check.id for r in verdict.results if r.outcome == "passes"} == RECORD_CHECKS - not_asked
    of_probe = [r for r in verdict.results if r.check.of_probe and r.check.id not in not_asked]
    assert {r.outcome for r in of_probe} == {"not measured"}


TURNED = {  # what is turned round in an honest network -> the checks that must fail, and no others
    "FGSM is weaker when larger": ({"corrected:fgsm-16/255": 0.9}, {"size"}),
    "FGSM helps the network": ({"corrected:clean": 0.3}, {"size"}),
    "PGD-10 is weaker when larger": ({"corrected:pgd-10-8/255": 0.74, "corrected:fgsm-8/255": 0.8}, {"size"}),
    "FGSM 0.5 is weaker than FGSM 0.1": ({"corrected:fgsm-0.5": 0.8}, {"size", "grey"}),
    "PGD 0.5 is weaker than PGD 0.1": (
        {"corrected:pgd-0.1": 0.0, "corrected:pgd-0.5": 0.35},
        {"size", "steps", "grey"},
    ),
    "one step beats ten": ({"corrected:fgsm-1/255": 0.4, "corrected:fgsm-2/255": 0.4}, {"size", "steps"}),
    "one step beats ten at every size": (
        {f"corrected:fgsm-{size}": 0.1 for size in (*checks.SIZES, "0.1", "0.5")},
        {"steps"},
    ),
    "FGSM 0.5 beats PGD 0.5": (
        {"corrected:pgd-0.5": 0.4, "corrected:fgsm-0.5": 0.1, "corrected:pgd-0.1": 0.5},
        {"steps", "grey"},
    ),
    "noise beats both": ({"corrected:noise-8/255": 0.2}, {"noise"}),
    "noise beats FGSM 0.1": ({"corrected:noise-0.1": 0.0}, {"noise"}),
    "noise beats FGSM 0.5": ({"corrected:noise-0.5": 0.0, "corrected:fgsm-0.5": 0.3}, {"noise", "grey"}),
    "FGSM 0.5 leaves more than a guess": ({"corrected:fgsm-0.5": 0.3}, {"grey"}),
    "PGD 0.5 leaves more than a guess": ({"corrected:fgsm-0.5": 0.3, "corrected:pgd-0.5": 0.3}, {"grey"}),
    "the surrogate beats the true gradient": ({"corrected:pgd-0.1:surrogate": 0.1}, {"gradient"}),
    "transfer beats the white box": ({"corrected:pgd-0.1:aux-to-main": 0.1}, {"branches"}),
    "transfer beats the auxiliary white box": ({"corrected:pgd-0.1:main-to-aux": 0.1}, {"branches"}),
    "PGD is still finding images": ({"corrected:steps-20": 0.7}, {"flat"}),
}


@pytest.mark.parametrize("what", TURNED)
def test_each_rule_fails_when_its_sign_is_turned(what):
    changes, expected = TURNED[what]
    (check, *_) = expected
    verdict = judged(network({"gradient": "sat", "branches": "advprop"}.get(check, "adversarial"), **changes))
    assert failing(verdict) == expected
    fell = changes.get("corrected:clean", 1.0) < 0.3  # and that is said first
    assert verdict.verdict == ("collapsed" if fell else "undecided" if expected == {"flat"} else "masked")


@pytest.mark.parametrize("clean", [0.29, 0.3])
def test_a_network_that_is_near_guessing_without_any_attack_has_collapsed(clean):
    verdict = judged(network("als", **{"corrected:clean": clean}))
    assert (verdict.verdict == "collapsed") == (clean < 3 / 10)


def test_every_check_on_the_record_is_among_those_that_were_turned():
    assert set().union(*(expected for _, expected in TURNED.values())) == RECORD_CHECKS


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"published:fgsm-0.5": 0.8}, {"size"}),
        ({"published:pgd-0.1": 0.0, "published:pgd-0.5": 0.3, "published:fgsm-0.5": 0.3}, {"size"}),
        ({"published:fgsm-0.5": 0.0, "published:pgd-0.5": 0.3}, {"steps"}),
        ({"published:clean": 0.0}, set()),  # what its clamp does to clean images is another matter
    ],
)
def test_a_published_network_is_judged_by_its_own_rule_as_well(changes, expected):
    assert failing(judged(network(protocol="published", **changes))) == expected
    assert failing(judged(network(protocol="corrected", **changes))) == set(), "a rule that is not its own"


def test_the_rows_of_table_2_that_a_careful_reader_doubts_would_be_called_masked():
    """The paper's own accuracies, as if our records had them."""
    found = {}
    for key, row in catalogue.part(2).items():
        printed = {f"published:{column}": row.published[column] / 100 for column in catalogue.COLUMNS}
        found[key] = failing(judged(network(key, "published", **printed, **{"published:clamp-alone": 0.9})))
    assert found == {
        "sat-large-eps": {"size", "steps"},
        "advprop-large-eps": set(),
        "adversarial-large-eps": {"size", "steps"},
    }


def masks(*counts: int, n: int) -> list[np.ndarray]:
    return [(np.arange(n) < count)[None] for count in counts]


def outcome(left: int, more: int, n: int, guess: float = 0.0, confidence: float = 0.999) -> str:
    return checks.pair("before", "after", *masks(left, more, n=n), confidence, guess).outcome


@pytest.mark.parametrize(
    ("left", "more", "n", "guess", "expected"),
    [
        (500, 900, 1000, 0.1, "fails"),
        (900, 500, 1000, 0.1, "passes"),
        (500, 504, 1000, 0.1, "passes"),  # four images of a thousand prove nothing
        (5000, 5090, 10_000, 0.1, "passes"),  # for certain, and too little to matter
        (5000, 5110, 10_000, 0.1, "fails"),
        (0, 100, 1000, 0.1, "passes"),  # an attack that overshoots leaves a guess
        (0, 100, 1000, 0.0, "fails"),  # one that stops at its first success cannot overshoot
        (0, 300, 1000, 0.1, "fails"),
        (0, 9, 1000, 0.0, "nothing left"),
        (9, 0, 1000, 0.0, "nothing left"),
        (10, 0, 1000, 0.0, "passes"),
    ],
)
def test_a_pair_fails_by_the_written_rule_alone(left, more, n, guess, expected):
    assert outcome(left, more, n, guess) == expected


def test_chance_excuses_attacks_that_are_read_off_at_their_last_step_and_no_others():
    level = {"corrected:fgsm-0.1": 0.0, "corrected:fgsm-16/255": 0.0, "corrected:fgsm-0.5": 0.12}
    assert failing(judged(network(**level, **{"corrected:pgd-10-16/255": 0.0, "corrected:pgd-0.5": 0.0}))) == set()
    ten = {f"corrected:pgd-10-{size}": 0.0 for size in checks.SIZES} | {"corrected:pgd-10-16/255": 0.12}
    assert failing(judged(network(**ten))) == {"size"}


@pytest.mark.parametrize(("left", "expected"), [(0.12, set()), (0.3, {"size", "grey"})])
def test_an_attack_of_half_the_range_may_leave_two_points_more_than_a_guess(left, expected):
    """It overshoots; but what one of 0.1 leaves beyond a guess is a sign."""
    half = {"corrected:fgsm-0.1": 0.03, "corrected:pgd-0.5": 0.0, "corrected:fgsm-0.5": left}
    assert failing(judged(network("adversarial", **half))) == expected
    tenth = {"corrected:fgsm-16/255": 0.03, "corrected:pgd-10-16/255": 0.0, "corrected:fgsm-0.1": 0.3}
    assert failing(judged(network("adversarial", **tenth))) == {"size"}


def test_all_comparisons_of_a_network_share_an_error_of_five_percent():
    record = network("traditional")
    verdict = judged(record)
    of_records = sum(len(result.findings) for result in verdict.results if not result.check.of_probe)
    of_a_probe = 5 + len(catalogue.rows()) - 1  # five checks of one comparison each, and every other network
    asked = of_records + of_a_probe  # whether or not it was measured
    (finding, *_) = verdict.result("noise").findings
    pair = [record.measurement(name).mask[None] for name in (finding.after, finding.before)]
    assert asked > 20
    assert finding.estimate == estimates.difference(*pair, 1 - 0.05 / asked)


def test_a_check_that_nothing_is_left_to_has_no_verdict_of_its_own():
    nothing = {a.name: 0.0 for a in fake.attacks("traditional") if a.column.startswith(("steps", "pgd-10"))}
    nothing |= {f"corrected:fgsm-{size}": 0.0 for size in (*checks.SIZES, "0.1", "0.5")}
    verdict = judged(network("traditional", **nothing))
    assert verdict.result("flat").outcome == "nothing left"
    assert verdict.result("size").outcome == "passes", "from no attack to the first there was something to lose"
    assert verdict.verdict == "no sign of masking"


def test_too_little_measured_leaves_a_network_undecided_unless_something_fails():
    lacking = {"drop": ["corrected:noise-0.1"]}
    verdict = judged(network(**lacking))
    assert verdict.verdict == "undecided" and verdict.result("noise").outcome == "not measured"
    assert judged(network(**lacking, **{"corrected:fgsm-0.5": 0.9})).verdict == "masked"
    in_the_check_itself = judged(network(**lacking, **{"corrected:noise-8/255": 0.0}))
    assert in_the_check_itself.result("noise").outcome == "fails"


def test_rows_that_were_not_run_have_no_verdict():
    assert judge.verdicts([]) == []
    found = judge.verdicts([network("als"), network("als", "published"), network("traditional", "published")])
    assert [(v.key, v.protocol) for v in found] == [
        ("traditional", "published"),
        ("als", "published"),
        ("als", "corrected"),
    ]


def test_a_network_says_nothing_where_it_is_masked_or_has_collapsed_whether_or_not_it_is_one_of_the_papers():
    def silent(record):
        return judge.silent([record], record.key, "corrected", {})

    assert silent(network("adversarial")) is silent(network(drop=["corrected:noise-0.1"])) is None
    assert silent(network("adversarial", **{"corrected:fgsm-0.5": 0.8})) == "masked"
    for key in ("adversarial", "label-smoothing"):  # which the paper does not have
        assert silent(fake.record(key, **{"corrected:clean": 0.2})) == "collapsed"
    assert silent(fake.record("label-smoothing", **{"corrected:clean": 0.9})) is None


def test_several_seeds_are_judged_together():
    turned = {"corrected:fgsm-0.5": 0.8}
    assert failing(judged(*(network("als", seed=seed, **turned) for seed in (0, 1)))) == {"size", "grey"}
    (finding, *_) = judged(network(seed=0), network(seed=1)).result("flat").findings
    assert finding.estimate.seeds == 2


# probes


def probe(record, /, *, n=200, right=150, **changes) -> Probe:
    """A probe in which every check passes; accuracies as counts of the first images."""
    counts = {"clean": right, "pgd-20-8/255": 40, "unbounded": 0, "square-8/255": 80} | changes.pop("counts", {})
    measured = [
        records.Measurement(f"probe:{column}", column, {}, n, pack_mask(np.arange(n) < count))
        for column, count in counts.items()
    ]
    none = pack_mask(np.zeros(n, bool))
    fields = {
        **fake.about(record, n, "0" * 64),
        "measurements": tuple(measured),
        "zero_gradient": none,
        "vanishing_gradient": none,
        "loss": {"0": 1.0, "19": 2.999, "20": 3.0},
        "last_step": (-0.001, 0.003),
    }
    return Probe(**fields | changes)


RECORD = network("sat", **{"corrected:clean": 0.75})
SOME = pack_mask(np.arange(200) < 20)  # of the 150 that are right
PROBED = {
    "nothing": ({}, set()),
    "survivors without a bound": ({"counts": {"unbounded": 20}}, {"unbounded"}),
    "one survivor": ({"counts": {"unbounded": 1}}, set()),
    "three survivors, by chance more than one in a hundred": ({"counts": {"unbounded": 3}}, set()),
    "gradients of 0": ({"zero_gradient": SOME, "vanishing_gradient": SOME}, {"zero", "vanishing"}),
    "gradients too small": ({"vanishing_gradient": SOME}, {"vanishing"}),
    "no gradient where the network is wrong anyway": ({"zero_gradient": pack_mask(np.arange(200) >= 150)}, set()),
    "Square beats PGD": ({"counts": {"square-8/255": 5}}, {"square"}),
    "a loss that is still rising": (
        {"loss": {"0": 1.0, "19": 2.97, "20": 3.0}, "last_step": (0.02, 0.04)},
        {"rising"},
    ),
    "a last step of less than a hundredth of the rise": (
        {"loss": {"0": 1.0, "19": 2.99, "20": 3.0}, "last_step": (0.005, 0.015)},
        set(),
    ),
    "a loss that never moves": ({"loss": {"0": 3.0, "19": 3.0, "20": 3.0}, "last_step": (0.0, 0.0)}, set()),
    "a last step that is nothing for certain": (
        {"loss": {"0": 1.0, "19": 2.9, "20": 3.0}, "last_step": (-0.05, 0.25)},
        set(),
    ),
}


@pytest.mark.parametrize("what", PROBED)
def test_a_probe_is_judged_by_the_written_rules(what):
    changes, expected = PROBED[what]
    verdict = judged(RECORD, **{RECORD.where: probe(RECORD, **changes)})
    assert failing(verdict) == expected
    decided = [f for r in verdict.results for f in r.findings if f.outcome in (checks.PASSES, checks.FAILS)]
    assert all(finding.estimate for finding in decided), "each says by what"
    assert verdict.verdict == {True: "masked"}.get(
        bool(expected - {"rising"}), "undecided" if expected else judge.CLEAR
    )


@pytest.mark.parametrize("name", ["zero_gradient", "vanishing_gradient"])
def test_a_probe_whose_mask_of_gradients_is_of_other_images_is_refused(name, tmp_path):
    path = fake.beside(probe(RECORD, **{name: pack_mask(np.ones(100, bool))}), tmp_path)
    with pytest.raises(ValueError, match=r"cannot hold 200 images.*python -m study measure masking sat"):
        Probe.read(path, RECORD)


@pytest.mark.parametrize("interval", [None, [0.1], [0.1, 0.2, 0.3]])
def test_a_probe_whose_last_step_has_no_interval_is_refused(interval, tmp_path):
    path = fake.beside(probe(RECORD, last_step=interval), tmp_path)
    with pytest.raises(ValueError, match=r"probe\.json is no probe\.json of this study"):
        Probe.read(path, RECORD)


# what is said of them


@pytest.fixture
def told(tmp_path, monkeypatch):
    monkeypatch.setenv("ADVLIB_RESULTS", str(tmp_path))
    group = [network(key, protocol) for key in catalogue.part(2) for protocol in catalogue.PROTOCOLS]
    group += [RECORD, network("als", drop=["corrected:noise-0.1"])]
    group[-3] = network("adversarial-large-eps", **{"corrected:pgd-0.1": 0.0, "corrected:pgd-0.5": 0.35})
    for record in group:
        fake.put(record, tmp_path)
    return judge.verdicts(group, {RECORD.where: probe(RECORD)}), group


def test_page_terminal_and_json_tell_the_same(told):
    found, group = told
    page, text = report.details(found, group), report.text(found)
    plain = json.loads(json.dumps(report.as_json(found, group)))
    (entry,) = [e for e in plain if e["verdict"] == "masked"]
    (odd,) = [c for c in entry["checks"][0]["comparisons"] if c["outcome"] == "fails"]
    assert (entry["row"], odd["accuracies"]) == ("adversarial-large-eps", [0.0, 35.0])
    assert entry["fails"] == ["size", "steps", "grey"]
    assert "PGD 0.1 → PGD 0.5" in page and "PGD 0.1 → PGD 0.5" in text
    assert "0.0 → 35.0" in page and "0.0 → 35.0" in text
    assert f'href="../results/{entry["records"][0]}/run.html"' in page
    assert f'id="masking-{entry["protocol"]}-{entry["row"]}"' in page


def test_a_verdict_is_a_symbol_and_words_and_names_the_checks_that_fail(told):
    found, *_ = told
    for verdict in found:
        said = re.sub(r"<[^>]+>", "", report.found(verdict))
        assert said.startswith(f"{report.SYMBOLS[verdict.verdict]} {verdict.verdict}")
        assert all(result.check.title in said for result in verdict.failing)
    assert any(verdict.failing for verdict in found) and all(symbol.strip() for symbol in report.SYMBOLS.values())


def test_links_of_the_verdicts_lead_to_the_sections_that_there_are(told):
    found, group = told
    linked = set(re.findall(r'href="#(masking-[^"]+)"', "".join(map(report.found, found))))
    sections = set(re.findall(r'id="(masking-[^"]+)"', report.details(found, group)))
    assert linked == sections and len(sections) == 2, "the masked one, and the one that lacks a measurement"


def test_the_summary_counts_every_network_once(told):
    found, *_ = told
    total, *counts, probed = map(int, re.findall(r"\d+", report.summary(found)))
    assert total == sum(counts) == len(found) and probed == 1


def test_the_doubtful_rows_of_table_2_are_named_with_the_papers_numbers_and_ours(told):
    found, group = told
    said = report.table_2(found, group)
    assert "2 of 3 methods of its Table 2" in said
    assert "SAT 85.2 % under PGD 0.5, 60.3 % under FGSM 0.5, 41.5 % under PGD 0.1" in said
    assert "Adversarial 81.2 % under PGD 0.5, 64.5 % under FGSM 0.5, 45.4 % under PGD 0.1" in said
    (line,) = [line for line in said.splitlines() if line.startswith("- Adversarial (Table 2), corrected")]
    assert "35.0 % under PGD 0.5" in line and "The paper's pattern is there as well" in line and "**masked**" in line
    (line,) = [line for line in said.splitlines() if line.startswith("- SAT (Table 2), corrected")]
    assert "The paper's pattern is not there" in line and "**no sign of masking**" in line
    assert "AdvProp (Table 2)" not in said


def test_every_measurement_that_a_check_names_is_one_of_the_suite_and_has_words():
    for key in ("traditional", "sat-advprop"):
        row = catalogue.rows()[key]
        there = {attack.name for attack in fake.attacks(key)}
        for check in CHECKS:
            for pair in check.pairs(row, "published") if check.asked(row) else []:
                named = [measurement for measurement in pair if measurement]
                assert set(named) <= there, f"{check.id}: {pair}"
                assert len({report.name(measurement) for measurement in named}) == len(named) > 0


def test_no_check_compares_a_network_with_itself_or_twice():
    for key in catalogue.rows():
        row = catalogue.rows()[key]
        pairs = [pair for check in CHECKS if check.asked(row) for pair in check.pairs(row, "published")]
        assert len(set(pairs)) == len(pairs) and all(before != after for before, after in pairs)


def test_the_committed_results_are_judged_without_an_error():
    for group in selection.best(ROOT / "results"):
        found = judge.verdicts(group, probes.probes(ROOT / "results", group))
        assert {verdict.verdict for verdict in found} <= set(judge.VERDICTS)
        of_the_paper = [r for r in group if r.key in catalogue.distinct() and r.protocol in catalogue.PROTOCOLS]
        assert len(found) == len({(r.key, r.protocol) for r in of_the_paper})


def test_a_check_is_data_that_cannot_be_changed_by_accident():
    with pytest.raises(dataclasses.FrozenInstanceError):
        CHECKS[0].rule = "anything goes"


def test_an_image_of_a_sat_network_is_right_only_if_it_survives_both_gradients():
    """The tables count so, and so do the checks: one gradient that fails is the business of its own check."""
    assert failing(judged(network("sat", **{"corrected:fgsm-0.5": 0.8}))) == {"gradient"}
    both = {"corrected:fgsm-0.5": 0.8, "corrected:fgsm-0.5:surrogate": 0.8}
    assert failing(judged(network("sat", **both))) == {"size", "grey"}
