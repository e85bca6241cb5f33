"""A race: contestants do the same work in turn, each in a process of its own, and are compared round by round.

The machine's speed drifts, so a ratio is taken inside a round and the median over the rounds is reported, with the
smallest and the largest. A process of its own gives each contestant its own memory (whose peak is measured), threads
and environment; while one works the others wait.
"""

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from statistics import median

import torch
from tqdm import tqdm

ROOT = Path(__file__).resolve().parent.parent
WARM_UP = 2  # rounds that do not count: in the first something is compiled, and in all of them memory is new


@dataclass(frozen=True)
class Contestant:
    """``make(**options)`` of a module returns the work: a function without arguments that may return a tensor."""

    name: str
    make: str  # "benchmarks.crafting:ours"
    options: Mapping = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)


def race(
    setting: str, contestants: Sequence[Contestant], *, images: int, rounds: int = 3, shortest: float | None = None
) -> list[dict]:
    """A row for each contestant: seconds of the first round of all and of those that count, images a second, memory.

    ``images``: how many one round works on. Where the work returns tensors, a row says how far they are from the first
    contestant's. ``WARM_UP`` rounds come first. Work shorter than ``shortest`` seconds (None: half a second of a GPU,
    three of a CPU) is done several times in a round: who has waited for others starts with cold caches, which no
    training does. Raises RuntimeError, with its last words, if a contestant dies.
    """
    if shortest is None:
        shortest = 0.5 if torch.cuda.is_available() else 3.0
    with ExitStack() as stack:
        running = {c.name: stack.enter_context(_Process(c)) for c in contestants}
        for process in running.values():  # they get ready side by side
            process.wait()
        seconds: dict[str, list[float]] = {name: [] for name in running}
        order = list(running)
        for _ in tqdm(range(WARM_UP + rounds), desc=setting, unit="round", disable=not sys.stderr.isatty()):
            for name in order:
                seconds[name].append(round(running[name].go(shortest), 5))
            order = order[1:] + order[:1]  # whoever comes first finds the caches of another
        results = {name: process.finish() for name, process in running.items()}
        first = next(iter(results.values()))
        return [
            {
                "setting": setting,
                "contestant": name,
                "first": seconds[name][0],
                "rounds": seconds[name][WARM_UP:],
                "images_per_second": round(images / median(seconds[name][WARM_UP:]), 1),
                "peak_memory_gb": round(result["peak_memory_gb"], 2),
                **({"largest_difference": _difference(first, result)} if result["made"] else {}),
            }
            for name, result in results.items()
        ]


def _difference(first: dict, other: dict) -> float:
    a, b = (torch.load(result["made"], weights_only=True) for result in (first, other))
    return (a - b).abs().max().item()


class _Process:
    """A contestant's process, from "ready" to its last result."""

    def __init__(self, contestant: Contestant):
        self.contestant = contestant

    def __enter__(self):
        contestant = self.contestant
        self.folder = tempfile.TemporaryDirectory()
        self.words = open(Path(self.folder.name) / "words", "w+")
        self.process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.race", contestant.make, json.dumps(dict(contestant.options))],
            cwd=ROOT,
            env={**os.environ, "ADVLIB_RACE": self.folder.name, **contestant.environment},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.words,
            text=True,
        )
        return self

    def wait(self) -> None:
        self._hear()

    def go(self, shortest: float) -> float:
        self._say(f"go {shortest}")
        return self._hear()["seconds"]

    def finish(self) -> dict:
        self._say("finish")
        return self._hear()

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()
        self.words.close()
        self.folder.cleanup()

    def _say(self, word: str) -> None:
        self.process.stdin.write(word + "\n")
        self.process.stdin.flush()

    def _hear(self) -> dict:
        line = self.process.stdout.readline()
        if not line:
            self.words.seek(0)
            raise RuntimeError(f"{self.contestant.name} died; its last words: {self.words.read()[-2000:]}")
        return json.loads(line)


def _contestant(make: str, options: dict) -> None:
    """The other side: make the work, then do it whenever told to, and say how long it took."""
    answers, sys.stdout = sys.stdout, sys.stderr  # whatever a library prints must not look like an answer
    module, _, name = make.partition(":")
    work = getattr(import_module(module), name)(**options)
    made = None

    def answer(**what) -> None:
        print(json.dumps(what), file=answers, flush=True)

    answer(ready=True)
    for line in sys.stdin:
        if line.strip() == "finish":
            path = None
            if isinstance(made, torch.Tensor):
                path = str(Path(os.environ["ADVLIB_RACE"]) / "made.pt")
                torch.save(made.float().cpu().contiguous(), path)
            answer(peak_memory_gb=_peak_memory(), made=path)
            continue
        shortest = float(line.removeprefix("go "))
        begin, times = time.perf_counter(), 0
        while not times or time.perf_counter() - begin < shortest:
            made, times = work(), times + 1
            if torch.cuda.is_available():
                torch.cuda.synchronize()
        answer(seconds=(time.perf_counter() - begin) / times)


def _peak_memory() -> float:
    """GB: of the GPU where there is one, else of the process."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 1e9
    with suppress(OSError, StopIteration):  # Linux: of this program alone; a child's ru_maxrss begins with its parent's
        lines = Path("/proc/self/status").read_text().splitlines()
        return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) * 1024 / 1e9
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9


Work = Callable[[], torch.Tensor | None]

if __name__ == "__main__":
    _contestant(sys.argv[1], json.loads(sys.argv[2]))
