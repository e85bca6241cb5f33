"""CIFAR-100 and SVHN go through the same notebook, from files in their own formats, and feed no table of CIFAR-10.

The files are small and made here, and read by the published readers. Their checksums are not those of the real archives
so what the readers decode is put where a decoded archive lies, and a run in a process of its own then finds it.
"""

import dataclasses
import re
import subprocess
import sys
from pathlib import Path

import fake_records as fake
import nbformat
import numpy as np
import pytest
import test_data as made
from safetensors import safe_open
from small_notebook import SMALL, environment

from study import records
from study.data import cache, cifar, svhn
from study.evidence import comparisons, selection
from study.findings.numbers import results
from study.plan import catalogue
from study.plan.config import Config

SIZES = (SMALL["train_size"], SMALL["test_size"])
CLASSES = {"cifar100": [f"class {number}" for number in range(100)], "svhn": list("0123456789")}
TITLES = {"cifar100": "CIFAR-100", "svhn": "SVHN"}
SOURCES = {"cifar100": cifar.CIFAR100, "svhn": svhn.SVHN}


def cifar100_files() -> dict[str, bytes]:
    members, *_ = made.cifar_members(cifar.CIFAR100_LAYOUT, 100, per_batch=max(SIZES))
    return {"cifar-100-python.tar.gz": made.tar_gz(members)}


def svhn_files() -> dict[str, bytes]:
    rng = np.random.default_rng(0)
    return {
        name: made.mat_bytes(rng.integers(0, 256, (32, 32, 3, size), dtype=np.uint8), 1 + np.arange(size) % 10)
        for name, size in zip(("train_32x32.mat", "test_32x32.mat"), SIZES, strict=True)
    }


FILES = {"cifar100": cifar100_files, "svhn": svhn_files}


@pytest.fixture(scope="module", params=FILES)
def finished(request, tmp_path_factory):
    """(name, folder, what the command printed): one run of a row that needs all classes, on small files."""
    name, folder = request.param, tmp_path_factory.mktemp(request.param)
    paths = [Path(folder / file) for file in FILES[name]()]
    made.put(folder, FILES[name]())
    variables = environment(folder) | {"ADVLIB_CACHE": str(folder / "cache"), "ADVLIB_DATA": str(folder / "none")}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ADVLIB_CACHE", variables["ADVLIB_CACHE"])
        cache.remember(name, SOURCES[name].sha256, lambda: SOURCES[name].read(tuple(paths)))
    settings = [part for field, value in SMALL.items() for part in ("--set", f"{field}={value}")]
    command = [sys.executable, "-m", "study", "run", "als", "--dataset", name, *settings]
    command += ["--results", str(folder / "results")]
    done = subprocess.run(command, env=variables, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return name, folder, done.stdout


@pytest.mark.slow
def test_a_run_on_other_data_has_a_record_a_head_and_a_page_of_that_data(finished):
    name, folder, printed = finished
    where = f"smoke/{name}/corrected/als/seed0"
    assert printed.startswith(f"{where}: done") and TITLES[name] in printed
    record = records.read(folder / "results" / where / "record.json")
    assert record.data["classes"] == CLASSES[name]
    assert (record.data["train_images"], record.data["test_images"]) == SIZES
    assert record.data["checksum"] == f"sha256:{SOURCES[name].sha256}"
    with safe_open(folder / "work" / where / "model.safetensors", framework="pt") as file:
        shapes = [file.get_slice(key).get_shape() for key in file.keys()]  # noqa: SIM118 - it is no mapping
    assert [len(CLASSES[name]), 8 * SMALL["width"]] in shapes, "a logit a class"
    page = nbformat.read(folder / "results" / where / "run.ipynb", as_version=4)
    (passport,) = [cell.source for cell in page.cells if cell.id == "passport"]
    assert f"| data | {TITLES[name]}, " in passport and f"--dataset {name}" in passport


def test_digits_of_svhn_are_cropped_and_never_flipped_and_nothing_else_changes():
    for budget in catalogue.BUDGETS:
        config = catalogue.config("advprop", budget=budget, dataset="svhn")
        assert config.differences(catalogue.config("advprop", budget=budget, dataset="cifar10")) == {
            "dataset": ("svhn", "cifar10"),
            "augmentation": ("crop", "crop-flip"),
        }
    assert catalogue.config("als", dataset="svhn", augmentation="crop-flip").augmentation == "crop-flip"
    published = [catalogue.config("als", protocol="published", dataset=data) for data in ("svhn", "cifar10")]
    assert published[0].differences(published[1]) == {"dataset": ("svhn", "cifar10")}, "as the released code does"


@pytest.mark.parametrize("dataset", [None, "digits", "cifar10", "cifar10-jpeg", "cifar100", "folder:a"])
def test_the_configs_of_all_other_data_are_those_they_were(dataset):
    config = catalogue.config("als", budget="smoke", dataset=dataset)
    as_before = Config().change(**{**catalogue.BUDGETS["smoke"], **catalogue.rows()["als"].changes("corrected")})
    assert config == (as_before.change(dataset=dataset) if dataset else as_before)


def of(dataset: str, key: str, accuracy: float) -> records.Record:
    """A record of 100 or of 10 classes that is right about a share that no other data set's record has."""
    record = fake.record(key, dataset=dataset, title=TITLES.get(dataset), **{"corrected:clean": accuracy})
    data = record.data | {"classes": CLASSES.get(dataset, fake.CLASSES), "checksum": f"sha256:{dataset}"}
    return dataclasses.replace(record, data=data)


def test_records_of_other_data_feed_no_table_of_cifar_10(tmp_path, monkeypatch):
    monkeypatch.setenv("ADVLIB_RESULTS", str(tmp_path))
    shares = {"cifar10-jpeg": 0.615, "cifar100": 0.315, "svhn": 0.875}
    for dataset, share in shares.items():
        for key in ("traditional", "als"):
            fake.put(of(dataset, key, share), tmp_path)
    groups = {group[0].config["dataset"]: group for group in selection.groups(tmp_path)}
    assert groups.keys() == shares.keys()
    assert [group[0].config["dataset"] for group in selection.best(tmp_path)] == ["cifar10-jpeg"]
    for dataset, share in shares.items():
        assert comparisons.accuracy(groups[dataset], "als", "corrected", "clean").value == share
        shown = results.paper_table(groups[dataset], 1)
        assert f"{100 * share:.1f}<" in shown and groups[dataset][0].data["title"] in re.sub("<[^>]+>", "", shown)
        for other in shares.keys() - {dataset}:
            assert f"<td>{100 * shares[other]:.1f}<" not in shown


def test_other_data_alone_are_no_result_of_the_paper(tmp_path):
    fake.put(of("cifar100", "als", 0.3), tmp_path)
    assert selection.groups(tmp_path) and selection.best(tmp_path) == []


def test_a_record_of_other_data_in_a_folder_of_cifar_10_is_refused(tmp_path):
    folder = fake.put(of("cifar100", "als", 0.3), tmp_path)
    target = Path(str(folder).replace("cifar100", "cifar10-jpeg"))
    target.parent.mkdir(parents=True)
    folder.rename(target)
    with pytest.raises(ValueError, match=r"is the record of lite/cifar100/.*move it there"):
        selection.groups(tmp_path)
