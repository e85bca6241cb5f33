"""What was measured of a record's network lies in a file beside the record. No torch.

One class reads, checks, writes and finds such files. A kind of measurement is a subclass: it names its file, adds its
own fields, and says what must agree in them.
"""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path
from typing import ClassVar, Self

import numpy as np

from study.machine.folders import write_whole
from study.records import Measurement, Record, as_lines, check_masks, digest
from study.records.strict import Some, converted, parsed, text_of

SCHEMA = 2  # of all these files
SAME_NETWORK = 0.98  # of clean predictions: weights in 16 bits or another device flip one or two, another training many


@dataclass(frozen=True, kw_only=True)
class Beside:
    """What was measured of one record's network, on the first ``images`` of its test set."""

    FILE: ClassVar[str]  # its name, beside record.json
    KIND: ClassVar[str]  # what `python -m study measure` calls it
    BEYOND: ClassVar[bool] = False  # whether it may have images that the record was not tested on

    record: str  # the place of the record that it belongs to: budget/dataset/protocol/key/seed
    record_digest: str  # SHA-256 of what that record says
    weights: str  # SHA-256 of the file of weights; "" where the network was trained once more
    provenance: dict  # as a record has it
    images: Some
    measurements: tuple[Measurement, ...]
    schema: int = SCHEMA

    def mask(self, name: str) -> np.ndarray:
        """bool (n,): which images were right in the measurement of that name. KeyError if it was not made."""
        return {measurement.name: measurement.mask for measurement in self.measurements}[name]

    def witnesses(self) -> Mapping[str, str]:
        """Which of its measurements show whose network it is, and which of the record's they have to agree with."""
        raise NotImplementedError

    def check(self) -> None:
        """Raises ValueError or KeyError where the file contradicts itself. A kind adds what its own fields must say."""
        check_masks(self.measurements)
        for measurement in self.measurements:
            if measurement.n != self.images:
                raise ValueError(f"{measurement.name} is of {measurement.n} images, and the file of {self.images}")

    def foreign(self, record: Record, weights: str | None = None) -> str | None:
        """Why it does not belong to ``record``, or to weights of that digest; None if it does."""
        if self.record != record.where:
            return f"it is of {self.record}"
        if self.record_digest != digest(record):
            return "the record has changed since"
        if self.weights and weights not in (None, self.weights):
            return "the weights have changed since"
        for ours, theirs in self.witnesses().items():
            there = record.measurement(theirs).mask[: self.images]
            if len(there) < self.images and not self.BEYOND:
                return f"it is of {self.images} images, and the record of {len(there)}"
            agreement = (self.mask(ours)[: len(there)] == there).mean()
            if agreement < SAME_NETWORK:
                return f"they agree on {agreement:.1%} of images only, {theirs}"
        return None

    def write(self, root: Path, record: Record) -> Path:
        """Write it beside its record below ``root``, atomically.

        Raises ValueError, and writes nothing, if it is foreign, or of weights for which nobody would read it.
        """
        self.check()
        refuse_unpublished(root, record, self.weights)
        if why := self.foreign(record):
            raise ValueError(f"what was measured does not belong to {record.where} ({why}): nothing was written")
        return write_whole(Path(root) / self.record / self.FILE, as_lines(asdict(self)))

    @classmethod
    def command(cls, record: Record) -> str:
        """What measures it of the network of ``record``."""
        return f"python -m study measure {cls.KIND} {record.key} {record.flags}"

    @classmethod
    def read(cls, path: Path, record: Record, weights: str | None = None) -> Self:
        """The file at ``path``. ``weights``: the digest of those that it must be of, if they are known.

        Raises ValueError, with the remedy, if it is damaged or does not belong to the record or the weights.
        """
        again = f"measure again: {cls.command(record)} --anew"
        try:
            raw = parsed(text_of(path))
            if (schema := raw.get("schema") if isinstance(raw, dict) else None) != SCHEMA:
                raise ValueError(f"schema {schema}, this study reads {SCHEMA}")
            found = converted(cls, raw)
            found.check()
            foreign = found.foreign(record, weights)
        except FileNotFoundError as error:
            raise ValueError(f"{path} is not there: measure: {cls.command(record)}") from error
        except (TypeError, KeyError, ValueError) as error:
            raise ValueError(f"{path} is no {cls.FILE} of this study ({error}): {again}") from error
        if foreign:
            raise ValueError(f"{path} does not belong to {record.where} ({foreign}): {again}")
        return found

    @classmethod
    def begun(cls, root: Path, record: Record, weights: str | None, images: int | None, anew: bool) -> Self | None:
        """What is there already; None if nothing is, or all is to be made ``anew``. Errors as for :meth:`read`.

        Raises ValueError, too, if it is of another number of images than is asked for: more are never lost to fewer.
        """
        path = Path(root) / record.where / cls.FILE
        if anew or not path.is_file():
            return None
        there = cls.read(path, record, weights)
        if images not in (None, there.images):
            raise ValueError(
                f"{path} is of {there.images} images, not of {images}: ask for --images {there.images}, or begin again "
                "with --anew"
            )
        return there

    @classmethod
    def collect(cls, root: Path, group: Iterable[Record]) -> dict[str, Self]:
        """The files beside the records of ``group``, by the record's place; errors as for :meth:`read`.

        Where ``models`` beside ``root`` has weights of a record, the file must be of these.
        """
        paths = [(record, Path(root) / record.where / cls.FILE) for record in group]
        return {
            record.where: cls.read(path, record, published(root, record)) for record, path in paths if path.is_file()
        }


def refuse_unpublished(root: Path, record: Record, weights: str) -> None:
    """Raises ValueError, with the remedy, if the record has published weights, and these are others."""
    there = published(root, record)
    if weights and there and weights != there:
        raise ValueError(
            f"{_models(root)} has the weights of {record.where}, and these are others: measure those (leave --weights "
            "out), or move them away first; nothing was written"
        )


def _models(root: Path) -> Path:
    return Path(root).parent / "models"


def published(root: Path, record: Record) -> str | None:
    """The digest of the record's weights in ``models`` beside ``root``; None if there are none, or another run's.

    Whose they are, a file of safetensors says itself: its first eight bytes are the length of a header in JSON. Raises
    ValueError, with the remedy, where they are not.
    """
    path = _models(root) / f"{record.key}.safetensors"
    if not path.is_file():
        return None
    content = path.read_bytes()
    try:
        of = parsed(content[8 : 8 + int.from_bytes(content[:8], "little")]).get("__metadata__", {}).get("record")
    except (AttributeError, ValueError) as error:
        raise ValueError(f"{path} is no file of weights ({error}): fetch it again, or move it away") from error
    return sha256(content).hexdigest() if of == record.where else None
