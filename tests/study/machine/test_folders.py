"""Where the project is, and that what is written there is written nowhere else."""

import os

import pytest

from study.experiment.fast import launch
from study.grid import campaign, execute
from study.machine import gpus
from study.machine.folders import MARKS, alone, project_folder, replacing


@pytest.mark.parametrize("mark", MARKS)
def test_a_folder_with_one_mark_of_a_project_is_none(tmp_path, mark):
    inner = tmp_path / "inner" / "most"
    for folder, marks in ((tmp_path, MARKS), (inner.parent, [mark])):
        for name in marks:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).touch()
    inner.mkdir()
    assert project_folder(inner) == tmp_path.resolve()


def take_a_gpu(folder, monkeypatch):
    monkeypatch.setenv(gpus.GPUS, "0")
    with gpus.one_of_them(folder):
        pass


def stage(folder, _):
    with execute._staging(folder):
        raise OSError("a link: it was left where it is")


def lock(folder, _):
    with alone(folder / "lock"):
        pass


WRITES = {
    "lock": lock,
    "gpu-0-0.lock": take_a_gpu,
    ".partial-x/lock": stage,
    campaign.LOG: lambda folder, _: campaign.Log(folder)("a line"),
    "workers.log": lambda folder, _: launch._start_and_wait(folder, folder / "workers.log", 1, 1, lambda: True),
}


@pytest.mark.parametrize("name", WRITES)
def test_a_link_in_the_place_of_a_lock_or_a_log_is_refused_and_what_it_names_stays(tmp_path, monkeypatch, name):
    precious = tmp_path / "precious.txt"
    precious.write_text("precious")
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).symlink_to(precious)
    with pytest.raises(OSError, match="a link"):
        WRITES[name](tmp_path, monkeypatch)
    assert precious.read_text() == "precious" and (tmp_path / name).is_symlink()


def test_a_file_is_not_written_through_a_link_with_its_partial_name(tmp_path):
    precious, target = tmp_path / "precious.txt", tmp_path / "record.json"
    precious.write_text("precious")
    target.with_name(f"{target.name}.partial-{os.getpid()}").symlink_to(precious)
    with replacing(target) as partial:
        partial.write_text("new")
    assert (precious.read_text(), target.read_text(), target.is_symlink()) == ("precious", "new", False)
