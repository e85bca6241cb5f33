"""A network under the paper's columns, on more test images than its record has: a file beside the record. No torch.

``study.findings.columns.measure`` writes it. Tables read its masks in the place of the record's own smaller ones, see
:func:`study.evidence.selection.groups`. They are of the published weights, which are rounded to half precision.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from study.records import Measurement, Record
from study.records.beside import Beside

OWN = "corrected:"  # what these names begin with is what the record measured, on more images
RECALIBRATED = "recalibrated:"  # the control: batch norm's running averages are of clean training images alone


@dataclass(frozen=True, kw_only=True)
class Columns(Beside):
    """One network. Its measurements: "corrected:clean", then others of the record's names, then "recalibrated:..."."""

    FILE = "columns.json"
    KIND = "columns"
    BEYOND = True

    training_images: int  # the first of the record's, for the recalibrated averages

    def witnesses(self) -> Mapping[str, str]:
        return {m.name: m.name for m in self.measurements if m.column == "clean" and m.name.startswith(OWN)}

    def check(self) -> None:
        super().check()
        if not self.measurements or self.measurements[0].name != f"{OWN}clean":
            raise ValueError(f"its first measurement is not {OWN}clean")

    def larger(self, record: Record) -> tuple[Measurement, ...]:
        """What the record measured too, and on fewer images."""
        fewer = {m.name: m.n for m in record.measurements}
        return tuple(m for m in self.measurements if m.name.startswith(OWN) and m.n > fewer.get(m.name, m.n))
