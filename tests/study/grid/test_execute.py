"""``python -m study``: one idempotent command a run. The notebook trains a net of width 4 on digits, in seconds."""

import fcntl
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import fake_records as fake
import nbformat
import psutil
import pytest
import torch
from PIL import Image
from small_notebook import SMALL, environment

from study import records
from study.__main__ import main
from study.data import load
from study.experiment.training import SAVE_EVERY
from study.grid.execute import RunFailed, _swap, check_parameters, execute, experiment_notebook
from study.plan import catalogue

WHERE = "smoke/digits/corrected/advprop/seed0"
SETTINGS = [part for name, value in SMALL.items() for part in ("--set", f"{name}={value}")]


@pytest.fixture(autouse=True)
def own_folders(tmp_path, monkeypatch):
    for name, value in environment(tmp_path).items():
        monkeypatch.setenv(name, value)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A results folder with one finished run, and what the command printed."""
    folder = tmp_path_factory.mktemp("finished")
    command = [sys.executable, "-m", "study", "run", "advprop", *SETTINGS, "--results", str(folder / "results")]
    done = subprocess.run(command, env=environment(folder), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return folder / "results", done.stdout


def tree(folder) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_a_run_leaves_its_record_and_its_notebook_and_nothing_else(finished):
    results, printed = finished
    assert tree(results) == [f"{WHERE}/record.json", f"{WHERE}/run.ipynb"]
    record = records.read(results / WHERE / "record.json")
    assert record.config == catalogue.config("advprop", budget="smoke", **SMALL).to_dict()
    assert printed.startswith(f"{WHERE}: done")
    assert "scikit-learn digits" in printed


def test_the_executed_notebook_carries_its_parameters_and_no_trace_of_the_machine(finished):
    results, _ = finished
    notebook = nbformat.read(results / WHERE / "run.ipynb", as_version=4)
    (injected,) = [cell for cell in notebook.cells if "injected-parameters" in cell.metadata.get("tags", [])]
    assert 'key = "advprop"' in injected.source
    text = (results / WHERE / "run.ipynb").read_text()
    assert str(results) not in text and "start_time" not in text


def test_a_finished_run_is_recognised_and_skipped(finished):
    results, _ = finished
    before = (results / WHERE / "record.json").stat().st_mtime_ns
    path, state = execute("advprop", overrides=SMALL, results=results)
    assert state == "already done"
    assert path.stat().st_mtime_ns == before


@pytest.mark.parametrize("change", [{"config": {"lr": 0.7}}, {"science_version": 0}], ids=["config", "science"])
def test_a_stale_record_is_not_taken_for_a_finished_run(finished, tmp_path, change):
    from study.grid.execute import why_missing

    raw = json.loads((finished[0] / WHERE / "record.json").read_text())
    for name, value in change.items():
        raw[name] = raw[name] | value if isinstance(value, dict) else value
    (tmp_path / WHERE).mkdir(parents=True)
    (tmp_path / WHERE / "record.json").write_text(json.dumps(raw))
    (tmp_path / WHERE / "run.ipynb").write_text("{}")
    config = catalogue.config("advprop", budget="smoke", **SMALL)
    assert next(iter(change)).split("_")[0] in why_missing(tmp_path / WHERE, config)


def test_a_record_without_its_notebook_is_no_finished_run(finished, tmp_path):
    from study.grid.execute import why_missing

    (tmp_path / "record.json").write_text((finished[0] / WHERE / "record.json").read_text())
    assert why_missing(tmp_path, catalogue.config("advprop", budget="smoke", **SMALL)) == "missing"


def test_a_notebook_that_raises_leaves_no_record_keeps_the_old_one_and_names_the_error(finished, tmp_path, monkeypatch):
    results = tmp_path / "results"
    (results / WHERE).mkdir(parents=True)
    for name in ("record.json", "run.ipynb"):
        (results / WHERE / name).write_bytes((finished[0] / WHERE / name).read_bytes())
    before = (results / WHERE / "record.json").read_bytes()
    monkeypatch.setenv("ADVLIB_CACHE", "")  # no effect on digits; the failure is the learning rate's
    with pytest.raises(RunFailed, match="FloatingPointError: the loss is") as caught:
        execute("advprop", overrides=SMALL | {"lr": 1e30}, results=results)
    assert "failed.ipynb" in str(caught.value)
    assert (results / WHERE / "record.json").read_bytes() == before
    assert tree(results) == [f"{WHERE}/record.json", f"{WHERE}/run.ipynb"]


def measured(path) -> dict:
    """A record but for what it took, when and by which commit."""
    raw = json.loads(path.read_text())
    made = {name: value for name, value in raw["provenance"].items() if name not in ("commit", "dirty", "started")}
    curve = [line | {"seconds": None} for line in raw["curve"]]
    cost = {name: value for name, value in raw["cost"].items() if "second" not in name}
    return raw | {"provenance": made, "curve": curve, "cost": cost}


def shown(results) -> dict[str, list]:
    """Code of a finished run's cells -> the kinds of what they show, or what they print."""
    cells = nbformat.read(results / WHERE / "run.ipynb", as_version=4).cells
    outputs = {cell.source: cell.outputs for cell in cells if cell.cell_type == "code"}
    return {code: [one.get("text", "").strip() or set(one.data) for one in found] for code, found in outputs.items()}


BROKEN = """
from study.drawings import lessons, portrait

def formula(panel, *_, **__):  # a figure that is made, and cannot be drawn
    panel.set_title("$x^$")

def refuse(*_):
    raise ValueError("two\\nlines")

lessons.picture, portrait.wilson = formula, refuse
"""


def test_a_figure_that_fails_costs_that_figure_and_not_the_run(finished, tmp_path, monkeypatch):
    """One cannot be drawn, and a table raises while it is made: by a file that a kernel runs as it starts."""
    startup = tmp_path / "ipython" / "profile_default" / "startup" / "00.py"
    startup.parent.mkdir(parents=True)
    startup.write_text(BROKEN)
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    path, state = execute("advprop", overrides=SMALL, results=tmp_path / "results")
    assert state == "done" and measured(path) == measured(finished[0] / WHERE / "record.json")

    whole, broken = shown(finished[0]), shown(tmp_path / "results")
    assert whole.keys() == broken.keys()
    differ = {code: (whole[code], broken[code]) for code in whole if whole[code] != broken[code]}
    gallery, table = "figure = portrait.gallery(experiment)", "portrait.attack_table(record)"
    assert differ.keys() == {gallery, table}, "the other figure is there"
    assert [whole[gallery], whole[table]] == [[{"image/png", "text/plain"}], [{"text/html", "text/plain"}]]
    (line,) = broken[gallery]
    assert line.startswith("not shown: gallery (ValueError: ") and "\n" not in line
    assert broken[table] == ["not shown: attack_table (ValueError: two lines)"]


def test_the_record_is_written_before_anything_is_drawn():
    """So it is kept also where the whole process dies over a figure, in a notebook that is run by hand."""
    cells = [cell.source for cell in nbformat.read(experiment_notebook(), as_version=4).cells]
    (written,) = [k for k, source in enumerate(cells) if "records.write(" in source]
    drawn = [k for k, source in enumerate(cells) if "portrait." in source]
    assert len(drawn) == 3 and written < min(drawn)


def test_a_mistyped_parameter_is_refused_before_papermill_starts(tmp_path):
    with pytest.raises(ValueError, match="unknown parameter 'epoch': did you mean 'epochs'"):
        execute("advprop", overrides={"epoch": 2}, results=tmp_path / "results")
    assert not (tmp_path / "results").exists()


def test_a_parameter_that_the_notebook_lacks_is_refused():
    with pytest.raises(ValueError, match="no parameter sead: it has budget, dataset, key"):
        check_parameters(experiment_notebook(), {"key": "advprop", "sead": 1})


def test_the_same_run_in_two_processes_is_refused(tmp_path):
    work = tmp_path / "work" / WHERE
    work.mkdir(parents=True)
    with open(work / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(RuntimeError, match="under way in another process"):
            execute("advprop", results=tmp_path / "results")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "advporp"], "unknown row 'advporp': did you mean 'advprop'?"),
        (["run", "advprop", "--protocol", "correct"], "unknown protocol 'correct': did you mean 'corrected'?"),
        (["run", "advprop", "--budget", "tiny"], "unknown budget 'tiny'"),
        (["run", "advprop", "--dataset", "cifar11"], "unknown dataset 'cifar11'"),
        (["run", "advprop", "--set", "epochs=2"], "--results"),
        (["run", "advprop", "--results", "x", "--set", "epochs"], "write FIELD=VALUE"),
        (["run", "advprop", "--results", "x", "--set", "epochs=two"], "epochs='two' is str, but epochs is int"),
        (["run", "advprop", "--results", "x", "--set", "adversarial=true"], "adversarial='true' is str"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_wrong_command_says_what_is_wrong_and_exits_2(arguments, message, capsys):
    assert main(arguments) == 2
    assert message in capsys.readouterr().err


def test_list_shows_every_row_under_both_protocols(capsys):
    assert main(["list"]) == 0
    _, *printed = capsys.readouterr().out.split("cost: ")[0].splitlines()
    rows = [key for key in catalogue.rows() for _ in range(2)]
    assert [line.split()[0] for line in printed] == rows + list(catalogue.extensions())
    printed = printed[: len(rows)]
    dear = [line for line in printed if " x4 " in line]
    assert len(dear) == 2 * 16, "all but Traditional and ALS attack twice and learn twice"


def test_list_says_what_each_budget_trains_and_which_is_for_a_gpu(capsys):
    assert main(["list"]) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("budget ")]
    assert [line.split()[1] for line in lines] == list(catalogue.BUDGETS)
    assert [line.split()[1] for line in lines if "for a GPU" in line] == list(catalogue.GPU_BUDGETS)


def test_list_shows_the_steps_between_the_protocols(capsys):
    assert main(["list", "--dissection"]) == 0
    _, *printed = capsys.readouterr().out.split("cost: ")[0].splitlines()
    expected = [(key, p) for key in catalogue.DISSECTED for p in catalogue.rows()[key].dissection()]
    assert [tuple(line.split()[:2]) for line in printed] == expected


def test_status_tells_done_from_missing_and_stale(finished, capsys):
    results, _ = finished
    assert main(["status", "--results", str(results)]) == 0
    *lines, _ = capsys.readouterr().out.splitlines()
    states = {line.split()[1]: line for line in lines}
    assert len(states) == 2 * len(catalogue.rows()) + len(catalogue.extensions())
    assert states[WHERE].startswith("stale")  # it was run with settings of its own
    assert "epochs 1, now 3" in states[WHERE]
    assert states["smoke/digits/published/advprop/seed0"].startswith("missing")


def test_two_runs_at_once_each_leave_their_own_record(tmp_path):
    """Kernels once shared a socket's name: each must have its own."""
    command = [sys.executable, "-m", "study", "run", "--results", str(tmp_path / "results"), *SETTINGS]
    runs = [
        subprocess.Popen([*command, key], env=os.environ | environment(tmp_path), stderr=subprocess.PIPE, text=True)
        for key in ("traditional", "als")
    ]
    errors = [run.communicate()[1] for run in runs]
    assert [run.returncode for run in runs] == [0, 0], errors
    assert len(tree(tmp_path / "results")) == 4


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL], ids=["terminated", "killed"])
def test_a_run_that_is_cut_off_leaves_no_record_and_the_next_one_goes_on_from_its_checkpoint(
    tmp_path, monkeypatch, how
):
    monkeypatch.setenv(SAVE_EVERY, "0")
    results, long = tmp_path / "results", SMALL | {"epochs": 12}
    settings = [part for name, value in long.items() for part in ("--set", f"{name}={value}")]
    command = [sys.executable, "-m", "study", "run", "advprop", "--results", str(results), *settings]
    run = subprocess.Popen(command, start_new_session=True)
    checkpoint = tmp_path / "work" / WHERE / "checkpoint.pt"
    wait_for(lambda: checkpoint.exists() and torch.load(checkpoint, weights_only=True)["curve"])
    run.send_signal(how) if how == signal.SIGTERM else os.killpg(run.pid, how)
    assert run.wait(timeout=60) == (143 if how == signal.SIGTERM else -how)
    assert not list(results.glob("smoke/**/*"))

    wait_for(lambda: not_locked(checkpoint.with_name("lock")) and not_locked(checkpoint.with_name("checkpoint.lock")))
    left = torch.load(checkpoint, weights_only=True)
    assert 0 < len(left["curve"]) < 12
    assert left["begun"] is not None, "it has saved in the middle of an epoch"
    kept = checkpoint.read_bytes()
    raw = torch.load(checkpoint, weights_only=True)
    raw["curve"][0]["seconds"] = 123.0  # a mark that only a run which goes on from here can carry
    torch.save(raw, checkpoint)
    assert kept != checkpoint.read_bytes()
    path, state = execute("advprop", overrides=long, results=results)
    curve = records.read(path).curve
    assert (state, len(curve), curve[0]["seconds"]) == ("done", 12, 123.0)
    assert tree(results) == [f"{WHERE}/record.json", f"{WHERE}/run.ipynb"]


def test_a_run_asked_to_stop_while_it_measures_has_not_failed_and_goes_on(tmp_path):
    settings = [part for name, value in (SMALL | {"test_size": 256}).items() for part in ("--set", f"{name}={value}")]
    command = [sys.executable, "-m", "study", "run", "als", *settings, "--results", str(tmp_path / "results")]
    run = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    work = tmp_path / "work" / "smoke/digits/corrected/als/seed0"
    wait_for((work / "measured.json").exists)
    run.send_signal(signal.SIGTERM)
    _, said = run.communicate(timeout=60)
    assert run.returncode == 143 and "run it again to go on" in said
    assert not list(work.glob("failed*")) and (work / "measured.json").exists()
    path, state = execute("als", overrides=SMALL | {"test_size": 256}, results=tmp_path / "results")
    assert state == "done" and len(records.read(path).measurements) > 40


def test_a_second_command_for_the_same_run_waits_if_it_is_told_to_and_does_nothing_twice(tmp_path):
    command = [sys.executable, "-m", "study", "run", "als", *SETTINGS, "--results", str(tmp_path / "results")]
    first = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    wait_for(lambda: list((tmp_path / "work").rglob("checkpoint.lock")))
    refused = subprocess.run(command, capture_output=True, text=True, check=False)
    waited = subprocess.run([*command, "--wait"], capture_output=True, text=True, check=False)
    assert refused.returncode == 2 and "under way in another process" in refused.stderr
    assert waited.returncode == 0 and "done by another" in waited.stdout
    assert first.wait() == 0 and ": done;" in first.stdout.read()


def test_a_failed_run_leaves_its_last_words_until_it_succeeds(tmp_path):
    where = tmp_path / "work" / "smoke/digits/corrected/als/seed0"
    with pytest.raises(RunFailed, match="batch_size=1000 is larger"):
        execute("als", overrides=SMALL | {"batch_size": 1000}, results=tmp_path / "results")
    assert "batch_size=1000 is larger" in (where / "failed.txt").read_text() and (where / "failed.ipynb").is_file()
    execute("als", overrides=SMALL, results=tmp_path / "results")
    assert not list(where.glob("failed*"))


def test_a_run_whose_process_dies_says_what_may_have_happened(tmp_path):
    command = [sys.executable, "-m", "study", "run", "als", *SETTINGS, "--results", str(tmp_path / "results")]
    run = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    wait_for(lambda: list((tmp_path / "work").rglob("checkpoint.pt")))
    (kernel,) = psutil.Process(run.pid).children()
    kernel.kill()  # as the system does where memory runs out
    _, error = run.communicate(timeout=60)
    assert run.returncode == 1 and "perhaps for want of memory" in error


def wait_for(condition, seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)


def not_locked(path) -> bool:
    with open(path, "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
    return True


@pytest.mark.filterwarnings("ignore:.*left out")
@pytest.mark.parametrize("named", ["folder:my/images", "folder:{}/my/images"])
def test_a_data_set_named_by_a_path_is_found_from_where_the_command_was_given(tmp_path, monkeypatch, named):
    """A path from the root goes into no record and no notebook. What it leaves is found again where archives are."""
    monkeypatch.chdir(tmp_path)
    for part, n in (("train", 12), ("test", 6)):
        for c, kind in enumerate(("dark", "light")):
            folder = tmp_path / "my" / "images" / part / kind
            folder.mkdir(parents=True)
            for k in range(n):
                Image.new("RGB", (32, 32), (60 + 120 * c + k,) * 3).save(folder / f"{k}.png")
            (folder / "notes.txt").write_text("left out, with a warning that names the folder")
    small = {"epochs": 1, "train_size": 0, "test_size": 0, "sweep_size": 4, "batch_size": 8}
    asked = {"dataset": named.format(tmp_path), "overrides": small, "results": tmp_path / "results"}
    path, _ = execute("traditional", **asked)
    record = records.read(path)
    assert record.data["train_images"] == 24 and execute("traditional", **asked)[1] == "already done"
    for file in path.parent.iterdir():
        assert not re.search(f"{tmp_path}|{sys.prefix}|{Path.home()}", file.read_text()), file.name
    assert record.config["dataset"] + '\\"' in (path.parent / "run.ipynb").read_text(), "a parameter"
    monkeypatch.setenv("ADVLIB_DATA", str(tmp_path / ("my" if "{" in named else "")))
    monkeypatch.chdir("/")
    assert load(record.config["dataset"]).checksum == record.data["checksum"]


def test_two_paths_that_look_alike_as_folder_names_do_not_share_a_runs_folder():
    ours, theirs = (
        records.run_folder("smoke", f"folder:{name}", "corrected", "als", 0) for name in ("my/images", "my-images")
    )
    assert ours != theirs


def test_the_old_run_comes_back_if_the_new_one_cannot_take_its_place(tmp_path, monkeypatch):
    old, new = tmp_path / "seed0", tmp_path / "new"
    for folder in (old, new):
        folder.mkdir()
        (folder / "record.json").write_text(folder.name)
    replace = os.replace

    def fails_for_new(source, target):
        if source == new:
            raise OSError(28, "No space left on device")
        replace(source, target)

    monkeypatch.setattr(os, "replace", fails_for_new)
    with pytest.raises(OSError, match="No space left"):
        _swap(new, old)
    assert (old / "record.json").read_text() == "seed0" and not list(tmp_path.glob(".old-*"))
    monkeypatch.undo()
    _swap(new, old)
    assert (old / "record.json").read_text() == "new" and sorted(p.name for p in tmp_path.iterdir()) == ["seed0"]


def test_status_names_a_damaged_record_and_goes_on(tmp_path, capsys):
    folder = tmp_path / WHERE
    folder.mkdir(parents=True)
    (folder / "record.json").write_text("{")
    (folder / "run.ipynb").write_text("{}")
    assert main(["status", "--results", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    whole = 2 * len(catalogue.rows()) + len(catalogue.extensions())
    assert f"damaged  {WHERE}" in printed
    assert printed.splitlines()[-1].startswith(f"{whole - 1} missing, 1 damaged of {whole}; ")


def test_status_shows_the_runs_on_a_folder_of_images(tmp_path, capsys):
    record = fake.record("traditional", budget="lite", dataset="folder:birds", title="Birds")
    fake.put(record, tmp_path)
    assert main(["status", "--budget", "lite", "--results", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    assert f"done     {record.where}" in printed and "missing  lite/folder-birds-" in printed
