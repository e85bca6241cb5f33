"""A record's network at hand: it is the record's own, on the record's own data, or one clear line says what to do."""

import dataclasses
import json
import re
from hashlib import sha256

import fake_records as fake
import miniature
import pytest
import torch
from places import ROOT

from study import records
from study.data import load
from study.experiment import network
from study.experiment.network import Network
from study.experiment.weights import load_model, save_weights

PUBLISHED = ROOT / "results" / "lite" / "cifar10-jpeg" / "corrected"


def published(key: str) -> Network:
    return Network(records.read(PUBLISHED / key / "seed0" / "record.json"), ROOT / "models" / f"{key}.safetensors")


@pytest.fixture
def small(monkeypatch, tmp_path, tiny):
    """A network of width 8, the record that it would have, on data of 40 test images, of which the record saw 30."""
    data = miniature.dataset()
    monkeypatch.setattr(network, "shared", lambda name: data)
    made = fake.record("advprop")
    clean = dataclasses.replace(made.measurement("corrected:clean"), n=30, correct=fake.mask(0.5, 30))
    about = made.data | {"checksum": data.checksum, "classes": list(data.classes)}
    record = dataclasses.replace(made, data=about, measurements=(clean,), config=made.config | {"width": 8})
    path = tmp_path / "advprop.safetensors"
    save_weights(tiny(norm="dual", num_classes=len(data.classes)), path, record)
    return Network(record, path)


def test_networks_of_one_data_set_hold_one_copy_of_it():
    made = fake.record("als", budget="smoke")
    made = dataclasses.replace(made, data=made.data | {"checksum": load("digits").checksum})
    assert Network(made, ROOT / "one").dataset is Network(made, ROOT / "another").dataset


@pytest.mark.parametrize("key", ["sat", "advprop"])
def test_the_network_of_a_published_file_is_the_records_with_its_true_gradient(key):
    found = published(key)
    x = torch.rand(2, 3, 32, 32, device=found.device).requires_grad_()
    theirs = load_model(found.weights, activation="relu" if key == "sat" else None)
    theirs = theirs.to(found.device, memory_format=torch.channels_last)
    gradients = [torch.autograd.grad(model(x).square().sum(), x)[0] for model in (found.model, theirs)]
    assert torch.equal(found.model(x), theirs(x)) and torch.equal(*gradients) and not found.model.training


def test_the_weights_of_another_record_are_refused_and_the_place_of_its_own_is_said(small, tmp_path, monkeypatch):
    monkeypatch.setenv("ADVLIB_WORK", str(tmp_path / "work"))
    other = dataclasses.replace(small.record, seed=1)
    own = tmp_path / "work" / other.where / "model.safetensors"
    said = f"{small.weights} has the weights of {small.record.where}: name the weights of {other.where} with --weights"
    with pytest.raises(ValueError, match=re.escape(f"{said}; a run leaves its own at {own}")):
        _ = Network(other, small.weights).model


@pytest.mark.parametrize("damage", ["empty", "cut off", "a pointer to it", "another file of that kind"])
def test_a_damaged_file_of_weights_is_one_line_with_the_remedy(small, damage):
    content = small.weights.read_bytes()
    if damage == "another file of that kind":
        save_weights(torch.nn.Linear(2, 2), small.weights, small.record)
    else:
        small.weights.write_bytes({"empty": b"", "cut off": content[:-9], "a pointer to it": b"version 1"}[damage])
    with pytest.raises(ValueError, match=f"{small.weights} is no file of a network's weights .*make it again") as error:
        _ = small.model
    assert "\n" not in str(error.value)


def test_without_its_file_of_weights_a_network_says_so(small):
    small.refuse_missing()
    small.weights.unlink()
    with pytest.raises(ValueError, match=f"{small.weights} is not there: name the weights of {small.record.where}"):
        small.refuse_missing()


def test_data_that_are_not_the_records_are_refused(small):
    assert small.dataset.checksum == small.record.data["checksum"]
    other = dataclasses.replace(small.record, data=small.record.data | {"checksum": "sha256:other"})
    with pytest.raises(ValueError, match=f"{other.where} is of other data than 'tiny' here"):
        _ = Network(other, small.weights).dataset


@pytest.mark.parametrize(("asked", "usual", "number"), [(None, 20, 20), (None, 200, 30), (1, 20, 1), (30, 20, 30)])
def test_the_first_images_are_as_many_as_asked_for_or_usual_and_no_more_than_the_record_saw(
    small, asked, usual, number
):
    images, labels = small.first(asked, usual)
    assert torch.equal(images.cpu(), small.dataset.test_images[:number])
    assert torch.equal(labels.cpu(), small.dataset.test_labels[:number])


@pytest.mark.parametrize("asked", [31, 0, -5])
def test_more_images_than_the_record_saw_or_none_at_all_are_refused(small, asked):
    with pytest.raises(ValueError, match=f"^{asked} images are asked for, and .* was tested on 30: ask for 1 to 30$"):
        small.first(asked, 20)


def test_what_a_network_says_of_itself_is_what_a_file_beside_its_record_needs(small):
    said = small.about(7)
    assert said.keys() == fake.about(small.record).keys()
    assert (said["record"], said["record_digest"]) == (small.record.where, records.digest(small.record))
    assert (said["weights"], said["images"]) == (sha256(small.weights.read_bytes()).hexdigest(), 7)
    assert {"commit", "versions", "device", "precision", "started"} <= said["provenance"].keys()
    assert json.loads(json.dumps(said)) == said
