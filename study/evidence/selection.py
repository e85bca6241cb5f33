"""Which records count as results, and which of them a table, a figure or a verdict is about. No torch."""

import shlex
from collections import Counter
from collections.abc import Collection
from dataclasses import replace
from functools import lru_cache
from hashlib import sha256
from pathlib import Path

import numpy as np

from study import records
from study.plan import catalogue
from study.records import Record, packing
from study.records.columns import Columns

# the highest first; smoke tries the machinery and is never a result
RESULT_BUDGETS = tuple(budget for budget in reversed(catalogue.BUDGETS) if budget != "smoke")
PAPER_DATA = ("cifar10", "cifar10-jpeg")  # what the paper's claims are about: its data, and a copy of it
LABELS = "labels.json"  # beside the protocols of a data set: the true classes of its test images, in canonical order
Group = list[Record]  # of one budget on one data set


def groups(root: Path) -> list[Group]:
    """The records that count as results, by budget and data set: none stale, each with its :class:`Columns`, if any.

    First comes the group on the paper's data that has most of Table 1's rows under the two protocols; where two have as
    much, of the higher budget, and rather of the original images than of a copy. So a first run of a higher budget does
    not push a whole table aside. Raises ValueError if two of a group saw different data under one name: their numbers
    do not belong in one table; and, with the remedy, on a file of larger masks that is damaged or another network's.

    Read once, and again when one of the files has changed.
    """
    return [list(group) for group in _groups(root, _stamps(root))]


def best(root: Path) -> list[Group]:
    """The group with most of Table 1, alone, or nothing while the paper's data have no result."""
    return [group for group in groups(root)[:1] if of_the_paper(group)]


def largest(root: Path, keys: Collection[str]) -> list[Group]:
    """The largest group on the paper's data with all of these rows under both protocols, alone; else :func:`best`."""
    whole = {(key, protocol) for key in keys for protocol in catalogue.PROTOCOLS}
    found = [group for group in by_size(root) if whole <= {(record.key, record.protocol) for record in group}]
    return found[:1] or best(root)


def largest_and_best(root: Path, keys: Collection[str]) -> list[Group]:
    """:func:`largest`, then :func:`best` if that is another."""
    found = best(root)
    return [*(group for group in largest(root, keys) if group not in found), *found]


def by_size(root: Path) -> list[Group]:
    """The groups on the paper's data, the highest budget first, and rather the original images than a copy."""
    return sorted(filter(of_the_paper, groups(root)), key=_size)


def of_the_paper(group: Group) -> bool:
    """Whether the runs are on the paper's data, or a copy of them."""
    return _kind(group) in PAPER_DATA


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


def labels(root: Path, group: Group) -> np.ndarray | None:
    """The true class of each test image, int (n,), or None if nobody wrote them down (tools/write_labels.py does).

    Raises ValueError, with the remedy, if the file is damaged or of other data than the records.
    """
    budget, dataset = Path(group[0].where).parts[:2]
    path = Path(root) / budget / dataset / LABELS
    if not path.is_file():
        return None
    remedy = f"make it anew: python tools/write_labels.py {flags(group)}"
    with packing.reading(path, remedy) as found:
        checksum, true = found["checksum"], np.array([int(label) for label in found["labels"].split()])
    if checksum != group[0].data["checksum"]:
        raise ValueError(f"{path} is of other data than the records beside it: {remedy}")
    return true


def flags(group: Group) -> str:
    """What a command has to be told to find the runs of ``group``."""
    return f"--budget {group[0].budget} --dataset {shlex.quote(group[0].config['dataset'])}"


@lru_cache(maxsize=1)  # a page asks a dozen times, and 65 records take a third of a second
def _groups(root: Path, stamps: tuple) -> list[Group]:
    by_place: dict[tuple, Group] = {}
    counted = [one for one in records.collect(root) if one.budget in RESULT_BUDGETS and why_stale(one) is None]
    for record in _with_larger_masks(root, counted):
        by_place.setdefault((record.budget, record.config["dataset"]), []).append(record)
    for group in by_place.values():
        _refuse_other_data(group)
    return sorted(by_place.values(), key=_rank)


def _stamps(root: Path) -> tuple:
    """What tells the files that :func:`groups` rests on from those that were there before."""
    runs = [path for name in ("record.json", Columns.FILE) for path in Path(root).glob(f"*/*/*/*/seed*/{name}")]
    weights = (Path(root).parent / "models").glob("*.safetensors")
    return tuple((path, sha256(path.read_bytes()).digest()) for path in sorted([*runs, *weights]))


def _with_larger_masks(root: Path, found: Group) -> Group:
    beside = Columns.collect(root, found)
    return [
        replace(record, larger=beside[record.where].larger(record)) if record.where in beside else record
        for record in found
    ]


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


def _size(group: Group) -> tuple:
    return RESULT_BUDGETS.index(group[0].budget), PAPER_DATA.index(_kind(group))


def _kind(group: Group) -> str:
    return group[0].config["dataset"].partition(":")[0]  # "cifar10-jpeg:<path>" is an archive of one's own packing


def _refuse_other_data(group: Group) -> None:
    first = group[0]
    for record in group:
        if record.data["checksum"] != first.data["checksum"]:
            checksums = f"{record.data['checksum'][:19]} and {first.data['checksum'][:19]}"
            raise ValueError(
                f"{record.where} and {first.where} saw different data under the name {first.data['name']!r} "
                f"({checksums}): run one of them again, or move it out of the results"
            )
