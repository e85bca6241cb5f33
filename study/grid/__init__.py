"""The grid: which runs there are, how far each has come, and what the rest will take. Torch only to look at data.

One place for ``status``, the workflow and a campaign: whoever starts runs asks here what is missing, and nobody keeps a
list of their own.
"""

import json
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import numpy as np

from study import records
from study.data import DATASETS
from study.machine.folders import FAILED, LOCK, held, refuse_without_room, work_folder, write_whole
from study.plan import arithmetic, catalogue
from study.plan.catalogue import DISSECTED
from study.plan.config import Config
from study.records import Record, versions

STATES = ("done", "running", "failed", "missing", "stale", "damaged")
# GB of a run, command and kernel together: the peaks of the row that needs most as seen on a CPU; of a GPU's, a guess
MEMORY = {"smoke": 1.2} | dict.fromkeys(("lite", *catalogue.LADDER), 2.1) | dict.fromkeys(catalogue.GPU_BUDGETS, 4.0)


@dataclass(frozen=True)
class Run:
    """One cell of the grid."""

    key: str
    protocol: str
    budget: str
    dataset: str
    seed: int

    @property
    def where(self) -> str:
        return records.run_folder(self.budget, self.dataset, self.protocol, self.key, self.seed)

    @property
    def config(self) -> Config:
        return catalogue.config(
            self.key, protocol=self.protocol, budget=self.budget, seed=self.seed, dataset=self.dataset
        )

    @property
    def arguments(self) -> list[str]:
        """Of ``python -m study run``."""
        settings = {"protocol": self.protocol, "budget": self.budget, "dataset": self.dataset, "seed": self.seed}
        return [self.key, *(part for name, value in settings.items() for part in (f"--{name}", str(value)))]


@dataclass(frozen=True)
class State:
    """How far a run has come, and why it is not done, where there is more to say than that."""

    run: Run
    state: str  # one of STATES
    why: str | None = None
    record: Record | None = None


def runs(
    budget: str,
    seeds: Iterable[int],
    *,
    dataset: str | None = None,
    keys: Iterable[str] | None = None,
    protocols: Sequence[str] | None = None,
    dissection: bool = False,
) -> list[Run]:
    """The cells of a budget, by row, protocol and seed. ``keys``: None for the paper's rows and the extensions.

    ``protocols``: of those, what each row has; None for both (an extension has the corrected one alone), or with
    ``dissection`` those between them, of the rows that are dissected. Raises ValueError on what the catalogue does not
    have, and on a protocol that none of the rows has.
    """
    dataset = dataset or catalogue.config("traditional", budget=budget).dataset
    found = [
        Run(key, protocol, budget, dataset, seed)
        for key in keys or catalogue.experiments()
        for protocol, seed in product(protocols or protocols_of(key, dissection, budget), [*seeds])
        if _has(key, protocol)
    ]
    if foreign := set(protocols or ()) - {run.protocol for run in found}:
        raise ValueError(
            f"none of these rows has {', '.join(sorted(foreign))}: see `python -m study list`, also with --dissection"
        )
    for run in found:
        run.config  # noqa: B018 - unknown names are refused before anything starts
    return found


def protocols_of(key: str, dissection: bool = False, budget: str = "lite") -> Sequence[str]:
    """The two protocols of a row, or with ``dissection`` all those between them; an extension has one alone."""
    if dissection:
        return catalogue.rows()[key].dissection(budget) if key in DISSECTED else ()
    return catalogue.PROTOCOLS if key in catalogue.rows() else ("corrected",)


def _has(key: str, protocol: str) -> bool:
    """Whether it is run under that protocol, as far as both are known."""
    if key in catalogue.extensions():
        return protocol == "corrected"
    return key not in catalogue.rows() or catalogue.rows()[key].has(protocol)


def state(run: Run, root: Path) -> State:
    """What has become of a run whose record belongs below ``root``."""
    from study.grid.execute import why_missing

    folder, work = root / run.where, work_folder(run.where)
    try:
        record = records.read(folder / "record.json") if (folder / "record.json").exists() else None
        why = why_missing(folder, run.config, record)
    except ValueError as error:
        return State(run, "damaged", str(error))
    if why is None:
        return State(run, "done", record=record)
    if held(work / LOCK):
        return State(run, "running", record=record)
    if (work / FAILED).is_file():
        words = (work / FAILED).read_text().strip() or "without a word: its disk may have been full"
        return State(run, "failed", words.splitlines()[-1], record)
    return State(run, "missing", record=record) if why == "missing" else State(run, "stale", why, record)


def datasets(budget: str, root: Path) -> list[str]:
    """The data sets that have records of a budget, or the budget's own if there are none."""
    found = set()
    for path in (root / budget).glob("*/*/*/seed*/record.json"):
        if (name := path.parents[3].name) in DATASETS:
            found.add(name)
        else:  # named by a path: the record says by which, unless it is damaged
            with suppress(ValueError):
                found.add(records.read(path).config["dataset"])
    return sorted(found) or [catalogue.config("traditional", budget=budget).dataset]


def hours(states: Sequence[State]) -> tuple[float, float | None]:
    """Hours that the done runs took, and that the others will take one after the other; None while nobody can know.

    A run takes as long as the same row did with other seeds, or else what its arithmetic takes at the usual rate.
    """
    done = [found for found in states if found.state == "done"]
    spent = sum(found.record.seconds for found in done) / 3600
    if len(done) == len(states):
        return spent, 0.0
    if not done:
        return spent, None
    rate = float(np.median([found.record.seconds / _work(found.run) for found in done]))
    by_row: dict[tuple, list[float]] = {}
    for found in done:
        by_row.setdefault((found.run.key, found.run.protocol), []).append(found.record.seconds)
    left = (found.run for found in states if found.state != "done")
    return spent, sum(np.mean(by_row.get((run.key, run.protocol), [rate * _work(run)])) for run in left) / 3600


def summary(states: Sequence[State]) -> str:
    """How many of the runs are done, failed and so on: "2 done, 1 failed of 3"."""
    counts = {name: sum(found.state == name for found in states) for name in STATES}
    return ", ".join(f"{count} {name}" for name, count in counts.items() if count) + f" of {len(states)}"


def collect(wanted: Sequence[Run], root: Path, target: Path) -> None:
    """Write what came of the runs: the accuracy of each under every attack of its record, in percent, as JSON.

    Raises RuntimeError, with the first that is not done, unless all of them are.
    """
    states = [state(run, root) for run in wanted]
    if absent := [found for found in states if found.state != "done"]:
        raise RuntimeError(f"{len(absent)} of {len(states)} runs are not done, first {absent[0].run.where}")
    accuracies = {
        found.run.where: {m.name: round(100 * m.accuracy, 2) for m in found.record.measurements} for found in states
    }
    write_whole(target, json.dumps(accuracies, indent=1))


@dataclass(frozen=True)
class Needs:
    """What a grid asks of a machine, in GB."""

    memory: float
    disk: float  # for records and notebooks
    scratch: float = 0.0  # for weights and checkpoints

    def refuse_if_short(self, folder: Path) -> None:
        """Raises RuntimeError, with the remedy, if there is less than that. ``folder``: of the records."""
        import psutil

        free = psutil.virtual_memory().available / 1e9
        if free < self.memory:
            raise RuntimeError(f"the runs need {self.memory:.1f} GB of memory and {free:.1f} are free: lower the jobs")
        refuse_without_room({folder: self.disk, work_folder(""): self.scratch})


def needs(states: Sequence[State], jobs: int) -> Needs:
    """What the runs that are not done need, ``jobs`` at a time.

    On disk: a record and a notebook (half a MB), and the weights; while it runs, an old and a new checkpoint, each of
    twice the weights. In memory: what was measured of one run of the budget.
    """
    left = [found.run for found in states if found.state != "done"]
    if not left:
        return Needs(0.0, 0.0)
    jobs = min(jobs, len(left))
    weights = max(4 * arithmetic.parameters(run.config.width) for run in left) / 1e9
    return Needs(jobs * MEMORY[left[0].budget], 0.0005 * len(left), (len(left) + 4 * jobs) * weights)


def strays(root: Path, budget: str, known: Sequence[State]) -> list[str]:
    """What to do with files called record.json among those of a budget that are no record, or not in its place."""
    found, shown = [], {root / one.run.where / "record.json" for one in known}
    for path in sorted({*root.glob(f"{budget}/*/*/*/seed*/record.json")} - shown):
        try:
            records.read(path)
        except ValueError as error:
            found.append(str(error))
    return found


def versions_of(states: Sequence[State]) -> str:
    """What there is to say about the versions of packages that made the records: a line or two, or nothing."""
    made = [found.record for found in states if found.state == "done"]
    lines = []
    if mixed := versions.mixed(made):
        lines.append(f"made with more than one version of {mixed} (how many runs)")
    if made and len(made) < len(states):
        latest = max(made, key=lambda record: record.provenance["started"])
        if other := versions.changed(latest.provenance["versions"]):
            lines.append(f"what is run now will be of other versions than the last record: {other}")
    return "\n".join(lines)


def _work(run: Run) -> float:
    """The arithmetic of a run's training, as far as runs of one budget differ in it."""
    return arithmetic.training(run.config, 1)
