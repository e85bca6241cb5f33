"""A copy of the project with made-up records, and the build of its book: real, of results that nobody measured."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import fake_records as fake
from places import ROOT

from study.findings.runs import report

LITE_ROWS = ("traditional", "advprop", "sat")


def project(folder: Path) -> Path:
    """A copy of what a build reads, with the six smoke records and what a killed run left behind."""
    for name in ("book", "advlib", "study", "notebooks", "tools"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("_config.yml", "_toc.yml"):
        shutil.copy(ROOT / name, folder)
    (folder / "models").mkdir()
    shutil.copy(ROOT / "models" / "advprop.safetensors", folder / "models")
    for key in report.SMOKE_ROWS:
        fake.put(fake.record(key, budget="smoke"), folder / "results")
    fake.put(fake.record(), folder / "results" / ".partial-123")
    return folder


def build(folder: Path) -> subprocess.CompletedProcess:
    command = [sys.executable, folder / "tools" / "build_book.py"]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("ADVLIB")}
    return subprocess.run(
        command, env=environment | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False
    )
