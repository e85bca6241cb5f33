"""The claim that results change only together with the science version: no record becomes wrong unnoticed."""

import copy

import golden
import numpy as np
import pytest

from advlib import records

MEANT = (
    "results changed under science version {version}. If that is not meant, it is a bug. If it is, raise SCIENCE_VERSION in "
    "advlib/records.py (every record made before is then stale) and run: python tests/golden.py"
)


def test_the_golden_runs_are_of_todays_science_version():
    assert golden.stored()["science_version"] == records.SCIENCE_VERSION, "SCIENCE_VERSION was raised: run python tests/golden.py"
    assert set(golden.stored()["runs"]) == {f"{key}, {protocol}" for key, protocol in golden.RUNS}


@pytest.mark.parametrize("key, protocol", golden.RUNS)
def test_training_and_evaluation_give_what_they_gave(key, protocol):
    then, now = golden.stored()["runs"][f"{key}, {protocol}"], golden.compute(key, protocol)
    changed = golden.differences(then, now)
    assert not changed, "\n".join([MEANT.format(version=records.SCIENCE_VERSION), *changed])
    assert set(then["masks"]) == set(now["masks"]), "the suite has other attacks: run python tests/golden.py"


def test_the_golden_runs_tell_something():
    """Masks that are all right or all wrong would guard nothing."""
    for name, result in golden.stored()["runs"].items():
        accuracies = [records.unpack_mask(mask, n).mean() for n, mask in result["masks"].values()]
        assert np.mean([0.05 < accuracy < 0.98 for accuracy in accuracies]) > 0.6, name


def test_the_guard_notices_a_change_and_forgives_rounding():
    then = golden.stored()["runs"]["adversarial, corrected"]
    now = copy.deepcopy(then)
    now["curve"][0]["loss"] += golden.LOSS_TOLERANCE / 2
    assert golden.differences(then, now) == []
    now["curve"][0]["loss"] += golden.LOSS_TOLERANCE
    n, mask = now["masks"]["corrected:clean"]
    flipped = records.unpack_mask(mask, n)
    flipped[:5] = ~flipped[:5]
    now["masks"]["corrected:clean"] = [n, records.pack_mask(flipped)]
    found = golden.differences(then, now)
    assert len(found) == 2 and "5% of the images" in found[0] and "loss" in found[1]
