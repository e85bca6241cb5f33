"""Question 4: how the rate changes with batch, width, attack steps and threads; and how long it takes to start."""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

from benchmarks.race import ROOT, Contestant, race
from study.machine.kernel import ALLOCATOR

USUAL = {"width": 64, "batch": 128, "steps": 2}
SMALL = {"width": 16, "batch": 64, "steps": 2}  # the small budget's
CURVES = {
    "batch": [USUAL | {"batch": batch} for batch in (16, 32, 64, 128, 256)],
    "width": [USUAL | {"width": width} for width in (8, 16, 32, 64)],
    "steps": [SMALL | {"steps": steps} for steps in (1, 2, 5, 10)],
}


def curves(rounds: int = 3) -> list[dict]:
    """Images a second and peak memory of the fast training step, along one setting at a time."""
    found = []
    for along, settings in CURVES.items():
        for options in settings:
            (row,) = race(along, [_fast(f"{along} {options[along]}", options)], images=options["batch"], rounds=rounds)
            found.append(row | {"along": along, **options})
    return found


def threads(rounds: int = 3) -> list[dict]:
    """The small budget's step with all threads, and with one: whether two runs at once are better than one."""
    contestants = [
        _fast(f"{count} thread{'s'[: count > 1]}", SMALL, {"OMP_NUM_THREADS": str(count)})
        for count in sorted({torch.get_num_threads(), 1}, reverse=True)
    ]
    return race(f"width {SMALL['width']}, batch {SMALL['batch']}", contestants, images=SMALL["batch"], rounds=rounds)


def _fast(name: str, options: dict, environment: dict | None = None) -> Contestant:
    work = options | {"precision": "fast"}
    return Contestant(name, "benchmarks.training:step", work, ALLOCATOR | (environment or {}))


def start_up(repeats: int = 3) -> list[dict]:
    """Seconds to import, to load the data a first and a second time, and of a run outside training and evaluation."""
    python = [sys.executable, "-c"]
    with tempfile.TemporaryDirectory() as folder:
        places = {
            "ADVLIB_CACHE": f"{folder}/cache",
            "ADVLIB_RESULTS": f"{folder}/results",
            "ADVLIB_WORK": f"{folder}/work",
        }
        load = "from time import time as now; from study.data import load; t = now(); load({!r}); print(now() - t)"
        rows = [
            _row("python", _best([*python, "pass"], repeats)),
            _row("python, import advlib", _best([*python, "import advlib"], repeats)),
            _row("python, import study.plan.config", _best([*python, "import study.plan.config"], repeats)),
            _row("python, import torch", _best([*python, "import torch"], repeats)),
            _row("python, import study.experiment.run", _best([*python, "import study.experiment.run"], repeats)),
            _row("python -m study list", _best([sys.executable, "-m", "study", "list"], repeats)),
        ]
        for name in ("digits", "cifar10-jpeg"):
            times = [_say([*python, load.format(name)], places) for _ in range(2)]
            if None not in times:
                rows += [_row(f"load {name}, first time", times[0]), _row(f"load {name}, again", times[1])]
        begin = time.perf_counter()
        command = [sys.executable, "-m", "study", "run", "traditional", "--budget", "smoke"]
        subprocess.run(command, cwd=ROOT, env=os.environ | places, check=True, capture_output=True)
        seconds = time.perf_counter() - begin
        (path,) = Path(folder, "results").rglob("record.json")
        cost = json.loads(path.read_text())["cost"]
        rows.append(
            _row(
                "a run, outside training and evaluation",
                seconds - cost["training_seconds"] - cost["evaluation_seconds"],
            )
        )
    return rows


def _row(what: str, seconds: float) -> dict:
    return {"what": what, "seconds": round(seconds, 3)}


def _best(command: list[str], repeats: int) -> float:
    """The shortest of so many starts: what is left when nothing else is in the way."""
    took = []
    for _ in range(repeats + 1):
        begin = time.perf_counter()
        subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
        took.append(time.perf_counter() - begin)
    return min(took[1:])


def _say(command: list[str], places: dict) -> float | None:
    """What a command prints, as a number; None if it fails, as where the data are not at hand."""
    made = subprocess.run(command, cwd=ROOT, env=os.environ | places, capture_output=True, text=True, check=False)
    return float(made.stdout) if made.returncode == 0 else None
