"""Which records count as results, and the accuracies and differences that they give. No torch.

Everything that a table, a figure or a verdict shows goes through here: recomputed from the masks in the records, paired
by image and by seed, with an interval.
"""

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from advlib import catalogue, records, statistics
from advlib.records import PUBLISHED_BATCH, Record
from advlib.statistics import Estimate

RESULT_BUDGETS = ("full", "brief", "lite")  # the highest first; smoke tries the machinery and is never a result
PAPER_DATA = ("cifar10", "cifar10-jpeg")  # what the paper's claims are about: its data, and a copy of it
STRONG = "pgd-20-8/255"  # the strongest attack that every network went through; no AutoAttack
HEADINGS = catalogue.COLUMNS | {STRONG: "PGD-20 8/255"}
BRANCH_CASES = (  # what is asked of either batch norm: heading, column of the main one, column of the auxiliary one
    ("clean", "clean", "clean:aux"),
    ("PGD-20, through itself", STRONG, f"{STRONG}:aux"),
    ("PGD-20, through the other", f"{STRONG}:aux-to-main", f"{STRONG}:main-to-aux"),
)
Group = list[Record]  # of one budget on one data set


def flags(group: Group) -> str:
    """What a command has to be told to find the runs of ``group``."""
    return f"--budget {group[0].budget} --dataset {group[0].config['dataset']}"


def groups(root: Path) -> list[Group]:
    """The records that count as results, by budget and data set, none stale; first the one to judge the paper by.

    That is the one on the paper's data that has the most of Table 1 under the two protocols; where two have as much, of
    the higher budget, and rather of the original images than of a copy. So a first run of a higher budget does not push
    a whole table aside. Raises ValueError if two of a group saw different data under one name: their numbers do not
    belong in one table.
    """
    by_place: dict[tuple, Group] = {}
    for record in records.collect(root):
        if record.budget in RESULT_BUDGETS and why_stale(record) is None:
            by_place.setdefault((record.budget, record.config["dataset"]), []).append(record)
    for group in by_place.values():
        _refuse_other_data(group)
    return sorted(by_place.values(), key=_rank)


def best(root: Path) -> list[Group]:
    """The group to judge the paper by, alone, or nothing while the paper's data have no result."""
    return [group for group in groups(root)[:1] if of_the_paper(group)]


def of_the_paper(group: Group) -> bool:
    """Whether the runs are on the paper's data, or a copy of them."""
    return _kind(group) in PAPER_DATA


def _kind(group: Group) -> str:
    return group[0].config["dataset"].partition(":")[0]  # "cifar10-jpeg:<path>" is an archive of one's own packing


def _rank(group: Group) -> tuple:
    budget, kind = group[0].budget, _kind(group)
    table_1 = {(r.key, r.protocol) for r in group if r.key in catalogue.part(1) and r.protocol in catalogue.PROTOCOLS}
    original_first = PAPER_DATA.index(kind) if kind in PAPER_DATA else len(PAPER_DATA)
    return (
        kind not in PAPER_DATA,
        -len(table_1),
        RESULT_BUDGETS.index(budget),
        original_first,
        -len(group),
        group[0].config["dataset"],
    )


def stale(root: Path) -> list[tuple[Record, str]]:
    """The records of a result budget that no longer count, each with the reason."""
    found = [record for record in records.collect(root) if record.budget in RESULT_BUDGETS]
    return [(record, why) for record in found if (why := why_stale(record))]


def why_stale(record: Record) -> str | None:
    """Why a record is not what its place in ``results`` would hold if it were run today, or None."""
    try:
        today = catalogue.config(
            record.key,
            protocol=record.protocol,
            budget=record.budget,
            seed=record.seed,
            dataset=record.config["dataset"],
        )
    except ValueError as error:  # such as an extension that has been taken out of the catalogue
        return f"the catalogue has it no more: {str(error).partition(':')[0]}"
    return record.stale_because(today)


def runs_of(group: Group, key: str, protocol: str) -> Group:
    """The records of one row under one protocol, in the order of their seeds."""
    return sorted((r for r in group if (r.key, r.protocol) == (key, protocol)), key=lambda record: record.seed)


def rows_run(group: Group, *protocols: str, part: int | None = 1) -> dict[str, catalogue.Row]:
    """The rows of a part of the paper that were run under one of ``protocols`` (either of the two, if none is said)."""
    return {
        key: row
        for key, row in catalogue.part(part).items()
        if any(runs_of(group, key, protocol) for protocol in protocols or catalogue.PROTOCOLS)
    }


def seeds_a_row(group: Group) -> list[int]:
    """How many seeds the rows have, each number that occurs once, in order."""
    return sorted(set(Counter((record.key, record.protocol) for record in group).values()))


def accuracy(group: Group, key: str, protocol: str, column: str, rule: str | None = None) -> Estimate | None:
    """Row ``key`` trained under ``protocol`` and tested by ``rule``, as a share in [0, 1]. The rule: see :func:`_name`.

    None if the row was not run under the protocol; KeyError if it was run and lacks the measurement.
    """
    runs = runs_of(group, key, protocol)
    return statistics.accuracy(worst_masks(runs, _name(protocol, column, rule))) if runs else None


Place = tuple[str, str, str]  # key, protocol of training, measurement: "corrected:clean"


def shared(group: Group, places: Iterable[Place]) -> list[Group]:
    """The records that a comparison of ``places`` rests on: for each place those of the seeds that all places have.

    In the order of seeds; empty lists if they share none.
    """
    runs = [runs_of(group, key, protocol) for key, protocol, _ in places]
    seeds = set.intersection(*({record.seed for record in found} for found in runs))
    return [[record for record in found if record.seed in seeds] for found in runs]


def paired(group: Group, places: Iterable[Place]) -> list[np.ndarray] | None:
    """A mask (S, n) for each place, over the seeds and images that all of them share; None if they share no seed."""
    places = list(places)
    runs = shared(group, places)
    if not runs[0]:
        return None
    names = [name for _, _, name in places]
    return same_images([(found, name, worst_masks(found, name)) for found, name in zip(runs, names, strict=True)])


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


def by_corrected_rule(group: Group, key: str, protocol: str, columns: Iterable[str]) -> dict[str, Estimate]:
    """The network of a row, which was run, on each of ``columns``: all by the corrected rule and on the same images."""
    columns = list(columns)
    return dict(
        zip(columns, accuracies(group, [(key, protocol, f"corrected:{column}") for column in columns]), strict=True)
    )


def accuracies(group: Group, places: Iterable[Place]) -> list[Estimate] | None:
    """The accuracy at each place, all over the same seeds and images, so that one can be set against another."""
    masks = paired(group, places)
    return [statistics.accuracy(mask) for mask in masks] if masks else None


def difference(group: Group, a: Place, b: Place, confidence: float = 0.95) -> Estimate | None:
    """Accuracy at ``a`` minus accuracy at ``b``, paired; None if they share no seed."""
    masks = paired(group, [a, b])
    return statistics.difference(*masks, confidence) if masks else None


def factorial(group: Group, protocol: str, column: str) -> dict | None:
    """Effects of AdvProp, ALS and SAT on top of adversarial training, as a full 2x2x2; None while a row is missing.

    Interaction names -> Estimate, as :func:`advlib.statistics.factorial_effects` gives them.
    """
    design = catalogue.factorial()
    masks = paired(group, [(key, protocol, _name(protocol, column)) for key in design.values()])
    if masks is None:
        return None
    return statistics.factorial_effects(dict(zip(design, masks, strict=True)), ("AdvProp", "ALS", "SAT"))


def worst_mask(record: Record, name: str) -> np.ndarray:
    """bool (n,): which images a network got right. With surrogate gradients, an image must survive both gradients.

    Where the two were measured on different numbers of images, n is the fewer: both begin with the first.
    """
    masks = [record.measurement(name).mask]
    masks += [m.mask for m in record.measurements if m.name == f"{name}:surrogate"]
    n = min(map(len, masks))
    return np.logical_and.reduce([mask[:n] for mask in masks])


def _name(protocol: str, column: str, rule: str | None = None) -> str:
    """The measurement of a column: the paper's by the protocol's own rule, all others by the corrected one."""
    own = catalogue.rule(protocol) if column in catalogue.COLUMNS else "corrected"
    return f"{rule or own}:{column}"


def as_measured(runs: Group, name: str) -> np.ndarray:
    """bool (S, n): which images each of the runs got right in this one measurement, whatever others found.

    KeyError if one of them lacks it, ValueError if they were tested on different numbers of images.
    """
    found = [record.measurement(name).mask for record in runs]
    _refuse_other_sizes(runs, name, found)
    return np.array(found)


def worst_masks(runs: Group, name: str) -> np.ndarray:
    """bool (S, n): :func:`worst_mask` of each run. Raises ValueError if they were tested on different numbers."""
    masks = [worst_mask(record, name) for record in runs]
    _refuse_other_sizes(runs, name, masks)
    return np.array(masks)


def _refuse_other_sizes(runs: Group, name: str, masks: Sequence[np.ndarray]) -> None:
    """Raises ValueError if runs that differ in their seed were tested on different numbers of images."""
    sizes = sorted({len(mask) for mask in masks})
    if len(sizes) > 1:
        raise ValueError(f"{runs[0].key}, {name}: seeds were tested on {sizes} images; run them alike")


def _refuse_other_data(group: Group) -> None:
    first = group[0]
    for record in group:
        if record.data["checksum"] != first.data["checksum"]:
            checksums = f"{record.data['checksum'][:19]} and {first.data['checksum'][:19]}"
            raise ValueError(
                f"{record.where} and {first.where} saw different data under the name {first.data['name']!r} "
                f"({checksums}): run one of them again, or move it out of the results"
            )


LABELS = "labels.json"  # beside the protocols of a data set: the true classes of its test images, in canonical order


def labels(root: Path, group: Group) -> np.ndarray | None:
    """The true class of each test image, int (n,), or None if nobody wrote them down (tools/write_labels.py does).

    Raises ValueError if they belong to other data than the records.
    """
    budget, dataset = Path(group[0].where).parts[:2]
    path = Path(root) / budget / dataset / LABELS
    if not path.is_file():
        return None
    found = json.loads(path.read_text())
    if found["checksum"] != group[0].data["checksum"]:
        raise ValueError(f"{path} is of other data than the records beside it: make it anew by tools/write_labels.py")
    return np.array([int(label) for label in found["labels"].split()])
