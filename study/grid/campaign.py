"""A borrowed machine with a time limit: make what tells most, stop in time, and have all that was finished in hand.

``python -m study campaign --budget brief --minutes 9 --out DIR`` looks at the machine (:mod:`grid.gate`), then makes
the runs that are missing, most informative first. Each record is packed as soon as it is finished, so a machine that
is taken away at any second costs what was under way and no more. ``python -m study unpack DIR`` puts all in its place.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Self

from study import grid
from study.data import is_here, load
from study.grid import Run, State
from study.grid.parts import ROOM, Parts, checkpoint_in_half, files_of, unpack, weights_in_half
from study.machine.folders import CHECKPOINT, FAILED, WEIGHTS, no_link, work_folder, writing
from study.machine.progress import progress
from study.plan import arithmetic, catalogue

FOR_RECORDS = 12 * 2**20  # bytes of the parts which weights leave free: some forty runs
LOG, GATE = "campaign.txt", "gate.json"
GRACE = 25  # seconds before the end in which a run saves, and what it saved is packed
POLL = 0.2
THREADS = "OMP_NUM_THREADS"  # of each run, if not set: they share the cores


class CampaignFailed(RuntimeError):
    """The machine is not fit, no run could finish, or some failed; what was finished is packed all the same."""

    exit_status = 1


def campaign(
    wanted: Sequence[Run],
    root: Path,
    *,
    minutes: float,
    out: Path,
    jobs: int | None = None,
    gate_seconds: float = 90,
    start_from: Path | None = None,
    carry: bool = False,
) -> list[State]:
    """Run what is missing of ``wanted`` below ``root`` until ``minutes`` are over; the states afterwards.

    jobs: runs at a time; None for as many as the gate finds worth it. gate_seconds: what the gate may take; 0 to leave
    it out. carry: begin also what cannot finish here, and bring its checkpoint, for another machine to go on from.

    Nothing is begun, or lost, if it raises ValueError (no time; parts that are not a campaign's), FileNotFoundError (no
    data), or CampaignFailed because the gate stays shut. CampaignFailed at the end: runs failed, or none could finish.
    """
    if not wanted:
        raise ValueError("no run is asked for: these rows have none of these protocols")
    end = time.monotonic() + 60 * minutes - GRACE
    if end <= time.monotonic():
        raise ValueError(f"--minutes {minutes}: {GRACE} s of it are for saving and packing, so nothing could run")
    log = Log(out)
    if start_from:
        log(f"unpacked {len(unpack(start_from, root))} files of {start_from}")
    with Gate(wanted[0].budget, out, gate_seconds) as gate:
        images = images_to_train_on(wanted, log)
        found = gate.wait()
    waiting = [run for run in most_informative_first(wanted) if grid.state(run, root).state != "done"]
    jobs = jobs or found.get("jobs", 1)
    log(f"{len(waiting)} runs to make, {jobs} at a time; {end - time.monotonic():.0f} s for them")
    networks = [] if carry else worth_bringing(waiting)
    rate = found.get("operations_per_second", {}).get(str(jobs))
    crew = Crew(root, Parts(out), log, end, images, networks, carry, rate)
    crew.work_off(waiting, jobs)
    states = [grid.state(run, root) for run in wanted]
    log(grid.summary(states))
    _refuse_failures(crew, waiting, log)
    return states


def _refuse_failures(crew: "Crew", waiting: Sequence[Run], log: "Log") -> None:
    if crew.failed:
        raise CampaignFailed(f"{len(crew.failed)} runs failed, the rest is packed; {log.path} has their last words")
    if waiting and not crew.begun:
        least = min(map(crew.estimate, waiting)) / 60
        raise CampaignFailed(f"no run can finish in the time: the shortest takes {least:.0f} minutes to train here")


def images_to_train_on(wanted: Sequence[Run], log: Callable[[str], None]) -> dict[str, int]:
    """Training images of each data set. Each is decoded and cached here, before all runs ask for it at once."""
    images = {}
    for name in sorted({run.dataset for run in wanted}):
        data = load(name, download=False)
        images[name] = len(data.train_images)
        log(f"data: {data.title}, {images[name]:,} images to train on")
    return images


def data_at_hand(budget: str) -> str:
    """The data set to take for a budget: its own if it is here, else the JPEG copy of it. FileNotFoundError if neither.

    Nothing is downloaded: a borrowed machine may have no network, and its time is dear.
    """
    own = catalogue.config("traditional", budget=budget).dataset
    for name in (own, *(["cifar10-jpeg"] if own == "cifar10" else [])):
        if is_here(name):
            return name
    raise FileNotFoundError(
        f"neither {own} nor a copy of it is on this machine: put cifar-10-python.tar.gz or cifar10-jpeg.tar.gz into "
        "data/ (or a folder that ADVLIB_DATA names), or take other data by --dataset"
    )


def most_informative_first(wanted: Sequence[Run]) -> list[Run]:
    """Table 1 under both protocols, then Table 2, the paper's other rows, the steps between, the extensions.

    Of each, one technique comes before mixtures, and what the text says before what the code does. All of them with
    seed 0, then Table 1 with the other seeds, then the rest: a table with a hole says less than one with wide
    intervals.
    """
    others = max(run.seed for run in wanted) if wanted else 0

    def rank(run: Run) -> tuple:
        row = catalogue.rows().get(run.key)
        kind = {1: 0, 2: 1, None: 2}[row.paper_table] if row else 4
        if run.protocol not in catalogue.PROTOCOLS:
            kind = 3
        mixture = row is not None and row.advprop + row.als + row.sat > 1
        when = run.seed if run.seed == 0 or kind == 0 else others + run.seed
        return (when, kind, mixture, run.protocol != "corrected")

    return sorted(wanted, key=rank)


def worth_bringing(runs: Sequence[Run]) -> list[Run]:
    """The runs whose weights have room beside all records: first corrected ones with adversarial training."""
    ranked = sorted(runs, key=lambda run: (run.protocol != "corrected", not run.config.adversarial))
    room, chosen = ROOM - FOR_RECORDS, []
    for run in ranked:
        room -= 2 * arithmetic.parameters(run.config.width) + 2**18
        if room < 0:
            break
        chosen.append(run)
    return chosen


class Log:
    """What happened when, on the screen and in a file that comes back with the parts."""

    def __init__(self, out: Path):
        with writing(out):
            out.mkdir(parents=True, exist_ok=True)
        self.path, self.begin = out / LOG, time.monotonic()

    def __call__(self, line: str) -> None:
        line = f"{time.monotonic() - self.begin:6.1f} s  {line}"
        print(line, flush=True)
        with open(self.path, "a", opener=no_link) as file:
            file.write(line + "\n")


class Gate:
    """The gate, in a process of its own, so that it leaves no memory taken; its findings go into ``out``."""

    def __init__(self, budget: str, out: Path, seconds: float):
        self.path, self.seconds = out / GATE, seconds
        place = ["--json", str(self.path), "--log", str(out / LOG)]
        self.command = [sys.executable, "-m", "study", "gate", "--budget", budget, "--seconds", str(seconds), *place]

    def __enter__(self) -> Self:
        self.process = subprocess.Popen(self.command) if self.seconds else None
        return self

    def wait(self) -> dict:
        """What it found; {} where there is none. Raises CampaignFailed if it stays shut."""
        if self.process is None:
            return {}
        try:
            status = self.process.wait(timeout=self.seconds + 30)
        except subprocess.TimeoutExpired:
            status = "none: it hangs"
        if status:
            raise CampaignFailed(
                f"the gate stays shut (status {status}): {self.path.with_name(LOG)} says why; nothing was run"
            )
        return json.loads(self.path.read_text())

    def __exit__(self, *_) -> None:
        if self.process and self.process.poll() is None:
            self.process.terminate()  # it ends the runs that it has started
            try:
                self.process.wait(timeout=10)
            except subprocess.TimeoutExpired:
                self.process.kill()


@dataclass
class _UnderWay:
    run: Run
    process: subprocess.Popen
    said: Path  # what it writes to stderr
    begin: float


@dataclass
class Crew:
    """The runs under way, and what has become of those before them."""

    root: Path
    parts: Parts
    log: Callable[[str], None]
    end: float
    images: dict[str, int]  # to train on, by data set
    networks: Sequence[Run] = ()  # whose weights are brought as well
    carry: bool = False
    rate: float | None = None  # operations of training a second, of one of so many processes, as the gate saw it
    begun: list[Run] = field(default_factory=list)
    finished: list[Run] = field(default_factory=list)
    failed: list[Run] = field(default_factory=list)
    seen: list[tuple[float, float, float]] = field(default_factory=list)  # of what finished: seconds, training, work

    def work_off(self, waiting: Sequence[Run], jobs: int) -> None:
        """Keep ``jobs`` runs going until all are done or none could finish; ask those under way at the end to save."""
        queue, under_way = list(waiting), []
        until = self.end + (0 if self.carry else GRACE - 10)  # what is not carried need not be saved
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        threads = {THREADS: os.environ.get(THREADS) or str(max(1, cores // jobs))}
        with (
            TemporaryDirectory(prefix="advlib-") as folder,
            progress(total=len(queue), desc="campaign", unit="run") as bar,
        ):
            try:
                while time.monotonic() < until:
                    for one in [one for one in under_way if one.process.poll() is not None]:
                        under_way.remove(one)
                        self._conclude(one)
                        bar.update(1)
                    while len(under_way) < jobs and (run := self._next(queue)):
                        under_way.append(self._start(run, Path(folder), threads))
                    if not under_way:
                        break
                    time.sleep(POLL)
                for run in queue:
                    self.log(f"not begun: {run.where}")
                self._stop(under_way)
            finally:  # however this ends, nothing goes on by itself on a machine that is somebody else's
                for one in under_way:
                    one.process.terminate()

    def estimate(self, run: Run) -> float:
        """Seconds that a run will take: at the slowest that was seen here; before that, training at the gate's rate."""
        if self.seen:
            return max(took + training * (self._work(run) / work - 1) for took, training, work in self.seen)
        return self._work(run) / self.rate if self.rate else 0.0

    def _work(self, run: Run) -> float:
        """Operations of a run's training."""
        return arithmetic.training(run.config, run.config.train_size or self.images[run.dataset])

    def _next(self, queue: list[Run]) -> Run | None:
        """The first of the queue that can finish, or (``carry``) the first of all; it is taken out."""
        left = self.end - time.monotonic()
        for run in queue:
            if self.carry or self.estimate(run) <= left:
                queue.remove(run)
                return run
        return None

    def _start(self, run: Run, folder: Path, threads: dict[str, str]) -> _UnderWay:
        command = [sys.executable, "-m", "study", "run", *run.arguments, "--results", str(self.root)]
        said = folder / run.where.replace("/", "-")
        self.log(f"begin {run.where} (estimate: {self.estimate(run):.0f} s)")
        self.begun.append(run)
        with open(said, "w") as file:
            process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=file, env=os.environ | threads)
        return _UnderWay(run, process, said, time.monotonic())

    def _conclude(self, one: _UnderWay) -> None:
        """A run has ended: its record, or its last words, into the parts."""
        found, took = grid.state(one.run, self.root), time.monotonic() - one.begin
        if found.state == "done":
            self.finished.append(one.run)
            training = min(took, found.record.cost["training_seconds"])  # of which another machine may have done a part
            self.seen.append((took, training, self._work(one.run)))
            part = self.parts.add(files_of(self.root / one.run.where, f"results/{one.run.where}"))
            self.log(f"done  {one.run.where} in {took:.0f} s, packed in {part.name}")
            weights = work_folder(one.run.where) / WEIGHTS
            if one.run in self.networks and weights.is_file():
                self._bring(f"work/{one.run.where}/{WEIGHTS}", weights, weights_in_half)
            return
        self.failed.append(one.run)
        words = one.said.read_text().strip() or f"ended with status {one.process.returncode}, without a word"
        self.parts.add({f"work/{one.run.where}/{FAILED}": words.encode()})
        self.log(f"FAIL  {one.run.where} after {took:.0f} s: {words}")

    def _stop(self, under_way: Sequence[_UnderWay]) -> None:
        for one in under_way:
            self.log(f"time is over: {one.run.where} saves")
            one.process.terminate()
        last = time.monotonic() + (GRACE - 10 if self.carry else 3)
        for one in under_way:
            try:
                one.process.wait(timeout=max(0.0, last - time.monotonic()))
            except subprocess.TimeoutExpired:
                one.process.kill()  # its last checkpoint stays
            if grid.state(one.run, self.root).state == "done":  # it was over before it was asked
                self._conclude(one)
        for one in under_way if self.carry else ():
            checkpoint = work_folder(one.run.where) / CHECKPOINT
            if one.run not in self.finished and checkpoint.is_file():
                self._bring(f"work/{one.run.where}/{CHECKPOINT}", checkpoint, checkpoint_in_half)

    def _bring(self, name: str, path: Path, halve: Callable[[Path], bytes]) -> None:
        """What is good to have: whatever goes wrong with it, the records go on."""
        try:
            content = halve(path)
            parts = self.parts.add_large(name, content)
        except Exception as error:  # noqa: BLE001
            self.log(f"not packed: {name} ({type(error).__name__}: {error})")
            return
        self.log(f"{'packed' if parts else 'no room for'} {name}, {len(content) / 2**20:.1f} MiB in half precision")
