"""The paper's columns on every test image: the record repeated and gone on from, and what clean averages are."""

import dataclasses
import json
import re

import fake_records as fake
import miniature
import numpy as np
import pytest
import torch

from advlib.resnet import resnet18
from study import records
from study.__main__ import main
from study.data.pixels import to_pixels
from study.evidence import comparisons, selection
from study.experiment import network as networks
from study.experiment import run
from study.experiment.controls import NORMS
from study.experiment.network import Network
from study.experiment.weights import save_weights
from study.findings.columns import measure
from study.findings.numbers import robustness
from study.plan.catalogue import config
from study.presentation import sentences
from study.records import Measurement
from study.records.columns import Columns
from study.records.packing import pack_mask

TESTED, THERE = 20, 40  # images of the record, and of the data
UPDATE = {"dual-affine": {"update": "one-forward"}}


@pytest.fixture(scope="module")
def learned():
    """A trained network with two branches and surrogate gradients, and its record of the first images, on digits."""
    asked = config("sat-advprop", budget="smoke", epochs=1)
    return asked, run.learn(asked)


@pytest.fixture
def trained(learned, tmp_path, monkeypatch):
    """(record, file of weights): the record of the first of the test images, in ``tmp_path``."""
    asked, found = learned
    whole = dataclasses.replace(
        found.dataset, test_images=found.dataset.test_images[:THERE], test_labels=found.dataset.test_labels[:THERE]
    )
    monkeypatch.setattr(networks, "shared", lambda name: whole)
    monkeypatch.setattr(measure, "TRAINING_IMAGES", 64)
    few = dataclasses.replace(whole, test_images=whole.test_images[:TESTED], test_labels=whole.test_labels[:TESTED])
    names = {one.name for one in measure.attacks(asked)}
    record = fake.trained("sat-advprop", asked, found.models, few, names)
    fake.put(record, tmp_path)
    return record, save_weights(found.model, tmp_path / "model.safetensors", record)


def command(weights, tmp_path, *options) -> list[str]:
    of = ["--budget", "smoke", "--results", str(tmp_path), "--weights", str(weights)]
    return ["measure", "columns", "sat-advprop", *of, *options]


def larger(record: records.Record, n: int, **right: int) -> Columns:
    """A made-up file of ``n`` images. right: name of a measurement -> how many of the first are right."""
    own = {m.name: m for m in record.measurements}
    made = [
        Measurement(name, own[name].column, own[name].attack, n, pack_mask(np.arange(n) < k))
        for name, k in right.items()
    ]
    return Columns(**fake.about(record, n), measurements=tuple(made), training_images=64)


# what is measured


def test_the_file_repeats_the_record_on_its_images_and_goes_on_to_all_that_there_are(trained, tmp_path, capsys):
    record, weights = trained
    assert main(command(weights, tmp_path)) == 0
    assert f"of {THERE} images right, corrected:clean" in capsys.readouterr().out
    found = Columns.read(tmp_path / record.where / Columns.FILE, record)
    own = [m for m in found.measurements if m.name.startswith("corrected:")]
    assert {m.name for m in own} < {m.name for m in record.measurements} and len(own) == 5 + 5 + 4 + 4
    for measurement in own:
        there = record.measurement(measurement.name)
        assert (measurement.mask[:TESTED] == there.mask).all() and measurement.attack == there.attack
    assert [m.name for m in found.measurements[len(own) :]] == ["recalibrated:clean", "recalibrated:pgd-0.1"]
    assert {m.n for m in found.measurements} == {THERE} and found.training_images == 64


def test_what_a_file_has_is_kept_and_a_broken_off_one_is_gone_on_from(trained, tmp_path, monkeypatch, capsys):
    record, weights = trained
    assert main(command(weights, tmp_path, "--images", "24")) == 0
    path = tmp_path / record.where / Columns.FILE
    whole = Columns.read(path, record)
    dataclasses.replace(whole, measurements=whole.measurements[:3]).write(tmp_path, record)
    asked, evaluate = [], measure.evaluate
    monkeypatch.setattr(measure, "evaluate", lambda *a, **k: (asked.append(a[3][0].name), evaluate(*a, **k))[1])
    assert main(command(weights, tmp_path)) == 0
    assert asked == [m.name for m in whole.measurements[3:]] and Columns.read(path, record) == whole
    capsys.readouterr()
    assert main(command(weights, tmp_path, "--images", "12")) == 2
    assert "is of 24 images, not of 12: ask for --images 24, or begin again with --anew" in capsys.readouterr().err
    assert main(command(weights, tmp_path, "--images", "41")) == 2
    assert "41 images are asked for, and there are 40: ask for 1 to 40" in capsys.readouterr().err
    assert main(command(weights, tmp_path, "--images", "12", "--anew")) == 0
    assert Columns.read(path, record).images == 12


@pytest.mark.parametrize("norm", ["shared", "dual", "dual-affine"])
def test_recalibrated_averages_are_the_mean_and_variance_of_clean_training_images(norm, tmp_path, monkeypatch):
    data = miniature.dataset()
    monkeypatch.setattr(networks, "shared", lambda name: data)
    monkeypatch.setattr(measure, "BATCH", 16)
    made = fake.record("advprop")
    about = made.data | {"checksum": data.checksum, "classes": list(data.classes)}
    record = dataclasses.replace(
        made, data=about, config=made.config | {"width": 8, "norm": norm, **UPDATE.get(norm, {})}
    )
    model = resnet18(len(data.classes), 8, norm=NORMS[norm])
    network = Network(record, save_weights(model, tmp_path / "m.safetensors", record))
    before = {name: value.clone() for name, value in network.model.state_dict().items()}
    found = measure.recalibrated(network, 48)
    layer = {
        "shared": lambda norm: norm,
        "dual": lambda norm: norm["main"],
        "dual-affine": lambda norm: norm.statistics,
    }
    layer = layer[norm](found.stem_norm)
    with torch.no_grad():
        z = found.stem(found.standardise(to_pixels(data.train_images[:48])))
    parts = z.split(16)
    assert torch.allclose(layer.running_mean, torch.stack([p.mean((0, 2, 3)) for p in parts]).mean(0), atol=1e-5)
    assert torch.allclose(layer.running_var, torch.stack([p.var((0, 2, 3)) for p in parts]).mean(0), rtol=1e-4)
    assert all(torch.equal(value, before[name]) for name, value in network.model.state_dict().items())
    learnt = {name for name, _ in found.named_parameters()}
    assert all(torch.equal(found.state_dict()[name], before[name]) for name in learnt) and not found.training


# what is read


def test_tables_read_the_larger_masks_and_the_record_stays_what_it_is(tmp_path):
    record = fake.record("sat", **{"corrected:clean": 0.5, "corrected:fgsm-0.1": 0.4})
    folder = fake.put(record, tmp_path)
    before = (folder / "record.json").read_bytes()
    right = {"corrected:clean": 100, "corrected:fgsm-0.1": 80, "corrected:fgsm-0.1:surrogate": 60}
    larger(record, 1000, **right).write(tmp_path, record)
    ((found,),) = selection.groups(tmp_path)
    assert comparisons.accuracy([found], "sat", "corrected", "clean").n == 1000
    assert found.measurement("corrected:clean").accuracy == 0.1
    survived = comparisons.accuracy([found], "sat", "corrected", "fgsm-0.1")
    assert (survived.n, survived.value) == (1000, 0.06), "both gradients of the larger ones"
    assert comparisons.accuracy([found], "sat", "corrected", "pgd-0.1").n == fake.IMAGES, "which has no larger one"
    assert "200 to 1,000 test images" in sentences.describe([found])
    assert records.digest(found) == records.digest(record) and records.to_json(found).encode() == before
    assert dataclasses.replace(found, larger=()) == record == records.read(folder / "record.json")
    assert found.measurements == record.measurements


def test_a_record_that_says_something_larger_itself_is_no_record(tmp_path):
    path = fake.put(fake.record(), tmp_path) / "record.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"larger": []}))
    with pytest.raises(ValueError, match=re.escape("unknown fields ['larger']")):
        records.read(path)


def test_smaller_masks_and_those_of_other_averages_replace_nothing(tmp_path):
    record = fake.record("als", **{"corrected:clean": 0.5})
    fake.put(record, tmp_path)
    few = larger(record, 100, **{"corrected:clean": 100})
    other = dataclasses.replace(few.measurements[0], name="recalibrated:clean")
    dataclasses.replace(few, measurements=(*few.measurements, other)).write(tmp_path, record)
    assert selection.groups(tmp_path) == [[record]]
    fewer_of_nothing = larger(record, 1000, **{"corrected:clean": 100})
    own = [
        dataclasses.replace(fewer_of_nothing.measurements[0], name=name)
        for name in ("recalibrated:clean", "corrected:x")
    ]
    file = dataclasses.replace(fewer_of_nothing, measurements=(*fewer_of_nothing.measurements, *own))
    assert [m.name for m in file.larger(record)] == ["corrected:clean"]


def test_of_several_trainings_all_are_kept_on_the_images_of_all(tmp_path):
    for seed in (0, 1):
        record = fake.record("als", seed=seed, **{"corrected:clean": 0.5})
        fake.put(record, tmp_path)
        if seed == 0:
            larger(record, 1000, **{"corrected:clean": 100}).write(tmp_path, record)
    (group,) = selection.groups(tmp_path)
    found = comparisons.accuracy(group, "als", "corrected", "clean")
    assert (found.seeds, found.n) == (2, fake.IMAGES)
    assert "200 test images" in sentences.describe(group), "no more are used"


def test_the_file_of_another_network_is_refused_with_the_remedy_where_tables_are_made(tmp_path):
    record = fake.record("als", **{"corrected:clean": 0.5})
    fake.put(record, tmp_path)
    fake.beside(larger(record, 1000, **{"corrected:clean": 400}), tmp_path)
    with pytest.raises(
        ValueError, match="they agree on 50.0% of images only.*: measure again: python -m study measure columns"
    ):
        selection.groups(tmp_path)


def test_the_accuracy_of_a_class_is_over_the_images_whose_class_is_written_down():
    record = fake.record("als", **{"corrected:clean": 0.5})
    found = dataclasses.replace(record, larger=larger(record, 1000, **{"corrected:clean": 100}).measurements)
    labels = np.arange(fake.IMAGES) % 2
    assert robustness._by_class([found], "als", "clean", labels, 2) == [50, 50]
