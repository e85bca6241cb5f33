"""The paper's rows, protocols and budgets as data. Tables, commands and notebooks iterate these, and nothing else.

The rows and their published numbers come from ``published_results.csv``: Table 1, Table 2 and the six rows that only
the authors' results file has (repository francoisdavid/AdvProp_ALS_SAT, commit 3e490f7; facts, no code). Our own
numbers live in records and are never written there.
"""

import ast
import csv
import tomllib
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from fractions import Fraction
from functools import cache
from importlib.resources import files
from types import MappingProxyType

from study.data import check_name
from study.plan.config import Config, did_you_mean

COLUMNS = {  # of the paper's tables: key -> heading
    "clean": "Test accuracy",
    "fgsm-0.1": "FGSM 0.1",
    "pgd-0.1": "PGD 0.1",
    "fgsm-0.5": "FGSM 0.5",
    "pgd-0.5": "PGD 0.5",
}

PARTS = {1: "Table 1", 2: "Table 2", None: "the rows that only the authors' results file has"}

_LADDER = {  # hours a run on 2 CPU cores: a small network on all images, from a short training to a longer one
    "strong_size": 1_000,
    "sweep_size": 500,
    "width": 16,
    "batch_size": 64,
    "schedule": "one-cycle",
}
LADDER = {f"ladder-{epochs}": _LADDER | {"epochs": epochs} for epochs in (10, 20, 40)}

BUDGETS = {  # what a budget changes in the full experiment; the smallest first
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
    **LADDER,
    "brief": {  # minutes a run on a fast GPU: the paper's network and images, for a shorter time
        "strong_size": 2_048,
        "sweep_size": 512,
        "epochs": 8,
        "schedule": "one-cycle",
        "evaluation": "tf32",  # in float32 an H100 measures a network for longer than it trains it
    },
    "full": {},  # the paper's size, for a GPU
}

# Their networks are too large for a CPU. float32 without TensorFloat-32 takes an H100 three to four times as long: so
# the published protocol, too, trains in what the device does best, and the record says what that was
GPU_BUDGETS = ("brief", "full")

OF_DATA = {  # what a data set changes in the corrected protocol
    "svhn": {"augmentation": "crop"},  # a digit in a mirror is no digit; scikit-learn's digits only try the machinery
}

SEEDS = {
    "smoke": 1,
    "lite": 3,
    **dict.fromkeys(LADDER, 1),
    "brief": 3,
    "full": 3,
}  # how many a row of Table 1 is meant to have

PROTOCOLS = ("published", "corrected")

# what tells the published protocol from the corrected one: switch -> (config field, what the released code does)
SWITCHES = {
    "space": ("attack_space", "standardised"),
    "mode": ("attack_mode", "train"),
    "branch": ("attack_branch", "main"),
    "layers": ("norm", "dual-except-shortcuts"),
    "update": ("update", "two-steps"),
    "loss": ("loss", "als-published"),
    "schedule": ("schedule", "published"),
    "augmentation": ("augmentation", "published"),
    "remainder": ("last_batch", "kept"),
    "bias": ("head_bias", "torch"),
    "precision": ("precision", "float32"),
}
DISSECTED = ("adversarial", "advprop")  # the rows that are also run under the protocols between the two
CIFAR_TRAINING = 50_000  # training images of CIFAR-10
_OF_THE_ATTACK = ("space", "mode", "branch", "update")  # without adversarial training they are never read


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

    def changes(self, protocol: str, budget: str = "lite") -> dict:
        """The config fields in which this row differs from the baseline under ``protocol``, at ``budget``.

        "published-space-mode" is the published protocol with the switches ``space`` and ``mode`` moved to what the text
        intends. Raises ValueError on a protocol or switch that is unknown, or does nothing to this row.
        """
        name, *moved = protocol.split("-")
        if name not in PROTOCOLS or (moved and name != "published"):
            raise ValueError(
                f"unknown protocol {protocol!r}: {did_you_mean(protocol, PROTOCOLS)}choose one of "
                f"{', '.join(PROTOCOLS)}, or published with switches moved, such as published-space"
            )
        for switch in moved:
            if switch not in self.switches(budget) or moved.count(switch) > 1:
                raise ValueError(
                    f"unknown switch {switch!r} in {protocol!r}: {did_you_mean(switch, self.switches(budget))}"
                    f"those that change {self.key} at budget {budget} are {', '.join(self.switches(budget))}, each once"
                )
        changes = self._techniques()
        for switch, (field, as_published) in SWITCHES.items():
            if name == "published" and switch not in moved and self._reads(switch, budget):
                changes[field] = as_published
        return changes

    def has(self, protocol: str) -> bool:
        """Whether ``protocol`` moves only switches that change this row; every row has the two protocols themselves."""
        return set(protocol.split("-")[1:]) <= set(self.switches())

    def switches(self, budget: str = "lite") -> list[str]:
        """The switches that change this row's training at ``budget``, in the order of :data:`SWITCHES`."""
        return [switch for switch in SWITCHES if self._reads(switch, budget) and (switch != "branch" or self.advprop)]

    def dissection(self, budget: str = "lite") -> list[str]:
        """Protocols from published to corrected: one switch moved at a time, then one after the other."""
        alone = [f"published-{switch}" for switch in self.switches(budget)]
        return ["published", *dict.fromkeys([*alone, *self.cumulative(budget)])]

    def cumulative(self, budget: str = "lite") -> list[str]:
        """The protocols in which the switches are moved one after the other; with the last of them it is corrected."""
        switches = self.switches(budget)
        return ["-".join(["published", *switches[:k]]) for k in range(1, len(switches))] + ["corrected"]

    @property
    def name(self) -> str:
        """The label, with its place where Table 1 has a row of that label too."""
        return self.label + {1: "", 2: " (Table 2)", None: " (results file)"}[self.paper_table]

    def _reads(self, switch: str, budget: str) -> bool:
        needs = {"layers": self.advprop, "loss": self.als} | dict.fromkeys(_OF_THE_ATTACK, self.adversarial)
        return (needs | {"precision": budget not in GPU_BUDGETS}).get(switch, True)

    def _techniques(self) -> dict:
        changes: dict = {}
        if self.adversarial:
            changes |= {"adversarial": True, "train_eps": self.train_eps, "train_step_size": self.train_step_size}
        if self.advprop:
            changes["norm"] = "dual"
        if self.als:
            changes |= {"loss": "als", "smoothing": self.als_alpha}
        if self.sat:
            changes["activation"] = "surrogate-relu"
        return changes


@dataclass(frozen=True)
class Extension:
    """An experiment beyond the paper: a row of it with some fields of its config changed, or trained for longer."""

    key: str
    label: str
    base: str  # key of the row
    question: str  # what it is run for
    fields: dict
    epochs_times: int = 1  # how many times the epochs of its budget it trains

    def changes(self, protocol: str, budget: str = "lite") -> dict:
        """The config fields in which it differs from the baseline under ``protocol``; errors as for a row."""
        changes = rows()[self.base].changes(protocol, budget) | self.fields
        if self.epochs_times != 1:
            changes["epochs"] = self.epochs_times * BUDGETS[budget].get("epochs", Config().epochs)
        return changes


@cache
def extensions() -> dict[str, Extension]:
    """The experiments of ``extensions.toml`` by their keys. Raises ValueError on an entry that cannot be meant."""
    entries = tomllib.loads((files("study.plan") / "extensions.toml").read_text())["experiment"]
    return extend([Extension(**entry) for entry in entries])


def extend(found: list[Extension]) -> dict[str, Extension]:
    """Extensions by key. Raises ValueError on a key that is taken, an unknown base or field, or no difference."""
    by_key: dict[str, Extension] = {}
    for extension in found:
        if extension.key in rows() or extension.key in by_key:
            raise ValueError(f"duplicate key {extension.key!r} among the extensions: give every experiment its own")
        if extension.base not in rows():
            raise ValueError(
                f"{extension.key!r} extends an unknown row {extension.base!r}: "
                f"{did_you_mean(extension.base, rows())}`python -m study list` prints the rows"
            )
        base = Config().change(**rows()[extension.base].changes("corrected"))  # the only protocol that it is run under
        if Config().change(**extension.changes("corrected", "full")) == base:
            raise ValueError(f"{extension.key!r} differs from {extension.base!r} by nothing: say what it changes")
        by_key[extension.key] = extension
    return by_key


def experiments() -> "dict[str, Row | Extension]":
    """Everything that can be run: the paper's rows, then the extensions."""
    return rows() | extensions()


def unique_name(key: str) -> str:
    """An experiment in words that no other has: its name, or where several share that, its label with its key."""
    names = {other: getattr(found, "name", found.label) for other, found in experiments().items()}
    return names[key] if list(names.values()).count(names[key]) == 1 else f"{experiments()[key].label} ({key})"


@cache
def rows() -> dict[str, Row]:
    """Every row by its key, in the order of the paper: Table 1, Table 2, the rows of the results file."""
    text = (files("study.plan") / "published_results.csv").read_text()
    table = [_row(line) for line in csv.DictReader(text.splitlines())]
    return index(table)


def twin(key: str) -> str | None:
    """The earlier row that trains the same network, or None: an eps that two steps cannot reach changes nothing."""

    def trained(row: Row) -> dict:
        changes = row.changes("corrected")
        steps = Config().train_steps * changes.get("train_step_size", 0.0)
        return changes | ({"train_eps": "not reached"} if steps < changes.get("train_eps", 0.0) else {})

    for earlier, row in rows().items():
        if earlier == key:
            return None
        if trained(row) == trained(rows()[key]):
            return earlier
    raise ValueError(f"the paper has no row {key!r}")


def distinct() -> dict[str, Row]:
    """The rows, but for those that train a network which an earlier one trains: for what is counted."""
    return {key: row for key, row in rows().items() if twin(key) is None}


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


def part(number: int | None) -> dict[str, Row]:
    """The rows of the paper's Table 1 or 2, or (None) those of neither. Raises ValueError on another number."""
    if number not in PARTS:
        raise ValueError(f"the paper has no table {number}: choose 1 or 2")
    return {key: row for key, row in rows().items() if row.paper_table == number}


def factorial() -> dict[tuple[bool, bool, bool], str]:
    """The full 2x2x2 on top of one training attack, Table 1's: (AdvProp, ALS, SAT) -> key."""
    base = rows()["adversarial"]
    same = {
        key: row
        for key, row in rows().items()
        if row.adversarial and (row.train_eps, row.train_step_size) == (base.train_eps, base.train_step_size)
    }
    return {(row.advprop, row.als, row.sat): key for key, row in same.items()}


def config(
    key: str,
    *,
    protocol: str = "corrected",
    budget: str = "full",
    seed: int = 0,
    overrides: Mapping | str = MappingProxyType({}),
    **fields,
) -> Config:
    """The config of one run: budget, data set, row and protocol, then ``fields`` (a value of None is ignored).

    overrides: more fields; in a notebook that papermill's ``-p`` gave them to, they are text.

    Raises ValueError on an unknown key, protocol, budget, field or data set, with the nearest known name, and TypeError
    on overrides that are no fields.
    """
    for what, name, known in [("row", key, experiments()), ("budget", budget, BUDGETS)]:
        if name not in known:
            raise ValueError(f"unknown {what} {name!r}: {did_you_mean(name, known)}choose one of {', '.join(known)}")
    fields = {name: value for name, value in {**fields, **_read(overrides)}.items() if value is not None}
    chosen = {**BUDGETS[budget], **fields}
    dataset, _ = check_name(chosen.get("dataset", Config().dataset))
    return Config().change(
        **{
            **BUDGETS[budget],
            **OF_DATA.get(dataset, {}),
            **experiments()[key].changes(protocol, budget),
            "seed": seed,
            **fields,
        }
    )


def _read(overrides: Mapping | str) -> Mapping:
    with suppress(ValueError, SyntaxError):
        overrides = ast.literal_eval(overrides) if isinstance(overrides, str) else overrides
    if not isinstance(overrides, Mapping):
        raise TypeError(f"overrides={overrides!r} are no fields of the config: write them as in {{'epochs': 2}}")
    return overrides


def rule(protocol: str) -> str:
    """The evaluation that belongs to a protocol of training: what it starts from, "published" or "corrected"."""
    return protocol.split("-")[0]


def _row(line: dict[str, str]) -> Row:
    flag = {name: line[name] == "1" for name in ("adversarial", "advprop", "als", "sat")}
    number = {
        name: float(Fraction(line[name])) if line[name] else None
        for name in ("train_eps", "train_step_size", "als_alpha")
    }
    published = {column: float(line[column.replace("-", "_")]) for column in COLUMNS}
    table = int(line["paper_table"]) if line["paper_table"] else None
    return Row(line["key"], line["label"], table, **flag, **number, published=published)
