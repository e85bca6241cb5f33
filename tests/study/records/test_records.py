"""Claims about what a run leaves behind: it comes back exactly, is never half there, knows when it is out of date."""

import base64
import dataclasses
import json
import os
import tracemalloc
import zlib

import fake_records
import numpy as np
import pytest

from study import records
from study.plan import catalogue
from study.plan.config import SINCE
from study.records import Measurement
from study.records.packing import pack_mask, unpack_mask


@pytest.fixture
def record():
    return fake_records.record("sat", "published")


@pytest.fixture
def path(tmp_path, record):
    return records.write(record, tmp_path / record.where / "record.json")


BOMB = zlib.compress(bytes(10**7), 9)  # ten kilobytes


def rewrite(path, change):
    """Change the JSON at ``path`` by hand."""
    raw = json.loads(path.read_text())
    raw = change(raw) or raw
    path.write_text(json.dumps(raw))


@pytest.mark.parametrize("n", [1, 7, 8, 9, 1000, 10_000])
def test_a_mask_comes_back_image_by_image(n):
    mask = np.random.default_rng(n).random(n) < 0.7
    measurement = Measurement("corrected:clean", "clean", {}, n, pack_mask(mask))
    assert measurement.mask.dtype == bool and np.array_equal(measurement.mask, mask)
    assert measurement.accuracy == mask.sum() / n


@pytest.mark.parametrize("mask", [np.zeros(10, bool), np.ones(10, bool)])
def test_none_and_all_correct_are_0_and_1(mask):
    assert Measurement("a", "a", {}, 10, pack_mask(mask)).accuracy == mask[0]


def test_a_mask_of_ten_thousand_images_is_small_enough_to_commit():
    coin_flips = np.random.default_rng(0).random(10_000) < 0.5  # nothing to compress: the worst case
    assert len(pack_mask(coin_flips)) < 1750


@pytest.mark.parametrize("n", [1, 16, 26])
def test_a_mask_for_another_number_of_images_is_refused(n):
    with pytest.raises(ValueError, match=f"cannot hold {n} images"):
        unpack_mask(pack_mask(np.ones(20, bool)), n)


def test_a_record_comes_back_equal(record, path):
    assert records.read(path) == record
    assert records.read(path).schema == records.SCHEMA
    raw = json.loads(path.read_text(), parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert "larger" not in raw, "what lies beside a record is not written into it"


def test_a_record_says_where_it_belongs(record):
    assert record.where == "lite/cifar10-jpeg/published/sat/seed0"
    config = record.config | {"dataset": "folder:../my images/1"}
    elsewhere = dataclasses.replace(record, seed=12, config=config).where
    assert elsewhere.split("/") == ["lite", "folder-..-my-images-1-d597d137", "published", "sat", "seed12"]


def test_a_measurement_is_found_by_name_and_a_missing_one_is_named_with_those_there_are(record):
    assert record.measurement("published:pgd-0.1").column == "pgd-0.1"
    with pytest.raises(KeyError, match="no measurement 'published:pgd'.*corrected:clean"):
        record.measurement("published:pgd")


@pytest.mark.parametrize("where", ["open", "write", "replace"])
@pytest.mark.parametrize("exists", [True, False])
def test_a_full_disk_leaves_what_was_there_and_nothing_partial(tmp_path, monkeypatch, record, where, exists):
    path = tmp_path / record.where / "record.json"
    if exists:
        records.write(record, path)
    before = path.read_text() if exists else None

    def full(*arguments, **options):
        raise OSError(28, "No space left on device")

    newer = dataclasses.replace(record, cost=record.cost | {"steps": 99})
    with monkeypatch.context() as patch:
        if where == "open":
            patch.setattr("builtins.open", full)
        else:
            patch.setattr(os, "fsync" if where == "write" else "replace", full)
        with pytest.raises(OSError, match=f"cannot write {path} .*No space left.*free some space"):
            records.write(newer, path)
    assert (path.read_text() if path.exists() else None) == before
    assert [file.name for file in path.parent.iterdir()] == (["record.json"] if exists else [])
    assert records.read(records.write(newer, path)) == newer


def test_a_record_that_cannot_be_written_as_json_leaves_what_was_there(record, path):
    with pytest.raises(TypeError):
        records.write(dataclasses.replace(record, cost={"seconds": {1, 2}}), path)
    assert records.read(path) == record
    assert [file.name for file in path.parent.iterdir()] == ["record.json"]


@pytest.mark.parametrize("damage", [b"", b"{", b"\xff\xfe\x00", "half"])
def test_a_damaged_file_is_refused_with_the_remedy(path, damage):
    path.write_bytes(path.read_bytes()[:500] if damage == "half" else damage)
    with pytest.raises(ValueError, match="is damaged .*restore it with git, or delete it and run again") as error:
        records.read(path)
    assert str(path) in str(error.value)


@pytest.mark.parametrize("foreign", [[1, 2], "text", 3, None, {}, {"cells": []}, {"schema": None}])
def test_a_foreign_file_is_refused_with_the_remedy(path, foreign):
    path.write_text(json.dumps(foreign))
    with pytest.raises(ValueError, match=f"has schema None, this study reads {records.SCHEMA}: run again"):
        records.read(path)


@pytest.mark.parametrize("schema", [0, records.SCHEMA + 1, "1"])
def test_an_older_or_newer_schema_is_refused_with_the_remedy(path, schema):
    rewrite(path, lambda raw: raw.update(schema=schema))
    with pytest.raises(
        ValueError, match=f"has schema {schema}, this study reads {records.SCHEMA}.*the version that wrote it"
    ):
        records.read(path)


NOT_A_RECORD = {
    "an unknown field": (lambda raw: raw.update(colour="red"), "unknown fields .'colour'."),
    "a missing field": (lambda raw: raw.pop("curve") and None, "missing .'curve'."),
    "an unknown field of a measurement": (
        lambda raw: raw["measurements"][0].update(p=1),
        "Measurement: unknown fields .'p'.",
    ),
    "a missing field of a measurement": (lambda raw: raw["measurements"][0].pop("n") and None, "missing .'n'."),
    "a mask that is no base64": (lambda raw: raw["measurements"][1].update(correct="*"), ""),
    "a mask that is not deflated": (lambda raw: raw["measurements"][1].update(correct="AAAA"), ""),
    "a mask for fewer images": (lambda raw: raw["measurements"][1].update(n=10_000), "cannot hold 10000 images"),
    "a number of images that is none": (lambda raw: raw["measurements"][1].update(n="many"), ""),
    "a measurement that is none": (lambda raw: raw["measurements"].append(3), ""),
    "measurements that are none": (lambda raw: raw.update(measurements=None), ""),
    "one name twice": (lambda raw: raw["measurements"].append(raw["measurements"][0]), "one name"),
    "a config that is none": (lambda raw: raw.update(config=[1]), "config"),
    "a config without a dataset": (lambda raw: raw["config"].pop("dataset") and None, "dataset"),
    "another seed in its config": (lambda raw: raw["config"].update(seed=1), "seed is 0, and 1 in its config"),
    "a config's field of another type": (lambda raw: raw["config"].update(width="16"), "config: width: it is str"),
    "no measurement": (lambda raw: raw.update(measurements=[]), "not those of the suite: it lacks .'corrected:clean'"),
    "a measurement less": (lambda raw: raw["measurements"].pop(3) and None, "lacks .'corrected:fgsm-0.5'."),
    "a measurement of no image": (lambda raw: raw["measurements"][1].update(n=0), "n: 0 is not from 1"),
    "an attack by another name": (lambda raw: raw["measurements"][1].update(name="x"), "and has .'x'. besides"),
    "another attack of that name": (
        lambda raw: raw["measurements"][1]["attack"].update(eps=0.05),
        "corrected:fgsm-0.1 is not the suite's attack",
    ),
    "fewer images than were tested": (
        lambda raw: raw["measurements"][1].update(n=8, correct=pack_mask(np.ones(8, bool))),
        "corrected:fgsm-0.1 is of 8 images, not of 200",
    ),
    "a mask that unpacks to very much": (
        lambda raw: raw["measurements"][1].update(correct=base64.b85encode(BOMB).decode()),
        "so it cannot hold 200 images",
    ),
    "an accuracy beyond 1": (lambda raw: raw["curve"][0].update(clean_accuracy=1.5), "1.5 is not from 0 to 1"),
    "a number that is a truth": (lambda raw: raw["data"].update(test_images=True), "it is bool, not int"),
    "a duration without an end": (lambda raw: raw["cost"].update(training_seconds=10**400), "it is int, not float"),
    "a text that no page can show": (lambda raw: raw["data"].update(title="\ud800"), "title: .*surrogates not allowed"),
}


@pytest.mark.parametrize("n", [fake_records.IMAGES, 100])
def test_an_older_record_may_say_of_strong_attacks_that_they_are_of_all_images_if_they_are(path, n):
    def older(raw):
        strong = [m for m in raw["measurements"] if m["attack"]["images"] == "strong"]
        for m in strong:
            m["attack"]["images"] = "all"
            m.update(n=n, correct=pack_mask(np.ones(n, bool)))

    rewrite(path, older)
    if n == fake_records.IMAGES:
        assert records.read(path).measurement("corrected:pgd-20-8/255").attack["images"] == "all"
    else:
        with pytest.raises(ValueError, match="pgd-20-8/255.* is not the suite's attack"):
            records.read(path)


def test_a_number_at_the_end_of_its_range_is_read_whole_or_not(path):
    def ends(raw):
        raw["curve"][0].update(clean_accuracy=0.0, adversarial_accuracy=1.0, epoch=1)
        raw["cost"].update(steps=0, training_seconds=1e9, evaluation_seconds=10**9)

    rewrite(path, ends)
    assert records.read(path).curve[0]["adversarial_accuracy"] == 1.0


DAMAGED = {
    "a field twice": (lambda text: text.replace("{", '{"seed": 1,', 1), "is there twice"),
    "a number that is none": (lambda text: text.replace('"seed": 0', '"seed": NaN', 1), "NaN is no number"),
    "nested without an end": (lambda text: "[" * 100_000, "nested too deeply"),
    "a number of many digits": (lambda text: text.replace('"seed": 0', f'"seed": {"9" * 5000}', 1), "limit"),
}


@pytest.mark.parametrize("what", DAMAGED)
def test_what_json_allows_and_no_record_says_is_damage(path, what):
    change, reason = DAMAGED[what]
    path.write_text(change(path.read_text()))
    with pytest.raises(ValueError, match=f"is damaged .*{reason}.*restore it with git") as error:
        records.read(path)
    assert str(path) in str(error.value)


def test_a_pipe_in_the_place_of_a_record_is_not_waited_for(path):
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(ValueError, match=f"{path} is damaged .it is no regular file"):
        records.read(path)


def test_a_mask_that_would_unpack_to_very_much_is_not_unpacked():
    tracemalloc.start()
    with pytest.raises(ValueError, match="cannot hold 200 images"):
        unpack_mask(base64.b85encode(BOMB).decode(), 200)
    assert tracemalloc.get_traced_memory()[1] < 10**6
    tracemalloc.stop()


@pytest.mark.parametrize("what", NOT_A_RECORD)
def test_anything_else_that_is_no_record_is_refused_with_the_remedy(path, what):
    change, reason = NOT_A_RECORD[what]
    rewrite(path, change)
    with pytest.raises(
        ValueError, match=f"is not a record of this project .*{reason}.*move it away, or run again"
    ) as error:
        records.read(path)
    assert str(path) in str(error.value)


def test_collecting_finds_every_record_below_a_folder_in_order(tmp_path):
    put = [
        fake_records.record("sat", seed=1),
        fake_records.record("sat", seed=0),
        fake_records.record("als", "published"),
        fake_records.record("als", budget="smoke"),
    ]
    for record in put:
        fake_records.put(record, tmp_path)
    assert [record.where for record in records.collect(tmp_path)] == sorted(record.where for record in put)
    assert [record.budget for record in records.collect(tmp_path, budget="smoke")] == ["smoke"]
    assert records.collect(tmp_path / "nowhere") == []


@pytest.mark.parametrize("place", ["lite/cifar10-jpeg/corrected/sat/seed0", "lite/cifar10-jpeg/published/sat/seed1"])
def test_a_record_in_another_runs_folder_is_refused(tmp_path, record, place):
    records.write(record, tmp_path / place / "record.json")
    with pytest.raises(ValueError, match=f"is the record of {record.where}: move it there"):
        records.collect(tmp_path)


def test_one_damaged_record_is_not_passed_over_in_silence(tmp_path, path):
    path.write_text("{")
    with pytest.raises(ValueError, match="is damaged"):
        records.collect(tmp_path)


def test_a_record_of_todays_config_data_and_science_is_not_stale(record):
    config = catalogue.config("sat", protocol="published", budget="lite", dataset="cifar10-jpeg")
    assert record.stale_because(config) is None
    assert record.stale_because(config, "sha256:0") is None


def test_a_record_is_stale_by_config_and_says_which_field(record):
    config = catalogue.config("sat", protocol="published", budget="lite", dataset="cifar10-jpeg", lr=0.3)
    assert record.stale_because(config) == "config: lr 0.1, now 0.3"


def test_a_record_that_lacks_a_field_of_today_is_stale(record):
    config = catalogue.config("sat", protocol="published", budget="lite", dataset="cifar10-jpeg")
    older = dataclasses.replace(
        record, config={name: value for name, value in record.config.items() if name != "momentum"}
    )
    assert "momentum None, now 0.9" in older.stale_because(config)


def test_a_record_that_lacks_a_younger_field_was_made_with_its_old_value(record):
    config = record.as_config().change(**SINCE)
    older = dataclasses.replace(record, config={k: v for k, v in config.to_dict().items() if k not in SINCE})
    assert older.stale_because(config) is None and older.as_config() == config
    assert older.stale_because(config.change(last_batch="kept")) == "config: last_batch 'dropped', now 'kept'"


def test_a_config_that_cannot_be_run_any_more_is_refused_by_the_record_that_has_it(record):
    old = dataclasses.replace(record, config=record.config | {"schedule": "cosine-80"})
    with pytest.raises(ValueError, match=f"{record.where} was made with what .*cosine-80.*run it anew"):
        old.as_config()


def test_a_record_is_stale_by_its_datas_checksum(record):
    config = catalogue.config("sat", protocol="published", budget="lite", dataset="cifar10-jpeg")
    assert "checksum" in record.stale_because(config, "sha256:1")


def test_a_record_is_stale_by_its_science_version(record, monkeypatch):
    config = catalogue.config("sat", protocol="published", budget="lite", dataset="cifar10-jpeg")
    older = dataclasses.replace(record, science_version=records.SCIENCE_VERSION - 1)
    assert str(records.SCIENCE_VERSION) in older.stale_because(config)
