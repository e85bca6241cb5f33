"""Records with made-up numbers, for tests of what is drawn from records. Nothing here trains."""

import dataclasses
import json
from pathlib import Path

import numpy as np

from study import records
from study.experiment.evaluate import evaluate
from study.experiment.provenance import describe_data
from study.plan import catalogue
from study.plan.attacks import Attack, suite
from study.records import Measurement, Record
from study.records.beside import Beside
from study.records.packing import pack_mask

TITLES = {"digits": "scikit-learn's digits", "cifar10": "CIFAR-10", "cifar10-jpeg": "CIFAR-10, JPEG copy"}
CLASSES = ["plane", "car", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
IMAGES, SWEEP = 200, 100
NOTEBOOK = {
    "cells": [
        {"cell_type": "markdown", "metadata": {}, "id": "a", "source": "# A run"},
        {
            "cell_type": "code",
            "metadata": {},
            "id": "b",
            "source": "print('one')",
            "execution_count": 1,
            "outputs": [{"output_type": "stream", "name": "stdout", "text": "one"}],
        },
    ],
    "metadata": {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}},
    "nbformat": 4,
    "nbformat_minor": 5,
}


def mask(accuracy: float, n: int) -> str:
    """Packed mask of n images, of which the first are correct."""
    return pack_mask(np.arange(n) < round(accuracy * n))


def measurement(attack: Attack, accuracy: float, n: int = IMAGES) -> Measurement:
    return Measurement(attack.name, attack.column, attack.specification, n, mask(accuracy, n))


def attacks(key: str) -> list[Attack]:
    """The whole suite of a row, with one attack for each number of steps."""
    config = catalogue.config(key)
    whole = suite(dual=config.norm != "shared", surrogate=config.activation == "surrogate-relu")
    return [one for attack in whole for one in attack.reported]


def record(
    key="advprop",
    protocol="corrected",
    budget="lite",
    seed=0,
    dataset="cifar10-jpeg",
    title=None,
    drop=(),
    **accuracies,
) -> Record:
    """A record that is not stale, with the whole suite of attacks; ``drop`` names measurements left out.

    Accuracies that are not given fall along the suite and with the row's place in the catalogue.
    """
    dataset = "digits" if budget == "smoke" else dataset
    config = catalogue.config(key, protocol=protocol, budget=budget, seed=seed, dataset=dataset).to_dict()
    level = 0.9 - 0.02 * list(catalogue.experiments()).index(key)
    measurements = [
        measurement(
            attack,
            accuracies.get(attack.name, max(0.0, level - 0.12 * k % 0.6)),
            min(SWEEP, config["sweep_size"]) if attack.images == "sweep" else IMAGES,
        )
        for k, attack in enumerate(attacks(key))
        if attack.name not in drop
    ]
    epoch = {"lr": 0.1, "loss": 1.5, "clean_accuracy": 0.5, "seconds": 1.5}
    if config["adversarial"]:
        epoch["adversarial_accuracy"] = 0.3
    return Record(
        key,
        protocol,
        budget,
        seed,
        config,
        data={
            "name": dataset,
            "title": title or TITLES[dataset],
            "checksum": "sha256:0",
            "classes": CLASSES,
            "train_images": 1000,
            "test_images": IMAGES,
        },
        provenance={
            "device": "cpu: none",
            "threads": 1,
            "precision": "float32",
            "commit": "0" * 40,
            "dirty": False,
            "versions": {"python": "3.11.0", "torch": "2.11.0"},
            "started": "2026-01-01T00:00:00+00:00",
        },
        cost={
            "passes_per_step": {"forward": 4, "backward": 4},
            "steps": 100,
            "training_seconds": 3.0,
            "evaluation_seconds": 2.0,
            "training_images_per_second": 100.0,
        },
        curve=[{"epoch": 1, **epoch}, {"epoch": 2, **epoch}],
        measurements=tuple(measurements),
    )


def put(record: Record, results: Path) -> Path:
    """Write the record, and a notebook beside it, where it belongs below ``results``."""
    folder = results / record.where
    records.write(record, folder / "record.json")
    (folder / "run.ipynb").write_text(json.dumps(NOTEBOOK))
    return folder


def about(record: Record, images: int = IMAGES, weights: str = "") -> dict:
    """The fields of every file beside a record, but for its measurements; ``weights``: a digest."""
    return {
        "record": record.where,
        "record_digest": records.digest(record),
        "weights": weights,
        "provenance": record.provenance,
        "images": images,
    }


def beside(found: Beside, results: Path) -> Path:
    """Put the file where its record's place is below ``results``, whether or not it belongs to the record there."""
    path = results / found.record / found.FILE
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(records.as_lines(dataclasses.asdict(found)))
    return path


def trained(key: str, config, models: dict, dataset, names=("corrected:clean",)) -> Record:
    """The record, of budget smoke, of a network that a test trained: what it really gets right under a few attacks.

    models: as :func:`evaluate.evaluate` has them. names: of these attacks; of all others half is right.
    """
    whole = suite(dual=config.norm != "shared", surrogate=config.activation == "surrogate-relu")
    images, labels = dataset.test_images, dataset.test_labels
    sweep = min(config.sweep_size, len(images))
    asked = [attack for attack in whole if attack.name in names]
    measured = {m.name: m for m in evaluate(models, images, labels, asked, sweep_size=sweep)}
    measurements = [
        measured.get(one.name) or measurement(one, 0.5, sweep if one.images == "sweep" else len(images))
        for attack in whole
        for one in attack.reported
    ]
    about = {"config": config.to_dict(), "data": describe_data(dataset), "measurements": tuple(measurements)}
    return dataclasses.replace(record(key), budget="smoke", **about)
