"""Claims about the gate before a campaign: it opens where numbers are right and runs succeed, and nowhere else."""

import multiprocessing
import subprocess
import sys
from unittest.mock import Mock

import pytest
import torch

from study.grid import gate
from study.plan import catalogue

CPU = torch.device("cpu")


@pytest.mark.parametrize("protocol", catalogue.PROTOCOLS)
def test_float32_on_this_machine_is_near_float64(protocol):
    checks = gate.agreement("smoke", protocol, CPU)
    assert {check.what for check in checks} == set(gate.WHAT)
    assert [str(check) for check in checks if not check.holds] == []


def test_a_float32_that_is_half_precision_in_disguise_is_found(monkeypatch):
    """As TensorFloat-32 would be: bfloat16 has three bits less than it."""
    monkeypatch.setattr(gate, "training_dtype", lambda *_: None)
    reference = gate._computed

    def disguised(config, device, wide, half, twins=None):
        return reference(config, device, wide, torch.bfloat16 if wide == torch.float32 else half, twins)

    monkeypatch.setattr(gate, "_computed", disguised)
    wrong = {check.what for check in gate.agreement("smoke", "corrected", CPU) if not check.holds}
    assert {"logits", "update"} <= wrong


def test_a_check_that_is_not_a_number_does_not_hold():
    assert not gate.Check("corrected", "float32", "logits", float("nan"), 1.0).holds


def test_the_update_that_is_checked_is_the_protocols_own(monkeypatch):
    """With another learning rate in it, it is found to differ."""
    monkeypatch.setattr(gate, "training_dtype", lambda *_: None)
    computed = gate._computed

    def faster(config, device, wide, half, twins=None):
        return computed(
            config.change(lr=1.02 * config.lr) if wide == torch.float32 else config, device, wide, half, twins
        )

    monkeypatch.setattr(gate, "_computed", faster)
    found = {check.what: check for check in gate.agreement("smoke", "published", CPU)}
    assert not found["update"].holds and found["logits"].holds


@pytest.mark.parametrize(
    "rates, jobs",
    [({1: 100.0, 2: 102.0, 4: 104.0}, 1), ({1: 100.0, 2: 190.0, 4: 195.0}, 2), ({1: 100.0, 2: 90.0, 4: 300.0}, 4)],
    ids=["one fills the device", "two do", "four are needed"],
)
def test_as_few_processes_are_chosen_as_do_nearly_the_most(rates, jobs):
    assert gate.choose(rates) == jobs


def a_run(code: str):
    """What starts a process in the place of a small run."""

    def start(protocol, folder):
        folder.mkdir()
        with open(folder / "said", "w") as said:
            run = subprocess.Popen([sys.executable, "-c", code], stdout=said, stderr=said)
        run.said = folder / "said"
        return run

    return start


@pytest.mark.parametrize(
    "code, seconds, words",
    [
        ("raise SystemExit('study: no such thing here')", 60, "status 1: study: no such thing here"),
        ("import time; time.sleep(600)", 2, "is not over in the time there is"),
    ],
    ids=["a run that fails", "a run that hangs"],
)
def test_the_gate_stays_shut_and_says_what_a_run_said_last(monkeypatch, code, seconds, words):
    monkeypatch.setattr(gate, "_small_run", a_run(code))
    monkeypatch.setattr(gate, "agreement", lambda *_: [])
    said = []
    with pytest.raises(gate.GateFailed, match=words):
        gate.gate("smoke", device=CPU, seconds=seconds, say=said.append)
    assert any(line.startswith("FAIL") and words in line for line in said)


def test_the_gate_stays_shut_where_a_number_is_off(monkeypatch):
    monkeypatch.setattr(gate, "_small_run", a_run(""))
    monkeypatch.setattr(gate, "agreement", lambda *_: [gate.Check("corrected", "float32", "logits", 0.1, 1e-4)])
    with pytest.raises(gate.GateFailed, match=r"largest logit 0\.1 \(at most 0\.0001"):
        gate.gate("smoke", device=CPU, say=lambda _: None)


def test_a_gpus_budget_is_refused_at_once_where_no_gpu_can_be_used(monkeypatch):
    monkeypatch.setattr(gate, "_small_run", None)  # nothing is started
    with pytest.raises(gate.GateFailed, match="budget brief is for a GPU, and PyTorch finds none"):
        gate.gate("brief", device=CPU, say=lambda _: None)


def test_more_processes_are_tried_only_where_the_memory_holds_them(monkeypatch):
    config = catalogue.config("adversarial", budget="smoke")
    monkeypatch.setattr(gate, "_memory", lambda device: 0.01)  # GB
    said = []
    rates = gate.paces(config, CPU, 300, said.append)
    assert list(rates) == [1] and rates[1] > 0
    assert "2 at a time, not tried" in said[-1]


def test_processes_that_fail_beside_others_leave_one_at_a_time(monkeypatch):
    asked = gate._all

    def failing(crew, seconds):
        if len(crew) > 1:
            raise gate.GateFailed("out of memory")
        return asked(crew, seconds)

    monkeypatch.setattr(gate, "_all", failing)
    rates = gate.paces(catalogue.config("adversarial", budget="smoke"), CPU, 300, lambda _: None)
    assert list(rates) == [1]


def test_a_small_run_that_is_late_does_not_shut_the_gate_where_the_other_was_through(monkeypatch):
    codes = {"published": "", "corrected": "import time; time.sleep(600)"}
    monkeypatch.setattr(gate, "_small_run", lambda protocol, folder: a_run(codes[protocol])(protocol, folder))
    monkeypatch.setattr(gate, "agreement", lambda *_: [])
    monkeypatch.setattr(gate, "paces", lambda *_: {1: 10.0})
    assert gate.gate("smoke", device=CPU, seconds=3, say=lambda _: None)["jobs"] == 1


def test_a_process_that_cannot_train_shuts_the_gate_with_its_reason():
    with pytest.raises(gate.GateFailed, match="a process could not train: "):
        gate.paces(catalogue.config("adversarial", budget="smoke"), torch.device("meta"), 60, lambda _: None)


def test_a_process_whose_network_diverges_says_so(monkeypatch):
    monkeypatch.setattr(gate, "Pace", Mock(side_effect=FloatingPointError("the logits are not finite")))
    ours, theirs = multiprocessing.Pipe()
    gate._serve(theirs, catalogue.config("adversarial", budget="smoke"), "cpu")
    assert ours.recv() == "FloatingPointError: the logits are not finite"


def test_the_pace_counts_whole_batches_of_clean_images_and_takes_a_step_at_least():
    config = catalogue.config("adversarial", budget="smoke", batch_size=8)
    images, seconds = gate.Pace(config, CPU)(0.0)
    assert images == 8 and seconds > 0


def test_what_half_precision_is_allowed_covers_what_it_does_here():
    """bfloat16 by autocast on this CPU, whose arithmetic is as coarse as a GPU's."""
    for protocol in catalogue.PROTOCOLS:
        config = catalogue.config(gate.KEY, protocol=protocol, budget="smoke")
        reference = gate._computed(config, CPU, torch.float64, None)
        seen = gate._computed(config, CPU, torch.float32, torch.bfloat16, twins=reference["twins"])
        limits = gate.LIMITS["half precision"]
        assert (seen["logits"] - reference["logits"]).abs().max() < limits["logits"] * reference["logits"].abs().max()
        assert (seen["update"] - reference["update"]).norm() < limits["update"] * reference["update"].norm()
