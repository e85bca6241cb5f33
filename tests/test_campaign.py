"""A campaign: the most telling run first, in time, packed in parts that can be put together again and nothing else."""

import io
import os
import tarfile
import time

import fake_records as fake
import pytest
import torch
from small_notebook import environment

from advlib import campaign, execute, grid, records
from advlib.campaign import NAME, most_informative_first, pack, unpack
from advlib.folders import CHECKPOINT, HALVED, MEASURED
from advlib.train import SAVE_EVERY


@pytest.fixture(autouse=True)
def own_folders(tmp_path, monkeypatch):
    monkeypatch.setenv("ADVLIB_WORK", str(tmp_path / "work"))
    monkeypatch.setattr(execute, "_checksum", lambda dataset: None)  # as on a machine without the data


def run(key="advprop", **changes) -> grid.Run:
    return grid.Run(
        **{"key": key, "protocol": "corrected", "budget": "lite", "dataset": "cifar10-jpeg", "seed": 0} | changes
    )


def checkpoint(path, n=1000):
    """A file as training leaves one, with n random weights."""
    path.parent.mkdir(parents=True, exist_ok=True)
    weights = torch.randn(n, generator=torch.Generator().manual_seed(0))
    state = {
        "origin": {"config": {}},
        "model": {"weight": weights, "seen": torch.tensor(70_001)},
        "optimizer": {"state": {0: {"momentum_buffer": weights / 7}}, "param_groups": [{"lr": 0.1, "params": [0]}]},
        "generator": torch.Generator().get_state(),
        "curve": [{"epoch": 1}],
        "begun": {
            "order": torch.arange(50_000),
            "sums": torch.tensor([2.5, 70_001.0, 3.0]),
            "steps": 3,
            "seconds": 1.0,
        },
    }
    torch.save(state, path)
    return state


def test_table_1_of_one_seed_comes_before_all_else_and_a_second_seed_of_it_before_the_extensions():
    wanted = grid.runs("lite", [0, 1], dataset="cifar10-jpeg")
    order = most_informative_first(wanted[::-1])
    table_1 = {key for key, row in fake.catalogue.rows().items() if row.paper_table == 1}
    assert sorted(wanted, key=str) == sorted(order, key=str)
    assert {(r.key, r.seed) for r in order[:18]} == {(key, 0) for key in table_1}
    assert all(r.seed == 0 for r in order[: len(order) // 2])
    assert {r.key for r in order[len(order) // 2 :][:18]} == table_1


def test_what_is_packed_is_put_together_again_in_parts_of_the_promised_size(tmp_path, monkeypatch):
    monkeypatch.setattr(campaign, "PART", 20_000)
    fake.put(fake.record("als"), tmp_path / "results")
    state = checkpoint(tmp_path / "work" / run().where / CHECKPOINT, n=30_000)
    states = [grid.state(cell, tmp_path / "results") for cell in (run("als"), run())]
    parts = pack(states, tmp_path / "results", tmp_path / "out")
    assert len(parts) > 3 and all(part.stat().st_size <= 20_000 for part in parts)

    monkeypatch.setenv("ADVLIB_WORK", str(tmp_path / "there" / "work"))
    unpack(tmp_path / "out", tmp_path / "there" / "results")
    assert records.read(tmp_path / "there" / "results" / run("als").where / "record.json") == fake.record("als")
    there = tmp_path / "there" / "work" / run().where
    again = torch.load(there / CHECKPOINT, weights_only=True)
    assert again["model"]["weight"].dtype == torch.float32 and (there / HALVED).is_file()
    torch.testing.assert_close(again["model"]["weight"], state["model"]["weight"], rtol=1e-3, atol=1e-6)
    torch.testing.assert_close(
        again["optimizer"]["state"][0]["momentum_buffer"], state["model"]["weight"] / 7, rtol=1e-3, atol=1e-6
    )
    assert torch.equal(again["begun"]["sums"], state["begun"]["sums"]), "counts travel exactly"
    assert torch.equal(again["begun"]["order"], state["begun"]["order"]) and again["model"]["seen"] == 70_001


def test_half_precision_halves_the_way(tmp_path):
    checkpoint(tmp_path / "work" / run().where / CHECKPOINT, n=2_000_000)
    (part,) = pack([grid.state(run(), tmp_path)], tmp_path, tmp_path / "out")
    assert part.stat().st_size < 0.55 * (tmp_path / "work" / run().where / CHECKPOINT).stat().st_size


def test_what_is_there_already_is_not_overwritten(tmp_path):
    fake.put(fake.record("als"), tmp_path / "a")
    pack([grid.state(run("als"), tmp_path / "a")], tmp_path / "a", tmp_path / "out")
    fake.put(fake.record("als", **{"corrected:clean": 0.123}), tmp_path / "b")
    before = (tmp_path / "b" / run("als").where / "record.json").read_bytes()
    unpack(tmp_path / "out", tmp_path / "b")
    assert (tmp_path / "b" / run("als").where / "record.json").read_bytes() == before


@pytest.mark.parametrize("damage", ["a part is missing", "a part is cut", "nothing is there"])
def test_parts_that_are_not_whole_are_refused_with_the_remedy(tmp_path, monkeypatch, damage):
    monkeypatch.setattr(campaign, "PART", 5_000)
    checkpoint(tmp_path / "work" / run().where / CHECKPOINT, n=20_000)
    parts = pack([grid.state(run(), tmp_path)], tmp_path, tmp_path / "out")
    for part in parts[1:2] if damage == "a part is missing" else parts if damage == "nothing is there" else []:
        part.unlink()
    if damage == "a part is cut":
        parts[1].write_bytes(parts[1].read_bytes()[:100])
    with pytest.raises(ValueError, match="copy it again"):
        unpack(tmp_path / "out", tmp_path / "there")


@pytest.mark.parametrize("name", ["results/../../outside", "elsewhere/file", "/etc/passwd"])
def test_an_archive_cannot_write_outside_the_two_folders(tmp_path, name):
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w:gz") as archive:
        campaign._add(archive, name, b"evil")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / f"{NAME}1of1").write_bytes(content.getvalue())
    with pytest.raises(ValueError, match="nothing that a campaign packs"):
        unpack(tmp_path / "out", tmp_path / "inside" / "results")
    assert not (tmp_path / "outside").exists()


def test_a_campaign_without_time_is_refused(tmp_path):
    with pytest.raises(ValueError, match="nothing could run"):
        campaign.campaign([run()], tmp_path, minutes=0.3, out=tmp_path / "out")


class Clock:
    """The time of day, until something is there; from then on it is too late."""

    def __init__(self, path):
        self.path = path

    def monotonic(self) -> float:
        return time.monotonic() + (1e6 if self.path.exists() else 0.0)

    sleep = staticmethod(time.sleep)


@pytest.mark.slow
@pytest.mark.parametrize("moment", [CHECKPOINT, MEASURED], ids=["while it trains", "while it measures"])
def test_a_campaign_stops_in_time_and_goes_on_on_the_next_machine(tmp_path, monkeypatch, moment):
    """Two machines: the first is taken away in the middle of the run, the second finishes it."""

    def go(machine: str, **more) -> list[str]:
        for name, value in environment(tmp_path / machine).items():
            monkeypatch.setenv(name, value)
        wanted = grid.runs("smoke", [0], keys=["advprop"], protocols=["corrected"])
        places = {"root": tmp_path / machine / "results", "out": tmp_path / machine / "out"}
        return [found.state for found in campaign.campaign(wanted, minutes=9, **places, **more)]

    where = "smoke/digits/corrected/advprop/seed0"
    monkeypatch.setenv(SAVE_EVERY, "0.1")
    with monkeypatch.context() as patch:
        patch.setattr(campaign, "time", Clock(tmp_path / "first" / "work" / where / moment))
        assert go("first") == ["missing"]
    assert go("second", start_from=tmp_path / "first" / "out") == ["done"]
    record = records.read(tmp_path / "second" / "results" / where / "record.json")
    assert record.provenance["halved"] and len(record.curve) == record.config["epochs"]
    assert os.listdir(tmp_path / "second" / "out") == [f"{NAME}1of1"]
