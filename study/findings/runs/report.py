"""Every run: what it took, what a full one would take. No torch."""

from collections.abc import Iterable, Sequence
from itertools import product
from pathlib import Path

import numpy as np

from study import records
from study.evidence.selection import Group
from study.plan import arithmetic, catalogue
from study.plan.catalogue import CIFAR_TRAINING
from study.presentation.markup import counts, duration, link, row, table
from study.presentation.sentences import devices_of, kinds_of
from study.records import Record

SMOKE_ROWS = ("traditional", "adversarial", "advprop", "als", "sat", "als-sat-advprop")  # what `make book` runs


def totals(found: Sequence[Record]) -> str:
    """How many runs there are, of which protocols, and how long they took, as a sentence of Markdown."""
    hours = sum(record.seconds for record in found) / 3600
    seeds = counts(sorted({record.seed for record in found}))
    return f"**{len(found)} runs** ({kinds_of(found)}; seed {seeds}) took {hours:.1f} hours of computing."


def runs(found: Iterable[Record]) -> str:
    """Every record, a line each, with the link to its executed notebook and what made it, as HTML."""
    body = []
    for record in found:
        cells = [
            record.protocol,
            record.budget,
            record.data["title"],
            link(record),
            record.provenance["device"],
            f"{record.seconds / 60:.1f}",
            (record.provenance["commit"] or "unknown")[:7],
        ]
        body.append(row(record.key, cells))
    heads = ["Method", "Protocol", "Budget", "Data", "Seed", "Device", "Minutes", "Commit"]
    return table(heads, body, "The committed runs. The link opens the notebook as it was executed.")


def smoke_runs(root: Path) -> bool:
    """Whether any of the machinery check's runs was made here."""
    return bool(records.collect(root, budget="smoke"))


def full_cost(group: Group) -> str:
    """What a training of the full budget asks for, and the time that it takes at the least or at the rate seen here."""
    rates = [
        arithmetic.training(config, config.images_an_epoch(record.data["train_images"]))
        / record.cost["training_seconds"]
        for record in group
        for config in [record.as_config()]
    ]
    rate = float(np.median(rates))
    by_operations: dict[tuple[str, float], list[str]] = {}
    for budget, (key, paper) in product(catalogue.GPU_BUDGETS, catalogue.part(1).items()):
        operations = arithmetic.training(catalogue.config(key, budget=budget), CIFAR_TRAINING)
        by_operations.setdefault((budget, operations), []).append(paper.label)
    body = [
        row(
            f"{budget}: {', '.join(labels)}",
            [
                f"{operations / 1e15:.1f}",
                *(duration(operations / peak) for peak in arithmetic.PEAKS.values()),
                duration(operations / rate),
            ],
        )
        for (budget, operations), labels in by_operations.items()
    ]
    caption = (
        "One training of a GPU's budget, without its evaluation. Operations: of convolutions and the linear layer, in "
        "10¹⁵. At least: at the peak rate of half precision on the device's data sheet, which no program reaches; "
        f"nobody has measured these here. At the rate here: {rate / 1e9:.0f} · 10⁹ operations a second, the median of "
        f"the {len(group)} {group[0].budget} runs on {devices_of(group)}."
    )
    heads = ["Methods", "Operations", *(f"{name}, at least" for name in arithmetic.PEAKS), "At the rate here"]
    return table(heads, body, caption)


def smoke(root: Path, keys: Sequence[str] = SMOKE_ROWS) -> str:
    """The table of the machinery check, as HTML. Raises FileNotFoundError for a row without a smoke record."""
    found = {record.key: record for record in records.collect(root, budget="smoke") if record.protocol == "corrected"}
    body = []
    for key in keys:
        if key not in found:
            raise FileNotFoundError(f"no smoke record of row {key!r}: `make smoke` writes it (in seconds)")
        record = found[key]
        cells = [f"{100 * record.measurement(f'corrected:{column}').accuracy:.1f}" for column in catalogue.COLUMNS]
        cells.append(f"{record.seconds:.1f}")
        body.append(row(catalogue.rows()[key].label, cells))
    record = found[keys[0]]
    caption = (
        f"Machinery check, not a result: accuracy in percent on {record.measurements[0].n} images of "
        f"{record.data['title']}, a network of width {record.config['width']} after {record.config['epochs']} epochs."
    )
    return table(["Method", *catalogue.COLUMNS.values(), "Seconds"], body, caption)
