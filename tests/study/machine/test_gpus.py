"""Any number of runs share a machine's GPUs, never more on one than was said, and a place is free when its run ends."""

import os
import signal
import subprocess
import sys
import time
from collections import Counter

import pytest

from study.machine import gpus

JOB = """
import sys, time
from pathlib import Path
from study.machine.gpus import one_of_them
folder, name = Path(sys.argv[1]), sys.argv[2]
with one_of_them(folder) as gpu:
    with open(folder / "log", "a") as log:
        log.write(f"begin {name} {gpu['CUDA_VISIBLE_DEVICES']}\\n")
        log.flush()
        time.sleep(0.3)
        log.write(f"end {name} {gpu['CUDA_VISIBLE_DEVICES']}\\n")
"""


def start(folder, name, **options) -> subprocess.Popen:
    return subprocess.Popen([sys.executable, "-c", JOB, str(folder), name], **options)


@pytest.mark.parametrize("per_gpu", [1, 2])
def test_twelve_jobs_on_four_gpus_never_exceed_the_places_on_one(tmp_path, monkeypatch, per_gpu):
    monkeypatch.setenv(gpus.GPUS, "0, 1, 2, 3")
    monkeypatch.setenv(gpus.PER_GPU, str(per_gpu))
    jobs = [start(tmp_path, f"job{k}") for k in range(12)]
    assert [job.wait() for job in jobs] == [0] * 12
    busy, most, log = Counter(), Counter(), (tmp_path / "log").read_text().splitlines()
    for line in log:
        what, _, gpu = line.split()
        busy[gpu] += 1 if what == "begin" else -1
        most[gpu] = max(most[gpu], busy[gpu])
    assert len(log) == 24 and set(most) <= {"0", "1", "2", "3"}
    assert max(most.values()) <= per_gpu, log


def test_a_killed_job_leaves_its_place_free(tmp_path, monkeypatch):
    monkeypatch.setenv(gpus.GPUS, "7")
    killed = start(tmp_path, "killed")
    while not (tmp_path / "log").exists():
        time.sleep(0.02)
    killed.send_signal(signal.SIGKILL)
    assert killed.wait() == -signal.SIGKILL and start(tmp_path, "next").wait(timeout=30) == 0


def test_the_place_stays_taken_while_the_kernel_that_computes_lives_on(tmp_path, monkeypatch):
    """The command is killed, its kernel lives for a second more: nobody else must get the GPU meanwhile."""
    import fcntl

    from study.machine.kernel import INHERITED

    monkeypatch.setenv(gpus.GPUS, "0")
    with gpus.one_of_them(tmp_path):
        kernel = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], pass_fds=tuple(INHERITED))
    assert INHERITED == []
    with open(tmp_path / "gpu-0-0.lock", "w") as file:
        with pytest.raises(BlockingIOError):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        kernel.kill()
        kernel.wait()
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_without_named_gpus_nothing_is_asked_of_a_run(tmp_path, monkeypatch):
    monkeypatch.delenv(gpus.GPUS, raising=False)
    with gpus.one_of_them(tmp_path / "never") as variables:
        assert variables == {} and not (tmp_path / "never").exists()


@pytest.mark.parametrize("text", ["0", "two", "-1"])
def test_an_impossible_number_of_jobs_per_gpu_is_refused(tmp_path, monkeypatch, text):
    monkeypatch.setenv(gpus.GPUS, "0")
    monkeypatch.setenv(gpus.PER_GPU, text)
    with pytest.raises(ValueError, match="how many runs share a GPU"), gpus.one_of_them(tmp_path):
        pass


def test_a_run_sees_only_the_gpu_that_it_was_given(tmp_path, monkeypatch):
    """The kernel's environment, seen from within an experiment's notebook."""
    import nbformat

    from study.grid.execute import _papermill

    notebook = nbformat.v4.new_notebook(
        cells=[nbformat.v4.new_code_cell("import os\nprint(os.environ['CUDA_VISIBLE_DEVICES'])")]
    )
    nbformat.write(notebook, tmp_path / "n.ipynb")
    monkeypatch.setenv(gpus.GPUS, "5")
    monkeypatch.setenv("ADVLIB_WORK", str(tmp_path / "work"))
    with gpus.one_of_them(tmp_path / "gpus") as gpu:
        _papermill(tmp_path / "n.ipynb", tmp_path / "out.ipynb", {}, tmp_path, tmp_path / "work", gpu)
    assert nbformat.read(tmp_path / "out.ipynb", as_version=4).cells[0].outputs[0].text == "5\n"
    assert "CUDA_VISIBLE_DEVICES" not in os.environ
