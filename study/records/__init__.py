"""What a run leaves behind: one JSON file that says what was measured, on what, by what. No torch here.

A record holds, for every attack, its full specification and which images were classified correctly, so any table can
be recomputed from it. It is stale when its config, its data or the science version is no longer today's. What it may
hold is said by the annotations of its class, and every reader reads it by :func:`read`.
"""

import hashlib
import json
import os
import shlex
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields
from functools import cache, cached_property
from pathlib import Path
from typing import NotRequired, Self, TypedDict

import numpy as np

from study.machine.folders import replacing
from study.plan.attacks import Attack, suite
from study.plan.config import SINCE, Config, public
from study.records.packing import pack_mask, unpack_mask
from study.records.strict import Amount, Share, Some, Whole, converted, parsed, text_of, written

SCHEMA = 1  # of the file
PUBLISHED_BATCH = 256  # test images, in canonical order, whose own statistics the released code normalises by
SCIENCE_VERSION = (
    1  # of the results: raise it by hand when a change alters them (tests/project/test_golden.py stands guard)
)


@dataclass(frozen=True)
class Measurement:
    """One model under one attack: which of the first n test images it classified correctly."""

    name: str  # unique in a record, e.g. "corrected:fgsm-0.1"
    column: str  # of a table or sweep, e.g. "fgsm-0.1"
    attack: dict  # full specification, see study.plan.attacks.Attack
    n: Some  # images
    correct: str  # the mask, packed by pack_mask

    @classmethod
    def of(cls, name: str, column: str, attack: dict, mask: np.ndarray) -> Self:
        """The measurement of a mask, bool (n,)."""
        return cls(name, column, attack, len(mask), pack_mask(mask))

    @property
    def mask(self) -> np.ndarray:
        """bool (n,): True where the image was classified correctly."""
        return unpack_mask(self.correct, self.n)

    @property
    def accuracy(self) -> float:
        """Share of correct images, in [0, 1]."""
        return float(self.mask.mean())


class Data(TypedDict):
    """Which images."""

    name: str
    title: str
    checksum: str
    classes: list[str]
    train_images: Some
    test_images: Some


class Provenance(TypedDict):
    """What made it."""

    commit: str | None
    dirty: bool | None
    versions: dict[str, str | None]
    device: str
    threads: Some
    precision: str
    started: str
    halved: NotRequired[bool]
    processes: NotRequired[Some]


class Passes(TypedDict):
    """Of batches, in a step of training."""

    forward: Some
    backward: Some


class Cost(TypedDict):
    """What it took."""

    passes_per_step: Passes
    steps: Whole
    training_seconds: Amount
    evaluation_seconds: Amount
    training_images_per_second: Amount


class Epoch(TypedDict):
    """What the training said after an epoch."""

    epoch: Some
    lr: Amount
    loss: float
    clean_accuracy: Share
    adversarial_accuracy: NotRequired[Share]
    seconds: Amount


@dataclass(frozen=True)
class Record:
    """One run: ``key`` under ``protocol`` at ``budget`` with ``seed``."""

    key: str
    protocol: str
    budget: str
    seed: int
    config: dict
    data: Data
    provenance: Provenance
    cost: Cost
    curve: list[Epoch]
    measurements: tuple[Measurement, ...]
    science_version: int = SCIENCE_VERSION
    schema: int = SCHEMA
    # of the same network on more images, from a file beside the record; never a part of what the record says itself
    larger: tuple[Measurement, ...] = field(default=(), metadata={"written": False})

    @cached_property
    def measured(self) -> tuple[Measurement, ...]:
        """The measurements, with the larger ones in the place of those of the same name."""
        larger = {measurement.name: measurement for measurement in self.larger}
        return tuple(larger.get(measurement.name, measurement) for measurement in self.measurements)

    def measurement(self, name: str) -> Measurement:
        """The measurement of that name, the larger one if there is one. KeyError, with the names there are, if none."""
        for measurement in self.measured:
            if measurement.name == name:
                return measurement
        raise KeyError(
            f"{self.where} has no measurement {name!r}; it has {', '.join(m.name for m in self.measurements)}"
        )

    @property
    def seconds(self) -> float:
        """What training and evaluation took together."""
        return self.cost["training_seconds"] + self.cost["evaluation_seconds"]

    @property
    def where(self) -> str:
        """The run's folder below the results folder: budget/dataset/protocol/key/seed."""
        return run_folder(self.budget, self.config["dataset"], self.protocol, self.key, self.seed)

    @property
    def flags(self) -> str:
        """What a command has to be told to find this run, beside its key."""
        dataset = shlex.quote(self.config["dataset"])
        return f"--protocol {self.protocol} --budget {self.budget} --dataset {dataset} --seed {self.seed}"

    def as_config(self) -> Config:
        """What it was made with. Raises ValueError, with the remedy, where no such thing can be run any more."""
        try:
            return Config(**self.config)
        except (TypeError, ValueError) as error:
            raise ValueError(f"{self.where} was made with what there is no more ({error}): run it anew") from error

    def stale_because(self, config: Config, checksum: str | None = None) -> str | None:
        """Why this record no longer answers for ``config`` (and data of ``checksum``), or None if it does."""
        if self.science_version != SCIENCE_VERSION:
            return f"science version {self.science_version}, now {SCIENCE_VERSION}"
        now = config.to_record()
        then = SINCE | self.config
        changed = [name for name in now | then if then.get(name) != now.get(name)]
        if changed:
            return "config: " + ", ".join(f"{name} {then.get(name)!r}, now {now.get(name)!r}" for name in changed)
        if checksum is not None and self.data["checksum"] != checksum:
            return "data: another checksum"
        return None


def run_folder(budget: str, dataset: str, protocol: str, key: str, seed: int) -> str:
    """budget/dataset/protocol/key/seed; a data set named by a path becomes one folder name, of that path alone."""
    dataset = public(dataset)
    name = "".join(c if c.isalnum() or c in "-_." else "-" for c in dataset)
    if name != dataset:
        name += "-" + hashlib.sha256(dataset.encode()).hexdigest()[:8]
    return f"{budget}/{name}/{protocol}/{key}/seed{seed}"


def write(record: Record, path: Path) -> Path:
    """Write atomically: after a crash or on a full disk, ``path`` is as it was, and no partial file stays."""
    with replacing(path) as partial, open(partial, "w") as file:
        file.write(to_json(record))
        file.flush()
        os.fsync(file.fileno())
    return Path(path)


def to_json(record: Record) -> str:
    """The file's text."""
    raw = asdict(record)
    return as_lines({name: raw[name] for name in written(Record)})


def as_lines(raw: dict) -> str:
    """JSON with a line for each field, and for each item of a list, so that a difference reads line by line."""
    lines = []
    for name, value in raw.items():
        items = [json.dumps(item, separators=(",", ":")) for item in value] if isinstance(value, list | tuple) else None
        lines.append(f'"{name}": ' + ("[\n  " + ",\n  ".join(items) + "\n ]" if items else json.dumps(value)))
    return "{\n " + ",\n ".join(lines) + "\n}\n"


def digest(record: Record) -> str:
    """SHA-256 of what a record says, so that line endings do not matter."""
    return hashlib.sha256(to_json(record).encode()).hexdigest()


def read(path: Path) -> Record:
    """The record at ``path``, a run's place: of its fields, types and ranges, and with every attack of the suite.

    Raises ValueError if it is damaged, foreign, of another schema, or another run's; says what to do.
    """
    try:
        text = text_of(path)
    except (IsADirectoryError, PermissionError) as error:
        raise ValueError(f"{path} cannot be read ({error.strerror}): move it away, or make it readable") from error
    except ValueError as error:
        raise ValueError(f"{path} is damaged ({error}): restore it with git, or delete it and run again") from error
    return parse(text, path)


def parse(text: str, path: Path) -> Record:
    """The record in ``text``, which is or shall be the file at ``path``. Errors as for :func:`read`."""
    try:
        raw = parsed(text)
    except ValueError as error:
        raise ValueError(f"{path} is damaged ({error}): restore it with git, or delete it and run again") from error
    if (schema := raw.get("schema") if isinstance(raw, dict) else None) != SCHEMA:
        raise ValueError(
            f"{path} has schema {schema}, this study reads {SCHEMA}: run again, or use the version that wrote it"
        )
    try:
        record = converted(Record, raw)
        _check_contents(record)
    except ValueError as error:
        raise ValueError(f"{path} is not a record of this project ({error}): move it away, or run again") from error
    if os.path.abspath(path).split(os.sep)[:-1][-5:] != record.where.split("/"):
        raise ValueError(f"{path} is the record of {record.where}: move it there, or delete it")
    return record


def collect(root: Path, *, budget: str | None = None) -> list[Record]:
    """All records below ``root``, sorted by place. A record in another run's folder is refused."""
    records = []
    for path in sorted(Path(root).glob("*/*/*/*/seed*/record.json")):
        record = read(path)
        if budget in (None, record.budget):
            records.append(record)
    return records


def _check_contents(record: Record) -> None:
    """Raises ValueError where the record contradicts itself, or has not been through the whole suite."""
    types = {field.name: field.type for field in fields(Config)}
    for name, value in record.config.items():
        try:
            converted(types.get(name, type(value)), value)
        except ValueError as error:
            raise ValueError(f"config: {name}: {error}") from error
    if "dataset" not in record.config:
        raise ValueError("its config names no dataset")
    if record.config.get("seed") != record.seed:
        raise ValueError(f"its seed is {record.seed}, and {record.config.get('seed')} in its config")
    check_masks(record.measurements)
    if record.science_version == SCIENCE_VERSION:
        try:
            config = Config(**record.config)
        except (TypeError, ValueError):  # what there is no more: the record is stale
            return
        _check_suite(record, config)


def check_masks(measurements: Sequence[Measurement]) -> None:
    """Raises ValueError unless each has a name of its own and a mask of its number of images."""
    names = [measurement.name for measurement in measurements]
    if len(set(names)) < len(names):
        raise ValueError("two of its measurements have one name")
    for measurement in measurements:
        unpack_mask(measurement.correct, measurement.n)


def _check_suite(record: Record, config: Config) -> None:
    """Raises ValueError unless the measurements are the suite's attacks, each on as many images as the config says."""
    images = record.data["test_images"]
    expected = _reported(config.norm != "shared", config.activation == "surrogate-relu")
    found = {measurement.name: measurement for measurement in record.measurements}
    if set(found) != set(expected):
        absent, more = sorted(set(expected) - set(found)), sorted(set(found) - set(expected))
        raise ValueError(f"its attacks are not those of the suite: it lacks {absent[:3]}, and has {more[:3]} besides")
    most = {"all": images, "strong": min(config.strong_size or images, images), "sweep": min(config.sweep_size, images)}
    seen = {"all": images}
    for name, attack in expected.items():
        one, kind = found[name], attack.images
        # in older records the strong attacks are said to be of "all" images, and are
        kinds = {kind, "all"} if kind == "strong" and one.n == images else {kind}
        alike = any(one.attack == attack.specification | {"images": other} for other in kinds)
        if not alike or one.column != attack.column:
            raise ValueError(f"{name} is not the suite's attack of that name")
        if one.n > most[kind] or one.n != seen.setdefault(kind, one.n):
            raise ValueError(f"{name} is of {one.n} images, not of {seen.get(kind, most[kind])}")


@cache
def _reported(dual: bool, surrogate: bool) -> dict[str, Attack]:
    """By name, the attacks that a record of such a network has."""
    return {one.name: one for attack in suite(dual=dual, surrogate=surrogate) for one in attack.reported}
