"""What a run leaves behind: one JSON file that says what was measured, on what, by what. No torch here.

A record holds, for every attack, its full specification and which images were classified correctly, so any table can
be recomputed from it. It is stale when its config, its data or the science version is no longer today's.
"""

import hashlib
import json
import os
import shlex
from dataclasses import asdict, dataclass, field, fields
from functools import cached_property
from pathlib import Path

import numpy as np

from study.machine.folders import replacing
from study.plan.config import SINCE, Config, public
from study.records.packing import unpack_mask

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
    attack: dict  # full specification, see study.experiment.evaluate.Attack
    n: int  # images
    correct: str  # the mask, packed by pack_mask

    @property
    def mask(self) -> np.ndarray:
        """bool (n,): True where the image was classified correctly."""
        return unpack_mask(self.correct, self.n)

    @property
    def accuracy(self) -> float:
        """Share of correct images, in [0, 1]."""
        return float(self.mask.mean())


@dataclass(frozen=True)
class Record:
    """One run: ``key`` under ``protocol`` at ``budget`` with ``seed``."""

    key: str
    protocol: str
    budget: str
    seed: int
    config: dict
    data: dict  # name, title, checksum, classes, sizes
    provenance: dict  # commit, versions, device, precision, start
    cost: dict  # seconds, passes, images per second
    curve: list  # one entry an epoch
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
        changed = [name for name in now if then.get(name) != now[name]]
        if changed:
            return "config: " + ", ".join(f"{name} {then.get(name)!r}, now {now[name]!r}" for name in changed)
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
    return as_lines({name: raw[name] for name in _written(Record)})


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
    """The record at ``path``. Raises ValueError if it is damaged, foreign, or of another schema; says what to do."""
    path = Path(path)
    try:
        raw = json.loads(path.read_text())
    except (IsADirectoryError, PermissionError) as error:
        raise ValueError(f"{path} cannot be read ({error.strerror}): move it away, or make it readable") from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is damaged ({error}): restore it with git, or delete it and run again") from error
    if not isinstance(raw, dict) or raw.get("schema") != SCHEMA:
        found = raw.get("schema") if isinstance(raw, dict) else None
        raise ValueError(
            f"{path} has schema {found}, this study reads {SCHEMA}: run again, or use the version that wrote it"
        )
    try:
        refuse_other_fields(raw, Record)
        for measurement in raw["measurements"]:
            refuse_other_fields(measurement, Measurement)
        raw["measurements"] = tuple(Measurement(**measurement) for measurement in raw["measurements"])
        record = Record(**raw)
        _check_contents(record)
    except (TypeError, KeyError, ValueError) as error:
        raise ValueError(f"{path} is not a record of this project ({error}): move it away, or run again") from error
    return record


def collect(root: Path, *, budget: str | None = None) -> list[Record]:
    """All records below ``root``, sorted by place. A record in another run's folder is refused."""
    records = []
    for path in sorted(Path(root).glob("*/*/*/*/seed*/record.json")):
        record = read(path)
        if path.parent != Path(root) / record.where:
            raise ValueError(f"{path} is the record of {record.where}: move it there, or delete it")
        if budget in (None, record.budget):
            records.append(record)
    return records


def _check_contents(record: Record) -> None:
    if not isinstance(record.config, dict) or "dataset" not in record.config:
        raise ValueError("its config names no dataset")
    names = [measurement.name for measurement in record.measurements]
    if len(set(names)) < len(names):
        raise ValueError("two of its measurements have one name")
    for measurement in record.measurements:
        unpack_mask(measurement.correct, measurement.n)


def refuse_other_fields(raw: dict, kind: type) -> None:
    """Raises ValueError unless ``raw`` has the fields of the dataclass ``kind``, and no other."""
    names = set(_written(kind))
    if not isinstance(raw, dict) or set(raw) != names:
        raise ValueError(
            f"{kind.__name__}: unknown fields {sorted(set(raw) - names)}, missing {sorted(names - set(raw))}"
        )


def _written(kind: type) -> list[str]:
    """The fields of a dataclass that its file has."""
    return [field.name for field in fields(kind) if field.metadata.get("written", True)]
