"""The workflow makes what is missing and nothing else, through the command that anybody can type."""

import dataclasses
import os
import re
import subprocess
import sys
from pathlib import Path

import fake_records as fake
import pytest
from places import ROOT

from study import data, grid, records
from study.plan import catalogue

snakemake = pytest.importorskip("snakemake", reason="make grid installs Snakemake, and so does make test")
CELLS = 2 * len(catalogue.rows()) + len(catalogue.extensions())


def start(folder, *settings, profile="machine", options=(), python=sys.executable) -> subprocess.Popen:
    places = {"ADVLIB_RESULTS": str(folder / "results"), "ADVLIB_WORK": str(folder / "work"), "OMP_NUM_THREADS": "1"}
    command = [
        python,
        "-m",
        "snakemake",
        "-s",
        "workflow/Snakefile",
        "--profile",
        f"workflow/profiles/{profile}",
    ]
    command += [*options, "--directory", str(folder), "--config", *settings]
    return subprocess.Popen(
        command, cwd=ROOT, env=os.environ | places, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def planned(folder, *settings, **more) -> int:
    """How many runs a dry run would start."""
    process = start(folder, *settings, options=["--dry-run", *more.pop("options", ())], **more)
    said, _ = process.communicate()
    assert process.returncode == 0, said
    counted = re.search(r"^run +(\d+)", said, re.MULTILINE)
    return int(counted[1]) if counted else 0


def test_the_grid_has_a_job_for_every_run_and_seed(tmp_path):
    assert planned(tmp_path, "seeds=0 1") == 2 * CELLS


def test_what_is_done_is_not_planned_and_what_has_become_stale_is(tmp_path):
    for key in ("als", "sat"):
        fake.put(fake.record(key, dataset="cifar10"), tmp_path / "results")
    for key in ("als", "sat", "traditional"):  # stamps of runs that are there, and of one that was deleted
        stamp = tmp_path / "work" / "grid" / f"lite/cifar10/corrected/{key}/seed0.done"
        stamp.parent.mkdir(parents=True)
        stamp.touch()
    settings = ("budget=lite", "dataset=cifar10", "keys=als sat traditional", "protocols=corrected")
    assert planned(tmp_path, *settings) == 1
    stale = fake.record("sat", dataset="cifar10")
    fake.put(dataclasses.replace(stale, config=stale.config | {"epochs": 99}), tmp_path / "results")
    assert planned(tmp_path, *settings) == 2


def test_the_profile_for_slurm_is_one_that_snakemake_reads(tmp_path):
    """A dry run: nothing is submitted, as there is no cluster here."""
    assert planned(tmp_path, "budget=full", "keys=als", profile="slurm") == 2


def test_the_profile_for_several_gpus_is_one_that_snakemake_reads(tmp_path):
    assert planned(tmp_path, "budget=full", "keys=als", profile="gpus") == 2


ONE = ("keys=als", "protocols=corrected", "--", "collect")


def finished(folder) -> Path:
    """A run of ALS on the digits, which are always here for their checksum to be asked."""
    record = fake.record("als", budget="smoke")
    about = record.data | {"checksum": data.checksum("digits")}
    return fake.put(dataclasses.replace(record, data=about), folder / "results")


def collected(folder, **more) -> bool:
    """Whether the grid of that one run collects what came of it."""
    process = start(folder, *ONE, **more)
    said, _ = process.communicate()
    assert process.returncode == 0, said
    return (folder / "work" / "grid" / "smoke.json").is_file()


def test_a_grid_collects_where_the_path_of_its_interpreter_has_a_space(tmp_path):
    finished(tmp_path)
    home = tmp_path / "with a space ü"
    (home / "bin").mkdir(parents=True)
    (home / "bin" / "python").symlink_to(sys.executable)
    (home / "lib").symlink_to(Path(sys.prefix, "lib"))
    (home / "pyvenv.cfg").write_text(Path(sys.prefix, "pyvenv.cfg").read_text())
    assert collected(tmp_path, python=str(home / "bin" / "python"))


def test_what_was_touched_after_its_record_was_deleted_is_run_again(tmp_path):
    place = finished(tmp_path)
    assert collected(tmp_path)
    (place / "record.json").unlink()
    start(tmp_path, *ONE, options=["--touch"]).communicate()
    assert planned(tmp_path, *ONE) == 1


@pytest.mark.parametrize("budget", catalogue.BUDGETS)
def test_every_budget_has_a_grid(budget, tmp_path):
    assert planned(tmp_path, f"budget={budget}", "keys=als", "protocols=corrected") == 1


def test_a_budget_that_is_none_is_named_with_those_there_are(tmp_path):
    said, _ = start(tmp_path, "budget=smok", options=["--dry-run"]).communicate()
    assert "unknown budget 'smok': did you mean 'smoke'? choose one of smoke, lite" in said


@pytest.mark.slow
def test_two_grids_on_one_folder_share_the_work_and_leave_each_record_once(tmp_path):
    grids = [start(tmp_path, "keys=als", "protocols=corrected", options=["--cores", "1"]) for _ in range(2)]
    said = [process.communicate()[0] for process in grids]
    assert [process.returncode for process in grids] == [0, 0], said
    (record,) = records.collect(tmp_path / "results")
    assert record.where == grid.runs("smoke", [0], keys=["als"], protocols=["corrected"])[0].where
    assert not list((tmp_path / "results").glob(".partial-*"))


@pytest.mark.slow
def test_a_run_that_fails_does_not_keep_the_others_from_running(tmp_path):
    """A file stands where a run wants its folder: that one fails, and its log says why."""
    blocked = tmp_path / "work" / "smoke" / "digits" / "corrected" / "als"
    blocked.mkdir(parents=True)
    (blocked / "seed0").write_text("a file where a folder belongs")
    process = start(tmp_path, "keys=traditional als", "protocols=corrected", options=["--retries", "0"])
    said, _ = process.communicate()
    assert process.returncode == 1
    assert [record.key for record in records.collect(tmp_path / "results")] == ["traditional"], said
    log = (tmp_path / "work/grid/smoke/digits/corrected/als/seed0.log").read_text()
    assert "study:" in log and "seed0" in log
