"""A run's page says everything that its record knows about how it was made."""

import fake_records as fake
import nbformat

from study.records import passport


def test_a_passport_names_code_data_device_cost_and_the_command_that_repeats_it():
    record = fake.record("sat", "published", seed=2)
    text = passport.markdown(record)
    for part in (
        "commit 000000000000",
        "sha256:0",
        "cpu: none",
        "torch 2.11.0",
        "100 steps",
        "Table 1 of the paper",
        "seed 2",
    ):
        assert part in text, part
    assert "python -m study run sat --protocol published --budget lite --dataset cifar10-jpeg --seed 2" in text
    assert f"batches of {record.config['batch_size']}" in text and "{" not in text
    for name, value in record.config.items():
        assert f"<code>{name}</code></td><td><code>{value}</code>" in text


def test_uncommitted_changes_are_admitted():
    record = fake.record()
    assert "uncommitted" not in passport.markdown(record)
    record.provenance["dirty"] = True
    assert "with uncommitted changes" in passport.markdown(record)


def test_a_notebook_is_stamped_once_below_its_title(tmp_path):
    record = fake.record()
    notebook = fake.put(record, tmp_path) / "run.ipynb"
    for _ in range(2):
        passport.stamp(notebook, record)
    cells = nbformat.read(notebook, as_version=4).cells
    assert [cell.id for cell in cells] == ["a", passport.CELL, "b"]
    nbformat.validate(nbformat.read(notebook, as_version=4))
