"""Start the processes that train one run, and wait for what they leave: the checkpoint of the finished training.

``torchrun`` starts :mod:`fast.worker` N times on this machine. A pipe tells them when to save and stop: it closes
when this process is asked to stop, and also when it dies. Each process leaves a word about how it ended, so that an
error is told by its cause and not by what it did to the others. No torch here.
"""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

from study.machine.folders import PROCESSES, no_link, write_whole
from study.machine.interrupt import Interrupted, on_request

NPROC = "ADVLIB_NPROC"  # how many processes train one run, if set
LOG = "torchrun.log"  # what they and torchrun print, in the run's scratch folder, unless all went well
POLL = 0.1
GRACE = 60  # seconds for a step and a checkpoint, once asked to stop
KINDS = {kind.__name__: kind for kind in (ValueError, TypeError, OSError, FloatingPointError, Interrupted)}


def processes(batch_size: int, number: int | None = None) -> int:
    """How many processes train a run: ``number``, else ``$ADVLIB_NPROC``, else 1.

    Raises ValueError unless it is a whole number from 1 up that divides the batch: each takes an equal part.
    """
    text = str(os.environ.get(NPROC) or 1) if number is None else str(number)
    if not text.isdigit() or int(text) == 0:
        raise ValueError(f"--nproc (or {NPROC}) {text}: how many processes train the run, a whole number from 1 up")
    if batch_size % int(text):
        divisors = [str(n) for n in range(1, min(batch_size, 64) + 1) if batch_size % n == 0]
        raise ValueError(
            f"--nproc (or {NPROC}) {text}: a batch of {batch_size} images cannot be shared out equally among {text} "
            f"processes; take one of {', '.join(divisors)}"
        )
    return int(text)


def train(task: dict, work: Path, *, processes: int, threads: int) -> None:
    """Train in several processes; afterwards ``work`` holds the checkpoint of the finished training.

    task: what :func:`worker.main` reads. threads: of each process, on a CPU. Raises what the training raised
    (ValueError, OSError, FloatingPointError, Interrupted, else RuntimeError), and RuntimeError if a process died.
    """
    work.mkdir(parents=True, exist_ok=True)
    (work / PROCESSES).write_text(str(processes))
    with TemporaryDirectory(prefix="advlib-") as name, on_request() as asked:
        words = Path(name)
        (words / "task.json").write_text(json.dumps(task | {"work": str(work)}))
        _start_and_wait(words, work / LOG, processes, threads, asked)
        _conclude(_read(words), processes, work / LOG, asked())
        (work / LOG).unlink(missing_ok=True)
        if asked():
            raise Interrupted("asked to stop after the training: run it again to go on with the evaluation")


def leave_word(folder: Path, rank: int, error: BaseException | None) -> None:
    """Say how the process of that rank ended: by this error, or well."""
    word = {"time": time.monotonic(), "kind": type(error).__name__ if error else "done", "message": str(error or "")}
    write_whole(folder / f"{rank}.word", json.dumps(word))


def _start_and_wait(words: Path, log: Path, processes: int, threads: int, asked) -> None:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    command += ["-m", "study.experiment.fast.worker", str(words)]
    environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
    with open(log, "w", opener=no_link) as output:
        agent = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=output, stderr=subprocess.STDOUT, env=environment
        )
        try:
            while agent.poll() is None and not asked():
                time.sleep(POLL)
        finally:
            agent.stdin.close()
            try:
                agent.wait(timeout=GRACE)
            except subprocess.TimeoutExpired:
                agent.kill()
                agent.wait()


def _read(words: Path) -> dict[int, dict]:
    return {int(path.stem): json.loads(path.read_text()) for path in words.glob("*.word")}


def _conclude(words: dict[int, dict], processes: int, log: Path, stopped: bool) -> None:
    """Raise what went wrong first: an error of a process's own, else that some died, else that they lost touch.

    Where all were ``stopped`` (SIGTERM to a whole group also ends what is only starting), the last two are no failure.
    """
    ends = sorted((word["time"], rank, word["kind"], word["message"]) for rank, word in words.items())
    for _, rank, kind, message in ends:
        if kind not in ("done", "Lost"):
            text = message if kind in KINDS else f"{kind} in process {rank} of {processes}: {message}"
            raise KINDS.get(kind, RuntimeError)(text)
    if stopped and (len(words) < processes or any(kind == "Lost" for _, _, kind, _ in ends)):
        raise Interrupted("asked to stop before all could save: run it again to go on from the last checkpoint")
    dead = [str(rank) for rank in range(processes) if rank not in words]
    if dead:
        raise RuntimeError(
            f"of {processes} processes, {', '.join(dead)} (counted from 0) died without a word, perhaps for want of "
            f"memory: run fewer at once. What they printed: {log}"
        )
    for _, rank, kind, message in ends:
        if kind == "Lost":
            raise RuntimeError(f"the processes lost touch: {message} in process {rank}; what they printed: {log}")
