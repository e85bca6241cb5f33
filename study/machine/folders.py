"""Where a run's files go, and how they are written: whole or not at all, by one process at a time, while there is room.

Places are found from where the work is done, so that no record holds a path of a machine.
"""

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path

MARKS = ("_config.yml", "notebooks/experiment.ipynb")  # of this project: many another has the first
RESULTS = "ADVLIB_RESULTS"  # the results folder, if set
WORK = "ADVLIB_WORK"  # checkpoints and final weights, if set
BY_HAND = "my-results"  # the folder of notebooks that are run by hand
CHECKPOINT = "checkpoint.pt"  # of a training, in its run's scratch folder
CHECKPOINT_LOCK = "checkpoint.lock"  # held by the process that writes it, there too
WEIGHTS = "model.safetensors"  # of a trained network, there too
MEASURED = "measured.json"  # of an evaluation, there too
FAILED = "failed.txt"  # why a run failed, there too
HALVED = "halved.txt"  # its checkpoint has travelled in half precision, there too
PROCESSES = "processes.txt"  # how many processes have trained it, if several, there too
LOCK = "lock"  # held while a run is under way, there too
VERSIONS = "versions.json"  # of the packages that began a run, there too

ANOTHER = f"choose another folder ({RESULTS} for records, {WORK} for checkpoints)"
REMEDIES = {  # of what a disk refuses
    errno.ENOSPC: f"free some space or {ANOTHER}",
    errno.EDQUOT: f"your quota is used up: free some space or {ANOTHER}",
    errno.EROFS: f"nothing can be written there: {ANOTHER}",
    errno.EACCES: f"you may not write there: {ANOTHER}",
    errno.EPERM: f"you may not write there: {ANOTHER}",
    errno.ENOTDIR: f"a file stands where a folder belongs: move it away or {ANOTHER}",
    errno.EEXIST: f"a file stands where a folder belongs: move it away or {ANOTHER}",
}


def project_folder(start: Path | None = None) -> Path | None:
    """The folder with all of :data:`MARKS`, from ``start`` (or the working directory) upwards; None outside one."""
    start = Path(start or Path.cwd()).resolve()
    folders = (start, *start.parents)
    return next((folder for folder in folders if all((folder / mark).is_file() for mark in MARKS)), None)


def results_folder() -> Path:
    """``$ADVLIB_RESULTS``, else the project's ``results``, else ``results`` here."""
    if os.environ.get(RESULTS):
        return Path(os.environ[RESULTS])
    return (project_folder() or Path.cwd()) / "results"


def work_folder(where: str) -> Path:
    """The scratch folder of the run at ``where``: its checkpoint while it trains, its weights afterwards."""
    root = Path(os.environ[WORK]) if os.environ.get(WORK) else (project_folder() or Path.cwd()) / "checkpoints"
    return root / where


def notebook_folders(where: str) -> tuple[Path, Path]:
    """Where a notebook keeps a run's record, and its checkpoint and weights.

    ``python -m study run`` names both places. Run by hand, they are one below ``my-results``: no record of the project
    is replaced by what somebody tries.
    """
    mine = (project_folder() or Path.cwd()) / BY_HAND
    return Path(os.environ.get(RESULTS) or mine) / where, Path(os.environ.get(WORK) or mine) / where


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
        partial.unlink(missing_ok=True)  # what somebody put there may be a link to another file
        yield partial
        os.replace(partial, path)
    except (OSError, RuntimeError) as error:  # torch reports a full disk as RuntimeError, in words of its own
        why = str(error) if isinstance(error, OSError) else f"{error}; {free(path):.3f} GB free"
        remedy = REMEDIES.get(getattr(error, "errno", None), REMEDIES[errno.ENOSPC])
        raise OSError(f"cannot write {path} ({why}): {remedy}; nothing was lost") from error
    finally:
        with suppress(OSError):
            partial.unlink()


def write_whole(path: Path, content: str | bytes) -> Path:
    """Write a file in one step, text as UTF-8. Raises OSError as :func:`replacing` does."""
    with replacing(path) as partial:
        partial.write_bytes(content.encode() if isinstance(content, str) else content)
    return Path(path)


def no_link(path: str, flags: int) -> int:
    """An opener for :func:`open`: a link in the place of a file to be written is refused, and what it names stays."""
    try:
        return os.open(path, flags | getattr(os, "O_NOFOLLOW", 0), 0o666)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise OSError(errno.ELOOP, "a link stands where a file belongs: remove it", path) from error
        raise


@contextmanager
def writing(folder: Path) -> Iterator[None]:
    """What a disk refuses is raised as OSError that names the file, or else ``folder``, and says what to do."""
    try:
        yield
    except OSError as error:
        if error.errno not in REMEDIES:
            raise
        place = f"{error.filename or folder} ({error.strerror}; {free(folder):.3f} GB free)"
        raise OSError(f"cannot write {place}: {REMEDIES[error.errno]}; nothing was lost") from error


def free(folder: Path) -> float:
    """GB free on the disk of a folder, which need not exist yet."""
    return shutil.disk_usage(existing(folder)).free / 1e9


def existing(folder: Path) -> Path:
    """The folder, or the first above it that exists."""
    return next(place for place in (Path(folder), *Path(folder).resolve().parents) if place.exists())


def refuse_without_room(needed: dict[Path, float]) -> None:
    """Raises RuntimeError, with the remedy, if a disk has less room than the folders on it need, in GB."""
    disks: dict[int, tuple[Path, float]] = {}
    for folder, gigabytes in needed.items():
        disk = existing(folder).stat().st_dev
        first, so_far = disks.get(disk, (existing(folder), 0.0))
        disks[disk] = (first, so_far + gigabytes)
    for folder, gigabytes in disks.values():
        if free(folder) < gigabytes:
            raise RuntimeError(
                f"the runs need {gigabytes:.3f} GB in {folder} and {free(folder):.3f} are free: make room first, or "
                f"{ANOTHER}"
            )


def held(lock: Path) -> bool:
    """Whether another process holds a lock file."""
    try:
        with alone(lock) if lock.exists() else nullcontext():
            return False
    except RuntimeError:
        return True


@contextmanager
def alone(lock: Path, *, wait: bool = False, what: str = "this run") -> Iterator[None]:
    """Hold a lock file, so that two processes never share a checkpoint; the system frees it when a process ends.

    A folder that is there can be the lock as well. Raises RuntimeError, which says ``what`` is under way, if another
    process holds it, or waits for that process with ``wait``; OSError where the file system keeps no locks.
    """
    try:
        import fcntl
    except ImportError:  # Windows: no lock, and the last writer's record stands
        yield
        return
    lock.parent.mkdir(parents=True, exist_ok=True)
    handle = no_link(lock, os.O_RDONLY if lock.is_dir() else os.O_WRONLY | os.O_CREAT)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError as error:
            raise RuntimeError(f"{what} is under way in another process ({lock} is held): wait for it") from error
        except OSError as error:  # some network file systems
            raise OSError(f"the file system of {lock} keeps no locks ({error.strerror}): {ANOTHER}") from error
        yield
    finally:
        os.close(handle)
