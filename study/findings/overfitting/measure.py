"""Repeat a record's training and look at the network after every epoch, as :mod:`overfitting.judge` reads it."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path

import torch
from torch import nn

from study import records
from study.data import Dataset
from study.experiment.build import gradients
from study.experiment.evaluate import evaluate, suite
from study.experiment.retrain import retrain
from study.findings.overfitting.judge import Watched, columns
from study.plan.config import Config
from study.records import Measurement, Record

IMAGES = 200  # of the test set


def watch(
    record: Record,
    *,
    provenance: Callable[[torch.device], dict],
    images: int | None = None,
    work: Path | None = None,
    data_root: Path | None = None,
) -> Watched:
    """What the network of ``record`` does after every epoch, on the first ``images`` of its test set.

    provenance: device -> what makes this. work: as for :func:`retrain.retrain`, which see for what is raised;
    also ValueError where :func:`judge.size` has nothing to set against the training's attack.
    """
    config = record.as_config()
    names = columns(config)
    n = min(images or IMAGES, record.measurement("corrected:clean").n)
    # before training: the files may change while it trains
    origin = provenance(torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    learned = retrain(
        record,
        work=work,
        apart=f"watched-{n}",  # no checkpoint of another training, watched otherwise or not at all, is gone on from
        data_root=data_root,
        watch=lambda model, data: look(model, data, config, names, n),
    )
    epochs = tuple(tuple(Measurement(**one) for one in line["watched"]) for line in learned.curve)
    origin |= {"threads": record.provenance["threads"], "precision": record.provenance["precision"]}
    return Watched(record.where, records.digest(record), origin, n, epochs)


def look(model: nn.Module, dataset: Dataset, config: Config, names: Sequence[str], n: int) -> dict:
    """The columns ``names`` on the first ``n`` test images: true gradients, the branch that learns from attacked ones.

    As what is added to an epoch's line of the curve.
    """
    branch = "main" if config.norm == "shared" else "aux"
    attacks = [a for a in suite(dual=False, surrogate=False) if a.rule == "corrected" and a.column in names]
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
