"""The words that several pages share: names that tell networks apart, nouns that go with their number."""

from itertools import product

import fake_records as fake
import pytest

from study.evidence.estimates import Estimate
from study.plan import catalogue
from study.presentation import marks, words
from study.presentation.markup import interval


def test_every_experiment_protocol_and_seed_has_a_name_of_its_own():
    made = [*product(catalogue.experiments(), catalogue.PROTOCOLS, (0, 1))]
    assert len({words.network(*one) for one in made}) == len(made)
    assert words.network("advprop", "corrected", 2) == "AdvProp, corrected, seed 2"


@pytest.mark.parametrize(
    ("count", "said"),
    [(0, "0 images"), (1, "1 image"), (1200, "1,200 images"), ([1], "1 image"), ([1, 2, 3], "1 to 3 images")],
)
def test_a_noun_goes_with_its_number(count, said):
    assert words.plural(count, "image") == said


def test_a_difference_has_its_signs_and_a_place_its_preposition():
    assert interval(Estimate(0.012, -0.003, 0.027, 100, 1)) == "+1.2 (-0.3 to +2.7)"
    assert (words.where("clean"), words.where("pgd-0.1")) == ("on clean images", "under PGD 0.1")


def test_what_was_not_run_is_named_with_its_protocol_and_key():
    group = [fake.record("als", "published")]
    assert words.not_run(group, ["als", "sat"]) == (
        "ALS (corrected, `als`), SAT (published, `sat`), SAT (corrected, `sat`)"
    )
    assert words.not_run(group, []) == ""


def test_panels_that_are_too_many_are_gone_and_those_above_them_keep_their_numbers():
    figure, panels = marks.grid(4, 3, 2, 2)
    assert figure.axes == panels and len(panels) == 4
    below = [panel.xaxis.get_tick_params()["labelbottom"] for panel in panels]
    assert below == [False, True, True, True]


def test_a_legend_says_once_what_stands_in_several_panels():
    figure, panels = marks.grid(2, 2, 2, 2)
    for panel in panels:
        panel.plot([0, 1], label="a line")
    panels[1].plot([1, 0], label="another")
    marks.legend(figure, 2)
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["a line", "another"]
