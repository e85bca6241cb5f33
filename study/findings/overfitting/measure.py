"""Repeat a record's training and look at the network after every epoch, as :mod:`overfitting.judge` reads it."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path

from torch import nn

from study import records
from study.data import Dataset
from study.experiment.build import device_or_best, gradients
from study.experiment.evaluate import evaluate
from study.experiment.network import Network
from study.experiment.provenance import provenance
from study.experiment.retrain import retrain
from study.findings.overfitting import judge
from study.findings.overfitting.judge import Watched
from study.machine.folders import work_folder
from study.plan.attacks import suite
from study.plan.config import Config
from study.records import Measurement, Record

IMAGES = 200  # of the test set


def measure(
    networks: Iterable[Network], results: Path, images: int | None = None, *, anew: bool = False
) -> Iterator[str]:
    """Train each network once more, see what it does after every epoch, write it beside its record, and say it."""
    for network in networks:
        record = network.record
        there = Watched.begun(results, record, None, images, anew)
        n = network.count(there.images if there else images, IMAGES)
        found = watch(record, images=n, work=work_folder(record.where))
        path = found.write(results, record)
        epochs = range(1, len(found.epochs) + 1)
        rates = ", ".join(f"{100 * found.accuracy(judge.MANY, epoch).value:.1f}" for epoch in epochs)
        yield (
            f"{path}: the record repeats; {found.epochs[0][-1].column} {rates} % of {found.images} images, epoch by "
            f"epoch: {judge.verdict(found, record)}"
        )


def watch(record: Record, *, images: int, work: Path | None = None) -> Watched:
    """What the network of ``record`` does after every epoch, on the first ``images`` of its test set.

    work: as for :func:`retrain.retrain`, which see for what is raised; also ValueError where :func:`judge.size` has
    nothing to set against the training's attack.
    """
    config = record.as_config()
    names = judge.columns(config)
    origin = provenance(device_or_best(None), None)  # before training: the files may change while it trains
    learned = retrain(
        record,
        work=work,
        apart=f"watched-{images}",  # no checkpoint of a training that was watched otherwise, or not, is gone on from
        watch=lambda model, data: look(model, data, config, names, images),
    )
    return Watched(
        record=record.where,
        record_digest=records.digest(record),
        weights="",
        provenance=origin | {name: record.provenance[name] for name in ("threads", "precision")},
        images=images,
        measurements=tuple(
            Measurement(**one | {"name": f"epoch-{line['epoch']}:{one['name']}"})
            for line in learned.curve
            for one in line["watched"]
        ),
    )


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
