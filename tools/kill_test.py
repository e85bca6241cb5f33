"""Kill a grid at random moments, start it again each time, and compare what it leaves with a grid left in peace.

python tools/kill_test.py --kills 20          # `make kill-test KILLS=20`

SIGKILL goes to the whole process group, Snakemake and commands alike; the kernels, which have groups of their own, end
by themselves. Passes if every record is there once and says, times aside, what the other grid's record says.
"""

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from study import records

ROOT = Path(__file__).resolve().parent.parent
KEYS = ("traditional", "advprop", "als", "als-sat-advprop")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--keys", nargs="+", default=KEYS)
    parser.add_argument("--seed", type=int, default=0, help="of the random moments")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        peaceful, killed = Path(folder) / "peaceful", Path(folder) / "killed"
        seconds = in_peace(peaceful, options)
        print(f"in peace: {len(found(peaceful))} records in {seconds:.0f} s", flush=True)
        begin = time.monotonic()
        survive(killed, options, moments(options, seconds))
        print(
            f"killed {options.kills} times: {len(found(killed))} records in {time.monotonic() - begin:.0f} s",
            flush=True,
        )
        return report(found(peaceful), found(killed))


def in_peace(folder: Path, options) -> float:
    begin = time.monotonic()
    if start(folder, options).wait():
        sys.exit(f"the grid failed before anything was killed; its last words: {last_words(folder)}")
    return time.monotonic() - begin


def survive(folder: Path, options, waits: list[float]) -> None:
    for k, wait in enumerate(waits, start=1):
        grid = start(folder, options)
        try:
            grid.wait(timeout=wait)
            print(f"  kill {k}: came too late, the grid was done", flush=True)
        except subprocess.TimeoutExpired:
            os.killpg(grid.pid, signal.SIGKILL)
            grid.wait()
            print(f"  kill {k} after {wait:.1f} s: {len(found(folder))} records", flush=True)
    if start(folder, options).wait():
        sys.exit(f"the grid failed after the kills; its last words: {last_words(folder)}")


def moments(options, seconds: float) -> list[float]:
    """When to kill, counted from each start: anywhere in what one run and the start-up of a grid take."""
    one_run = seconds / len(options.keys)  # each key is two runs, and two run at a time
    return [random.Random(f"{options.seed} {k}").uniform(1, 8 + one_run) for k in range(options.kills)]


def start(folder: Path, options) -> subprocess.Popen:
    places = {"ADVLIB_RESULTS": str(folder / "results"), "ADVLIB_WORK": str(folder / "work")}
    places["ADVLIB_SAVE_EVERY"] = "0.5"  # seconds: a whole run of this budget takes less than the usual minute
    command = [sys.executable, "-m", "snakemake", "-s", "workflow/Snakefile", "--profile", "workflow/profiles/machine"]
    command += ["--quiet", "all", "--cores", str(options.jobs), "--directory", str(folder)]
    command += ["--config", "budget=smoke", f"keys={' '.join(options.keys)}"]
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "log", "a") as log:
        return subprocess.Popen(
            command, cwd=ROOT, env=os.environ | places, stdout=log, stderr=log, start_new_session=True
        )


def found(folder: Path) -> dict[str, dict]:
    """Place -> what a record says, without when it was made and the times that it took."""
    said = {}
    for record in records.collect(folder / "results"):
        raw = json.loads(records.to_json(record))
        raw["cost"] = {name: value for name, value in raw["cost"].items() if "second" not in name}
        for of_the_moment in ("started", "commit", "dirty"):  # whoever commits meanwhile changes no number
            raw["provenance"].pop(of_the_moment)
        raw["curve"] = [{name: value for name, value in epoch.items() if name != "seconds"} for epoch in raw["curve"]]
        said[record.where] = raw
    return said


def report(peaceful: dict[str, dict], killed: dict[str, dict]) -> int:
    if set(peaceful) != set(killed):
        print(f"FAILED: other records: {sorted(set(peaceful) ^ set(killed))}")
        return 1
    if differ := [where for where in peaceful if peaceful[where] != killed[where]]:
        print(f"FAILED: {len(differ)} of {len(peaceful)} records differ: {', '.join(differ)}")
        return 1
    print(f"passed: {len(peaceful)} records, each there once and the same to the bit")
    return 0


def last_words(folder: Path) -> str:
    return (folder / "log").read_text()[-2000:]


if __name__ == "__main__":
    sys.exit(main())
