"""What an evaluation has measured so far, on disk after each attack: one that was cut off goes on with the next."""

import hashlib
import json
import time
from dataclasses import asdict
from pathlib import Path

from torch import nn

from study.machine.folders import replacing
from study.records import Measurement


class Unfinished:
    """Measurements by the attack that made them. ``path``: None keeps them nowhere.

    A file of another ``origin`` (config, code, data or weights), or a damaged one, is no use and is begun anew.
    """

    def __init__(self, path: Path | None, origin: dict):
        self.path, self.origin = path, json.loads(json.dumps(origin))
        self.measured, self._before = self._read() if path and path.exists() else ({}, 0.0)
        self._start = time.perf_counter()

    @property
    def seconds(self) -> float:
        """What the evaluation has taken, before it was cut off and since."""
        return self._before + time.perf_counter() - self._start

    def get(self, attack: str) -> list[Measurement] | None:
        """What was measured under the attack of that name, or None."""
        return self.measured.get(attack)

    def add(self, attack: str, measurements: list[Measurement]) -> None:
        self.measured[attack] = measurements
        if self.path:
            kept = {name: [asdict(m) for m in found] for name, found in self.measured.items()}
            with replacing(self.path) as partial:
                partial.write_text(json.dumps({"origin": self.origin, "seconds": self.seconds, "measured": kept}))

    def _read(self) -> tuple[dict[str, list[Measurement]], float]:
        try:
            raw = json.loads(self.path.read_text())
            if raw["origin"] != self.origin:
                return {}, 0.0
            return {name: [Measurement(**m) for m in found] for name, found in raw["measured"].items()}, raw["seconds"]
        except (ValueError, KeyError, TypeError):
            return {}, 0.0


def digest(model: nn.Module) -> str:
    """SHA-256 of all weights and statistics: two models of one digest classify alike."""
    found = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        found.update(name.encode() + tensor.detach().cpu().contiguous().numpy().tobytes())
    return found.hexdigest()
