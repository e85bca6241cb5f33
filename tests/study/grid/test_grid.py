"""The grid: what is missing, running or failed, what it took and will take, what it needs. No training here."""

import dataclasses
import json

import fake_records as fake
import pytest

from advlib.resnet import resnet18
from study import grid
from study.__main__ import main
from study.grid import execute
from study.machine.folders import FAILED, LOCK, alone
from study.plan import arithmetic, catalogue


@pytest.fixture(autouse=True)
def work(tmp_path, monkeypatch):
    monkeypatch.setenv("ADVLIB_WORK", str(tmp_path / "work"))
    monkeypatch.setattr(execute, "_checksum", lambda dataset: None)  # as on a machine without the data
    return tmp_path / "work"


def run(key="advprop", **changes) -> grid.Run:
    return grid.Run(
        **{"key": key, "protocol": "corrected", "budget": "lite", "dataset": "cifar10-jpeg", "seed": 0} | changes
    )


def test_the_grid_has_every_row_under_both_protocols_and_every_extension_once():
    cells = [(found.key, found.protocol) for found in grid.runs("smoke", [0])]
    rows = [(key, protocol) for key in catalogue.rows() for protocol in catalogue.PROTOCOLS]
    assert cells == rows + [(key, "corrected") for key in catalogue.extensions()]
    assert len(grid.runs("smoke", [0, 1, 2])) == 3 * len(cells)


def test_what_the_catalogue_does_not_have_is_refused_before_anything_starts():
    with pytest.raises(ValueError, match="did you mean 'advprop'"):
        grid.runs("smoke", [0], keys=["advprob"])
    with pytest.raises(ValueError, match="unknown protocol"):
        grid.runs("smoke", [0], keys=["als"], protocols=["publisht"])


def test_of_the_protocols_that_are_asked_for_each_row_is_run_under_those_that_it_has(tmp_path, capsys):
    asked = ["published", "published-branch"]
    cells = {(found.key, found.protocol) for found in grid.runs("lite", [0], protocols=asked)}
    with_advprop = [key for key, row in catalogue.rows().items() if row.advprop]
    assert cells == {(key, "published") for key in catalogue.rows()} | {(key, asked[1]) for key in with_advprop}
    extension = next(iter(catalogue.extensions()))
    assert main(["status", "--protocols", "published", "--keys", "als", extension, "--results", str(tmp_path)]) == 0
    assert "1 missing of 1" in capsys.readouterr().out


@pytest.mark.parametrize("key", ["als", next(iter(catalogue.extensions()))])
def test_a_protocol_that_none_of_the_rows_has_is_refused(key):
    with pytest.raises(ValueError, match="none of these rows has published-branch"):
        grid.runs("lite", [0], keys=[key], protocols=["corrected", "published-branch"])


def test_a_run_is_started_by_the_command_that_its_arguments_are():
    assert run("als", seed=2).arguments == [
        *("als", "--protocol", "corrected", "--budget", "lite", "--dataset", "cifar10-jpeg", "--seed", "2")
    ]


def test_a_run_is_missing_then_running_then_failed_then_done(tmp_path, work):
    folder = work / run().where

    def state() -> tuple:
        found = grid.state(run(), tmp_path)
        return found.state, found.why

    assert state() == ("missing", None)
    with alone(folder / LOCK):
        assert state() == ("running", None)
    (folder / FAILED).write_text("first\nValueError: the last word\n")
    assert state() == ("failed", "ValueError: the last word")
    fake.put(fake.record(), tmp_path)
    assert state() == ("done", None)
    stale = fake.record()
    fake.put(dataclasses.replace(stale, config=stale.config | {"epochs": 99}), tmp_path)
    (folder / FAILED).unlink()
    assert state() == ("stale", "config: epochs 99, now 5")


def test_looking_at_a_run_leaves_no_lock_behind(tmp_path, work):
    grid.state(run(), tmp_path)
    assert not work.exists()


def test_hours_are_those_of_the_records_and_for_the_rest_those_of_the_same_row_or_of_the_same_work(tmp_path):
    record = fake.record()
    timed = dataclasses.replace(record, cost=record.cost | {"training_seconds": 3000.0, "evaluation_seconds": 600.0})
    fake.put(timed, tmp_path)
    cells = [run(), run(seed=1), run("traditional")]
    spent, left = grid.hours([grid.state(cell, tmp_path) for cell in cells])
    share = arithmetic.training(cells[2].config, 1) / arithmetic.training(cells[0].config, 1)
    assert spent == pytest.approx(1.0) and left == pytest.approx(1.0 + share) and share == pytest.approx(0.3)
    assert grid.hours([grid.state(run("als"), tmp_path)]) == (0.0, None)


def test_every_budget_says_what_memory_a_run_needs():
    assert set(grid.MEMORY) == set(grid.catalogue.BUDGETS)


def test_what_a_machine_lacks_is_said_before_the_start(tmp_path):
    states = [grid.state(run(seed=seed), tmp_path) for seed in range(3)]
    asked = grid.needs(states, jobs=2)
    assert asked.memory == 2 * grid.MEMORY["lite"]
    asked.refuse_if_short(tmp_path / "not" / "there" / "yet")
    with pytest.raises(RuntimeError, match="GB of memory and .* are free: lower the jobs"):
        dataclasses.replace(asked, memory=1e6).refuse_if_short(tmp_path)
    with pytest.raises(RuntimeError, match="make room first"):
        dataclasses.replace(asked, disk=1e9).refuse_if_short(tmp_path)
    assert main(["status", "--budget", "lite", "--needs", "100000", "--results", str(tmp_path)]) == 2


@pytest.mark.parametrize("width", [8, 16])
def test_the_weights_on_disk_are_those_of_the_network(width):
    assert arithmetic.parameters(width) == sum(p.numel() for p in resnet18(width=width).parameters())


def test_what_came_of_a_grid_is_collected_only_when_all_of_it_is_done(tmp_path):
    fake.put(fake.record(), tmp_path)
    grid.collect([run()], tmp_path, tmp_path / "all.json")
    said = json.loads((tmp_path / "all.json").read_text())
    clean = fake.record().measurement("corrected:clean").accuracy
    assert said[run().where]["corrected:clean"] == pytest.approx(100 * clean)
    with pytest.raises(RuntimeError, match="1 of 2 runs are not done, first lite/cifar10-jpeg/corrected/als/seed0"):
        grid.collect([run(), run("als")], tmp_path, tmp_path / "all.json")


def test_a_foreign_file_among_the_records_is_named_and_the_others_are_shown(tmp_path, capsys):
    folder = tmp_path / run("als").where
    folder.mkdir(parents=True)
    (folder / "record.json").write_text('{"somebody": "else"}')
    (folder / "run.ipynb").write_text("{}")
    fake.put(fake.record(), tmp_path)
    assert main(["status", "--budget", "lite", "--dataset", "cifar10-jpeg", "--results", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    assert f"damaged  {run('als').where}" in printed and f"done     {run().where}" in printed


def test_status_with_watch_looks_again_until_it_is_interrupted(tmp_path, capsys, monkeypatch):
    naps = []

    def nap(seconds):
        naps.append(seconds)
        if len(naps) == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr("time.sleep", nap)
    assert main(["status", "--keys", "als", "--watch", "7", "--results", str(tmp_path)]) == 0
    assert naps == [7, 7, 7] and capsys.readouterr().out.count("2 missing of 2") == 3
