"""Claims about what travels to a borrowed machine; `make gpu-rehearsal` plays what happens there."""

import os
import re
import shutil
import subprocess
import sys
import tarfile

import pytest
from places import ROOT

from study.experiment import provenance

sys.path.insert(0, str(ROOT / "tools"))

import gpu_pack

GIT = ["git", "-c", "user.name=somebody", "-c", "user.email=somebody@example.org", "-c", "commit.gpgsign=false"]


@pytest.fixture
def project(tmp_path):
    """What a pack is made from, committed, with records of two budgets."""
    folder = tmp_path / "project"
    for name in ("advlib", "study", "notebooks", "tools", "benchmarks"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("_config.yml", "pyproject.toml", "requirements-gpu.lock", ".gitignore"):
        shutil.copy(ROOT / name, folder)
    for place in ("models", "results/lite/x", "results/brief/x"):
        (folder / place).mkdir(parents=True)
        (folder / place / "file").write_text("large")
    for command in (["init", "-q"], ["add", "."], ["commit", "-q", "-m", "one"]):
        subprocess.run([*GIT, "-C", folder, *command], check=True)
    return folder


def test_the_pack_has_the_code_its_commit_and_the_records_of_a_gpus_budgets_and_no_more(project, tmp_path):
    (tmp_path / "code.tar.gz").write_bytes(gpu_pack.code(project))
    with tarfile.open(tmp_path / "code.tar.gz") as archive:
        names = archive.getnames()
        archive.extractall(tmp_path / "there", filter="data")
    assert {"advlib/train.py", "study/plan/published_results.csv", "notebooks/experiment.ipynb", "_config.yml"} <= set(
        names
    )
    assert [name for name in names if name.startswith(("models", "results"))] == ["results/brief/x/file"]
    head = subprocess.run(["git", "-C", project, "rev-parse", "HEAD"], capture_output=True, text=True, check=True)
    assert provenance.code((tmp_path / "there").resolve()) == {"commit": head.stdout.strip(), "dirty": None}


def test_code_that_is_not_committed_is_not_packed(project):
    (project / "advlib" / "train.py").write_text("pass")
    with pytest.raises(RuntimeError, match=r"commit first(.|\n)*advlib/train.py"):
        gpu_pack.code(project)


def test_a_pack_that_does_not_get_through_is_refused(project, tmp_path, monkeypatch):
    monkeypatch.chdir(project)
    assert 0 < gpu_pack.pack(tmp_path / "pack", data=False, wheels=False) < gpu_pack.LIMIT
    monkeypatch.setattr(gpu_pack, "LIMIT", 1000)
    with pytest.raises(RuntimeError, match="get through"):
        gpu_pack.pack(tmp_path / "pack", data=False, wheels=False)


def test_the_images_that_travel_are_the_smallest_archive_that_is_here(tmp_path, monkeypatch):
    monkeypatch.setattr(gpu_pack, "search_folders", lambda: (tmp_path,))
    with pytest.raises(RuntimeError, match="put one into data/"):
        gpu_pack.smallest_archive()
    for name, size in zip(gpu_pack.ARCHIVES, (20, 10), strict=True):
        (tmp_path / name).write_bytes(bytes(size))
    assert gpu_pack.smallest_archive() == tmp_path / "cifar10-jpeg.tar.gz"


def test_the_wheels_that_travel_are_of_the_versions_that_everything_else_is_tested_with():
    def pinned(name: str) -> dict[str, str]:
        return dict(re.findall(r"^([\w.-]+)==([^\s;]+)", (ROOT / name).read_text().lower(), re.MULTILINE))

    travel, here = pinned("requirements-gpu.lock"), pinned("requirements.lock")
    assert {"papermill", "ipykernel", "nbclient"} <= set(travel)
    assert travel == {name: here.get(name) for name in travel}, (
        "bring requirements-gpu.lock along with requirements.lock"
    )


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("gate --json found.json --seconds 9", "gate --json {here}/found.json --seconds 9"),
        ("claims --json --budget brief", "claims --json --budget brief"),
        ("campaign --out=back --minutes 9 --start-from /a", "campaign --out={here}/back --minutes 9 --start-from /a"),
    ],
)
def test_a_path_is_meant_from_where_the_command_was_given_there(tmp_path, given, meant):
    shutil.copy(ROOT / "tools" / "start_on_gpu.sh", tmp_path / "start.sh")
    with tarfile.open(tmp_path / "code.tar.gz", "w:gz"):
        pass
    environment = {**os.environ, "PLACE": str(tmp_path / "place"), "PYTHON": "echo"}
    command = ["bash", tmp_path / "start.sh", *given.split()]
    said = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True).stdout
    assert said.strip() == f"-m study {meant.format(here=tmp_path)}"
