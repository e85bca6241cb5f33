"""The paper's rows, protocols and budgets as data. Tables, commands and notebooks iterate these, and nothing else.

The rows and their published numbers come from ``published_results.csv``: Table 1, Table 2 and the six rows that only the
authors' results file has (repository francoisdavid/AdvProp_ALS_SAT, commit 3e490f7; facts, no code). Our own numbers
live in records and are never written there.
"""

import csv
from dataclasses import dataclass
from fractions import Fraction
from functools import cache
from importlib.resources import files

from advlib.config import Config, did_you_mean
from advlib.data import check_name

COLUMNS = {  # of the paper's tables: key -> heading
    "clean": "Test accuracy",
    "fgsm-0.1": "FGSM 0.1",
    "pgd-0.1": "PGD 0.1",
    "fgsm-0.5": "FGSM 0.5",
    "pgd-0.5": "PGD 0.5",
}

BUDGETS = {  # what a budget changes in the full experiment
    "smoke": {  # seconds a run: shows that the machinery works
        "dataset": "digits",
        "test_size": 100,
        "sweep_size": 50,
        "width": 8,
        "epochs": 3,
        "batch_size": 64,
        "schedule": "one-cycle",
        "precision": "float32",
    },
    "lite": {  # minutes a run on 2 CPU cores
        "train_size": 20_000,
        "test_size": 1_000,
        "sweep_size": 500,
        "width": 16,
        "epochs": 5,
        "batch_size": 64,
        "schedule": "one-cycle",
    },
    "full": {},  # a GPU
}

PROTOCOLS = ("published", "corrected")

# The switches of the published protocol (points of the chapter "As published"): field -> what the released code does.
PUBLISHED_TRAINING = {"schedule": "cosine-80", "augmentation": "published"}
PUBLISHED_ATTACK = {
    "attack_space": "standardised",
    "attack_mode": "train",
    "attack_branch": "main",
    "update": "two-steps",
}


@dataclass(frozen=True)
class Row:
    """One row of the paper: which techniques it mixes, how its training attack is set, what was published."""

    key: str
    label: str
    paper_table: int | None  # 1, 2, or None: only in the authors' results file
    adversarial: bool
    advprop: bool
    als: bool
    sat: bool
    train_eps: float | None  # in the units of the protocol's space
    train_step_size: float | None
    als_alpha: float | None  # from the authors' code; the paper states none
    published: dict[str, float]  # column -> accuracy in percent

    def changes(self, protocol: str) -> dict:
        """The config fields in which this row differs from the baseline under ``protocol``."""
        published = protocol == "published"
        changes: dict = dict(PUBLISHED_TRAINING) if published else {}
        if self.adversarial:
            changes |= {"adversarial": True, "train_eps": self.train_eps, "train_step_size": self.train_step_size}
            changes |= PUBLISHED_ATTACK if published else {}
        if self.advprop:
            changes["norm"] = "dual-except-shortcuts" if published else "dual"
        if self.als:
            changes |= {"loss": "als-published" if published else "als", "smoothing": self.als_alpha}
        if self.sat:
            changes["activation"] = "surrogate-relu"
        return changes


@cache
def rows() -> dict[str, Row]:
    """Every row by its key, in the order of the paper: Table 1, Table 2, the rows of the results file."""
    text = (files("advlib") / "published_results.csv").read_text()
    table = [_row(line) for line in csv.DictReader(text.splitlines())]
    return index(table)


def index(table: list[Row]) -> dict[str, Row]:
    """Rows by key. Raises ValueError on a duplicate key, or a row that repeats an earlier experiment."""
    by_key: dict[str, Row] = {}
    for row in table:
        if row.key in by_key:
            raise ValueError(f"duplicate key {row.key!r} in the catalogue: give every row its own")
        for other in by_key.values():
            if any(row.changes(protocol) == other.changes(protocol) for protocol in PROTOCOLS):
                raise ValueError(f"{row.key!r} differs from {other.key!r} by nothing: drop one, or say what differs")
        by_key[row.key] = row
    return by_key


def config(key: str, *, protocol: str = "corrected", budget: str = "full", seed: int = 0, **overrides) -> Config:
    """The config of one run: budget, then row and protocol, then ``overrides`` (a value of None is ignored).

    Raises ValueError on an unknown key, protocol, budget, field or data set, with the nearest known name.
    """
    for what, name, known in [("row", key, rows()), ("protocol", protocol, PROTOCOLS), ("budget", budget, BUDGETS)]:
        if name not in known:
            raise ValueError(f"unknown {what} {name!r}: {did_you_mean(name, known)}choose one of {', '.join(known)}")
    overrides = {name: value for name, value in overrides.items() if value is not None}
    made = Config().change(**{**BUDGETS[budget], **rows()[key].changes(protocol), "seed": seed, **overrides})
    check_name(made.dataset)
    return made


def _row(line: dict[str, str]) -> Row:
    flag = {name: line[name] == "1" for name in ("adversarial", "advprop", "als", "sat")}
    number = {name: float(Fraction(line[name])) if line[name] else None for name in ("train_eps", "train_step_size", "als_alpha")}
    published = {column: float(line[column.replace("-", "_")]) for column in COLUMNS}
    table = int(line["paper_table"]) if line["paper_table"] else None
    return Row(line["key"], line["label"], table, **flag, **number, published=published)
