"""Run the experiment notebook by papermill: one idempotent command a run.

The record and the executed notebook appear together, by one rename, or not at all. A finished run is recognised by its
config, its data and the science version, and skipped.
"""

import ast
import errno
import os
import re
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from importlib.metadata import version
from pathlib import Path, PurePath

from study import records
from study.data import checksum
from study.experiment.fast.launch import LOG, NPROC, processes
from study.machine.folders import (
    CHECKPOINT,
    FAILED,
    HALVED,
    LOCK,
    MEASURED,
    PROCESSES,
    RESULTS,
    VERSIONS,
    WORK,
    alone,
    project_folder,
    refuse_without_room,
    work_folder,
    write_whole,
    writing,
)
from study.machine.gpus import GPUS, one_of_them
from study.machine.interrupt import ASKED, Interrupted
from study.machine.progress import TERMINAL, terminal_name
from study.plan import arithmetic, catalogue
from study.plan.config import Config, public
from study.records import Record, versions
from study.records.passport import stamp

# How Python, numpy, torch and CUDA's libraries say that memory was short
OUT_OF_MEMORY = re.compile(
    r"out of memory|memoryerror|alloc_failed|not enough memory|(can't|cannot|unable to|could not) allocate",
    re.IGNORECASE,
)
LESS_AT_ONCE = (
    "run fewer at once (make grid JOBS=1, ADVLIB_JOBS_PER_GPU=1) or where there is more memory; it goes on from its "
    "last checkpoint. Half a batch would be another experiment, so nobody halves it"
)
RECORD, NOTEBOOK = "record.json", "run.ipynb"  # what a run leaves in its folder
# What is measured of its network, beside them: it goes when another network takes the place
OF_THE_NETWORK = (
    "probe.json",
    "corruptions.json",
    "combinations.json",
    "autoattack.json",
    "autoattack-aux.json",
    "watched.json",
    "columns.json",
)


_checksum = cache(checksum)  # None where the data are not here: a record then stands on its config alone


class RunFailed(RuntimeError):
    """The notebook raised; the message names the error and where the notebook was kept."""

    exit_status = 1


def execute(
    key: str,
    *,
    protocol: str = "corrected",
    budget: str = "smoke",
    seed: int = 0,
    dataset: str | None = None,
    overrides: dict | None = None,
    results: Path,
    force: bool = False,
    nproc: int | None = None,
    wait: bool = False,
) -> tuple[Path, str]:
    """Make sure the run's record exists below ``results``; returns its path, and "done" or how it was already there.

    nproc: how many processes train it (see :mod:`fast.launch`); None for ``$ADVLIB_NPROC``, else one. wait: for the
    same run to end, where it is under way elsewhere.

    Everything is validated before papermill starts. Raises ValueError on a bad parameter, RunFailed if the notebook
    raises or its files cannot be kept, Interrupted if SIGTERM came, OSError if a folder cannot be written, and
    RuntimeError if a disk has no room for the run, or if the same one is under way elsewhere.
    """
    config = catalogue.config(key, protocol=protocol, budget=budget, seed=seed, dataset=dataset, **(overrides or {}))
    nproc = _processes(config, nproc)
    where = records.run_folder(budget, config.dataset, protocol, key, seed)
    folder, work = Path(results) / where, work_folder(where)
    if not force and why_missing(folder, config) is None:
        return folder / RECORD, "already done"

    parameters = {"key": key, "protocol": protocol, "budget": budget, "dataset": config.dataset, "seed": seed}
    parameters["overrides"] = overrides or {}
    check_parameters(experiment_notebook(), parameters)
    with writing(work), alone(work / LOCK, wait=wait):
        _settle(folder)
        if wait and not force and why_missing(folder, config) is None:
            return folder / RECORD, "done by another"
        if force:
            _forget(work)
        state = _make(config, parameters, Path(results), where, nproc)
        _forget(work)
    return folder / RECORD, state


def _processes(config: Config, nproc: int | None) -> int:
    nproc = processes(config.batch_size, nproc)
    if nproc > 1 and os.environ.get(GPUS):
        raise ValueError(f"--nproc (or {NPROC}) {nproc}, but {GPUS} gives each run one GPU: take one or the other")
    return nproc


def _make(config: Config, parameters: dict, results: Path, where: str, nproc: int) -> str:
    """Make a run in a folder aside, then put it in its place: "done", or "done by another"."""
    work = work_folder(where)
    refuse_without_room(room(config, results, work))
    if (work / CHECKPOINT).exists() or (work / MEASURED).exists():
        from study.experiment.unfinished import set_aside_foreign

        set_aside_foreign(work, config, _checksum(config.dataset))
    versions.remember(work / VERSIONS)
    label = catalogue.experiments()[parameters["key"]].label
    title = "{label}: {key}, {protocol}, {budget}, seed {seed}".format(label=label, **parameters)
    with writing(results), _staging(results.resolve()) as staging:
        with one_of_them(work_folder("gpus")) as gpu:
            more = {**gpu, NPROC: str(nproc)}
            _papermill(experiment_notebook(), staging / where / NOTEBOOK, parameters, staging, work, more)
        return _deliver(staging / where, results / where, config, title, work)


def room(config: Config, results: Path, work: Path) -> dict[Path, float]:
    """GB that a run needs below either folder: a record and a notebook; its weights and two checkpoints, old and new.

    A checkpoint has the momenta too, so it is twice the weights.
    """
    weights = 4 * arithmetic.parameters(config.width) / 1e9
    return {results: 0.0005, work: 5 * weights}


def _deliver(made: Path, folder: Path, config: Config, title: str, work: Path) -> str:
    """Put a run that was made in its place: "done", or "done by another" where the same run came first."""
    try:
        with writing(folder):
            anonymise(made / NOTEBOOK, title, dataset=config.dataset)
            record = records.read(made / RECORD)
            if record.config != config.to_record():
                raise RunFailed(f"{record.where}: the notebook ran another config than asked; see its parameters cell")
            stamp(made / NOTEBOOK, record)
            _swap(made, folder)
    except OSError as error:
        # another grid, with checkpoints elsewhere and so without our lock, has just put its own there
        if error.errno in (errno.ENOTEMPTY, errno.ENOENT) and why_missing(folder, config) is None:
            return "done by another"
        raise _failed(str(error), made / NOTEBOOK, work) from error
    return "done"


def _forget(work: Path) -> None:
    """Remove what only an unfinished run needs."""
    for name in (CHECKPOINT, MEASURED, HALVED, PROCESSES, LOG, VERSIONS, FAILED, "failed.ipynb"):
        (work / name).unlink(missing_ok=True)


def why_missing(folder: Path, config: Config, record: Record | None = None) -> str | None:
    """Why the run in ``folder`` has to be made: "missing", or why it is stale; None if it is there and current.

    record: what lies there, if it has been read.
    """
    if not (folder / RECORD).exists() or not (folder / NOTEBOOK).is_file():
        return "missing"
    return (record or records.read(folder / RECORD)).stale_because(config, _checksum(config.dataset))


def experiment_notebook() -> Path:
    """The project's ``notebooks/experiment.ipynb``. Raises FileNotFoundError outside a project."""
    project = project_folder() or project_folder(Path(__file__).parent)
    if project is None:
        raise FileNotFoundError(
            "no project here: run inside a clone of the repository, which has notebooks/experiment.ipynb"
        )
    return project / "notebooks" / "experiment.ipynb"


def check_parameters(notebook: Path, parameters: dict) -> None:
    """Refuse names that the notebook's parameters cell does not have: papermill would only warn and run the default."""
    import nbformat

    cells = nbformat.read(notebook, as_version=4).cells
    sources = [cell.source for cell in cells if "parameters" in cell.metadata.get("tags", [])]
    if len(sources) != 1:
        raise ValueError(f"{notebook.name} has {len(sources)} cells tagged `parameters`: it needs exactly one")
    names = {target.id for line in ast.parse(sources[0]).body for target in line.targets}
    if unknown := sorted(set(parameters) - names):
        raise ValueError(f"{notebook.name} has no parameter {', '.join(unknown)}: it has {', '.join(sorted(names))}")


@contextmanager
def _staging(results: Path) -> Iterator[Path]:
    """A folder below ``results`` to make a run in. Its lock tells it from one that a killed run has left.

    It gets the name by which others would clear it away only when the lock is held: they may have another scratch
    folder, and so no lock in common with this process.
    """
    results.mkdir(parents=True, exist_ok=True)
    for left in results.glob(".partial-*"):
        with suppress(RuntimeError, OSError), alone(left / "lock"):
            shutil.rmtree(left, ignore_errors=True)
    new = Path(tempfile.mkdtemp(prefix=".new-", dir=results))
    folder = new.with_name(new.name.replace(".new-", ".partial-", 1))
    try:
        with alone(new / "lock"):
            os.replace(new, folder)
            yield folder
    finally:
        for place in (new, folder):
            shutil.rmtree(place, ignore_errors=True)


def _papermill(notebook: Path, output: Path, parameters: dict, staging: Path, work: Path, more: dict) -> None:
    import papermill
    from papermill.exceptions import PapermillExecutionError

    from study.machine.kernel import ALLOCATOR

    output.parent.mkdir(parents=True, exist_ok=True)
    work.mkdir(parents=True, exist_ok=True)
    allocator = {name: value for name, value in ALLOCATOR.items() if name not in os.environ}
    environment = {**allocator, RESULTS: str(staging), WORK: str(work_folder("").resolve()), **more}
    if terminal := terminal_name():
        environment[TERMINAL] = terminal
    options = {} if os.name == "nt" else {"kernel_manager_class": "study.machine.kernel.IPCKernelManager"}
    with _environment(environment):
        try:
            with writing(output):
                papermill.execute_notebook(
                    notebook, output, parameters, kernel_name="python3", progress_bar=False, cwd=Path.cwd(), **options
                )
        except PapermillExecutionError as error:
            if error.ename == Interrupted.__name__:
                raise Interrupted(error.evalue) from error
            raise _failed(f"{error.ename}: {error.evalue}", output, work) from error
        except OSError as error:  # the notebook itself could not be written
            raise _failed(str(error), output, work) from error
        except Exception as error:  # the kernel ended or never started, which jupyter says in many ways
            if ASKED:  # while it started or measured: what it had is on disk, and it ends at once
                raise Interrupted("asked to stop: run it again to go on") from error
            raise _failed(_ending(error), output, work) from error


def _ending(error: Exception) -> str:
    """Why there is no kernel, as far as it is known: jupyter could not start one, or it "was killed (SIGKILL)"."""
    from nbclient.exceptions import DeadKernelError

    if not isinstance(error, DeadKernelError):
        return f"{type(error).__name__}: {error}"
    return f"{_death()}, perhaps for want of memory: {LESS_AT_ONCE}"


def _death() -> str:
    kernel = sys.modules.get("study.machine.kernel")
    status = kernel.ENDED[0] if kernel and kernel.ENDED else None
    if status == -signal.SIGKILL:
        return "the process was killed (SIGKILL)"
    return (
        f"the process died ({signal.Signals(-status).name})"
        if status is not None and status < 0
        else "the process died"
    )


def _failed(why: str, notebook: Path, work: Path) -> RunFailed:
    """Keep what a failed run leaves to look at: its last words, and the notebook as far as it came."""
    if OUT_OF_MEMORY.search(why):
        why = f"{why.rstrip().removesuffix(':')}: {LESS_AT_ONCE}"
    kept = f"The notebook, as far as it came: {work / 'failed.ipynb'}"
    try:
        write_whole(work / FAILED, why)
        shutil.move(notebook, work / "failed.ipynb")
    except OSError as error:  # what went wrong first is what counts
        kept = f"The notebook could not be kept ({error.strerror or error})"
    return RunFailed(f"{why}\n{kept}")


def anonymise(path: Path, title: str | None = None, dataset: str = "") -> None:
    """Take times and paths of this machine out of an executed notebook, and give it a title of its own.

    Of a ``dataset`` that is named by a path the name stays, also where it is a parameter.
    """
    import nbformat

    notebook = nbformat.read(path, as_version=4)
    notebook = nbformat.from_dict(_without_paths(notebook, _places(dataset)))
    for name in ("papermill", "executed"):
        notebook.metadata.pop(name, None)
    for cell in notebook.cells:
        cell.metadata.pop("papermill", None)
        cell.metadata.pop("execution", None)
    if title:
        _, _, rest = notebook.cells[0].source.partition("\n")
        notebook.cells[0].source = f"# {title}\n{rest}"
    notebook.metadata["advlib"] = {"papermill": version("papermill")}
    nbformat.write(notebook, path)


def _without_paths(value, places: dict[str, str]):
    """JSON whose texts have the names of ``places`` in their stead; what an image is, is no text."""
    if isinstance(value, dict):
        return {k: item if k.startswith("image/") else _without_paths(item, places) for k, item in value.items()}
    if isinstance(value, list):
        return [_without_paths(item, places) for item in value]
    for place in sorted(places, key=len, reverse=True) if isinstance(value, str) else ():
        value = re.sub(rf"(?<![\w.-]){re.escape(place)}(?![\w.-])", lambda _, place=place: places[place], value)
    return value


def _places(dataset: str) -> dict[str, str]:
    """Folders of this machine that a notebook may show, in a parameter or a warning -> what it shows instead."""
    (given, name) = (told.partition(":")[2] for told in (dataset, public(dataset)))
    places = {given: name} if given != name else {}
    places |= {sys.prefix: "python", str(Path.cwd()): ".", tempfile.gettempdir(): "tmp", str(Path.home()): "~"}
    return {place: name for place, name in places.items() if PurePath(place).name}


def _swap(new: Path, folder: Path) -> None:
    """Put ``new`` in the place of ``folder``; if that fails, or the process dies on the way, the old run stays."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    if folder.exists():
        os.replace(folder, _aside(folder))
    try:
        os.replace(new, folder)
    finally:
        _settle(folder)


def _settle(folder: Path) -> None:
    """Bring an old run that was set aside back, or remove it where the new one has arrived.

    Files of somebody else that were beside the old record stay beside the new one.
    """
    old = _aside(folder)
    if not old.exists():
        return
    if not folder.exists():
        os.replace(old, folder)
        return
    for file in old.iterdir():
        if file.name not in (RECORD, NOTEBOOK, *OF_THE_NETWORK) and not (folder / file.name).exists():
            os.replace(file, folder / file.name)
    shutil.rmtree(old)


def _aside(folder: Path) -> Path:
    return folder.with_name(f".old-{folder.name}")


@contextmanager
def _environment(variables: dict[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
