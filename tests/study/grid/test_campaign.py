"""A campaign: the most telling run first, in time, each record in hand when it is finished, and nothing else put."""

import io
import os
import sys
import time
from pathlib import Path

import fake_records as fake
import pytest
import torch
from safetensors.torch import load_file, save_file
from small_notebook import environment

from study import grid, records
from study.experiment.training import SAVE_EVERY
from study.grid import campaign, execute
from study.grid.campaign import WEIGHTS, most_informative_first
from study.grid.parts import ROOM, Parts, _cast, checkpoint_in_half, parts_of, unpack, weights_in_half
from study.machine import folders
from study.machine.folders import CHECKPOINT, FAILED, HALVED, LOCK, MEASURED, alone, work_folder
from study.plan import arithmetic


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


def put_together(tmp_path, monkeypatch) -> Path:
    """Unpack what ``tmp_path / "out"`` has on another machine: its folder of results."""
    monkeypatch.setenv("ADVLIB_WORK", str(tmp_path / "there" / "work"))
    unpack(tmp_path / "out", tmp_path / "there" / "results")
    return tmp_path / "there" / "results"


def test_every_record_comes_back_whatever_part_of_the_others_is_lost(tmp_path, monkeypatch):
    """Each part stands alone: what is in the parts that arrived is all there."""
    monkeypatch.setattr("study.grid.parts.PART", 4_000)
    (tmp_path / "out").mkdir()
    parts, keys = Parts(tmp_path / "out"), ("traditional", "als", "sat", "advprop")
    where = {}
    for key in keys:
        fake.put(fake.record(key), tmp_path / "here")
        folder = tmp_path / "here" / run(key).where
        where[key] = parts.add({f"results/{run(key).where}/{p.name}": p.read_bytes() for p in folder.iterdir()})
    assert len(set(where.values())) > 1
    where["als"].unlink()
    root = put_together(tmp_path, monkeypatch)
    for key in keys:
        path = root / run(key).where / "record.json"
        assert path.exists() == (where[key] != where["als"])
        assert not path.exists() or records.read(path) == fake.record(key)


def test_a_part_is_whole_at_every_moment(tmp_path, monkeypatch):
    """Killed while a record is added, the part holds what it held before."""
    (tmp_path / "out").mkdir()
    parts = Parts(tmp_path / "out")
    first = parts.add({"results/a": b"1"})
    kept = first.read_bytes()
    monkeypatch.setattr(folders.os, "replace", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        parts.add({"results/b": b"2"})
    assert first.read_bytes() == kept and parts_of(tmp_path / "out") == [first]


def test_what_an_earlier_campaign_left_in_the_folder_stays(tmp_path):
    (tmp_path / "out").mkdir()
    first = Parts(tmp_path / "out").add({"results/a": b"1"})
    second = Parts(tmp_path / "out").add({"results/b": b"2"})
    assert first != second
    unpack(tmp_path / "out", tmp_path / "there")
    assert (tmp_path / "there" / "a").read_bytes() + (tmp_path / "there" / "b").read_bytes() == b"12"


def test_a_large_file_comes_back_from_parts_of_the_promised_size_and_not_at_all_from_some_of_them(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr("study.grid.parts.PART", 2**17)
    (tmp_path / "out").mkdir()
    content = os.urandom(300_000)
    paths = Parts(tmp_path / "out").add_large("work/x/model.safetensors", content)
    assert len(paths) == 5 and all(path.stat().st_size <= 2**17 for path in paths)
    put_together(tmp_path, monkeypatch)
    there = tmp_path / "there" / "work" / "x" / "model.safetensors"
    assert there.read_bytes() == content
    there.unlink()
    paths[2].unlink()
    put_together(tmp_path, monkeypatch)
    assert not there.exists() and "4 of its 5 pieces" in capsys.readouterr().err


def test_what_there_is_no_room_for_is_left_out_and_records_never_are(tmp_path, monkeypatch):
    monkeypatch.setattr("study.grid.parts.ROOM", 50_000)
    (tmp_path / "out").mkdir()
    parts = Parts(tmp_path / "out")
    assert parts.add_large("work/x/model.safetensors", os.urandom(40_000))
    assert parts.add_large("work/y/model.safetensors", os.urandom(40_000)) == []
    assert parts.add({"results/a": os.urandom(40_000)}).is_file()


def test_a_checkpoint_travels_in_half_the_bytes_and_its_counts_travel_exactly(tmp_path, monkeypatch):
    state = checkpoint(tmp_path / "work" / run().where / CHECKPOINT, n=300_000)
    (tmp_path / "out").mkdir()
    path = tmp_path / "work" / run().where / CHECKPOINT
    packed = checkpoint_in_half(path)
    assert len(packed) < 0.75 * path.stat().st_size  # of an epoch under way the order is 400 kB, which stays as it is
    Parts(tmp_path / "out").add({f"work/{run().where}/{CHECKPOINT}": packed})
    put_together(tmp_path, monkeypatch)
    there = tmp_path / "there" / "work" / run().where
    again = torch.load(there / CHECKPOINT, weights_only=True)
    assert again["model"]["weight"].dtype == torch.float32 and (there / HALVED).is_file()
    torch.testing.assert_close(again["model"]["weight"], state["model"]["weight"], rtol=1e-3, atol=1e-6)
    torch.testing.assert_close(
        again["optimizer"]["state"][0]["momentum_buffer"], state["model"]["weight"] / 7, rtol=1e-3, atol=1e-6
    )
    assert torch.equal(again["begun"]["sums"], state["begun"]["sums"])
    assert torch.equal(again["begun"]["order"], state["begun"]["order"]) and again["model"]["seen"] == 70_001


def test_a_network_comes_back_in_half_precision_where_its_run_looks_for_it(tmp_path, monkeypatch):
    weights = {"w": torch.randn(50, generator=torch.Generator().manual_seed(0)), "seen": torch.tensor(70_001)}
    save_file(weights, tmp_path / "model.safetensors")
    (tmp_path / "out").mkdir()
    name = f"work/{run().where}/{WEIGHTS}"
    Parts(tmp_path / "out").add({name: weights_in_half(tmp_path / "model.safetensors")})
    put_together(tmp_path, monkeypatch)
    found = load_file(tmp_path / "there" / name)
    assert torch.equal(found["w"], weights["w"].half()) and found["seen"] == 70_001


def test_what_float16_does_not_hold_travels_in_float32(tmp_path):
    weights = {"variance": torch.tensor([1.0, 1e5])}  # the largest of float16 is 65,504
    save_file(weights, tmp_path / "model.safetensors")
    (tmp_path / "there.safetensors").write_bytes(weights_in_half(tmp_path / "model.safetensors"))
    assert torch.equal(load_file(tmp_path / "there.safetensors")["variance"], weights["variance"])
    torch.save({"model": weights, "optimizer": {"state": [weights]}}, tmp_path / "checkpoint.pt")
    content = _cast(checkpoint_in_half(tmp_path / "checkpoint.pt"), "float32")
    again = torch.load(io.BytesIO(content), weights_only=True)
    assert torch.equal(again["model"]["variance"], weights["variance"])
    assert torch.equal(again["optimizer"]["state"][0]["variance"], weights["variance"])


def test_the_networks_that_are_brought_are_of_the_text_and_learnt_from_attacks_and_leave_room_for_records():
    chosen = campaign.worth_bringing(grid.runs("full", [0], dataset="cifar10-jpeg", keys=fake.catalogue.part(1)))
    assert chosen and all(one.protocol == "corrected" and one.config.adversarial for one in chosen)
    assert sum(2 * 11_173_962 for _ in chosen) <= ROOM - campaign.FOR_RECORDS  # ResNet-18 for CIFAR-10


def test_what_is_there_already_is_not_overwritten(tmp_path):
    (tmp_path / "out").mkdir()
    Parts(tmp_path / "out").add({"results/a": b"theirs"})
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "a").write_bytes(b"mine")
    assert unpack(tmp_path / "out", tmp_path / "b") == []
    assert (tmp_path / "b" / "a").read_bytes() == b"mine"


def test_another_record_in_the_place_of_one_that_came_back_stays_and_is_named(tmp_path):
    (tmp_path / "out").mkdir()
    mine, theirs, new = fake.record("als"), fake.record("als", **{"corrected:clean": 0.9}), fake.record("sat")
    came = {f"results/{record.where}/record.json": records.to_json(record).encode() for record in (theirs, new)}
    Parts(tmp_path / "out").add(came)
    fake.put(mine, tmp_path / "there")
    with pytest.raises(ValueError, match=f"{mine.where}/record.json: another one is there, and stays"):
        unpack(tmp_path / "out", tmp_path / "there")
    assert {record.key: record for record in records.collect(tmp_path / "there")} == {"als": mine, "sat": new}


def test_weights_that_cannot_be_packed_cost_no_record(tmp_path):
    said = []
    one = crew(tmp_path)
    one.log = said.append
    (tmp_path / "model.safetensors").write_bytes(b"damaged")
    one._bring("work/x/model.safetensors", tmp_path / "model.safetensors", weights_in_half)
    assert said[0].startswith("not packed: work/x/model.safetensors")


def test_a_gate_that_stays_shut_stops_the_campaign_before_a_run(tmp_path, monkeypatch):
    code = "raise SystemExit(1)"
    monkeypatch.setattr(
        campaign.Gate,
        "__init__",
        lambda self, budget, out, seconds: vars(self).update(
            path=out / "gate.json", seconds=seconds, command=[sys.executable, "-c", code]
        ),
    )
    wanted = grid.runs("smoke", [0], keys=["traditional"], protocols=["corrected"])
    with pytest.raises(campaign.CampaignFailed, match="the gate stays shut .status 1."):
        campaign.campaign(wanted, tmp_path / "results", minutes=9, out=tmp_path / "out")
    assert not (tmp_path / "results").exists()


def flipped(content: bytes, at: int) -> bytes:
    """With one bit in the byte at that place turned."""
    return content[:at] + bytes([content[at] ^ 1]) + content[at:][1:]


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: content[:100],
        lambda content: content[:-8],  # the check sum, and the length
        lambda content: content[:-1],
        lambda content: flipped(content, 2_500),  # of what is stored as it is: decompression notices nothing
        lambda content: flipped(content, len(content) - 8),
        lambda content: content + b"more",
    ],
)
def test_a_damaged_part_is_named_and_the_others_are_unpacked(tmp_path, damage):
    (tmp_path / "out").mkdir()
    first = Parts(tmp_path / "out").add({"results/a": os.urandom(5_000)})
    Parts(tmp_path / "out").add({"results/b": b"2"})
    first.write_bytes(damage(first.read_bytes()))
    with pytest.raises(ValueError, match=f"{first.name}.*copy it again"):
        unpack(tmp_path / "out", tmp_path / "there")
    assert os.listdir(tmp_path / "there") == ["b"]


def test_a_part_that_would_fill_the_memory_is_refused_before_it_does(tmp_path, monkeypatch):
    monkeypatch.setattr("study.grid.parts.UNPACKED", 100_000)
    (tmp_path / "out").mkdir()
    Parts(tmp_path / "out").add({"results/zeros": bytes(200_000)})
    with pytest.raises(ValueError, match="more than 0 MiB in it"):
        unpack(tmp_path / "out", tmp_path / "there")
    assert not (tmp_path / "there").exists()


def test_what_came_as_a_record_and_is_none_for_other_readers_is_named_and_left_out(tmp_path):
    (tmp_path / "out").mkdir()
    short = fake.record("als", drop=["corrected:clean"])
    for record in (fake.record("sat"), short):
        Parts(tmp_path / "out").add({f"results/{record.where}/record.json": records.to_json(record).encode()})
    with pytest.raises(ValueError, match=f"{short.where}/record.json is not a record .*all else is unpacked"):
        unpack(tmp_path / "out", tmp_path / "there")
    assert records.collect(tmp_path / "there") == [fake.record("sat")]


def test_a_folder_without_parts_is_refused_with_the_remedy(tmp_path):
    with pytest.raises(ValueError, match="give the folder that came back"):
        unpack(tmp_path, tmp_path / "there")


@pytest.mark.parametrize(
    "name", ["results/../../outside", "elsewhere/file", "/etc/passwd", "results/{}/outside", "work/"]
)
def test_an_archive_cannot_write_outside_the_two_folders(tmp_path, name):
    (tmp_path / "out").mkdir()
    name = name.format(tmp_path)  # a path from the root, after two slashes
    Parts(tmp_path / "out").add({"results/inside": b"1", name: b"evil"})
    with pytest.raises(ValueError, match="nothing that a campaign packs"):
        unpack(tmp_path / "out", tmp_path / "inside" / "results")
    assert not (tmp_path / "outside").exists() and not (tmp_path / "inside").exists()


def test_an_archive_cannot_write_through_a_link_that_leads_out(tmp_path):
    for name in ("out", "results", "outside"):
        (tmp_path / name).mkdir()
    (tmp_path / "results" / "lite").symlink_to(tmp_path / "outside")
    Parts(tmp_path / "out").add({"results/lite/record.json": b"evil"})
    with pytest.raises(ValueError, match="nothing that a campaign packs"):
        unpack(tmp_path / "out", tmp_path / "results")
    assert not os.listdir(tmp_path / "outside")


def test_a_campaign_without_time_is_refused(tmp_path):
    with pytest.raises(ValueError, match="nothing could run"):
        campaign.campaign([run()], tmp_path, minutes=0.3, out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "there, taken",
    [(["cifar10", "cifar10-jpeg"], "cifar10"), (["cifar10-jpeg"], "cifar10-jpeg"), ([], None)],
    ids=["the original", "the copy alone", "neither"],
)
def test_the_data_that_are_there_are_taken_and_none_is_refused_before_the_start(monkeypatch, there, taken):
    monkeypatch.setattr(campaign, "is_here", there.__contains__)
    if taken:
        assert campaign.data_at_hand("brief") == taken
    else:
        with pytest.raises(FileNotFoundError, match="put .* into data/"):
            campaign.data_at_hand("brief")


def crew(tmp_path, **more) -> campaign.Crew:
    (tmp_path / "out").mkdir(exist_ok=True)
    options = {"end": time.monotonic() + 100, "images": {"cifar10-jpeg": 50_000}} | more
    return campaign.Crew(tmp_path / "results", Parts(tmp_path / "out"), print, **options)


def test_what_a_run_takes_is_told_by_the_slowest_before_it_and_by_the_gate_before_that(tmp_path):
    plain, attacked = run("traditional", budget="brief"), run("adversarial", budget="brief")
    one = crew(tmp_path, rate=1e12)
    operations = arithmetic.training(attacked.config, 50_000)
    assert one.estimate(attacked) == pytest.approx(operations / 1e12)
    assert crew(tmp_path).estimate(attacked) == 0, "without a gate the first is begun whatever it takes"
    # plain training took 6 of 30 s; with two steps of PGD it is 14 passes of three instead of three
    one.seen.append((30.0, 6.0, one._work(plain)))
    assert one.estimate(plain) == 30
    assert one.estimate(attacked) == pytest.approx(24 + 6 * operations / arithmetic.training(plain.config, 50_000))
    one.seen.append((90.0, 60.0, one._work(plain)))
    assert one.estimate(plain) == 90, "the slowest counts"


def test_what_cannot_finish_is_passed_over_for_what_can_unless_checkpoints_are_carried(tmp_path):
    plain, attacked = run("traditional", budget="brief"), run("adversarial", budget="brief")
    for carry, expected in [(False, plain), (True, attacked)]:
        one = crew(tmp_path, carry=carry)
        one.seen.append((60.0, 40.0, one._work(plain)))
        queue = [attacked, plain]
        assert one._next(queue) == expected and expected not in queue
    assert crew(tmp_path, end=time.monotonic() + 1, rate=1.0)._next([attacked, plain]) is None


@pytest.mark.slow
def test_a_run_that_fails_leaves_its_last_words_the_rest_is_packed_and_the_campaign_says_so(tmp_path, monkeypatch):
    for name, value in environment(tmp_path).items():
        monkeypatch.setenv(name, value)
    wanted = grid.runs("smoke", [0], keys=["traditional", "als"], protocols=["corrected"])
    with alone(work_folder(wanted[0].where) / LOCK), pytest.raises(campaign.CampaignFailed, match="1 runs failed"):
        campaign.campaign(wanted, tmp_path / "results", minutes=9, out=tmp_path / "out", gate_seconds=0)
    assert "FAIL  smoke/digits/corrected/traditional" in (tmp_path / "out" / campaign.LOG).read_text()
    root = put_together(tmp_path, monkeypatch)
    assert (root / wanted[1].where / "record.json").is_file() and not (root / wanted[0].where).exists()
    words = (tmp_path / "there" / "work" / wanted[0].where / FAILED).read_text()
    assert "under way in another process" in words


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
        found = campaign.campaign(wanted, minutes=9, gate_seconds=0, carry=True, **places, **more)
        return [one.state for one in found]

    where = "smoke/digits/corrected/advprop/seed0"
    monkeypatch.setenv(SAVE_EVERY, "0.1")
    with monkeypatch.context() as patch:
        patch.setattr(campaign, "time", Clock(tmp_path / "first" / "work" / where / moment))
        assert go("first") == ["missing"]
    assert go("second", start_from=tmp_path / "first" / "out") == ["done"]
    record = records.read(tmp_path / "second" / "results" / where / "record.json")
    assert record.provenance["halved"] and len(record.curve) == record.config["epochs"]
