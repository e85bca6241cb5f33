"""What only the network itself can tell of masking, in a file beside its record: what it holds, and what it gives."""

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from study.evidence import estimates
from study.evidence.comparisons import STRONG
from study.evidence.estimates import Estimate
from study.evidence.selection import Group
from study.records import Record
from study.records.beside import Beside
from study.records.packing import unpack_mask

FROM = "from-"  # in a probe, before the place of the record whose network the images were made on


@dataclass(frozen=True, kw_only=True)
class Probe(Beside):
    """What :mod:`masking.measure` found out with the network at hand.

    Its measurements: "probe:clean", the white box, "probe:unbounded", "probe:square-8/255"; of ALS
    "probe:smoothed-8/255"; and where :mod:`masking.transfer` has been, "probe:from-" and the place of each other
    record.
    """

    FILE = "probe.json"
    KIND = "masking"

    zero_gradient: str  # packed mask: images whose gradient of the loss is 0 in every entry
    vanishing_gradient: str  # packed mask: no entry of the gradient reaches the precision of float32
    loss: Mapping[str, float]  # mean cross-entropy after so many steps of PGD at 8/255: "0", "19", "20"
    last_step: tuple[float, float]  # 95 % interval of what the last step added to it

    def mask(self, name: str) -> np.ndarray:
        """bool (n,): which images stayed right in "clean", "unbounded", ... KeyError if the probe lacks it."""
        return super().mask(f"probe:{name}")

    def without(self, packed: str) -> np.ndarray:
        """bool: which of the images that are classified correctly, and so have to be attacked, ``packed`` marks."""
        return unpack_mask(packed, self.images)[self.mask("clean")]

    def witnesses(self) -> Mapping[str, str]:
        return {"clean": "corrected:clean"}

    def check(self) -> None:
        super().check()
        for packed in (self.zero_gradient, self.vanishing_gradient):
            unpack_mask(packed, self.images)


def transfers(probes: Mapping[str, Probe]) -> dict[tuple[str, str], Estimate]:
    """(source, target), keys of rows -> share of images right without attack and under PGD-20 made on the source.

    Of the corrected protocol and its first seed. Where source and target are one, it is the white box. Empty while no
    images were transferred.
    """
    found = {}
    for place, probe in probes.items():
        *_, of, target, trained = place.split("/")
        names = [m.name.removeprefix("probe:") for m in probe.measurements if FROM in m.name]
        if (of, trained) != ("corrected", "seed0") or not names:
            continue
        for name in (STRONG, *names):
            source = name.split("/")[-2] if name != STRONG else target
            found[source, target] = estimates.accuracy((probe.mask(name) & probe.mask("clean"))[None])
    return found


def with_transferred(probe: Probe, root: Path, record: Record) -> Probe:
    """``probe`` with the images from other rows that its file below ``root`` has, if that is of the same weights."""
    with suppress(OSError, ValueError):
        before = Probe.read(Path(root) / record.where / Probe.FILE, record, probe.weights)
        if before.images == probe.images:
            kept = tuple(measurement for measurement in before.measurements if FROM in measurement.name)
            return replace(probe, measurements=probe.measurements + kept)
    return probe


def probes(root: Path, group: Group) -> dict[str, Probe]:
    """The probes that lie beside the records of ``group``, by the record's place; errors as for :meth:`Beside.read`.

    Raises ValueError, too, where one has images that were made on weights that another was since made anew with.
    """
    found = Probe.collect(root, group)
    records = {record.where: record for record in group}
    for place, probe in found.items():
        for measurement in probe.measurements:
            source = found.get(measurement.attack.get("source"))
            if source and source.weights != measurement.attack["source_weights"]:
                raise ValueError(
                    f"{place}/{Probe.FILE} has images made on other weights than those that {source.record} was "
                    f"probed with: make them again: python -m study measure transfer {records[place].flags}"
                )
    return found
