"""Where a run's files go: found from where the work is done, so that no record holds a path of a machine."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path

RESULTS = "ADVLIB_RESULTS"  # the results folder, if set
WORK = "ADVLIB_WORK"  # checkpoints and final weights, if set
CHECKPOINT = "checkpoint.pt"  # of a training, in its run's scratch folder
MEASURED = "measured.json"  # of an evaluation, there too
FAILED = "failed.txt"  # why a run failed, there too
HALVED = "halved.txt"  # its checkpoint has travelled in half precision, there too
PROCESSES = "processes.txt"  # how many processes have trained it, if several, there too
LOCK = "lock"  # held while a run is under way, there too


def project_folder(start: Path | None = None) -> Path | None:
    """The folder with ``_config.yml``, from ``start`` (or the working directory) upwards; None outside a project."""
    start = Path(start or Path.cwd()).resolve()
    return next((folder for folder in (start, *start.parents) if (folder / "_config.yml").is_file()), None)


def results_folder(start: Path | None = None) -> Path:
    """``$ADVLIB_RESULTS``, else the project's ``results``, else ``results`` here (as in Colab)."""
    if os.environ.get(RESULTS):
        return Path(os.environ[RESULTS])
    return (project_folder(start) or Path.cwd()) / "results"


def work_folder(where: str, start: Path | None = None) -> Path:
    """The scratch folder of the run at ``where``: its checkpoint while it trains, its weights afterwards."""
    root = Path(os.environ[WORK]) if os.environ.get(WORK) else (project_folder(start) or Path.cwd()) / "checkpoints"
    return root / where


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A name to write to; afterwards the file takes the place of ``path`` in one step.

    If anything fails, ``path`` is as it was and nothing partial stays. Raises OSError, saying what to do, where the
    folder cannot be written or the disk is full.
    """
    path = Path(path)
    partial = path.with_name(f"{path.name}.partial-{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield partial
        os.replace(partial, path)
    except (OSError, RuntimeError) as error:  # torch reports a full disk as RuntimeError
        raise OSError(
            f"cannot write {path} ({error}): free some space or choose another folder; nothing was lost"
        ) from error
    finally:
        with suppress(OSError):
            partial.unlink()


def held(lock: Path) -> bool:
    """Whether another process holds a lock file."""
    try:
        with alone(lock) if lock.exists() else nullcontext():
            return False
    except RuntimeError:
        return True


@contextmanager
def alone(lock: Path, *, wait: bool = False) -> Iterator[None]:
    """Hold a lock file, so that two processes never share a checkpoint; the system frees it when a process ends.

    Raises RuntimeError if another process holds it, or waits for that process with ``wait``.
    """
    try:
        import fcntl
    except ImportError:  # Windows: no lock, and the last writer's record stands
        yield
        return
    lock.parent.mkdir(parents=True, exist_ok=True)
    with open(lock, "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError as error:
            raise RuntimeError(f"this run is under way in another process ({lock} is held): wait for it") from error
        yield
