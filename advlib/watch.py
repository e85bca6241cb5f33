"""Repeat a record's training and look at the network after every epoch, as :mod:`advlib.overfitting` reads it."""

from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import torch
from torch import nn

from advlib import records
from advlib.config import Config
from advlib.data import Dataset
from advlib.evaluate import evaluate, suite
from advlib.overfitting import COLUMNS, Watched
from advlib.records import Measurement, Record
from advlib.retrain import retrain
from advlib.run import gradients

IMAGES = 200  # of the test set: an epoch takes 3 % longer


def watch(
    record: Record,
    *,
    provenance: Callable[[torch.device], dict],
    images: int | None = None,
    work: Path | None = None,
    data_root: Path | None = None,
) -> Watched:
    """What the network of ``record`` does after every epoch, on the first ``images`` of its test set.

    provenance: device -> what made this. work: as for :func:`advlib.retrain.retrain`, which see for what is raised;
    also ValueError for a row that trains on no attacked images, or a checkpoint of a training that nobody watched.
    """
    config = Config(**record.config)
    if not config.adversarial:
        raise ValueError(f"{record.where} trains on clean images only: there is no attack to overfit to")
    n = min(images or IMAGES, record.measurement("corrected:clean").n)
    learned = retrain(record, work=work, data_root=data_root, watch=lambda model, data: look(model, data, config, n))
    if unseen := [line["epoch"] for line in learned.curve if "watched" not in line]:
        raise ValueError(f"nobody watched epochs {unseen}, which the checkpoint in {work} holds: delete that folder")
    epochs = tuple(tuple(Measurement(**one) for one in line["watched"]) for line in learned.curve)
    origin = provenance(learned.dataset.test_images.device)
    return Watched(record.where, records.digest(record), origin, n, epochs)


def look(model: nn.Module, dataset: Dataset, config: Config, n: int) -> dict:
    """The columns on the first ``n`` test images, true gradients, through the branch that learns from attacked ones."""
    branch = "main" if config.norm == "shared" else "aux"
    attacks = [a for a in suite(dual=False, surrogate=False) if a.rule == "corrected" and a.column in COLUMNS]
    attacks = [replace(attack, branch=branch, through=branch) for attack in attacks]
    found = evaluate(
        gradients(model, config, dataset),
        dataset.test_images[:n],
        dataset.test_labels[:n],
        attacks,
        sweep_size=n,
        seed=config.seed,
    )
    return {"watched": [asdict(measurement) for measurement in found]}
