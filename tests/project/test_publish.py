"""A network is published under a row's name if it is that row's; else nothing is written."""

import dataclasses
import os
import sys
from itertools import count
from pathlib import Path

import fake_records as fake
import miniature
import pytest
import torch
from places import ROOT

from study.experiment import network
from study.experiment.evaluate import evaluate
from study.experiment.weights import load_model, save_weights
from study.plan.attacks import suite

sys.path.insert(0, str(ROOT / "tools"))
import publish_models

COLUMNS = ("clean", "fgsm-0.1", "pgd-0.1", "pgd-20-8/255")


@pytest.fixture
def trained(monkeypatch):
    """A network that has learnt something, and the record that it would have."""
    data, config = miniature.dataset(), miniature.config(epochs=4)
    monkeypatch.setattr(network, "shared", lambda name: data)
    model, _ = miniature.fit(config, data)
    attacks = [one for one in suite(dual=False, surrogate=False) if one.name in [f"corrected:{c}" for c in COLUMNS]]
    found = evaluate({"true": model.eval()}, data.test_images, data.test_labels, attacks, sweep_size=40)
    made = fake.record("adversarial")
    about = made.data | {"checksum": data.checksum, "classes": list(data.classes)}
    return model, dataclasses.replace(made, config=config.to_dict(), data=about, measurements=tuple(found))


def test_a_runs_own_weights_are_published_with_a_card(trained, tmp_path):
    model, record = trained
    path = publish_models.publish(record, tmp_path, save_weights(model, tmp_path / "own"))
    x = torch.rand(4, 3, 8, 8)
    with torch.no_grad():
        assert torch.allclose(load_model(path)(x), model.cpu()(x), rtol=0.02, atol=0.1), "rounded to 16 bits"
    assert record.where in path.with_suffix(".md").read_text()


@pytest.mark.parametrize("whose", ["another training's", "another record's by its own word", "of no file of that kind"])
def test_weights_that_are_not_the_rows_are_refused_and_what_is_published_stays(trained, tmp_path, whose):
    model, record = trained
    there = [tmp_path / f"{record.key}.{ending}" for ending in ("safetensors", "md")]
    for path in there:
        path.write_text("published")
    weights = save_weights(model, tmp_path / "own", dataclasses.replace(record, seed=1))
    if whose == "another training's":
        for values in model.head.parameters():  # each image is taken for another class than before
            values.data = values.data.roll(1, dims=0)
        save_weights(model, weights)
    if whose == "of no file of that kind":
        weights.write_bytes(b"no weights")
    with pytest.raises(ValueError, match="own"):
        publish_models.publish(record, tmp_path, weights)
    assert [path.read_text() for path in there] == ["published"] * 2


class Died(BaseException):
    """Of the process, as nothing in it can catch it."""


def dies_at(monkeypatch, step: int) -> None:
    """The process ends before the ``step``-th time that it writes, removes or renames a file."""
    steps = count(1)
    for owner, name in ((os, "replace"), (Path, "unlink"), (Path, "write_text"), (Path, "write_bytes")):
        monkeypatch.setattr(owner, name, _counted(getattr(owner, name), steps, step))


def _counted(real, steps, last):
    def counted(*arguments, **options):
        if next(steps) == last:
            raise Died
        return real(*arguments, **options)

    return counted


def test_a_publishing_that_dies_at_any_step_leaves_no_card_beside_another_network_and_the_next_completes_it(
    trained, tmp_path, monkeypatch
):
    model, record = trained
    weights, folder = save_weights(model, tmp_path / "own"), tmp_path / "models"
    names = [f"{record.key}.safetensors", f"{record.key}.md"]
    (tmp_path / "whole").mkdir()
    publish_models.publish(record, tmp_path / "whole", weights)
    new, old = [(tmp_path / "whole" / name).read_bytes() for name in names], [b"old"] * 2
    folder.mkdir()
    seen = []
    for step in count(1):
        for name in names:
            (folder / name).write_bytes(b"old")
        with monkeypatch.context() as patch:
            dies_at(patch, step)
            try:
                publish_models.publish(record, folder, weights)
                break
            except Died:
                pass
        left = [(folder / name).read_bytes() if (folder / name).exists() else None for name in names]
        seen.append(left)
        assert left in (old, [b"old", None], [new[0], None], new)
        publish_models.publish(record, folder, weights)
        assert [(folder / name).read_bytes() for name in names] == new
    assert old in seen and [new[0], None] in seen, "it died before and while the pair was replaced"
    assert sorted(os.listdir(folder)) == sorted(names)
