"""Records with made-up numbers, for tests of what is drawn from records. Nothing here trains."""

import json
from pathlib import Path

import numpy as np

from advlib import catalogue, records
from advlib.records import Measurement, Record, pack_mask

TITLES = {"digits": "scikit-learn's digits", "cifar10": "CIFAR-10", "cifar10-jpeg": "CIFAR-10, JPEG copy"}
NOTEBOOK = {
    "cells": [{"cell_type": "markdown", "metadata": {}, "id": "a", "source": "# A run"}],
    "metadata": {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}},
    "nbformat": 4,
    "nbformat_minor": 5,
}


def mask(accuracy: float, n: int) -> str:
    """Packed mask of n images, of which the first are correct."""
    return pack_mask(np.arange(n) < round(accuracy * n))


def measurement(name: str, accuracy: float, n: int = 200) -> Measurement:
    rule, column = name.split(":")[:2]
    standardised = rule == "published"
    attack = {
        "method": "fgsm" if "fgsm" in column else "pgd",
        "eps": 0.1,
        "step_size": 2 / 255,
        "steps": 2,
        "restarts": 1,
        "random_start": False,
        "space": "standardised" if standardised else "pixels",
        "statistics": "batch" if standardised else "running",
    }
    return Measurement(name, column, attack, n, mask(accuracy, n))


def record(
    key="advprop", protocol="corrected", budget="lite", seed=0, dataset="cifar10-jpeg", drop=(), **accuracies
) -> Record:
    """A record that is not stale, with the paper's columns under both rules; ``drop`` names measurements left out."""
    dataset = "digits" if budget == "smoke" else dataset
    config = catalogue.config(key, protocol=protocol, budget=budget, seed=seed, dataset=dataset).to_dict()
    names = [f"{rule}:{column}" for rule in catalogue.PROTOCOLS for column in catalogue.COLUMNS] + [
        "corrected:pgd-20-8/255"
    ]
    level = 0.9 - 0.02 * list(catalogue.rows()).index(key)
    measurements = [
        measurement(name, accuracies.get(name, max(0.0, level - 0.12 * k % 0.6)))
        for k, name in enumerate(names)
        if name not in drop
    ]
    return Record(
        key,
        protocol,
        budget,
        seed,
        config,
        data={
            "name": dataset,
            "title": TITLES[dataset],
            "checksum": "sha256:0",
            "train_images": 1000,
            "test_images": 200,
        },
        provenance={"device": "cpu: none", "commit": "0" * 40},
        cost={"training_seconds": 3.0, "evaluation_seconds": 2.0},
        curve=[],
        measurements=tuple(measurements),
    )


def put(record: Record, results: Path) -> Path:
    """Write the record, and a notebook beside it, where it belongs below ``results``."""
    folder = results / record.where
    records.write(record, folder / "record.json")
    (folder / "run.ipynb").write_text(json.dumps(NOTEBOOK))
    return folder
