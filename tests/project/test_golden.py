"""The claim that results change only together with the science version: no record becomes wrong unnoticed."""

import copy

import golden
import numpy as np
import pytest

from study import records
from study.records import packing

MEANT = (
    "results changed under science version {version}. If that is not meant, it is a bug. If it is, raise "
    "SCIENCE_VERSION in study/records (every record made before is then stale) and run: python tests/golden.py"
)


def test_the_golden_runs_are_of_todays_science_version():
    assert golden.stored()["science_version"] == records.SCIENCE_VERSION, (
        "SCIENCE_VERSION was raised: run python tests/golden.py"
    )
    assert set(golden.stored()["runs"]) == {f"{key}, {protocol}" for key, protocol in golden.RUNS}


@pytest.mark.parametrize("key, protocol", golden.RUNS)
def test_training_and_evaluation_give_what_they_gave(key, protocol):
    then, now = golden.stored()["runs"][f"{key}, {protocol}"], golden.compute(key, protocol)
    assert then["config"] == now["config"], "the config of this run is another: run python tests/golden.py"
    changed = golden.differences(then, now, strict=then["arithmetic"] == now["arithmetic"])
    assert not changed, "\n".join([MEANT.format(version=records.SCIENCE_VERSION), *changed])
    assert set(then["masks"]) == set(now["masks"]), "the suite has other attacks: " + MEANT.format(
        version=records.SCIENCE_VERSION
    )


def test_the_golden_runs_tell_something():
    """Masks that are all right or all wrong would guard nothing."""
    for name, result in golden.stored()["runs"].items():
        accuracies = [packing.unpack_mask(mask, n).mean() for n, mask, _ in result["masks"].values()]
        assert np.mean([0.05 < accuracy < 0.98 for accuracy in accuracies]) > 0.5, name


def test_the_guard_notices_a_change_and_forgives_rounding():
    then = golden.stored()["runs"]["adversarial, corrected"]
    now = copy.deepcopy(then)
    now["curve"][0]["loss"] += golden.LOSS / 2
    assert golden.differences(then, now, strict=True) == []
    now["curve"][0]["loss"] += golden.LOSS
    n, mask, attack = now["masks"]["corrected:clean"]
    flipped = packing.unpack_mask(mask, n)
    flipped[:4] = ~flipped[:4]
    now["masks"]["corrected:clean"] = [n, packing.pack_mask(flipped), attack]
    found = golden.differences(then, now, strict=True)
    assert len(found) == 2 and "loss" in found[0] and "6% of the images" in found[1]
    assert golden.differences(then, now, strict=False) == []
    now["masks"]["corrected:clean"][2] = "another"
    assert golden.differences(then, now, strict=False) == ["corrected:clean: another attack"]


def test_a_new_attack_is_written_beside_what_was_there(tmp_path, monkeypatch, capsys):
    """And nothing else: what another machine has rounded stays."""
    now = copy.deepcopy(golden.stored()["runs"])
    for run in now.values():
        run["arithmetic"] = "of another machine"
        run["masks"]["corrected:new"] = run["masks"]["corrected:clean"]
    monkeypatch.setattr(golden, "compute", lambda key, protocol: copy.deepcopy(now[f"{key}, {protocol}"]))
    text = tmp_path / "golden.json"
    text.write_text(golden.FILE.read_text())
    monkeypatch.setattr(golden, "FILE", text)
    before = golden.stored()["runs"]
    assert golden.main() == 0 and "wrote golden.json" in capsys.readouterr().out
    for name, run in golden.stored()["runs"].items():
        assert run.pop("masks") == before[name].pop("masks") | {"corrected:new": now[name]["masks"]["corrected:new"]}
        assert run == before[name]


@pytest.mark.parametrize("name, shift", [("loss", 0.2), ("lr", 0.001), ("clean_accuracy", 0.3)])
def test_on_another_machine_the_guard_still_notices_a_large_change(name, shift):
    then = golden.stored()["runs"]["adversarial, corrected"]
    now = copy.deepcopy(then)
    now["curve"][-1][name] += shift
    assert name in golden.differences(then, now, strict=False)[0]
    now = copy.deepcopy(then)
    for measurement, (n, mask, attack) in now["masks"].items():
        now["masks"][measurement] = [n, packing.pack_mask(np.roll(~packing.unpack_mask(mask, n), 1)), attack]
    assert "of all images" in golden.differences(then, now, strict=False)[0]
