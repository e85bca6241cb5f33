"""Sentences that conclude: each stands beside conditions on the records, and a false one stops the build."""

import re

import fake_records as fake
import pytest
from places import ROOT

from study.findings import conclusions
from study.findings.claims.judge import Evidence
from study.findings.conclusions import Withdrawn
from study.plan import catalogue

TRUE = """
[[conclusion]]
id = "costs"
page = "claims"
sentence = "Adversarial training costs {cost} on clean images."
[[conclusion.conditions]]
name = "cost"
more = "traditional corrected corrected:clean"
than = "adversarial corrected corrected:clean"
"""
NUMBER = """[[conclusion.numbers]]
name = "under"
more = "adversarial corrected corrected:pgd-0.1"
than = "traditional corrected corrected:pgd-0.1"
"""


@pytest.fixture
def written(tmp_path, monkeypatch):
    """Puts conclusions in the place of the project's."""

    def write(text: str) -> None:
        (tmp_path / "conclusions.toml").write_text(text)
        monkeypatch.setattr(conclusions, "FILE", tmp_path / "conclusions.toml")
        conclusions.conclusions.cache_clear()

    yield write
    conclusions.conclusions.cache_clear()


def evidence(plain: float, adversarial: float) -> Evidence:
    levels = {"traditional": plain, "adversarial": adversarial}
    return Evidence([[fake.record(key, **{"corrected:clean": level}) for key, level in levels.items()]])


def test_a_sentence_is_said_with_its_number_and_what_it_rests_on(written):
    written(TRUE)
    said = conclusions.say("costs", evidence(0.8, 0.5))
    assert said.startswith("Adversarial training costs 30.0 points (+")
    assert said.endswith("(Small setting, 200 test images, 1 training of each.)")


@pytest.mark.parametrize(("plain", "adversarial"), [(0.5, 0.8), (0.65, 0.65), (0.505, 0.5)])
def test_a_false_sentence_stops_the_build_and_names_what_to_mend(written, plain, adversarial):
    """The other way round, no difference, and one that may be luck."""
    written(TRUE)
    with pytest.raises(
        Withdrawn, match=r"'costs' does not hold .* cost at budget lite. Write its sentence anew in study/"
    ):
        conclusions.say("costs", evidence(plain, adversarial))


def test_a_number_for_the_reader_is_told_whatever_its_sign_and_a_condition_is_not(written):
    written(TRUE.replace("images.", "images, and {under} under attack.") + NUMBER)
    (group,) = evidence(0.8, 0.5).groups
    said = conclusions.say("costs", Evidence([group]))
    assert re.search(r"costs 30.0 points .* and -?\d+\.\d points \([+-].* under attack", said)
    with pytest.raises(Withdrawn, match="cost at budget lite"):
        conclusions.say("costs", evidence(0.5, 0.8))


@pytest.mark.parametrize(("plain", "adversarial"), [(0.5, 0.5), (0.5, 0.8)])
def test_a_smaller_size_saves_no_sentence_that_the_largest_does_not_bear_out(written, plain, adversarial):
    written(TRUE)
    (small,) = evidence(0.8, 0.5).groups
    levels = {"traditional": plain, "adversarial": adversarial}
    large = [fake.record(key, budget="ladder-10", **{"corrected:clean": level}) for key, level in levels.items()]
    assert conclusions.say("costs", Evidence([small]))
    with pytest.raises(Withdrawn, match="cost at budget ladder-10"):
        conclusions.say("costs", Evidence([large, small]))


@pytest.mark.parametrize(
    ("old", "new"),
    [("traditional corrected", "traditonal corrected"), ("{cost}", "{price}"), ("corrected corrected:", "corected c:")],
)
def test_a_misspelt_place_or_number_is_refused_and_does_not_pass_for_one_that_was_not_run(written, old, new):
    written(TRUE.replace(old, new, 1))
    with pytest.raises(ValueError, match="is no place|does not exist|unknown protocol"):
        conclusions.conclusions()


def test_a_sentence_is_not_said_while_a_row_of_it_was_not_run(written):
    written(TRUE)
    assert conclusions.say("costs", Evidence([[fake.record("traditional")]])) == ""
    assert conclusions.say("costs", Evidence([])) == ""


def test_a_sentence_may_rest_on_a_verdict_and_falls_with_it(written):
    written(
        '[[conclusion]]\nid = "x"\npage = "claims"\nsentence = "AdvProp is more accurate."\n'
        'verdicts = { "advprop-accuracy/corrected" = "larger" }\n'
    )
    rows = {"advprop": 0.9, "traditional": 0.5}
    better = [fake.record(key, **{"corrected:clean": level}) for key, level in rows.items()]
    worse = [fake.record(key, **{"corrected:clean": 1.3 - level}) for key, level in rows.items()]
    assert conclusions.say("x", Evidence([better])).startswith("AdvProp is more accurate.")
    with pytest.raises(Withdrawn, match="advprop-accuracy/corrected is contradicted"):
        conclusions.say("x", Evidence([worse]))


@pytest.mark.parametrize(
    "text", [TRUE + TRUE, TRUE[: TRUE.index("[[conclusion.conditions")].replace("{cost}", "a lot")]
)
def test_a_sentence_without_a_condition_or_with_anothers_name_is_refused(written, text):
    written(text)
    with pytest.raises(ValueError, match="is there twice, or has no condition"):
        conclusions.conclusions()


def test_the_readme_has_the_covers_findings_word_for_word():
    """They are conditions of the build there, and could grow old here."""
    said = re.findall(r"^\d\. (\*\*.*?\*\*)", (ROOT / "README.md").read_text(), re.MULTILINE)
    cover = [one for one in conclusions.conclusions().values() if one.figure]
    assert said == [re.match(r"\*\*.*?\*\*", one.sentence).group() for one in cover] and len(said) == 3


def test_every_sentence_of_the_project_names_rows_measurements_and_claims_that_exist():
    """With every row run, each sentence is said or withdrawn, and none breaks."""
    group = [
        fake.record(key, protocol, **dict.fromkeys(("corrected:clean", "published:clean"), 0.5))
        for key in catalogue.experiments()
        for protocol in catalogue.PROTOCOLS
    ]
    for id in conclusions.conclusions():
        try:
            assert conclusions.say(id, Evidence([group]))
        except Withdrawn:
            pass
