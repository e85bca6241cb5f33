"""What a run that was cut off has left on disk: the checkpoint of its training, what its evaluation has measured."""

import hashlib
import json
import os
import sys
import time
from dataclasses import asdict
from pathlib import Path

import torch
from torch import nn

from study.machine.folders import CHECKPOINT, HALVED, MEASURED, VERSIONS, write_whole
from study.plan.config import Config
from study.records import Measurement, versions


def set_aside_foreign(work: Path, config: Config, checksum: str | None) -> None:
    """Set aside a checkpoint of an older config, of other data or packages, with a word about it.

    checksum: of the data; None where they are not known.
    """
    path = work / CHECKPOINT
    other = versions.changed(versions.remembered(work / VERSIONS))
    if other:
        (work / MEASURED).unlink(missing_ok=True)
    if not path.exists():
        return
    try:
        origin = torch.load(path, map_location="cpu", weights_only=True)["origin"]
        same = origin["config"] == config.to_dict() and checksum in (None, origin["data"])
    except Exception:  # noqa: BLE001 - a damaged file raises many kinds; all mean that nothing can be continued
        same = False
    if other or not same:
        os.replace(path, path.with_suffix(".old"))
        (work / HALVED).unlink(missing_ok=True)
        why = f"was begun with other packages ({other})" if same else "is of another config, of other data, or damaged"
        print(f"{path} {why}: set aside, training from the start", file=sys.stderr)


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
            whole = {"origin": self.origin, "seconds": self.seconds, "measured": kept}
            write_whole(self.path, json.dumps(whole))

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
