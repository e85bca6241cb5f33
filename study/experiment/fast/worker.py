"""One process of a training in several: ``torchrun`` runs this module, see :mod:`fast.launch`."""

import json
import os
import sys
import threading
from contextlib import nullcontext, suppress
from pathlib import Path

import torch

from study.experiment import run
from study.experiment.fast.launch import leave_word
from study.experiment.fast.parallel import joined
from study.machine.folders import CHECKPOINT_LOCK, alone
from study.machine.interrupt import Interrupted, on_request
from study.machine.progress import TERMINAL
from study.plan.config import Config


def main(folder: Path) -> None:
    """Take part in the training that ``folder / "task.json"`` describes, and leave a word there about how it ended.

    The first process leaves the checkpoint in the task's ``work`` folder.
    """
    rank, error = int(os.environ["RANK"]), None
    if rank != 0:
        os.environ.pop(TERMINAL, None)  # one progress bar
    try:
        _train(json.loads((folder / "task.json").read_text()), parent_gone())
    except BaseException as raised:
        error = raised
        raise
    finally:
        leave_word(folder, rank, error)


def _train(task: dict, asked: threading.Event) -> None:
    device = torch.device("cpu")
    if task["device"] == "cuda":
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(device)
    work = Path(task["work"])
    with (
        joined(device) as team,
        on_request() as terminated,
        alone(work / CHECKPOINT_LOCK, wait=True) if team.first else nullcontext(),
    ):
        team.any(False)  # whoever writes the checkpoint holds its lock: only now may the others read it
        run.train_network(
            Config(**task["config"]),
            device=device,
            work=work,
            stop=lambda: asked.is_set() or terminated(),
            team=team,
        )


def parent_gone() -> threading.Event:
    """Set once the pipe on stdin has closed: whoever started the processes asks them to stop, or has died."""
    closed = threading.Event()

    def wait() -> None:
        while os.read(0, 1):  # not sys.stdin, whose lock a thread must not hold when the process ends
            pass
        closed.set()

    threading.Thread(target=wait, daemon=True).start()
    return closed


if __name__ == "__main__":
    with suppress(Interrupted):  # asked to stop, all saved: nothing for torchrun to complain of
        main(Path(sys.argv[1]))
