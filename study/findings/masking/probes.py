"""What was found out with a network at hand, in a file beside its record."""

import json
import zlib
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, fields, replace
from pathlib import Path

import numpy as np

from study.evidence import estimates, selection
from study.evidence.comparisons import STRONG
from study.evidence.estimates import Estimate
from study.evidence.selection import Group
from study.records import Measurement, Record
from study.records.packing import unpack_mask

SAME_NETWORK = 0.95  # of clean predictions: 16-bit weights flip one here and there, another training many
NAME = "probe.json"  # beside record.json
FROM = "from-"  # in a probe, before the place of the record whose network the images were made on
PROBE_SCHEMA = 1


@dataclass(frozen=True)
class Probe:
    """What was found out with the network at hand, and no record can say: see :mod:`masking.measure`."""

    record: str  # the place of the record that it belongs to: budget/dataset/protocol/key/seed
    config: str  # digest of that record's config
    weights: str  # SHA-256 of the file of weights
    device: str
    images: int  # the first of the test set
    # "probe:clean", the white box, "probe:unbounded", "probe:square-8/255"; of ALS "probe:smoothed-8/255"; and where
    # study.findings.masking.transfer has been, "probe:from-" and the place of each other record
    measurements: tuple[Measurement, ...]
    zero_gradient: str  # packed mask: images whose gradient of the loss is 0 in every entry
    vanishing_gradient: str  # packed mask: no entry of the gradient reaches the precision of float32
    loss: Mapping[str, float]  # mean cross-entropy after so many steps of PGD at 8/255: "0", "19", "20"
    last_step: tuple[float, float]  # 95 % interval of what the last step added to it
    schema: int = PROBE_SCHEMA

    def mask(self, name: str) -> np.ndarray:
        """bool (n,): which images stayed right in that measurement. KeyError if the probe lacks it."""
        return {measurement.name: measurement.mask for measurement in self.measurements}[f"probe:{name}"]

    def without(self, packed: str) -> np.ndarray:
        """bool: which of the images that are classified correctly, and so have to be attacked, ``packed`` marks."""
        return unpack_mask(packed, self.images)[self.mask("clean")]


def transfers(
    probes: Mapping[str, Probe], protocol: str = "corrected", seed: int = 0
) -> dict[tuple[str, str], Estimate]:
    """(source, target), keys of rows -> share of images right without attack and under PGD-20 made on the source.

    Of the trainings of one protocol and seed. Where source and target are one, it is the white box. Empty while no
    images were transferred.
    """
    found = {}
    for place, probe in probes.items():
        *_, of, target, trained = place.split("/")
        names = [m.name.removeprefix("probe:") for m in probe.measurements if FROM in m.name]
        if (of, trained) != (protocol, f"seed{seed}") or not names:
            continue
        for name in (STRONG, *names):
            source = name.split("/")[-2] if name != STRONG else target
            found[source, target] = estimates.accuracy((probe.mask(name) & probe.mask("clean"))[None])
    return found


def with_transferred(probe: Probe, before: Path) -> Probe:
    """``probe`` with the images from other rows that the file ``before`` has, if that is of the same weights."""
    with suppress(OSError, ValueError, KeyError, TypeError):
        raw = json.loads(Path(before).read_text())
        if (raw["weights"], raw["images"]) == (probe.weights, probe.images):
            kept = tuple(Measurement(**m) for m in raw["measurements"] if FROM in m["name"])
            return replace(probe, measurements=probe.measurements + kept)
    return probe


def probes(root: Path, group: Group) -> dict[str, Probe]:
    """The probes that lie beside the records of ``group``, by the record's place; errors as for :func:`read_probe`.

    Raises ValueError, too, where one has images that were made on weights that another was since made anew with.
    """
    beside = [(record, Path(root) / record.where / NAME) for record in group]
    found = {record.where: read_probe(path, record) for record, path in beside if path.is_file()}
    for place, probe in found.items():
        for measurement in probe.measurements:
            source = found.get(measurement.attack.get("source"))
            if source and source.weights != measurement.attack["source_weights"]:
                raise ValueError(
                    f"{place}/{NAME} has images made on other weights than those that {source.record} was probed with: "
                    f"make them again: python -m study transfer {selection.flags(group)}"
                )
    return found


def read_probe(path: Path, record: Record) -> Probe:
    """The probe at ``path``. Raises ValueError, with the remedy, if it is damaged or does not belong to ``record``."""
    remedy = f"probe again: python -m study probe {record.key} --protocol {record.protocol} {selection.flags([record])}"
    try:
        raw = json.loads(Path(path).read_text())
        if set(raw) != {field.name for field in fields(Probe)}:
            raise ValueError("its fields are not those of a probe")
        raw["measurements"] = tuple(Measurement(**measurement) for measurement in raw["measurements"])
        probe = Probe(**raw | {"last_step": tuple(raw["last_step"])})
        foreign = _foreign(probe, record)
    except (TypeError, KeyError, ValueError, zlib.error) as error:
        raise ValueError(f"{path} is no probe of this study ({error}): {remedy}") from error
    if foreign:
        raise ValueError(f"{path} does not belong to {record.where} ({foreign}): {remedy}")
    return probe


def _foreign(probe: Probe, record: Record) -> str | None:
    if probe.schema != PROBE_SCHEMA:
        return f"schema {probe.schema}, this study reads {PROBE_SCHEMA}"
    if probe.record != record.where:
        return f"it is of {probe.record}"
    if probe.config != record.as_config().digest():
        return "it is of another config"
    ours, theirs = probe.mask("clean"), record.measurement("corrected:clean").mask
    n = min(len(ours), len(theirs))
    agreement = (ours[:n] == theirs[:n]).mean()
    return f"they agree on {agreement:.0%} of clean images only" if agreement < SAME_NETWORK else None
