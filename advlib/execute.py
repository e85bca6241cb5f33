"""Run the experiment notebook by papermill: one idempotent command a run.

The record and the executed notebook appear together, by one rename, or not at all. A finished run is recognised by its
config, its data and the science version, and skipped.
"""

import ast
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import cache
from importlib.metadata import version
from pathlib import Path

from advlib import catalogue, records
from advlib.config import Config
from advlib.folders import (
    CHECKPOINT,
    FAILED,
    HALVED,
    LOCK,
    MEASURED,
    PROCESSES,
    RESULTS,
    WORK,
    alone,
    project_folder,
    work_folder,
)
from advlib.gpus import GPUS, one_of_them
from advlib.interrupt import ASKED, Interrupted
from advlib.passport import stamp
from advlib.progress import TERMINAL, terminal_name
from advlib.torchrun import LOG, NPROC, processes


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
    """Make sure the run's record exists below ``results``; returns its path, and "done" or "already done".

    nproc: how many processes train it (see :mod:`advlib.torchrun`); None for ``$ADVLIB_NPROC``, else one.

    Everything is validated before papermill starts. Raises ValueError on a bad parameter, RunFailed if the notebook
    raises, Interrupted if SIGTERM came, and RuntimeError if the same run is under way elsewhere; with ``wait`` it waits
    for that one to end.
    """
    config = catalogue.config(key, protocol=protocol, budget=budget, seed=seed, dataset=dataset, **(overrides or {}))
    nproc = processes(config.batch_size, nproc)
    if nproc > 1 and os.environ.get(GPUS):
        raise ValueError(f"--nproc (or {NPROC}) {nproc}, but {GPUS} gives each run one GPU: take one or the other")
    where = records.run_folder(budget, config.dataset, protocol, key, seed)
    folder = Path(results) / where
    if not force and why_missing(folder, config) is None:
        return folder / "record.json", "already done"

    parameters = {"key": key, "protocol": protocol, "budget": budget, "dataset": config.dataset, "seed": seed}
    parameters["overrides"] = overrides or {}
    notebook = experiment_notebook()
    check_parameters(notebook, parameters)
    work = work_folder(where)
    with alone(work / LOCK, wait=wait):
        _settle(folder)
        if wait and not force and why_missing(folder, config) is None:
            return folder / "record.json", "done by another"
        if force:
            for name in (CHECKPOINT, MEASURED, HALVED, PROCESSES):
                (work / name).unlink(missing_ok=True)
        _discard_foreign_checkpoint(work / CHECKPOINT, config)
        with _staging(Path(results).resolve()) as staging:
            made = staging / where
            with one_of_them(work_folder("gpus")) as gpu:
                _papermill(notebook, made / "run.ipynb", parameters, staging, work, {**gpu, NPROC: str(nproc)})
            title = f"{catalogue.experiments()[key].label}: {key}, {protocol}, {budget}, seed {seed}"
            anonymise(made / "run.ipynb", title)
            record = records.read(made / "record.json")
            if record.config != config.to_dict():
                raise RunFailed(f"{where}: the notebook ran another config than asked; see its parameters cell")
            stamp(made / "run.ipynb", record)
            _swap(made, folder)
        for name in (CHECKPOINT, MEASURED, HALVED, PROCESSES, LOG, FAILED, "failed.ipynb"):
            (work / name).unlink(missing_ok=True)
    return folder / "record.json", "done"


def why_missing(folder: Path, config: Config) -> str | None:
    """Why the run in ``folder`` has to be made: "missing", or why it is stale; None if it is there and current."""
    if not (folder / "record.json").is_file() or not (folder / "run.ipynb").is_file():
        return "missing"
    return records.read(folder / "record.json").stale_because(config, _checksum(config.dataset))


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
    """A folder below ``results`` to make a run in. Its lock tells it from one that a killed run has left."""
    with ExitStack() as held:
        with alone(work_folder("staging.lock"), wait=True):
            results.mkdir(parents=True, exist_ok=True)
            for left in results.glob(".partial-*"):
                with suppress(RuntimeError), alone(left / "lock"):
                    shutil.rmtree(left, ignore_errors=True)
            folder = Path(tempfile.mkdtemp(prefix=".partial-", dir=results))
            held.enter_context(alone(folder / "lock"))
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def _papermill(notebook: Path, output: Path, parameters: dict, staging: Path, work: Path, more: dict) -> None:
    import papermill
    from nbclient.exceptions import DeadKernelError
    from papermill.exceptions import PapermillExecutionError

    from advlib.kernel import ALLOCATOR

    output.parent.mkdir(parents=True, exist_ok=True)
    work.mkdir(parents=True, exist_ok=True)
    allocator = {name: value for name, value in ALLOCATOR.items() if name not in os.environ}
    environment = {**allocator, RESULTS: str(staging), WORK: str(work_folder("").resolve()), **more}
    if terminal := terminal_name():
        environment[TERMINAL] = terminal
    options = {} if os.name == "nt" else {"kernel_manager_class": "advlib.kernel.IPCKernelManager"}
    with _environment(environment):
        try:
            papermill.execute_notebook(
                notebook, output, parameters, kernel_name="python3", progress_bar=False, cwd=Path.cwd(), **options
            )
        except PapermillExecutionError as error:
            if error.ename == Interrupted.__name__:
                raise Interrupted(error.evalue) from error
            raise _failed(f"{error.ename}: {error.evalue}", output, work) from error
        except DeadKernelError as error:
            if ASKED:  # while it measured: what it had is on disk, and it ends at once
                raise Interrupted("asked to stop: run it again to go on") from error
            raise _failed("the process died, perhaps for want of memory: run fewer at once", output, work) from error


def _failed(why: str, notebook: Path, work: Path) -> RunFailed:
    """Keep what a failed run leaves to look at: its last words, and the notebook as far as it came."""
    if "out of memory" in why:
        why += " (run fewer at once, or on another device: half a batch would be another experiment)"
    (work / FAILED).write_text(why)
    shutil.move(notebook, work / "failed.ipynb")
    return RunFailed(f"{why}\nThe notebook, as far as it came: {work / 'failed.ipynb'}")


def anonymise(path: Path, title: str | None = None) -> None:
    """Take times and paths of this machine out of an executed notebook, and give it a title of its own."""
    import nbformat

    notebook = nbformat.read(path, as_version=4)
    notebook.metadata.pop("papermill", None)
    for cell in notebook.cells:
        cell.metadata.pop("papermill", None)
        cell.metadata.pop("execution", None)
    if title:
        _, _, rest = notebook.cells[0].source.partition("\n")
        notebook.cells[0].source = f"# {title}\n{rest}"
    notebook.metadata["advlib"] = {"papermill": version("papermill")}
    nbformat.write(notebook, path)


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
    """Bring an old run that was set aside back, or remove it where the new one has arrived."""
    if _aside(folder).exists():
        if folder.exists():
            shutil.rmtree(_aside(folder))
        else:
            os.replace(_aside(folder), folder)


def _aside(folder: Path) -> Path:
    return folder.with_name(f".old-{folder.name}")


def _discard_foreign_checkpoint(path: Path, config: Config) -> None:
    """A checkpoint that an older config left in this run's scratch folder is set aside, with a word about it."""
    if not path.exists():
        return
    import torch

    try:
        same = torch.load(path, map_location="cpu", weights_only=True)["origin"]["config"] == config.to_dict()
    except Exception:  # noqa: BLE001 - a damaged file raises many kinds; all mean that nothing can be continued
        same = False
    if not same:
        os.replace(path, path.with_suffix(".old"))
        print(f"{path} is of another config or damaged: set aside, training from the start", file=sys.stderr)


@cache
def _checksum(dataset: str) -> str | None:
    """The checksum of the data that is here, or None where it is not: a record then stands on its config alone."""
    from advlib.data import load

    try:
        return load(dataset, download=False).checksum
    except OSError:
        return None


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
