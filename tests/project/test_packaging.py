"""What surrounds the package: one address, agreeing requirements, an exact lock, commands that fail with a reason."""

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from places import ROOT

sys.path.insert(0, str(ROOT / "tools"))
import address

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def requirements(path: str) -> dict[str, list[Requirement]]:
    """name -> its lines (a universal lock may have one for each Python)."""
    found: dict[str, list[Requirement]] = {}
    for line in re.sub(r"\s*\\\n\s*--hash=\S+", "", (ROOT / path).read_text()).splitlines():
        if line := line.split("#")[0].strip():
            requirement = Requirement(line)
            found.setdefault(canonicalize_name(requirement.name), []).append(requirement)
    return found


def notebooks() -> list[Path]:
    return sorted((ROOT / "notebooks").glob("*.ipynb"))


# one address


def test_every_mention_of_the_repository_agrees_with_pyproject():
    assert {(path.name, kind) for path, kind, slug in address.mentions(ROOT) if slug != address.current(ROOT)} == set()


def test_config_readme_citation_and_book_show_the_address():
    shown = {(path.name, kind) for path, kind, _ in address.mentions(ROOT)}
    assert {
        ("_config.yml", "book repository"),
        ("CITATION.cff", "citation"),
        ("README.md", "clone command"),
        ("README.md", "folder of the clone"),
        ("reproduce.md", "clone command"),
        ("reproduce.md", "folder of the clone"),
    } <= shown


def test_every_notebook_has_a_badge_to_itself_and_an_install_cell():
    assert notebooks()
    for path in notebooks():
        shown = {kind for file, kind, _ in address.mentions(ROOT) if file == path}
        assert {"badge", "install cell"} <= shown, path.name
        assert f"/blob/main/notebooks/{path.name}" in path.read_text()


def test_setting_the_address_changes_every_mention_and_keeps_notebooks_valid(tmp_path):
    copy = copy_of_the_mentions(tmp_path)
    changed = address.rewrite("someone/another-name", copy)
    assert {slug for _, _, slug in address.mentions(copy)} == {"someone/another-name"} and changed
    assert address.current(copy) == "someone/another-name"
    assert "https://someone.github.io/another-name/" in (copy / "_config.yml").read_text()
    assert "git clone https://github.com/someone/another-name\ncd another-name\n" in (copy / "README.md").read_text()
    for path in copy.glob("notebooks/*.ipynb"):
        json.loads(path.read_text())
    assert address.rewrite(address.current(ROOT), copy)
    for path in address.files(copy):
        assert path.read_text() == (ROOT / path.relative_to(copy)).read_text(), "there and back again changes nothing"


def test_no_other_file_of_the_project_shows_the_address():
    shown = set(address.files(ROOT))
    folders = ("advlib", "benchmarks", "book", "docs", "notebooks", "study", "tests", "tools", "workflow", ".github")
    for folder in folders:
        for path in (ROOT / folder).rglob("*"):
            if path.suffix in {".py", ".md", ".ipynb", ".toml", ".yml", ".yaml", ".sh", ".bib", ".css"}:
                text = path.read_text(encoding="utf-8")
                assert path in shown or address.current(ROOT) not in text, path


@pytest.mark.parametrize("wrong", ["name", "https://github.com/a/b", "a/b/c", "a b/c", ""])
def test_what_is_no_address_is_refused_and_changes_nothing(wrong, tmp_path):
    copy = copy_of_the_mentions(tmp_path)
    with pytest.raises(ValueError, match="owner/name"):
        address.rewrite(wrong, copy)
    assert address.mentions(copy) and {slug for _, _, slug in address.mentions(copy)} == {address.current(ROOT)}


def test_a_mention_that_differs_is_found(tmp_path):
    copy, (owner, name) = copy_of_the_mentions(tmp_path), address.current(ROOT).split("/")
    for file, was, becomes in [
        ("CITATION.cff", f"{owner}/{name}", "else/where"),
        ("README.md", f"\ncd {name}\n", "\ncd there\n"),
    ]:
        (copy / file).write_text((copy / file).read_text().replace(was, becomes))
    found = {(file.name, slug) for file, _, slug in address.mentions(copy)}
    assert {("CITATION.cff", "else/where"), ("README.md", f"{owner}/there")} <= found


def copy_of_the_mentions(folder: Path) -> Path:
    for path in address.files(ROOT):
        target = folder / path.relative_to(ROOT)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)
    return folder


# requirements


def test_the_packages_bounds_are_those_of_requirements():
    bounded = requirements("requirements.txt")
    extras = PROJECT["optional-dependencies"]
    for line in [*PROJECT["dependencies"], *extras["study"], *extras["run"], *extras["book"], *extras["test"]]:
        wanted = Requirement(line)
        (there,) = bounded[canonicalize_name(wanted.name)]
        assert there.specifier == wanted.specifier, wanted.name


def test_jupyter_book_stays_below_version_2():
    (book,) = requirements("requirements.txt")["jupyter-book"]
    assert "2.0.0" not in book.specifier and "1.0.4.post1" in book.specifier


def test_the_lock_pins_everything_exactly_and_within_the_bounds():
    locked = requirements("requirements.lock")
    for lines in locked.values():
        for line in lines:
            assert [s.operator for s in line.specifier] == ["=="] and not line.url, str(line)
    for name, (bound,) in requirements("requirements.txt").items():
        for line in locked[name]:
            (pin,) = line.specifier
            assert bound.specifier.contains(pin.version), f"{line} is outside {bound}"


def test_the_lock_pins_each_package_once_for_each_python():
    for name, lines in requirements("requirements.lock").items():
        for python in ("3.11.2", "3.11.9", "3.12.1", "3.13.0"):
            environment = {
                "python_full_version": python,
                "python_version": python.rsplit(".", 1)[0],
                "sys_platform": "linux",
                "platform_machine": "x86_64",
                "implementation_name": "cpython",
            }
            chosen = [line for line in lines if line.marker is None or line.marker.evaluate(environment)]
            assert len(chosen) <= 1, f"{name} on {python}: {chosen}"


def test_the_locks_name_no_index_and_no_path():
    for path in ("requirements.lock", "requirements-peers.lock", "requirements-grid.lock", "requirements.txt"):
        text = "\n".join(line.split("#")[0] for line in (ROOT / path).read_text().splitlines())
        assert not re.search(r"https?://|file:|--index|--find-links|(^|\s)/", text), path


LOCKS = sorted(path.name for path in ROOT.glob("requirements*.lock"))


@pytest.mark.parametrize("lock", LOCKS)
def test_of_every_package_that_is_locked_the_files_are_known_by_their_hashes(lock):
    pins = re.findall(r"^\w.*==(?:.*\\\n)*.*$", (ROOT / lock).read_text(), re.MULTILINE)
    assert len(pins) == sum(map(len, requirements(lock).values())) > 10
    assert [pin for pin in pins if not re.search(r" \\\n    --hash=sha256:[0-9a-f]{64}$", pin)] == []


def test_make_installs_nothing_that_is_not_in_a_lock_and_builds_by_one_version_of_the_backend():
    makefile = (ROOT / "Makefile").read_text()
    ours = makefile[makefile.index("$(ENV): requirements.lock") :]
    installed = re.findall(r"\$\(PIP\) install (.*)", ours)
    assert [line for line in installed if "--require-hashes" not in line] == ["--no-deps --editable ."]
    (backend,) = tomllib.loads((ROOT / "pyproject.toml").read_text())["build-system"]["requires"]
    assert str(Requirement(backend).specifier).startswith("==")


def test_the_peers_are_locked_within_the_bounds_of_the_extra():
    locked = requirements("requirements-peers.lock")
    for line in PROJECT["optional-dependencies"]["peers"]:
        bound = Requirement(line)
        (pin,) = locked[canonicalize_name(bound.name)][0].specifier
        assert bound.specifier.contains(pin.version)


# commands and metadata


def test_versions_agree():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert PROJECT["version"] == citation["version"]


def test_continuous_integration_runs_make_test():
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK) and re.search(r"^make test$", script.read_text(), re.MULTILINE)
    assert "set -euo pipefail" in script.read_text()


def test_the_grids_packages_are_locked_within_the_bounds_of_the_extra_and_beside_the_others():
    locked, others = requirements("requirements-grid.lock"), requirements("requirements.lock")
    assert all(len(lines) == 1 and str(lines[0].specifier).startswith("==") for lines in locked.values())
    assert not set(locked) & set(others), "a package has one version, wherever it is installed"
    extra = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]["grid"]
    for bound in map(Requirement, extra):
        (pin,) = locked[canonicalize_name(bound.name)][0].specifier
        assert pin.version in bound.specifier


def test_every_workflow_is_valid_and_runs_targets_that_the_makefile_has():
    phony = re.search(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE).group(1).split()
    called = set()
    for path in (ROOT / ".github" / "workflows").glob("*.yml"):
        workflow = yaml.safe_load(path.read_text())
        assert workflow["permissions"] == {"contents": "read"}, f"{path.name}: a job that needs more says so itself"
        for job in workflow["jobs"].values():
            for step in job["steps"]:
                assert re.search(r"@[0-9a-f]{40}$", step.get("uses", f"@{'0' * 40}")), "a tag can be moved"
                assert ("uses" in step) != ("run" in step), path.name
                called |= set(re.findall(r"^make ([a-z-]+)", step.get("run", "")))
    assert called <= set(phony)
    assert {"test", "lint", "book", "check-book", "check-links", "colab"} <= called


def test_a_python_that_is_too_old_gets_one_clear_error(tmp_path):
    for name in ("Makefile", "requirements.lock", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path)
    old = tmp_path / "python3.10"
    old.write_text('#!/bin/sh\nif [ "$1" = --version ]; then echo "Python 3.10.13"; else exit 1; fi\n')
    old.chmod(0o755)
    done = subprocess.run(["make", "env", f"PYTHON={old}"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "needs Python 3.11, 3.12 or 3.13" in done.stdout and "Python 3.10.13" in done.stdout
    assert "make book PYTHON=python3.12" in done.stdout
    assert not (tmp_path / ".venv").exists()


def test_make_alone_lists_every_target():
    done = subprocess.run(["make"], cwd=ROOT, capture_output=True, text=True, check=True)
    phony = re.search(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE).group(1).split()

    for target in phony:
        assert f"make {target} " in done.stdout


def test_making_the_six_rows_of_the_first_look_is_what_make_does():
    from study.findings.runs.report import SMOKE_ROWS

    (line,) = re.findall(r"^SMOKE_ROWS := (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert tuple(line.split()) == SMOKE_ROWS


def test_of_several_targets_at_once_each_waits_for_what_it_shares_with_another(tmp_path):
    """``make -j4 book test`` with a Python that only writes down when it begins and ends."""
    for name in (
        "Makefile",
        "requirements.lock",
        "requirements-grid.lock",
        "requirements-peers.lock",
        "pyproject.toml",
    ):
        shutil.copy(ROOT / name, tmp_path)
    python = tmp_path / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text('#!/bin/sh\n[ "$1" = -c ] && exit\necho "begin $*" >> log; sleep 0.3; echo "end $*" >> log\n')
    python.chmod(0o755)
    subprocess.run(["make", "-j4", "book", "test"], cwd=tmp_path, capture_output=True, check=True)
    log = (tmp_path / "log").read_text().splitlines()
    alone = [line.partition(" ")[2] for line in log if " -m study run " not in line]
    assert alone[::2] == alone[1::2], "one begins before another has ended"
    made = [place for place, line in enumerate(log) if " -m study run " in line]
    assert max(made) < min(place for place, line in enumerate(log) if "build_book" in line)
