"""What counts as a result, and the numbers that come of it: recomputed from masks, paired, never across data."""

import dataclasses
import json

import fake_records as fake
import numpy as np
import pytest

from study import records
from study.evidence import comparisons, selection
from study.evidence.estimates import wilson
from study.plan import catalogue
from study.records import packing


@pytest.fixture
def results(tmp_path):
    return tmp_path / "results"


def with_mask(record, name, mask):
    """The record with another mask for one measurement."""
    packed = packing.pack_mask(np.asarray(mask, bool))
    changed = tuple(
        dataclasses.replace(m, correct=packed, n=len(mask)) if m.name == name else m for m in record.measurements
    )
    return dataclasses.replace(record, measurements=changed)


def test_an_accuracy_is_the_mean_over_seeds_with_the_interval_of_one_test_set():
    name = "corrected:clean"
    group = [fake.record(seed=0, **{name: 0.80}), fake.record(seed=1, **{name: 0.90})]
    found = comparisons.accuracy(group, "advprop", "corrected", "clean")
    assert (found.value, found.low, found.high) == pytest.approx((0.85, *wilson(0.85 * 200, 200)))
    assert (found.n, found.seeds) == (200, 2)


def test_an_image_must_survive_the_true_and_the_surrogate_gradient():
    record = fake.record("sat", **{"corrected:fgsm-0.1": 0.5})  # the first 100 of 200
    record = with_mask(record, "corrected:fgsm-0.1:surrogate", np.arange(200) >= 80)
    assert comparisons.accuracy([record], "sat", "corrected", "fgsm-0.1").value == pytest.approx(0.1)


def test_gradients_measured_on_different_numbers_of_images_are_compared_on_those_that_both_have():
    record = fake.record("sat-advprop")
    mask = comparisons.survivors(record, "corrected:pgd-20-8/255:aux")  # its surrogate is part of the sweep
    assert len(mask) == fake.SWEEP < fake.IMAGES


def test_a_row_that_was_not_run_has_no_accuracy_and_no_difference():
    group = [fake.record("advprop")]
    assert comparisons.accuracy(group, "sat", "corrected", "clean") is None
    places = [("advprop", "corrected", "corrected:clean"), ("sat", "corrected", "corrected:clean")]
    assert comparisons.difference(group, *places) is None


def test_a_difference_is_taken_over_the_seeds_that_both_rows_have():
    group = [
        fake.record("advprop", seed=0, **{"corrected:clean": 0.9}),
        fake.record("advprop", seed=1, **{"corrected:clean": 0.5}),
        fake.record("sat", seed=1, **{"corrected:clean": 0.3}),
    ]
    places = [("advprop", "corrected", "corrected:clean"), ("sat", "corrected", "corrected:clean")]
    found = comparisons.difference(group, *places)
    assert found.value == pytest.approx(0.2) and found.seeds == 1


def test_a_sweep_and_a_whole_test_set_are_compared_on_the_images_of_the_sweep():
    record = fake.record("adversarial", "published")
    record = with_mask(record, "published:clean", np.arange(200) < 150)
    record = with_mask(record, "published, pixels:clean", np.arange(100) < 60)
    places = [("adversarial", "published", "published, pixels:clean"), ("adversarial", "published", "published:clean")]
    found = comparisons.difference([record], *places)
    assert found.n == 100 and found.value == pytest.approx(0.6 - 1.0)


def test_seeds_tested_on_different_numbers_of_images_are_averaged_over_those_that_all_were_tested_on():
    short = with_mask(fake.record(seed=1), "corrected:clean", np.ones(100))
    long = fake.record(seed=0, **{"corrected:clean": 0.25})  # the first 50 of 200
    found = comparisons.accuracy([long, short], "advprop", "corrected", "clean")
    assert (found.value, found.n, found.seeds) == (0.75, 100, 2)


def test_where_batches_that_count_end_at_different_places_the_broken_one_is_left_out():
    """400 images end in a batch of 144, 1,000 do not: image 300 was normalised with other companions in each."""
    record = fake.record("adversarial", "published")
    record = with_mask(record, "published:clean", np.arange(1000) < 1000)
    record = with_mask(record, "published, pixels:clean", np.arange(400) < 256)
    record = with_mask(record, "published, running statistics:clean", np.arange(400) < 256)

    def n_and_value(rule):
        places = [("adversarial", "published", f"{name}:clean") for name in (rule, "published")]
        found = comparisons.difference([record], *places)
        return found.n, found.value

    assert n_and_value("published, pixels") == (256, 0)
    assert n_and_value("published, running statistics") == (400, 256 / 400 - 1)  # running statistics have no companions


def test_accuracies_set_against_one_another_are_of_the_same_seeds():
    group = [fake.record("advprop", seed=seed, **{"corrected:clean": value}) for seed, value in ((0, 0.9), (1, 0.5))]
    group.append(fake.record("sat", seed=1))
    first, _ = comparisons.accuracies(group, [(key, "corrected", "corrected:clean") for key in ("advprop", "sat")])
    assert (first.value, first.seeds) == (0.5, 1)


def test_a_network_is_better_than_guessing_if_its_interval_is_above_a_guess_and_the_margin():
    mask, low = (np.arange(200) < 40)[None], wilson(40, 200)[0]  # a guess among ten classes is right of a tenth
    for margin, better in ((low - 0.1 - 1e-6, True), (low - 0.1 + 1e-6, False)):
        assert comparisons.better_than_guessing([fake.record()], [0 * mask, mask], margin=margin) == better


def test_an_experiment_that_left_the_catalogue_is_stale_and_breaks_nothing(results):
    gone = dataclasses.replace(fake.record("advprop"), key="als-0.3")
    fake.put(gone, results)
    fake.put(fake.record("sat"), results)
    ((record, why),) = selection.stale(results)
    assert record.key == "als-0.3" and "the catalogue has it no more" in why
    assert [r.key for group in selection.groups(results) for r in group] == ["sat"]


def test_a_first_full_run_does_not_push_a_whole_table_aside(results):
    for key in ("traditional", "als", "sat"):
        fake.put(fake.record(key), results)
    fake.put(fake.record("traditional", budget="full"), results)
    (judged,) = selection.best(results)
    assert judged[0].budget == "lite"
    for key in ("als", "sat"):
        fake.put(fake.record(key, budget="full"), results)
    (judged,) = selection.best(results)
    assert judged[0].budget == "full"


def test_a_larger_size_is_shown_where_it_has_all_that_is_asked_for_and_the_best_one_elsewhere(results):
    for key in ("traditional", "advprop", "als", "sat"):
        fake.put(fake.record(key), results)
    for protocol in ("published", "corrected"):
        fake.put(fake.record("als", protocol, budget="full"), results)
    fake.put(fake.record("sat", budget="full"), results)
    assert [group[0].budget for group in selection.largest(results, ["als"])] == ["full"]
    assert [group[0].budget for group in selection.largest(results, ["als", "sat"])] == ["lite"], "under one protocol"
    assert selection.largest(results / "nowhere", ["als"]) == []


def test_sizes_come_largest_first_the_original_images_before_a_copy_and_no_other_data(results):
    for budget, dataset in (("lite", "cifar10-jpeg"), ("lite", "cifar10"), ("full", "cifar10-jpeg"), ("full", "svhn")):
        fake.put(fake.record("advprop", budget=budget, dataset=dataset, title=dataset), results)
    found = [(group[0].budget, group[0].config["dataset"]) for group in selection.by_size(results)]
    assert found == [("full", "cifar10-jpeg"), ("lite", "cifar10"), ("lite", "cifar10-jpeg")]


def test_the_rows_that_were_run_are_those_of_the_table_and_the_protocol_in_question():
    group = [fake.record("als"), fake.record("sat", "published"), fake.record("adversarial-large-eps")]
    assert set(selection.rows_run(group)) == {"als", "sat"}, "of Table 1, under either protocol"
    assert set(selection.rows_run(group, "published")) == {"sat"}
    assert set(selection.rows_run(group, part=2)) == {"adversarial-large-eps"}


def test_the_original_images_come_before_a_copy_and_a_copy_of_ones_own_packing_counts(results):
    for dataset in ("cifar10-jpeg:mine.tar.gz", "cifar10-jpeg", "cifar10"):
        fake.put(fake.record("advprop", dataset=dataset, title=dataset), results)
        (judged,) = selection.best(results)
        assert judged[0].config["dataset"] in ("cifar10-jpeg:mine.tar.gz", dataset)
    assert judged[0].config["dataset"] == "cifar10"


def test_the_paper_is_not_judged_by_runs_on_other_data(results):
    fake.put(fake.record("advprop", budget="full", dataset="svhn", title="SVHN"), results)
    assert selection.best(results) == [] and len(selection.groups(results)) == 1
    fake.put(fake.record("advprop"), results)
    (judged,) = selection.best(results)
    assert judged[0].config["dataset"] == "cifar10-jpeg"


def test_records_are_read_once_and_again_when_one_has_changed_or_is_there_no_more(results):
    fake.put(fake.record("als"), results)
    folder = fake.put(fake.record("advprop"), results)
    (before,), (again,) = selection.groups(results), selection.groups(results)
    assert [one is other for one, other in zip(before, again, strict=True)] == [True, True] and before is not again
    fake.put(fake.record("advprop", **{"corrected:clean": 0.123}), results)
    (changed,) = selection.groups(results)
    assert comparisons.accuracy(changed, "advprop", "corrected", "clean").value == pytest.approx(0.125)
    (folder / "record.json").unlink()
    assert [record.key for record in selection.groups(results)[0]] == ["als"]


def test_smoke_runs_are_never_results(results):
    fake.put(fake.record(budget="smoke"), results)
    assert selection.groups(results) == []


def test_full_runs_come_before_lite_runs_and_data_sets_are_kept_apart(results):
    for record in [
        fake.record(budget="lite"),
        fake.record(budget="full"),
        fake.record(budget="lite", dataset="cifar10"),
    ]:
        fake.put(record, results)
    found = [(group[0].budget, group[0].config["dataset"]) for group in selection.groups(results)]
    assert found == [("full", "cifar10-jpeg"), ("lite", "cifar10"), ("lite", "cifar10-jpeg")]


def test_the_group_with_most_runs_comes_first_among_data_sets_of_a_budget(results):
    """One run on another data set must not take the place of all others on the cover."""
    for key in ("traditional", "als"):
        fake.put(fake.record(key), results)
    fake.put(fake.record("advprop", dataset="cifar10"), results)
    assert selection.groups(results)[0][0].config["dataset"] == "cifar10-jpeg"


def test_records_of_other_data_under_the_same_name_are_refused_in_one_table(results):
    fake.put(fake.record("advprop"), results)
    other = fake.record("sat")
    fake.put(dataclasses.replace(other, data=other.data | {"checksum": "sha256:1"}), results)
    with pytest.raises(ValueError, match=r"different data under the name 'cifar10-jpeg'.*run one of them again"):
        selection.groups(results)


def test_records_of_another_science_version_or_config_are_left_out_with_the_reason(results):
    old = fake.record(seed=3)
    fake.put(dataclasses.replace(old, config=old.config | {"lr": 0.2}), results)
    fake.put(dataclasses.replace(fake.record(seed=4), science_version=records.SCIENCE_VERSION - 1), results)
    assert selection.groups(results) == []
    reasons = {record.seed: why for record, why in selection.stale(results)}
    assert reasons[3].startswith("config: lr 0.2") and reasons[4].startswith("science version")


def test_the_factorial_needs_all_eight_rows_and_then_adds_up():
    keys = list(catalogue.factorial().values())
    assert len(keys) == 8
    level = {key: 0.5 + 0.1 * row.advprop for key, row in catalogue.rows().items()}
    group = [fake.record(key, **{"corrected:clean": level[key]}) for key in keys]
    effects = comparisons.factorial(group, "corrected", "clean")
    assert effects["AdvProp",].value == pytest.approx(0.1)
    others = [effect.value for names, effect in effects.items() if names != ("AdvProp",)]
    assert len(others) == 6 and others == pytest.approx([0] * 6)
    assert comparisons.factorial(group[1:], "corrected", "clean") is None


def test_labels_of_other_data_are_refused(results):
    group = [fake.record()]
    assert selection.labels(results, group) is None
    path = results / "lite" / "cifar10-jpeg" / selection.LABELS
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps({"checksum": "sha256:0", "labels": "3 1 4"}))
    assert list(selection.labels(results, group)) == [3, 1, 4]
    path.write_text(json.dumps({"checksum": "sha256:1", "labels": "3 1 4"}))
    remedy = "python tools/write_labels.py --budget lite --dataset cifar10-jpeg"
    with pytest.raises(ValueError, match=f"of other data .*{remedy}"):
        selection.labels(results, group)
    for damaged in ("{", '{"checksum": "sha256:0"}', '{"checksum": "sha256:0", "labels": "3 x"}'):
        path.write_text(damaged)
        with pytest.raises(ValueError, match=f"{path} is damaged .*{remedy}"):
            selection.labels(results, group)


def test_the_spread_between_trainings_is_that_of_the_column_from_rows_with_several_seeds():
    """Of two rows, three seeds each: the textbook's pooled variance, as a share of p (1 - p). One seed adds nothing."""
    group = [fake.record("als", seed=seed, **{"corrected:clean": (0.5, 0.6, 0.7)[seed]}) for seed in range(3)]
    more = [fake.record("sat", seed=seed, **{"corrected:clean": 0.5}) for seed in range(3)]
    found = comparisons.spread([*group, *more, fake.record("advprop")], "corrected:clean")
    assert found.freedom == 4 and found.factor**2 == pytest.approx(0.01 / (0.6 * 0.4) / 2)
    assert comparisons.spread([fake.record("sat")], "corrected:clean") is None
    again = [fake.record("adversarial-fast", seed=seed, **{"corrected:clean": 0.3 + seed / 5}) for seed in range(3)]
    assert comparisons.spread([*group, *more, *again], "corrected:clean") == found, "the same luck, counted again"


def test_a_column_that_too_few_trainings_tell_about_has_the_spread_of_all_columns_together():
    group = [
        fake.record("als", seed=seed, **{"corrected:clean": (0.5, 0.6, 0.7)[seed], "corrected:pgd-20-8/255": 0.2})
        for seed in range(3)
    ]
    of_one = comparisons.spread(group, "corrected:pgd-20-8/255")
    assert of_one.freedom == 2 and of_one == comparisons.spread(group, "corrected:noise-0.1") and of_one.factor > 0


def test_a_difference_of_two_networks_knows_how_much_trainings_differ_and_of_one_network_does_not():
    rows = [fake.record("als", seed=seed, **{"corrected:clean": 0.5 + seed / 20}) for seed in range(3)]
    group = [*rows, fake.record("sat"), fake.record("traditional")]
    clean, attacked = (("sat", "corrected", f"corrected:{name}") for name in ("clean", "pgd-0.1"))
    other = ("traditional", "corrected", "corrected:clean")
    of_two, alone = (comparisons.difference(found, clean, other).error for found in (group, group[3:]))
    assert of_two > 1.3 * alone
    assert comparisons.difference(group, clean, attacked) == comparisons.difference(group[3:], clean, attacked)
