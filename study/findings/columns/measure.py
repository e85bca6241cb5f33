"""The paper's columns on every test image, by the corrected rule, and what clean running averages alone would change.

A record tests on few images, as it has many attacks. The few that tables are made of are repeated here on all images,
under the names that they have in the record.

The control asks what batch norm's running averages do. Those of the main branch are recomputed: their cumulative
average (momentum None) over the first :data:`TRAINING_IMAGES` of the record's training images, clean and un-augmented,
in batches of :data:`BATCH`. Nothing is learnt anew. The network is then tested in evaluation mode, as ever: this is not
the published rule, which normalises test images by themselves.
"""

import copy
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

from torch import nn

from study.data.pixels import to_pixels
from study.experiment.evaluate import evaluate
from study.experiment.network import Network, images_of
from study.experiment.precision import float32
from study.findings.branches.measure import measure_statistics
from study.machine.progress import progress
from study.plan.attacks import PAPER_COLUMNS, Attack, suite
from study.records.columns import RECALIBRATED, Columns

TRAINING_IMAGES = 5_000
BATCH = 250  # of them
CONTROLS = ("clean", "pgd-0.1")  # the columns of the recalibrated network


def attacks(config) -> list[Attack]:
    """What a network is asked: the paper's columns as its record has them, then those of the recalibrated one."""
    paper = {attack.column for attack in PAPER_COLUMNS}
    own = [
        attack
        for attack in suite(dual=config.norm != "shared", surrogate=config.activation == "surrogate-relu")
        if attack.rule == "corrected" and attack.column in paper and attack.through == attack.branch
    ]
    rule = RECALIBRATED.removesuffix(":")
    return own + [replace(attack, rule=rule) for attack in PAPER_COLUMNS if attack.column in CONTROLS]


@float32()
def recalibrated(network: Network, images: int) -> nn.Module:
    """A copy of the network, for its main branch, whose running averages are of the first clean training images."""
    model, shown = copy.deepcopy(network.model), network.dataset.train_images[:images]
    measure_statistics(model, [to_pixels(batch.to(network.device)) for batch in shown.split(BATCH)])
    return model


def measure(
    networks: Iterable[Network], results: Path, images: int | None = None, *, anew: bool = False
) -> Iterator[str]:
    """Attack each network on all test images, or the first ``images``, write its file, and say what was found.

    The file grows by one attack at a time. What it has is kept, unless all is to be made ``anew``. Raises ValueError if
    weights, data or the file there are not the record's.
    """
    for network in networks:
        record, asked = network.record, attacks(network.record.as_config())
        found = _begun(network, results, images, anew)
        n, done = found.images, {measurement.name for measurement in found.measurements}
        shown, labels = (
            part[:n].to(network.device) for part in (network.dataset.test_images, network.dataset.test_labels)
        )
        clean_averages = {"true": recalibrated(network, found.training_images)}
        for attack in progress([one for one in asked if one.name not in done], desc=record.key, unit="attack"):
            models = clean_averages if attack.name.startswith(RECALIBRATED) else network.gradients
            more = evaluate(models, shown, labels, [attack], sweep_size=n, seed=record.seed)
            found = replace(found, measurements=(*found.measurements, *more))
            found.write(results, record)
        rates = ", ".join(f"{m.name} {100 * m.accuracy:.1f} %" for m in found.measurements)
        yield f"{record.where}/{found.FILE}: of {n} images right, {rates}"


def _begun(network: Network, results: Path, images: int | None, anew: bool) -> Columns:
    """What there is of a network already, or a beginning without a measurement. ValueError if it is of other images."""
    record = network.record
    most = len(network.dataset.test_images)
    n = images_of(images, most, f"there are {most}") or most
    if there := Columns.begun(results, record, network.digest, images, anew):
        return there
    trained = min(record.config["train_size"] or len(network.dataset.train_images), TRAINING_IMAGES)
    return Columns(**network.about(n), measurements=(), training_images=trained)
