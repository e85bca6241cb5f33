"""Hardships of a long grid: disks, memory, clocks, strangers' files, other packages, another grid. Nothing is lost.

A run is made here by a notebook of three lines: what is tested is what becomes of its files, not what it measures.
"""

import ast
import dataclasses
import errno
import fcntl
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path

import fake_records as fake
import miniature
import nbformat
import numpy as np
import pytest
import torch
import zmq
from places import ROOT

import advlib
import study
from study import grid, records
from study.__main__ import main
from study.experiment import provenance, unfinished, weights
from study.experiment.unfinished import Unfinished
from study.grid import execute
from study.grid.execute import RunFailed
from study.machine import interrupt, kernel
from study.machine.folders import CHECKPOINT, FAILED, HALVED, MEASURED, VERSIONS, alone, replacing
from study.presentation import sentences
from study.records import versions

RUN = grid.Run("als", "corrected", "smoke", "digits", 0)
WRITE = f"records.write(records.read({{made!r}}), results_folder() / {RUN.where!r} / 'record.json')"
FILL = """try:
    with open(results_folder() / "fill", "wb", buffering=0) as file:
        while file.write(bytes(4096)): pass
except OSError: pass"""
PAGE = ROOT / "docs" / "many-runs.md"
ADVICE = "run fewer at once .*Half a batch would be another experiment"


@pytest.fixture(autouse=True)
def places(tmp_path, monkeypatch):
    """Folders of the test's own, and no data to compare checksums with."""
    monkeypatch.setenv("ADVLIB_WORK", str(tmp_path / "work"))
    monkeypatch.setattr(execute, "_checksum", lambda dataset: None)
    return tmp_path


@pytest.fixture
def notebook(tmp_path, monkeypatch):
    """``notebook(line, ...)``: these lines are the experiment; {made!r} in them is a finished record."""
    made = tmp_path / "made" / RUN.where / "record.json"
    records.write(fake.record(RUN.key, budget=RUN.budget), made)

    def put(*lines: str) -> None:
        first = nbformat.v4.new_code_cell("\n".join(f"{name} = None" for name in NAMES))
        first.metadata["tags"] = ["parameters"]
        body = "import os, sys\nfrom study import records\nfrom study.machine.folders import results_folder\n"
        body += "\n".join(lines).replace("{made!r}", repr(str(made)))
        cells = [nbformat.v4.new_markdown_cell("# A run"), first, nbformat.v4.new_code_cell(body)]
        nbformat.write(
            nbformat.v4.new_notebook(cells=cells, metadata={"language_info": {"name": "python"}}),
            tmp_path / "experiment.ipynb",
        )
        monkeypatch.setattr(execute, "experiment_notebook", lambda: tmp_path / "experiment.ipynb")

    return put


NAMES = ("key", "protocol", "budget", "dataset", "seed", "overrides")


def make(results: Path, **options) -> str:
    return execute.execute(RUN.key, results=results, **options)[1]


def old_run(results: Path) -> bytes:
    """A stale run in the place of :data:`RUN`; returns its record's bytes."""
    stale = fake.record(RUN.key, budget=RUN.budget)
    folder = fake.put(dataclasses.replace(stale, config=stale.config | {"epochs": 99}), results)
    return (folder / "record.json").read_bytes()


def left_over(results: Path) -> list[str]:
    """Whatever is below ``results`` that is not the run's record and notebook."""
    ours = {f"{RUN.where}/record.json", f"{RUN.where}/run.ipynb"}
    return sorted({str(p.relative_to(results)) for p in results.rglob("*") if p.is_file()} - ours)


@contextmanager
def disk(folder: Path, size: str):
    """A small disk of its own, mounted at ``folder``. Skips where mounting is not allowed."""
    folder.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder], capture_output=True, text=True, check=False
    )
    if done.returncode:
        pytest.skip(f"no small disk can be mounted here: {done.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", folder], check=False)


# A full or read-only disk


def test_a_disk_that_fills_up_during_a_run_leaves_the_old_record_the_log_and_the_remedy(tmp_path, notebook):
    notebook(FILL, WRITE)
    with disk(tmp_path / "small", "1m") as small:
        before = old_run(small)
        with pytest.raises(
            RunFailed,
            match=r"cannot write \S+/(record.json|run.ipynb) .No space left.*free some space .*nothing was lost",
        ):
            make(small)
        assert (small / RUN.where / "record.json").read_bytes() == before and left_over(small) == []
        state = grid.state(RUN, small)
        assert state.state == "failed" and "No space left" in state.why
        notebook(WRITE)
        assert make(small) == "done" and left_over(small) == []


def test_a_run_that_has_no_room_does_not_begin(tmp_path, notebook, monkeypatch):
    notebook("raise SystemError('it began')")
    with disk(tmp_path / "small", "128k") as small:
        with pytest.raises(RuntimeError, match=f"need 0.001 GB in {small} and 0.000 are free: make room first"):
            make(small)
        monkeypatch.setenv("ADVLIB_WORK", str(small / "work"))
        with pytest.raises(RuntimeError, match=f"GB in {small}"):
            make(tmp_path / "results")


def test_a_grid_asks_for_room_on_both_disks(tmp_path, monkeypatch):
    asked = grid.needs([grid.State(RUN, "missing")], jobs=1)
    with disk(tmp_path / "small", "128k") as small:
        monkeypatch.setenv("ADVLIB_WORK", str(small / "work"))
        with pytest.raises(RuntimeError, match=f"need {asked.scratch:.3f} GB in {small}"):
            dataclasses.replace(asked, memory=0.0).refuse_if_short(tmp_path)


@pytest.mark.parametrize("kind", ["checkpoint", "weights", "record"])
def test_a_file_that_does_not_fit_leaves_the_one_before(tmp_path, kind):
    def write(path: Path, size: int) -> None:
        if kind == "weights":
            weights.save_weights(torch.nn.Linear(size, 1), path)
        else:
            with replacing(path) as partial:
                torch.save(torch.zeros(size), partial) if kind == "checkpoint" else partial.write_bytes(bytes(4 * size))

    with disk(tmp_path / "small", "64k") as small:
        write(small / "file", 1000)
        before = (small / "file").read_bytes()
        with pytest.raises(
            OSError, match=f"cannot write {small / 'file'} .*: free some space or choose another folder"
        ):
            write(small / "file", 100_000)
        assert (small / "file").read_bytes() == before and os.listdir(small) == ["file"]


def test_a_read_only_disk_is_refused_with_the_remedy_and_can_be_read(tmp_path, notebook, capsys):
    notebook("raise SystemError('it began')")
    with disk(tmp_path / "small", "1m") as small:
        before = old_run(small)
        subprocess.run(["mount", "-o", "remount,ro", small], check=True)
        assert main(["run", RUN.key, "--results", str(small)]) == 2
        said = capsys.readouterr().err
        assert re.fullmatch(rf"study: cannot write {small}\S* \(Read-only file system.*choose another folder.*\n", said)
        assert (small / RUN.where / "record.json").read_bytes() == before
        assert main(["status", "--keys", RUN.key, "--results", str(small)]) == 0
        assert f"stale    {RUN.where}" in capsys.readouterr().out


@pytest.mark.parametrize("which", ["results", "work"])
def test_a_file_where_a_folder_belongs_is_named(tmp_path, which, capsys, notebook):
    notebook("raise SystemError('it began')")
    (tmp_path / which).write_text("somebody's")
    assert main(["run", RUN.key, "--results", str(tmp_path / "results")]) == 2
    assert re.search(rf"{tmp_path / which}.*a file stands where a folder belongs: move it", capsys.readouterr().err)
    assert (tmp_path / which).read_text() == "somebody's"


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS], ids=errno.errorcode.get)
def test_a_run_that_cannot_be_put_in_its_place_keeps_its_log_and_the_old_record(
    tmp_path, monkeypatch, notebook, number
):
    """As on a small disk, for whoever may not mount one."""
    notebook(WRITE)
    results, replace = tmp_path / "results", os.replace
    before = old_run(results)

    def refuses(source, target):
        if Path(target) == results.resolve() / RUN.where and ".partial" in str(source):
            raise OSError(number, os.strerror(number), str(target))
        replace(source, target)

    monkeypatch.setattr(os, "replace", refuses)
    with pytest.raises(RunFailed, match=f"{os.strerror(number)}.*choose another folder"):
        make(results)
    assert (results / RUN.where / "record.json").read_bytes() == before and left_over(results) == []
    assert (tmp_path / "work" / RUN.where / "failed.ipynb").is_file()


def test_what_went_wrong_is_said_even_where_its_log_cannot_be_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "move", lambda *_: (_ for _ in ()).throw(OSError(errno.ENOSPC, "No space left")))
    said = str(execute._failed("ValueError: the first of two", tmp_path / "run.ipynb", tmp_path))
    assert said.startswith("ValueError: the first of two\n") and "could not be kept (No space left)" in said


def test_an_empty_log_of_a_failed_run_does_not_stop_status(tmp_path):
    """A disk that was full kept the file and not the words."""
    work = tmp_path / "work" / RUN.where
    work.mkdir(parents=True)
    (work / FAILED).touch()
    assert grid.state(RUN, tmp_path).state == "failed"


def test_a_file_system_without_locks_is_refused_by_name(tmp_path, monkeypatch):
    def none(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", none)
    with (
        pytest.raises(OSError, match=f"file system of {tmp_path / 'lock'} keeps no locks .*ADVLIB_WORK"),
        alone(tmp_path / "lock"),
    ):
        pass


# No kernel, or one that is asked to stop


def test_a_run_does_not_mind_how_long_the_name_of_the_temporary_folder_is(tmp_path, notebook, monkeypatch):
    notebook(WRITE)
    long = tmp_path / "x" / ("ü" * 60) / ("x" * 100)
    long.mkdir(parents=True)
    monkeypatch.setattr(tempfile, "tempdir", str(long))
    assert make(tmp_path / "results") == "done"


def test_a_run_that_gets_no_kernel_has_failed_and_says_why_in_a_line(tmp_path, notebook, monkeypatch, capsys):
    notebook(WRITE)

    async def refuses(*_, **__):
        raise zmq.ZMQError(msg="no socket")

    monkeypatch.setattr(kernel.IPCKernelManager, "start_kernel", refuses)
    assert main(["run", RUN.key, "--results", str(tmp_path / "results")]) == 1
    first, *kept = capsys.readouterr().err.splitlines()
    assert first == "study: ZMQError: no socket" and len(kept) == 1
    assert grid.state(RUN, tmp_path / "results").state == "failed"


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_ctrl_c_and_sigterm_let_a_run_save_and_say_so_in_a_line(tmp_path, notebook, monkeypatch, capsys, name):
    monkeypatch.setattr(interrupt, "ASKED", [])
    for module in ("study.__main__", "study.grid.execute"):
        monkeypatch.setattr(f"{module}.ASKED", interrupt.ASKED)
    number = getattr(signal, name)
    notebook(f"import time\nos.kill(os.getppid(), {number})\ntime.sleep(60)")
    assert main(["run", RUN.key, "--results", str(tmp_path / "results")]) == 128 + number
    assert capsys.readouterr().err == "study: asked to stop: run it again to go on\n"
    assert grid.state(RUN, tmp_path / "results").state == "missing"


# Memory runs out


def test_a_run_that_runs_out_of_memory_fails_once_with_advice_and_nobody_halves_its_batch(tmp_path, notebook):
    count = tmp_path / "count"
    notebook(
        f"open({str(count)!r}, 'a').write('.')",
        "import resource\nresource.setrlimit(resource.RLIMIT_AS, (2**31, 2**31))\nhoard = bytearray(2**33)",
    )
    with pytest.raises(RunFailed, match=f"MemoryError: {ADVICE}"):
        make(tmp_path / "results")
    assert count.read_text() == "." and not records.collect(tmp_path / "results")
    assert "Half a batch" in grid.state(RUN, tmp_path / "results").why


@pytest.mark.parametrize("name", ["SIGKILL", "SIGSEGV"])
def test_a_run_whose_process_is_killed_names_the_signal_and_memory_as_the_likely_cause(tmp_path, notebook, name):
    notebook(f"import signal\nos.kill(os.getpid(), signal.{name})\nimport time\ntime.sleep(60)")
    with pytest.raises(RunFailed, match=f"{name}.*perhaps for want of memory: {ADVICE}"):
        make(tmp_path / "results")
    assert name in (tmp_path / "work" / RUN.where / FAILED).read_text()


def raised(call) -> str:
    with pytest.raises(Exception) as caught:
        call()
    return f"{caught.type.__name__}: {caught.value}"


SHORT = {
    "numpy": lambda: raised(lambda: np.empty(2**50)),
    "torch on a CPU": lambda: raised(lambda: torch.empty(2**56)),
    "python": lambda: raised(lambda: bytearray(2**62)),
    "the system": lambda: f"OSError: {OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))}",
    "torch on a GPU": lambda: "OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total ...",
    "cuBLAS": lambda: "RuntimeError: CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
}


@pytest.mark.parametrize("who", SHORT)
def test_whoever_says_that_memory_is_short_is_understood(tmp_path, who):
    assert re.search(ADVICE, str(execute._failed(SHORT[who](), tmp_path / "none", tmp_path)), re.DOTALL)


@pytest.mark.parametrize(
    "words", ["FloatingPointError: the loss is nan", "KeyError: 'memory'", "OSError: disk is full"]
)
def test_another_failure_gets_no_advice_about_memory(tmp_path, words):
    assert "Half a batch" not in str(execute._failed(words, tmp_path / "none", tmp_path))


@pytest.mark.slow
def test_the_workflow_gives_a_run_more_memory_at_a_retry_and_never_more_than_there_is(tmp_path):
    """A file where the run's folder belongs: both attempts fail at once, and Snakemake says what each was given."""
    pytest.importorskip("snakemake", reason="make grid installs Snakemake, and so does make test")
    from test_workflow import start

    blocked = tmp_path / "work" / RUN.where
    blocked.parent.mkdir(parents=True)
    blocked.write_text("a file")
    options = ["--retries", "1", "--resources", "mem_mb=2000"]
    said, _ = start(tmp_path, "keys=als", "protocols=corrected", options=options).communicate()
    given = [int(mb) for mb in re.findall(r"gpu=0, mem_mb=(\d+)", said)]
    assert given == [1000 * grid.MEMORY["smoke"], 2000], said


# A clock that jumps


class Jumping:
    """A clock on the wall that goes back an hour whenever somebody looks."""

    def __init__(self):
        self.now = 2e9

    def __call__(self) -> float:
        self.now -= 3600
        return self.now


def test_what_a_run_took_does_not_depend_on_the_time_of_day(monkeypatch):
    monkeypatch.setattr(time, "time", Jumping())
    monkeypatch.setattr(time, "time_ns", lambda: int(1e9 * time.time()))
    begin = time.monotonic()
    unfinished = Unfinished(None, {})
    _, curve = miniature.fit(miniature.config(), miniature.dataset())
    assert all(0 < epoch["seconds"] < 3600 for epoch in curve)
    assert 0 < unfinished.seconds <= time.monotonic() - begin


def test_no_module_reads_the_time_of_day_or_of_a_file_but_to_date_a_record():
    """Nothing that is decided, and nothing that is measured, can then depend on it."""
    found = []
    for path in sorted(path for one in (advlib, study) for path in Path(one.__file__).parent.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            name = ast.unparse(node) if isinstance(node, ast.Attribute) else ""
            if re.fullmatch(
                r"time\.time(_ns)?|datetime\.(now|today|utcnow)|.*\.st_[mca]time(_ns)?|.*\.get[mca]time", name
            ):
                found.append((path.name, name))
    assert found == [("provenance.py", "datetime.now")]


@pytest.mark.parametrize("year", [1971, 2101])
def test_what_is_done_or_stale_does_not_depend_on_the_dates_of_files(tmp_path, year):
    def date(root: Path) -> None:
        for path in root.rglob("*"):
            os.utime(path, ((year - 1970) * 31_557_600.0,) * 2)

    current = fake.record(RUN.key, budget=RUN.budget)
    fake.put(current, tmp_path / "results")
    date(tmp_path / "results")
    assert grid.state(RUN, tmp_path / "results").state == "done"
    old_run(tmp_path / "results")
    date(tmp_path / "results")
    assert grid.state(RUN, tmp_path / "results").why == "config: epochs 99, now 3"


# A foreign file among the records


def test_strangers_files_among_the_records_disturb_nobody(tmp_path, capsys):
    fake.put(fake.record(RUN.key, budget="smoke"), tmp_path)
    for place in (".DS_Store", "smoke/.DS_Store", f"{RUN.where}/.DS_Store", "notes.json", "smoke/digits/record.json"):
        (tmp_path / place).write_text("{")
    (tmp_path / "smoke" / "holiday pictures" / "2026" / "may" / "seed0").mkdir(parents=True)
    (tmp_path / RUN.where / "._record.json").write_bytes(b"\0\5\26\7")
    assert [record.where for record in records.collect(tmp_path)] == [RUN.where]
    assert main(["status", "--keys", RUN.key, "--protocols", "corrected", "--results", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    assert "1 done of 1; " in printed
    assert "foreign" not in printed and "damaged" not in printed


def test_a_copy_of_a_record_in_a_strangers_place_is_named_with_the_remedy(tmp_path, capsys):
    folder = fake.put(fake.record(RUN.key, budget="smoke"), tmp_path)
    shutil.copytree(folder, folder.with_name("seed0 copy"))
    assert main(["status", "--keys", RUN.key, "--results", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    assert f"foreign  {folder}{' copy'}/record.json is the record of {RUN.where}: move it there" in printed
    assert f"done     {RUN.where}" in printed


@pytest.mark.parametrize("kind", ["half", "other json", "folder", "binary"])
def test_what_stands_in_a_records_place_is_named_and_never_overwritten_unasked(tmp_path, notebook, capsys, kind):
    notebook("raise SystemError('it began')")
    folder = fake.put(fake.record(RUN.key, budget="smoke"), tmp_path / "results")
    path, content = folder / "record.json", (folder / "record.json").read_bytes()
    if kind == "folder":
        path.unlink()
        path.mkdir()
        (path / "precious").write_text("somebody's")
    else:
        path.write_bytes({"half": content[: len(content) // 2], "other json": b'{"a": 1}', "binary": b"\xff\xfe"}[kind])
    assert main(["status", "--keys", RUN.key, "--results", str(tmp_path / "results")]) == 0
    assert f"damaged  {RUN.where}  ({path} " in capsys.readouterr().out
    assert main(["run", RUN.key, "--results", str(tmp_path / "results")]) == 2
    said = capsys.readouterr().err
    assert str(path) in said and re.search("move it away|delete it|run again", said) and said.count("\n") == 1
    assert (path / "precious").exists() if kind == "folder" else path.stat().st_size


def test_a_strangers_file_beside_a_record_survives_that_the_record_is_replaced(tmp_path):
    """But the probe of the old network goes: it does not belong to the new one."""
    old, new = tmp_path / "seed0", tmp_path / "new"
    for folder in (old, new):
        folder.mkdir()
        (folder / "record.json").write_text(folder.name)
        (folder / "run.ipynb").write_text(folder.name)
    for name in ("notes.txt", "probe.json"):
        (old / name).write_text("of the old one")
    execute._swap(new, old)
    assert sorted(os.listdir(old)) == ["notes.txt", "record.json", "run.ipynb"]
    assert (old / "record.json").read_text() == "new" and (old / "notes.txt").read_text() == "of the old one"


# Another version of a package in the middle of a grid


def of_torch(version: str, key: str = RUN.key, **changes) -> records.Record:
    made = fake.record(key, budget="smoke")
    kept = versions.here() | {"torch": version}
    return dataclasses.replace(made, provenance=made.provenance | {"versions": kept} | changes)


def test_a_new_version_makes_no_record_stale_and_status_and_the_book_say_that_a_table_has_two(tmp_path, capsys):
    group = [of_torch("2.11.0"), of_torch("2.12.0", "sat"), of_torch("2.12.0", "advprop")]
    for record in group:
        fake.put(record, tmp_path)
    keys = ["--keys", "als", "sat", "advprop", "--protocols", "corrected"]
    assert main(["status", *keys, "--results", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    assert "3 done of 3" in printed
    assert "made with more than one version of torch 2.11.0 (1), 2.12.0 (2) (how many runs)" in printed
    assert "torch 2.11.0 (1), 2.12.0 (2)" in sentences.several_versions(group) and "numpy" not in printed
    assert "several_versions" in (ROOT / "book" / "runs.md").read_text()
    assert "several_versions" in (ROOT / "book" / "numbers.md").read_text()


def test_records_of_one_set_of_versions_are_not_remarked_upon(tmp_path, capsys):
    group = [of_torch(versions.here()["torch"]), of_torch(versions.here()["torch"], "sat")]
    for record in group:
        fake.put(record, tmp_path)
    assert sentences.several_versions(group) == ""
    assert (
        main(["status", "--keys", "als", "sat", "advprop", "--protocols", "corrected", "--results", str(tmp_path)]) == 0
    )
    assert "version" not in capsys.readouterr().out


def test_status_says_beforehand_that_the_rest_would_be_of_another_version(tmp_path, capsys):
    fake.put(of_torch("0.9", started="2099-01-01T00:00:00+00:00"), tmp_path)
    assert main(["status", "--keys", "als", "sat", "--protocols", "corrected", "--results", str(tmp_path)]) == 0
    assert (
        f"of other versions than the last record: torch 0.9, now {versions.here()['torch']}" in capsys.readouterr().out
    )


def begun(work: Path, torch_version: str) -> None:
    """What a run leaves that was cut off in its evaluation, begun with a version of torch."""
    work.mkdir(parents=True, exist_ok=True)
    origin = {"config": RUN.config.to_dict(), "data": "sha256:then"}
    torch.save({"origin": origin}, work / CHECKPOINT)
    for name in (MEASURED, HALVED):
        (work / name).write_text("{}")
    (work / VERSIONS).write_text(json.dumps(versions.here() | {"torch": torch_version}))


def test_a_run_is_of_one_set_of_versions(tmp_path, capsys):
    """Begun with another torch, it is begun again: a record names one version and must be made by it alone."""
    begun(tmp_path / "same", versions.here()["torch"])
    unfinished.set_aside_foreign(tmp_path / "same", RUN.config, "sha256:then")
    assert {CHECKPOINT, MEASURED, HALVED} <= set(os.listdir(tmp_path / "same")) and capsys.readouterr().err == ""
    begun(tmp_path / "other", "2.0.0")
    unfinished.set_aside_foreign(tmp_path / "other", RUN.config, None)
    assert set(os.listdir(tmp_path / "other")) == {"checkpoint.old", VERSIONS}
    assert f"torch 2.0.0, now {versions.here()['torch']}" in capsys.readouterr().err


def test_a_run_is_of_one_set_of_data(tmp_path, capsys):
    """A folder of images that changed between two halves of a run: it is begun again, on what is there now."""
    begun(tmp_path, versions.here()["torch"])
    unfinished.set_aside_foreign(tmp_path, RUN.config, "sha256:now")
    assert "checkpoint.old" in os.listdir(tmp_path) and CHECKPOINT not in os.listdir(tmp_path)
    assert "of other data" in capsys.readouterr().err


def test_the_versions_here_are_those_that_a_record_made_here_would_name():
    assert versions.here() == provenance.provenance(torch.device("cpu"), None)["versions"]


# Two grids on one folder


def test_of_two_grids_that_share_no_lock_the_second_finds_the_run_of_the_first(tmp_path, monkeypatch, notebook):
    """Their checkpoints are in different folders: the other's record arrives just before this one is put there."""
    notebook(WRITE)
    results, replace = tmp_path / "results", os.replace

    def just_before(source, target):
        if target == results / RUN.where and ".partial" in str(source):
            fake.put(fake.record(RUN.key, budget="smoke", **{"corrected:clean": 0.125}), results)
        replace(source, target)

    monkeypatch.setattr(os, "replace", just_before)
    assert make(results) == "done by another"
    assert records.collect(results)[0].measurement("corrected:clean").accuracy == 0.125
    assert left_over(results) == [] and not list((tmp_path / "work").rglob("failed*"))


def test_a_grid_never_clears_away_what_another_one_is_making(tmp_path, monkeypatch):
    """Neither while it is being set up, nor later; what a killed run has left goes."""
    left = tmp_path / "results" / ".partial-killed"
    left.mkdir(parents=True)
    seen, make_folder = [], tempfile.mkdtemp

    def another_begins_before_the_lock_is_held(**options):
        folder = make_folder(**options)
        monkeypatch.setattr(tempfile, "mkdtemp", make_folder)
        with execute._staging(tmp_path / "results"):
            seen.append(Path(folder).is_dir())
        return folder

    monkeypatch.setattr(tempfile, "mkdtemp", another_begins_before_the_lock_is_held)
    with execute._staging(tmp_path / "results") as ours:
        assert seen == [True] and not left.exists()
        with execute._staging(tmp_path / "results") as theirs:
            assert ours.is_dir() and theirs.is_dir() and ours != theirs
        assert ours.is_dir() and not theirs.exists()
    assert os.listdir(tmp_path / "results") == []


# The same command from a loop, an array of jobs, anywhere


def test_status_lists_the_command_of_every_run_that_is_not_done(tmp_path, capsys):
    fake.put(fake.record("sat", budget="smoke"), tmp_path)
    chosen = ["--keys", "als", "sat", "--seeds", "0", "1", "--protocols", "corrected"]
    assert main(["status", *chosen, "--commands", "--results", str(tmp_path)]) == 0
    commands = [shlex.split(line) for line in capsys.readouterr().out.splitlines()]
    cells = [run for run in grid.runs("smoke", [0, 1], keys=["als", "sat"], protocols=["corrected"])]
    missing = [run.arguments for run in cells if run.where != grid.Run("sat", "corrected", "smoke", "digits", 0).where]
    begin, end = [sys.executable, "-m", "study", "run"], ["--results", str(tmp_path), "--wait"]
    assert commands == [[*begin, *arguments, *end] for arguments in missing]


def test_the_books_array_of_slurm_jobs_runs_one_line_of_that_list_each(tmp_path):
    """The script of the page, by bash, with srun that says what it was given."""
    (script,) = re.findall(r"^(#!/bin/bash\n#SBATCH.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    lines = [f"'/a folder/python' -m study run {key} --seed 0 --wait" for key in ("als", "sat", "advprop")]
    (tmp_path / "runs.txt").write_text("\n".join(lines) + "\n")
    (tmp_path / "srun").write_text('#!/bin/bash\nprintf "%s\\n" "$@"\n')
    (tmp_path / "srun").chmod(0o755)
    there = os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}", "SLURM_ARRAY_TASK_ID": "2"}
    done = subprocess.run(["bash", "-c", script], cwd=tmp_path, env=there, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-len(shlex.split(lines[1])) :] == shlex.split(lines[1])
