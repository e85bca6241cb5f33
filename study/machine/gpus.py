"""Which GPU a run may use: a lock file a place, so that any number of runs, started by anything, share a machine.

``ADVLIB_GPUS`` names the GPUs ("0,1,2,3"), ``ADVLIB_JOBS_PER_GPU`` how many runs share one (1). A place is free again
when the run's last process has ended, however it ended.
"""

import os
import random
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from study.machine.folders import no_link

GPUS, PER_GPU = "ADVLIB_GPUS", "ADVLIB_JOBS_PER_GPU"
POLL = 0.2  # seconds between looks at the locks


@contextmanager
def one_of_them(folder: Path) -> Iterator[dict[str, str]]:
    """Wait for a place on a GPU and hold it: the variables that show a process this GPU alone. {} if none are named.

    ``folder``: where the locks are, one for all that share the machine.
    """
    names = [name.strip() for name in os.environ.get(GPUS, "").split(",") if name.strip()]
    if not names:
        yield {}
        return
    from study.machine.kernel import INHERITED

    places = [(name, place) for place in range(_per_gpu()) for name in names]
    folder.mkdir(parents=True, exist_ok=True)
    name, file = _wait_for(places, folder)
    INHERITED.append(file.fileno())
    try:
        with file:
            yield {"CUDA_VISIBLE_DEVICES": name}
    finally:
        INHERITED.clear()


def _wait_for(places: list[tuple[str, int]], folder: Path):
    import fcntl

    while True:
        for name, place in sorted(places, key=lambda place: (place[1], random.random())):  # the emptier GPU first
            lock = folder / f"gpu-{name}-{place}.lock"
            file = open(lock, "a", opener=no_link)  # noqa: SIM115 - the lock is held while it is open
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                file.close()
                continue
            return name, file
        time.sleep(POLL)


def _per_gpu() -> int:
    text = os.environ.get(PER_GPU, "1")
    if not text.isdigit() or text == "0":
        raise ValueError(f"{PER_GPU}={text}: how many runs share a GPU, from 1 up")
    return int(text)
