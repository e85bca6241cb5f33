"""A record's network once more: trained anew from its config, and believed only if the record's own numbers come out.

Weights are large and are not kept of every run. A record says enough to make them again: config, data, seed, threads.
"""

import shutil
from collections.abc import Callable, Iterable
from pathlib import Path

import torch
from torch import nn

from study.data import Dataset, load
from study.experiment.evaluate import evaluate
from study.experiment.run import Learned, learn
from study.machine.folders import WEIGHTS
from study.plan.attacks import suite
from study.records import Record

OF_THE_MACHINE = "seconds"  # of an epoch's line in a curve: what it took, not what it computed
WITNESSES = ("corrected:clean", "corrected:fgsm-0.1")  # measured again, image by image: cheap, and one needs gradients


def retrain(
    record: Record,
    *,
    work: Path | None = None,
    apart: str = "again",
    watch: Callable[[nn.Module, Dataset], dict] = lambda model, dataset: {},
) -> Learned:
    """The trained network of ``record``, with as many threads as it had, in evaluation mode.

    work: the run's scratch folder. It trains in the folder ``apart`` inside, from whose checkpoint a training that was
    cut off goes on, and leaves the weights in ``work`` once they are known to be the record's, unless some are there.
    watch: looks at the network after every epoch, as in :func:`run.learn`.

    Raises ValueError, naming what differs first, if the data are not the record's, if any epoch's loss or accuracy
    differs in any digit that the record has, or if any test image, clean or under FGSM, is judged otherwise. Another
    processor or another torch may round otherwise: what comes out then is another network, and deserves a record of
    its own.
    """
    config = record.as_config()
    checksum = load(config.dataset).checksum
    if checksum != record.data["checksum"]:
        raise ValueError(f"{record.where} is of other data than {config.dataset!r} here: their checksums differ")
    scratch = work and Path(work) / apart
    threads = torch.get_num_threads()
    torch.set_num_threads(record.provenance["threads"])
    try:
        learned = learn(config, work=scratch, watch=watch)
        difference = next(differences(record, learned), None)
    finally:
        torch.set_num_threads(threads)
    if scratch and not difference and not (weights := Path(work) / WEIGHTS).exists():
        (scratch / weights.name).replace(weights)
    if scratch:
        shutil.rmtree(scratch)
    if difference:
        raise ValueError(f"{record.where} does not repeat here: {difference}. Run it anew, for a record of its own")
    return learned


def differences(record: Record, learned: Learned) -> Iterable[str]:
    """What the training says otherwise than the record, then what the network does otherwise than it."""
    if len(learned.curve) < len(record.curve):
        yield f"its curve of {len(learned.curve)} epochs is shorter than that of {len(record.curve)}"
    for then, now in zip(record.curve, learned.curve, strict=False):
        for name in then:
            if name != OF_THE_MACHINE and now[name] != then[name]:
                yield f"{name} of epoch {then['epoch']} was {then[name]} and is {now[name]}"
    attacks = [attack for attack in suite(dual=False, surrogate=False) if attack.name in WITNESSES]
    images, labels = learned.dataset.test_images, learned.dataset.test_labels
    config = record.as_config()
    how = {"sweep_size": config.sweep_size, "seed": config.seed, "tf32": config.evaluation == "tf32"}
    for found in evaluate(learned.models, images, labels, attacks, **how):
        if others := int((found.mask != record.measurement(found.name).mask).sum()):
            yield f"{others} of {found.n} test images are judged otherwise under {found.name}"
