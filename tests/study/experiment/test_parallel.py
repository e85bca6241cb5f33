"""Claims about one run in several processes: it is the run of one up to rounding, and none is left alone."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import miniature
import psutil
import pytest
import team
import torch
from small_notebook import environment
from torch import nn

from advlib.attacks import pgd
from study import records
from study.__main__ import main
from study.experiment import run
from study.experiment.build import build_model
from study.experiment.fast import launch
from study.experiment.fast.parallel import ALONE, INIT_SCALE, Team, WholeBatchNorm2d, synchronise
from study.experiment.training import SAVE_EVERY
from study.grid.execute import execute
from study.machine.folders import CHECKPOINT, PROCESSES
from study.machine.interrupt import Interrupted
from study.plan import catalogue
from study.records import passport

TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
EXACT = {"rtol": 1e-8, "atol": 1e-9}  # double precision, after eight steps
SMALL = {"epochs": 2, "train_size": 192, "test_size": 64, "sweep_size": 8, "lr": 1e-3, "precision": "float32"}


@pytest.fixture(autouse=True)
def own_folders(tmp_path, monkeypatch):
    for name, value in (environment(tmp_path) | {"CUDA_VISIBLE_DEVICES": ""}).items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv(launch.NPROC, raising=False)


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """What each of two processes found, and the folder of their checkpoints."""
    folder = tmp_path_factory.mktemp("two")
    command = [*TORCHRUN, str(Path(team.__file__)), str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(2)], folder


@pytest.fixture(scope="module")
def one(tmp_path_factory):
    return team.cases(ALONE, tmp_path_factory.mktemp("one"))


TRAININGS = [f"train: {name}" for name in team.TRAININGS]


@pytest.mark.parametrize("case", [*TRAININGS, "interrupted", "saved often"])
def test_weights_and_statistics_are_those_of_one_process_and_so_is_the_curve(one, two, case):
    for found in two[0]:
        torch.testing.assert_close(found[case]["state"], one[case]["state"], **EXACT)
        assert found[case]["curve"] == one[case]["curve"]  # to the six digits of a record


def test_a_last_batch_that_cannot_be_shared_out_equally_is_refused_before_anybody_waits():
    changes = {"batch_size": 21, "last_batch": "kept"}
    with pytest.raises(ValueError, match="last batch of 1 images, which last_batch='kept' keeps, .* 2 processes"):
        team.fit(changes, Team(rank=0, size=2))


@pytest.mark.parametrize("case", [*TRAININGS, "interrupted", "saved often", "single precision", "float16"])
def test_both_processes_hold_the_same_network_to_the_bit(two, case):
    first, second = (found[case]["state"] for found in two[0])
    assert miniature.same(first, second)


def test_in_single_precision_they_agree_as_far_as_its_digits_go(one, two):
    found, expected = two[0][0]["single precision"], one["single precision"]
    torch.testing.assert_close(found["state"], expected["state"], rtol=1e-3, atol=1e-4)
    assert found["curve"][0]["loss"] == pytest.approx(expected["curve"][0]["loss"], rel=1e-4)


def test_in_float16_they_agree_as_far_as_its_digits_go(one, two):
    found, expected = two[0][0]["float16"], one["float16"]
    torch.testing.assert_close(found["state"], expected["state"], rtol=0.02, atol=0.01)
    assert found["curve"][0]["loss"] == pytest.approx(expected["curve"][0]["loss"], rel=0.01)


def test_a_gradient_that_overflows_in_one_process_lets_all_skip_the_step_and_lower_the_scale(two):
    for found in two[0]:
        assert found["overflown"]["weight"].tolist() == [0.5] * 3  # one step of two
        assert found["overflown"]["scales"].tolist() == [INIT_SCALE / 2] * 2


def test_the_trainings_compared_learn_something_each_its_own(one):
    """Else they would agree whatever was synchronised."""
    weights = [one[case]["state"]["stem.weight"] for case in TRAININGS]
    first = build_model(miniature.config(**team.SHORT), miniature.dataset()).double().state_dict()["stem.weight"]
    for k, weight in enumerate(weights):
        assert all((weight - other).abs().max() > 1e-3 for other in [first, *weights[:k]])


@pytest.mark.parametrize(
    ("case", "tolerance"),
    [
        ("batch norm", {"rtol": 1e-9, "atol": 1e-9}),
        ("batch norm, aux of two", {"rtol": 1e-9, "atol": 1e-9}),
        ("batch norm, bfloat16", {"rtol": 0.01, "atol": 0.01}),
    ],
)
def test_batch_norm_of_parts_is_torchs_batch_norm_of_the_whole_batch(one, two, case, tolerance):
    """Outputs, gradients of input, weight and bias, and running statistics."""
    assert one[case].keys() == two[0][0][case].keys()
    for name, expected in one[case].items():
        first, second = (found[case][name] for found in two[0])
        if "put" in name:  # of images: each process has its part
            torch.testing.assert_close(torch.cat([first, second]), expected, **tolerance)
        else:
            torch.testing.assert_close(first, expected, **tolerance)
            assert torch.equal(first, second)


def test_an_attack_in_training_mode_follows_the_gradient_through_everyones_statistics(one, two):
    images = torch.cat([found["attack"]["images"] for found in two[0]])
    torch.testing.assert_close(images, one["attack"]["images"], **EXACT)


def test_the_gradient_of_batch_norm_is_that_of_its_output():
    layer = WholeBatchNorm2d(nn.BatchNorm2d(2).double(), ALONE)
    for tensor in layer.parameters():
        nn.init.normal_(tensor)
    x = torch.randn(3, 2, 2, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x, *_: layer(x), (x, layer.weight, layer.bias))


def test_synchronising_changes_every_batch_norm_and_no_name_in_the_state(tiny):
    model = tiny(norm="dual-except-shortcuts")
    before = miniature.state(model)
    layers = sum(isinstance(module, nn.BatchNorm2d) for module in model.modules())
    synchronise(model, team.Team(0, 2))
    assert sum(isinstance(module, WholeBatchNorm2d) for module in model.modules()) == layers == 37
    assert miniature.same(model.state_dict(), before)
    assert list(model.state_dict()) == list(before)


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_a_part_of_a_batch_gets_the_random_starts_that_it_has_in_the_whole(norm, layout):
    x = torch.rand(6, 3, 4, 4).to(memory_format=layout)

    def start(x, part):
        generator = torch.Generator().manual_seed(0)
        options = {"eps": 0.3, "step_size": 0.1, "steps": 0, "random_start": True, "norm": norm}
        y = torch.zeros(len(x), dtype=torch.long)
        return pgd(lambda x: x.flatten(1), x, y, **options, generator=generator, part=part), generator.get_state()

    whole, state = start(x, (0, 1))
    parts = [start(part, (k, 3)) for k, part in enumerate(x.split(2))]
    assert torch.equal(torch.cat([found for found, _ in parts]), whole) and not torch.equal(whole, x)
    assert all(torch.equal(after, state) for _, after in parts), "the next draw is the same, too"


def test_a_checkpoint_of_two_processes_goes_on_with_one(one, two, tmp_path):
    path = tmp_path / "c.pt"
    path.write_bytes((two[1] / "cut-by-2.pt").read_bytes())
    assert torch.load(path, weights_only=True)["begun"]["steps"] == 1
    found = team.left(*team.fit(team.TRAININGS["corrected AdvProp"], ALONE, checkpoint=path))
    torch.testing.assert_close(found["state"], one["interrupted"]["state"], **EXACT)
    assert found["curve"] == one["interrupted"]["curve"] == one["train: corrected AdvProp"]["curve"]


# --- the command --------------------------------------------------------------------------------------------------


def test_a_run_of_two_processes_gives_the_record_of_one(tmp_path):
    """A low rate: at a high one, training makes differences of any size out of rounding."""
    alone, _ = execute("traditional", overrides=SMALL, results=tmp_path / "one")
    settings = [part for name, value in SMALL.items() for part in ("--set", f"{name}={value}")]
    arguments = ["run", "traditional", *settings, "--nproc", "2", "--results", str(tmp_path / "two")]
    command = [sys.executable, "-m", "study", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    alone, together = records.read(alone), records.read(tmp_path / "two" / alone.relative_to(tmp_path / "one"))
    assert together.config == alone.config and together.data == alone.data
    for found, expected in zip(together.curve, alone.curve, strict=True):
        assert found["loss"] == pytest.approx(expected["loss"], rel=1e-3)
        assert found["clean_accuracy"] == pytest.approx(expected["clean_accuracy"], abs=2.5 / SMALL["train_size"])
    different = [(a.mask != b.mask).mean() for a, b in zip(alone.measurements, together.measurements, strict=True)]
    assert sum(different) / len(different) < 0.05
    assert together.provenance["processes"] == 2 and "processes" not in alone.provenance
    assert "by 2 processes" in passport.markdown(together) and passport.command(together).endswith("--nproc 2")
    assert [path.name for path in (tmp_path / "work").rglob("*.txt")] == []


LONG = {"epochs": 40, "train_size": 64, "batch_size": 32, "precision": "float32", "lr": 1e-5}
TRAIN = """
import json, sys
from pathlib import Path
from study.experiment.fast import launch
task = {"config": json.loads(sys.argv[1]), "device": "cpu"}
launch.train(task, Path(sys.argv[2]), processes=2, threads=1)
"""


def config():
    return catalogue.config("traditional", budget="smoke", **LONG)


def learning(work: Path) -> tuple[subprocess.Popen, list[psutil.Process]]:
    """A long training of two processes that has come through its first epoch, and those two."""
    command = [sys.executable, "-c", TRAIN, json.dumps(config().to_dict()), str(work)]
    often = os.environ | {SAVE_EVERY: "0.2"}
    parent = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=often)
    end = time.monotonic() + 120
    while not (work / CHECKPOINT).exists() or not torch.load(work / CHECKPOINT, weights_only=True)["curve"]:
        assert parent.poll() is None and time.monotonic() < end, parent.communicate()[1]
        time.sleep(0.05)
    descendants = psutil.Process(parent.pid).children(recursive=True)
    return parent, [
        child for child in descendants if "study.experiment.fast.worker" in child.cmdline() and "-u" in child.cmdline()
    ]


def test_asked_to_stop_they_save_in_the_midst_of_it_and_one_goes_on_to_the_same_end(tmp_path):
    parent, workers = learning(tmp_path)
    parent.terminate()
    _, said = parent.communicate(timeout=120)
    assert "Interrupted: asked to stop after" in said
    psutil.wait_procs(workers, timeout=60)
    assert not any(worker.is_running() for worker in workers)
    saved = torch.load(tmp_path / CHECKPOINT, weights_only=True)
    assert saved["begun"] is not None and 0 < len(saved["curve"]) < LONG["epochs"]
    assert (tmp_path / PROCESSES).read_text() == "2"
    whole, resumed = (run.learn(config(), device="cpu", work=work) for work in (None, tmp_path))
    assert resumed.curve[0]["seconds"] == saved["curve"][0]["seconds"], "it went on from there"
    losses = [[epoch["loss"] for epoch in learned.curve] for learned in (whole, resumed)]
    assert losses[1] == pytest.approx(losses[0], rel=2e-3)
    assert max(losses[0]) > 1.05 * min(losses[0]), "each epoch's random numbers show in its loss"


def test_whoever_started_them_dies_and_they_save_and_end(tmp_path):
    parent, workers = learning(tmp_path)
    parent.kill()
    parent.communicate()
    assert len(workers) == 2 and len(psutil.wait_procs(workers, timeout=60)[0]) == 2
    assert torch.load(tmp_path / CHECKPOINT, weights_only=True)["begun"] is not None


def test_one_that_dies_ends_the_training_with_an_error_and_the_others_do_not_wait(tmp_path):
    parent, workers = learning(tmp_path)
    workers[-1].kill()  # as the system does where memory runs out
    _, said = parent.communicate(timeout=120)
    assert parent.returncode == 1 and "died without a word, perhaps for want of memory: run fewer" in said
    assert len(psutil.wait_procs(workers, timeout=60)[0]) == 2
    assert (tmp_path / launch.LOG).is_file()


def test_what_went_wrong_first_is_told_and_not_what_it_did_to_the_others(tmp_path):
    def word(time, kind, message=""):
        return {"time": time, "kind": kind, "message": message}

    def conclude(*words, stopped=False):
        said = {rank: word for rank, word in enumerate(words) if word}
        launch._conclude(said, len(words), tmp_path / "log", stopped)

    conclude(word(1, "done"), word(2, "done"))
    lost = word(1, "Lost", "another process has ended (connection closed)")
    with pytest.raises(ValueError, match="^damaged$"):
        conclude(lost, word(2, "ValueError", "damaged"))
    with pytest.raises(RuntimeError, match="OutOfMemoryError in process 1 of 3: out of memory"):
        conclude(lost, word(2, "OutOfMemoryError", "out of memory"), word(3, "ValueError", "because of that"))
    with pytest.raises(RuntimeError, match=r"of 3 processes, 1, 2 \(counted from 0\) died without a word"):
        conclude(lost, None, None)
    with pytest.raises(Interrupted, match="after 3 of 4 steps"):
        conclude(word(1, "Interrupted", "after 3 of 4 steps"), None)
    with pytest.raises(RuntimeError, match="lost touch: another process has ended"):
        conclude(lost, lost)
    for words in [(lost, None), (None, None), (lost, lost)]:
        with pytest.raises(Interrupted, match="go on from the last checkpoint"):
            conclude(*words, stopped=True)


# --- what is refused ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "variables", "message"),
    [
        (["--nproc", "0"], {}, "--nproc (or ADVLIB_NPROC) 0: how many processes train the run, a whole number from 1"),
        (["--nproc", "-2"], {}, "-2: how many processes"),
        ([], {"ADVLIB_NPROC": "two"}, "two: how many processes"),
        (["--nproc", "7"], {}, "cannot be shared out equally among 7 processes; take one of 1, 2, 4, 8, 16, 32, 64"),
        (["--nproc", "2"], {"ADVLIB_GPUS": "0,1"}, "ADVLIB_GPUS gives each run one GPU: take one or the other"),
    ],
)
def test_an_impossible_number_of_processes_is_refused_before_anything_starts(
    tmp_path, monkeypatch, capsys, arguments, variables, message
):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert main(["run", "advprop", "--results", str(tmp_path / "results"), *arguments]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "results").exists() and not (tmp_path / "work").exists()


def test_the_option_comes_before_the_variable_and_an_empty_variable_is_none(monkeypatch):
    monkeypatch.setenv(launch.NPROC, "4")
    assert (launch.processes(64), launch.processes(64, 2)) == (4, 2)
    monkeypatch.setenv(launch.NPROC, "")
    assert launch.processes(63) == 1


@pytest.mark.parametrize(
    ("device", "work", "message"),
    [
        ("cpu", False, "2 processes need a work folder"),
        ("cuda", True, "2 processes need a GPU each, and 1 can be seen here"),
        ("meta", True, "2 processes train on GPUs of NVIDIA or on the CPU, not on meta"),
    ],
)
def test_what_several_processes_need_is_asked_before_they_start(tmp_path, monkeypatch, device, work, message):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(ValueError, match=message):
        run.learn(miniature.config(), device=device, work=tmp_path if work else None, processes=2)
    assert os.listdir(tmp_path) == []
