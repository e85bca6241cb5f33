"""Accuracies and differences that records give: from their masks, paired by image and by seed. No torch."""

from collections.abc import Iterable, Sequence

import numpy as np

from study.evidence import estimates
from study.evidence.estimates import FEW, Estimate, Spread
from study.evidence.selection import Group, runs_of
from study.plan import catalogue
from study.records import PUBLISHED_BATCH, Record

STRONG = "pgd-20-8/255"  # the strongest attack that every network went through; no AutoAttack
HEADINGS = catalogue.COLUMNS | {STRONG: "PGD-20 8/255"}
FOUR_COLUMNS = ("clean", "fgsm-0.1", "pgd-0.1", STRONG)  # where all would be too many
Place = tuple[str, str, str]  # key, protocol of training, measurement: "corrected:clean"


def accuracy(group: Group, key: str, protocol: str, column: str) -> Estimate | None:
    """Row ``key`` trained under ``protocol``, as a share in [0, 1].

    On the paper's columns it is tested by the protocol's own rule, on all others by the corrected one. None if the row
    was not run under the protocol; KeyError if it was run and lacks the measurement.
    """
    runs = runs_of(group, key, protocol)
    return estimates.accuracy(survivors_by_seed(runs, _name(protocol, column))) if runs else None


def accuracies(group: Group, places: Iterable[Place]) -> list[Estimate] | None:
    """The accuracy at each place, all over the same seeds and images, so that one can be set against another."""
    masks = paired(group, places)
    return [estimates.accuracy(mask) for mask in masks] if masks else None


def by_corrected_rule(group: Group, key: str, protocol: str, columns: Iterable[str]) -> dict[str, Estimate]:
    """The network of a row, which was run, on each of ``columns``: all by the corrected rule and on the same images."""
    columns = list(columns)
    return dict(
        zip(columns, accuracies(group, [(key, protocol, f"corrected:{column}") for column in columns]), strict=True)
    )


def difference(group: Group, a: Place, b: Place, confidence: float = 0.95) -> Estimate | None:
    """Accuracy at ``a`` minus accuracy at ``b``, paired; None if they share no seed.

    Of two networks the interval knows how much trainings differ, if ``group`` shows it (:func:`spread`).
    """
    masks = paired(group, [a, b])
    between = spread(group, a[2]) if a[:2] != b[:2] else None
    return estimates.difference(*masks, confidence, between) if masks else None


def better_than_guessing(
    group: Group, masks: Iterable[np.ndarray], confidence: float = 0.95, margin: float = 0.0
) -> bool:
    """Whether a network is for certain right about more images than by guessing, by more than the margin.

    Else a difference says nothing.
    """
    guess = 1 / len(group[0].data["classes"])
    return any(estimates.accuracy(mask, confidence).low > guess + margin for mask in masks)


def spread(group: Iterable[Record], name: str) -> Spread | None:
    """How much trainings differ under a measurement, from the paper's rows that have several seeds; None if none has.

    Experiments of our own do not count: one that differs from a row in its arithmetic alone is the same luck again.
    Each network tested by its protocol's rule on the column of ``name``, through the main branch. Of a column that too
    few such experiments survive, or that is none of :data:`HEADINGS`, it is what all of these show together.
    """
    by_experiment: dict[tuple, Group] = {}
    for record in (record for record in group if record.key in catalogue.rows()):
        place = (record.budget, record.config["dataset"], record.key, record.protocol)
        by_experiment.setdefault(place, []).append(record)
    several = [(protocol, runs) for (*_, protocol), runs in by_experiment.items() if len(runs) > 1]

    def pooled(columns: Iterable[str]) -> Spread | None:
        return estimates.pooled(
            [[survivors_by_seed(runs, _name(protocol, column)) for column in columns] for protocol, runs in several]
        )

    column = name.split(":")[1]
    own = pooled([column]) if column in HEADINGS else None
    return own if own and own.freedom >= FEW else pooled(HEADINGS)


def factorial(group: Group, protocol: str, column: str, confidence: float = 0.95) -> dict | None:
    """Effects of AdvProp, ALS and SAT on top of adversarial training, as a full 2x2x2; None while a row is missing.

    Interaction names -> Estimate, as :func:`estimates.factorial_effects` gives them.
    """
    design = catalogue.factorial()
    masks = paired(group, [(key, protocol, _name(protocol, column)) for key in design.values()])
    if masks is None:
        return None
    cells = dict(zip(design, masks, strict=True))
    between = spread(group, f"corrected:{column}")
    return estimates.factorial_effects(cells, ("AdvProp", "ALS", "SAT"), confidence, between)


def paired(group: Group, places: Iterable[Place]) -> list[np.ndarray] | None:
    """A mask (S, n) for each place, over the seeds and images that all of them share; None if they share no seed."""
    places = list(places)
    runs = shared(group, places)
    if not runs[0]:
        return None
    names = [name for _, _, name in places]
    return same_images([(found, name, survivors_by_seed(found, name)) for found, name in zip(runs, names, strict=True)])


def shared(group: Group, places: Iterable[Place]) -> list[Group]:
    """The records that a comparison of ``places`` rests on: for each place those of the seeds that all places have.

    In the order of seeds; empty lists if they share none.
    """
    runs = [runs_of(group, key, protocol) for key, protocol, _ in places]
    seeds = set.intersection(*({record.seed for record in found} for found in runs))
    return [[record for record in found if record.seed in seeds] for found in runs]


def same_images(measured: Sequence[tuple[Group, str, np.ndarray]]) -> list[np.ndarray]:
    """Masks cut to the images that all share. ``measured``: (records, name of the measurement, mask (S, n)) each.

    All begin with the first image in canonical order, so that is the fewer of them. Where batches of two measurements
    end at different places and their statistics count, the last batch of the shorter is another than that of the
    longer, and is left out: n is a multiple of the batch, if one is full.
    """
    n = min(mask.shape[1] for _, _, mask in measured)
    of_batches = {
        mask.shape[1] for runs, name, mask in measured if runs[0].measurement(name).attack["statistics"] == "batch"
    }
    if len(of_batches) > 1:
        n = n - n % PUBLISHED_BATCH or n
    return [mask[:, :n] for _, _, mask in measured]


def survivors(record: Record, name: str) -> np.ndarray:
    """bool (n,): which images a network got right. With surrogate gradients, an image must survive both gradients.

    Where the two were measured on different numbers of images, n is the fewer: both begin with the first.
    """
    masks = [record.measurement(name).mask]
    masks += [m.mask for m in record.measured if m.name == f"{name}:surrogate"]
    n = min(map(len, masks))
    return np.logical_and.reduce([mask[:n] for mask in masks])


def survivors_by_seed(runs: Group, name: str) -> np.ndarray:
    """bool (S, n): :func:`survivors` of each run, on the images that all were tested on.

    A run that was measured on more images than the others (:class:`study.records.columns.Columns`) is cut to theirs: of
    trainings and of images, a comparison keeps all trainings.
    """
    return _stacked(runs, name, [survivors(record, name) for record in runs])


def as_measured(runs: Group, name: str) -> np.ndarray:
    """bool (S, n): which images each of the runs got right in this one measurement, whatever others found.

    On the images that all were tested on. KeyError if one of them lacks it.
    """
    return _stacked(runs, name, [record.measurement(name).mask for record in runs])


def _name(protocol: str, column: str) -> str:
    """The measurement of a column: the paper's by the protocol's own rule, all others by the corrected one."""
    return f"{catalogue.rule(protocol) if column in catalogue.COLUMNS else 'corrected'}:{column}"


def _stacked(runs: Group, name: str, masks: Sequence[np.ndarray]) -> np.ndarray:
    """A mask of each run as one (S, n), cut as :func:`same_images` cuts."""
    measured = [([record], name, mask[None]) for record, mask in zip(runs, masks, strict=True)]
    return np.concatenate(same_images(measured))
