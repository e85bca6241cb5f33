"""Experiments beyond the paper: differences from a row, refused if they are none. The worked example of the book."""

import os
import shutil
import subprocess
import sys

import pytest
from places import ROOT

from study import records
from study.plan import catalogue
from study.plan.catalogue import Extension, extend


def extension(**changes) -> Extension:
    return Extension(
        **{"key": "new", "label": "New", "base": "als", "question": "?", "fields": {"smoothing": 0.3}} | changes
    )


def test_an_extension_is_its_row_with_some_fields_changed():
    (key, found), *_ = extend([extension()]).items()
    assert key == "new"
    assert found.changes("corrected") == catalogue.rows()["als"].changes("corrected") | {"smoothing": 0.3}


def test_every_extension_of_the_catalogue_can_be_run_and_none_has_a_number_of_the_paper():
    for key, found in catalogue.extensions().items():
        assert catalogue.config(key) != catalogue.config(found.base)
        assert found.question.endswith("?") and not hasattr(found, "published")


@pytest.mark.parametrize("budget", catalogue.BUDGETS)
def test_trained_for_longer_means_so_many_times_the_epochs_of_the_budget_and_nothing_else(budget):
    row, longer = (catalogue.config(key, budget=budget) for key in ("traditional", "traditional-long"))
    assert row.differences(longer) == {"epochs": (row.epochs, 4 * row.epochs)}
    assert catalogue.config("traditional-long", budget=budget, epochs=3).epochs == 3, "asked for, it is what is asked"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"key": "sat"}, "duplicate key 'sat'"),
        ({"base": "alss"}, "did you mean 'als'"),
        ({"fields": {"smoothing": 0.05}}, "differs from 'als' by nothing"),
        ({"fields": {}}, "differs from 'als' by nothing"),
        ({"fields": {"smoothin": 0.3}}, "unknown parameter 'smoothin': did you mean 'smoothing'"),
    ],
)
def test_an_extension_that_cannot_be_meant_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        extend([extension(**changes)])


def test_two_extensions_of_one_key_are_refused():
    with pytest.raises(ValueError, match="duplicate key 'new'"):
        extend([extension(), extension(fields={"smoothing": 0.4})])


@pytest.mark.slow
def test_the_worked_example_of_the_docs_runs_as_it_is_printed(tmp_path):
    """The patch of `docs/extend.md`, applied to a copy of the package, makes an experiment that runs."""
    for name in ("advlib", "study", "notebooks"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "_config.yml", tmp_path)
    patch = ROOT / "docs" / "confidence-penalty.patch"
    subprocess.run(["git", "apply", "--unidiff-zero", patch], cwd=tmp_path, check=True)
    small = {"epochs": 1, "train_size": 128, "test_size": 32, "sweep_size": 8, "batch_size": 32}
    settings = [part for name, value in small.items() for part in ("--set", f"{name}={value}")]
    command = [sys.executable, "-m", "study", "run", "confidence-penalty", "--results", "results", *settings]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("ADVLIB")}
    done = subprocess.run(
        command,
        cwd=tmp_path,
        env=environment | {"PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    (record,) = records.collect(tmp_path / "results")
    assert record.config["loss"] == "confidence-penalty" and record.config["smoothing"] == 0.1
    added = sum(line.startswith("+") and not line.startswith("+++") for line in patch.read_text().splitlines())
    assert added <= 20, "docs/extend.md promises about twenty lines"
