"""A network trained again is the record's own, or is refused with what differs first; the caller's threads stay."""

import dataclasses

import miniature
import pytest
import torch

from study.experiment import retrain, run
from study.records import packing

ATTACKED = {"adversarial": True, "train_eps": 0.05, "train_random_start": True}


@pytest.fixture(scope="module")
def finished():
    """A run of a second: its record, and the weights that it ended with."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run, "load", lambda name: miniature.dataset(32, 24))
        config = miniature.config(**ATTACKED)
        done = run.run(config, key="adversarial", protocol="corrected", budget="smoke", device="cpu")
    return done.record, miniature.state(done.model)


@pytest.fixture(autouse=True)
def data(monkeypatch):
    for module in (run, retrain):
        monkeypatch.setattr(module, "load", lambda name: miniature.dataset(32, 24))


def test_a_record_gives_its_network_again_bit_for_bit(finished, tmp_path):
    record, weights = finished
    assert miniature.same(miniature.state(retrain.retrain(record, work=tmp_path).model), weights)
    assert [path.name for path in tmp_path.iterdir()] == ["model.safetensors"]


def test_it_trains_with_the_threads_of_the_record_and_leaves_those_of_the_caller(finished, monkeypatch):
    record, _ = finished
    then, before, seen, learn = record.provenance["threads"], torch.get_num_threads(), [], retrain.learn
    monkeypatch.setattr(retrain, "learn", lambda *a, **k: (seen.append(torch.get_num_threads()), learn(*a, **k))[1])
    torch.set_num_threads(then + 1)
    try:
        retrain.retrain(record)
        assert (seen, torch.get_num_threads()) == ([then], then + 1)
    finally:
        torch.set_num_threads(before)


def test_another_loss_in_the_last_digit_is_refused_by_its_epoch_and_leaves_no_weights(finished, tmp_path):
    record, _ = finished
    curve = [*record.curve[:-1], record.curve[-1] | {"loss": record.curve[-1]["loss"] + 1e-5}]
    with pytest.raises(ValueError, match=rf"loss of epoch {len(curve)} was .* and is .*Run it anew"):
        retrain.retrain(dataclasses.replace(record, curve=curve), work=tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", retrain.WITNESSES)
def test_one_image_judged_otherwise_is_refused_by_its_attack(finished, name):
    record, _ = finished
    found = record.measurement(name)
    mask = found.mask.copy()
    mask[0] = not mask[0]
    other = dataclasses.replace(found, correct=packing.pack_mask(mask))
    measurements = tuple(other if m.name == name else m for m in record.measurements)
    with pytest.raises(ValueError, match=f"1 of 24 test images are judged otherwise under {name}"):
        retrain.retrain(dataclasses.replace(record, measurements=measurements))


def test_other_data_are_refused_before_any_training(finished, monkeypatch):
    record, _ = finished
    monkeypatch.setattr(retrain, "learn", None)
    with pytest.raises(ValueError, match="checksums differ"):
        retrain.retrain(dataclasses.replace(record, data=record.data | {"checksum": "sha256:other"}))


def test_the_runs_own_weights_and_checkpoint_stay_whatever_comes_out(finished, tmp_path):
    record, _ = finished
    own = {name: tmp_path / name for name in ("model.safetensors", "checkpoint.pt")}
    for path in own.values():
        path.write_text("of the run")
    retrain.retrain(record, work=tmp_path)
    with pytest.raises(ValueError, match="does not repeat"):
        retrain.retrain(
            dataclasses.replace(record, curve=[line | {"loss": 0.0} for line in record.curve]), work=tmp_path
        )
    assert {path.read_text() for path in own.values()} == {"of the run"}
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(own)


def test_weights_that_nobody_has_compared_yet_are_not_where_they_would_be_published_from(
    finished, tmp_path, monkeypatch
):
    """As after a kill between the training and the comparison."""

    def killed(record, learned):
        raise KeyboardInterrupt

    monkeypatch.setattr(retrain, "differences", killed)
    with pytest.raises(KeyboardInterrupt):
        retrain.retrain(finished[0], work=tmp_path)
    assert not (tmp_path / "model.safetensors").exists() and (tmp_path / "again" / "model.safetensors").exists()
