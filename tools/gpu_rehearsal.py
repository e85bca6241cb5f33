"""Rehearse a borrowed machine here, on the CPU: pack, gate, campaign, a kill, the next machine, and what came back.

    python tools/gpu_rehearsal.py [--python .venv-gpu/bin/python]        # or: make gpu-rehearsal

The machine is an emptied environment: no git, no project, no network where the system lets a process be cut off. The
first campaign is killed at a random second; everything that it said was packed must be here afterwards, the same to the
byte, and a second machine must make the rest. All of it at smoke size: it shows that the machinery works.
"""

import argparse
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory

import psutil
from gpu_pack import pack

from study import records
from study.findings.runs import report
from study.grid.campaign import LOG
from study.grid.parts import unpack
from study.machine.folders import WORK, project_folder
from study.plan import catalogue

KEYS = ("traditional", "advprop")
TOOLS = ("bash", "sh", "tar", "gzip", "mkdir", "mktemp", "dirname")  # what the machine has beside Python
CUT_OFF = [shutil.which("unshare") or "unshare", "--map-root-user", "--net"]


def rehearse(folder: Path, python: Path, *, wheels: bool, gate_seconds: float, say=print) -> dict[str, records.Record]:
    """Play it through in ``folder``: the records that were brought home, by key. Raises RuntimeError where it fails."""
    size = pack(folder / "pack", data=False, wheels=wheels)
    say(f"packed {size / 2**20:.1f} MiB")
    offline = _can_be_cut_off()
    say("without network" if offline else "with network: this system does not let a process be cut off from it")

    first = _start(folder, "first", python, offline, "--gate-seconds", str(gate_seconds))
    _wait_for(first, folder / "first" / "out" / LOG, "packed in")
    wait = random.uniform(0, 4)
    say(f"a first record is packed; the machine is taken away {wait:.1f} s later")
    _kill_after(first, wait)
    if first.returncode != -signal.SIGKILL:
        raise RuntimeError("it was through before it could be taken away: nothing was rehearsed")
    said = _log(folder, "first")
    say(said)
    promised = re.findall(r"done +(\S+) in", said)
    home = folder / "home"
    os.environ[WORK] = str(folder / "home-checkpoints")
    unpack(folder / "first" / "out", home)
    for where in promised:
        for name in ("record.json", "run.ipynb"):
            if (home / where / name).read_bytes() != (folder / "first" / "results" / where / name).read_bytes():
                raise RuntimeError(f"{where}/{name} came back otherwise than it was made")
    say(f"{len(promised)} of {len(KEYS)} records were packed before that, and came home the same to the byte")

    more = ["--start-from", str(folder / "first" / "out")]
    second = _start(folder, "second", python, offline, "--gate-seconds", "0", *more)
    if second.wait():
        raise RuntimeError(f"the second machine ended with status {second.returncode}:\n{_log(folder, 'second')}")
    say(_log(folder, "second"))
    if len(promised) < len(KEYS):
        unpack(folder / "second" / "out", home)
    found = {record.key: record for record in records.collect(home)}
    if sorted(found) != sorted(KEYS):
        raise RuntimeError(f"came home: {sorted(found)}, not {sorted(KEYS)}")
    return found


def _can_be_cut_off() -> bool:
    try:
        return subprocess.run([*CUT_OFF, "true"], capture_output=True, check=False).returncode == 0
    except OSError:
        return False


def _start(folder: Path, name: str, python: Path, offline: bool, *more: str) -> subprocess.Popen:
    """A machine by that name, with a campaign under way on it."""
    machine = folder / name
    (machine / "bin").mkdir(parents=True)
    for tool in TOOLS:
        (machine / "bin" / tool).symlink_to(shutil.which(tool))
    environment = {"PATH": str(machine / "bin"), "HOME": str(machine), "PLACE": str(machine / "place")}
    environment |= {"PYTHON": str(python), "OMP_NUM_THREADS": "1", "LANG": "C.UTF-8"}
    command = [*(CUT_OFF if offline else []), shutil.which("bash"), str(folder / "pack" / "start.sh"), "campaign"]
    command += ["--budget", "smoke", "--protocols", "corrected", "--keys", *KEYS, "--minutes", "20", "--jobs", "1"]
    command += ["--out", "out", "--results", str(machine / "results"), *more]
    with open(machine / "said", "w") as said:
        return subprocess.Popen(
            command, env=environment, cwd=machine, stdout=said, stderr=subprocess.STDOUT, start_new_session=True
        )


def _wait_for(machine: subprocess.Popen, log: Path, words: str) -> None:
    while not (log.is_file() and words in log.read_text()):
        if machine.poll() is not None:
            said = (log.parents[1] / "said").read_text()
            raise RuntimeError(f"the machine ended with status {machine.returncode} before its first record:\n{said}")
        time.sleep(0.2)


def _kill_after(machine: subprocess.Popen, seconds: float) -> None:
    """Take the machine away: every process on it, at once."""
    try:
        machine.wait(timeout=seconds)
    except subprocess.TimeoutExpired:
        others = psutil.Process(machine.pid).children(recursive=True)
        machine.kill()
        for process in others:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        machine.wait()  # before psutil looks, which would take its status away
        psutil.wait_procs(others)


def _log(folder: Path, name: str) -> str:
    return (folder / name / "out" / LOG).read_text().strip()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python", type=Path, default=Path(sys.executable), help="the machine's interpreter")
    parser.add_argument("--gate-seconds", type=float, default=300)
    options = parser.parse_args()
    python = Path(os.path.abspath(options.python))
    has_papermill = not subprocess.run([python, "-c", "import papermill"], capture_output=True, check=False).returncode
    os.chdir(project_folder())
    with TemporaryDirectory(prefix="advlib-rehearsal-") as folder:
        try:
            found = rehearse(
                Path(folder), python, wheels=not has_papermill, gate_seconds=options.gate_seconds, say=_say
            )
        except RuntimeError as error:
            print(f"gpu_rehearsal: {error}", file=sys.stderr)
            return 1
        for key, record in found.items():
            clean, commit = record.measurement("corrected:clean"), record.provenance["commit"]
            _say(f"{catalogue.rows()[key].label}: {100 * clean.accuracy:.0f} % of {clean.n} digits, commit {commit}")
        report.smoke(Path(folder) / "home", KEYS)
        _say("the book's table reads them")
    return 0


def _say(line: str) -> None:
    print(line, flush=True)


if __name__ == "__main__":
    sys.exit(main())
