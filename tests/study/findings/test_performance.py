"""What is said of speed follows from the rounds that were measured, and the races measure what they say."""

import json

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch

from benchmarks import crafting, half, machine, tf32, training, where
from benchmarks.race import WARM_UP, Contestant, race
from study.findings.performance import speed
from study.findings.performance.speed import Measured, Ratio
from study.plan import arithmetic, catalogue
from study.plan.attacks import PAPER_COLUMNS, PGD_20
from study.records import Measurement
from study.records.packing import pack_mask

MACHINE = {"device": "cpu: A Processor", "matrix_product_tflops": {"float32": 0.5, "bfloat16": 2.0}}


def line(contestant: str, *rounds: float, setting: str = "width 64, batch 128", rate: float = 100.0) -> dict:
    return {
        "setting": setting,
        "contestant": contestant,
        "first": 9.0,
        "rounds": list(rounds),
        "images_per_second": rate,
        "peak_memory_gb": 1.0,
        "largest_difference": 0.0,
    }


def measured(**answers) -> Measured:
    return Measured("a-machine", {name: {"machine": MACHINE, "rows": rows} for name, rows in answers.items()})


def test_a_ratio_is_taken_round_by_round_so_a_drift_of_the_machine_cancels():
    slow, fast = line("a", 2.0, 20.0, 200.0), line("b", 1.0, 10.0, 100.0)
    assert speed.faster(fast, slow) == Ratio(2.0, 2.0, 2.0)
    assert speed.faster(slow, fast) == Ratio(0.5, 0.5, 0.5)


def test_the_median_of_the_rounds_is_said_with_the_extremes():
    assert str(speed.faster(line("b", 1.0, 1.0, 1.0), line("a", 3.0, 1.0, 2.0))) == "2.00 (1.00 to 3.00)"


def test_rounds_of_two_races_cannot_be_compared():
    with pytest.raises(ValueError, match="zip"):
        speed.faster(line("a", 1.0), line("b", 1.0, 2.0))


def test_the_fastest_peer_is_none_of_ours():
    contestants = {name: line(name, took) for name, took in [("ours, fast", 0.1), ("foolbox", 3.0), ("art", 2.0)]}
    assert speed.fastest_peer(contestants) == "art"


def test_the_share_of_the_peak_is_the_step_s_arithmetic_over_the_matrix_product_of_its_precision():
    exact, half = line("ours, float32", 1.0, rate=10.0), line("ours, fast", 1.0, rate=10.0)
    found = measured(training=[exact, half])
    operations = arithmetic.training(catalogue.config("adversarial", epochs=1), 1)  # of an image, at width 64
    assert speed.share_of_peak(found, "training", exact) == pytest.approx(10 * operations / 0.5e12)
    assert speed.share_of_peak(found, "training", half) == pytest.approx(10 * operations / 2e12)


def test_the_summary_says_the_ratios_that_the_rounds_give():
    found = measured(
        crafting=[line("ours, float32", 1.0), line("art", 1.5), line("foolbox", 2.0), line("ours, fast", 0.3)],
        training=[line("common practice", 8.0), line("ours", 2.0), line("ours, fast", 1.6)],
    )
    said = speed.summary(found)
    assert "1.50 times as fast as art" in said and "5.0 times in the fast mode." in said
    assert "4.00 (4.00 to 4.00) times as fast as common practice, 5.00 (5.00 to 5.00) times in the fast" in said


def test_a_lever_that_did_not_help_in_every_round_is_not_said_to_help():
    found = measured(
        levers=[line("fast", 1.0, 1.0), line("with a", 0.5, 0.5), line("with b", 0.5, 1.5), line("without c", 2.0, 2.0)]
    )
    assert speed.helped(found) == "Width 64, batch 128: faster in every round with a (2.00); not with b (1.33)."


def test_every_answer_is_printed_and_drawn():
    rows = {
        "crafting": [line("ours, float32", 1.0), line("art", 1.5), line("ours, fast", 0.3)],
        "training": [line("common practice", 8.0), line("ours", 2.0), line("ours, fast", 1.6)],
        "levers": [line("fast", 1.0), line("without a", 2.0)],
        "curves": [line(f"width {w}", 1.0) | {"along": "width", "width": w, "batch": 8, "steps": 2} for w in (8, 16)],
        "threads": [line("2 threads", 1.0), line("1 thread", 1.5)],
        "start-up": [{"what": "python", "seconds": 0.012}],
        "where": [{"kind": "copies", "share": 0.25}],
        "half": gradients(zeros=0.125, signs=0.5),
        "tf32": [verdicts("adversarial", images=100, changed=3, more=1)],
    }
    found = measured(**rows)
    printed = speed.text(found)
    assert all(title in printed for title in speed.TITLES.values())
    assert "0.012 s" in printed and "25.0 %" in printed and "1.50 (1.50 to 1.50)" in printed
    tables = "".join(speed.question(found, name) for name in speed.TITLES if name not in ("curves", "where"))
    assert "nan" not in tables and tables.count("<table") == 6
    for figure in (speed.bars(found), speed.lines(found), speed.spent(found)):
        figure.canvas.draw()
        plt.close(figure)
    said = speed.spent_words(found)["alt"]
    assert all(f"{line['kind']} {100 * line['share']:.0f} %" in said for line in rows["where"])


def gradients(**shares) -> list[dict]:
    network = {"network": "adversarial", "images": 4}
    return [network | {"way": way, "times": times} | shares for way in half.WAYS for times in half.TIMES]


def verdicts(network: str, **counts) -> dict:
    return {"network": network, "attack": "corrected:fgsm-0.1", **counts}


def test_what_is_said_of_tensorfloat_32_is_the_worst_of_all_networks_and_attacks():
    rows = [verdicts("adversarial", images=200, changed=3, more=-2), verdicts("advprop", images=100, changed=2, more=0)]
    said = speed.rounding_changes(measured(tf32=rows))
    assert "Adversarial and AdvProp" in said and "at most 2 of 100 images" in said and "more than 1.0 points" in said
    assert speed.rounding_changes(measured(half=[])) == ""


def test_verdicts_that_rounding_changes_are_counted_image_by_image(tiny, batch, monkeypatch):
    """Two evaluations that differ in three images, two of them gained: nothing of that may cancel."""
    x, y = batch
    masks = {False: [True, True, False, False, True], True: [True, False, True, True, True]}

    def evaluate(models, images, labels, attacks, *, tf32, **how):
        return [Measurement(a.name, a.column, a.specification, 5, pack_mask(np.array(masks[tf32]))) for a in attacks]

    monkeypatch.setattr(tf32, "evaluate", evaluate)
    (line,) = tf32.changed(tiny(), (255 * x).byte(), y, PAPER_COLUMNS[:1], strong_size=5)
    assert line == {"attack": "corrected:clean", "images": 5, "changed": 3, "more": 1}


def test_on_a_cpu_an_evaluation_is_float32_either_way(tiny, batch):
    x, y = batch
    lines = tf32.changed(tiny(), (255 * x).byte(), y, [*PAPER_COLUMNS, PGD_20], strong_size=3)
    assert [line["images"] for line in lines] == [5] * len(PAPER_COLUMNS) + [3]
    assert all(line["changed"] == 0 for line in lines)


def test_what_is_said_of_half_precision_is_the_worst_network_at_the_largest_logits():
    rows = gradients(zeros=0.0, signs=1.0)
    for line in rows + (other := [line | {"network": "advprop"} for line in rows]):
        line |= {"zeros": 0.25, "signs": 0.5} if line["way"] == "float16, cross-entropy" else {}
    other[8] |= {"zeros": 0.75, "signs": 0.125}  # float16, times 10
    said = speed.left_of_the_gradient(measured(half=rows + other))
    assert said.startswith(
        "With logits 10 times as large, up to 75.0 % of the gradient's entries are 0 in float16, and"
    )
    assert "as few as 12.5 % of the signs" in said and "Of the log-odds' entries 0.0 % are 0" in said
    assert speed.left_of_the_gradient(measured(where=[])) == ""


def test_what_half_precision_leaves_of_a_gradient_is_counted_against_double_precision(tiny, batch):
    found = {(line["way"], line["times"]): line for line in half.kept(tiny(), *batch)}
    assert found.keys() == {(way, times) for way in half.WAYS for times in half.TIMES}
    exact = found["float32, cross-entropy", 1]
    assert exact["zeros"] == 0 and exact["signs"] > 0.99
    assert all(0 <= line[what] <= 1 for line in found.values() for what in ("zeros", "signs"))


def test_a_machine_that_was_not_asked_a_question_says_nothing_of_it():
    assert speed.question(measured(training=[line("common practice", 1.0)]), "crafting") == ""


@pytest.mark.parametrize(
    "content", ["{", "{}", '{"gossip": {"machine": {}, "rows": []}}', '{"training": {"rows": []}}', "[1]"]
)
def test_a_damaged_result_is_named_with_the_remedy(tmp_path, content):
    (tmp_path / "cpu-x.json").write_text(content)
    with pytest.raises(ValueError, match="cpu-x.json is no result of `make bench`.*measure again"):
        speed.read(tmp_path)


def test_gpus_are_shown_first(tmp_path):
    for name in ("cpu-a", "cuda-b"):
        (tmp_path / f"{name}.json").write_text(json.dumps({"where": {"machine": MACHINE, "rows": []}}))
    assert [found.name for found in speed.read(tmp_path)] == ["cuda-b", "cpu-a"]


def test_the_committed_results_can_be_read_and_said():
    for found in speed.read():
        assert found.device in speed.text(found)
        speed.summary(found)


def test_the_machine_is_named_by_what_it_is_and_not_by_its_name():
    assert machine.slug({"device": "cpu: Intel(R) Xeon(R) Processor", "cores": 2}) == "cpu-intel-xeon-processor-2-cores"
    assert machine.slug({"device": "cuda: NVIDIA H200", "cores": 16}) == "cuda-nvidia-h200"


def test_the_peak_of_a_device_is_a_rate_that_it_has_reached():
    rate = machine.peak(torch.float32, torch.device("cpu"), seconds=0.1)
    assert 0 < rate < 1000


def test_contestants_take_turns_and_rounds_that_warm_up_do_not_count():
    here = "tests.contestants:work"
    contestants = [Contestant("a", here, {"value": 1.0}), Contestant("b", here, {})]
    rows = race("waiting", contestants, images=2, rounds=2, shortest=0.0)
    assert [len(row["rounds"]) for row in rows] == [2, 2]
    assert [row["largest_difference"] for row in rows] == [0.0, WARM_UP + 2 - 1.0]  # b worked once a round
    assert all(0.1 < row["peak_memory_gb"] < 50 for row in rows)


def test_short_work_is_done_again_until_the_round_is_long_enough():
    here = "tests.contestants:work"
    _, short = race(
        "x", [Contestant("a", here, {"value": 1.0}), Contestant("b", here, {})], images=1, rounds=1, shortest=0.05
    )
    assert short["largest_difference"] > WARM_UP + 1  # it says how often it has worked


def test_what_a_contestant_takes_is_what_is_measured():
    waiting = Contestant("a", "tests.contestants:work", {"seconds": 0.4})
    (row,) = race("waiting", [waiting], images=10, rounds=1, shortest=0.1)
    assert 0.4 <= row["rounds"][0] and row["images_per_second"] <= 25


def test_a_contestant_that_dies_says_why():
    with pytest.raises(RuntimeError, match="lame died(.|\n)*no engine"):
        race("x", [Contestant("lame", "tests.contestants:broken")], images=1, rounds=1)


@pytest.mark.slow
def test_four_libraries_make_our_images_on_the_network_that_is_raced():
    pytest.importorskip("cleverhans"), pytest.importorskip("art")
    options = {"width": 8, "batch": 4, "eps": 8 / 255, "step_size": 2 / 255, "steps": 3}
    ours = crafting.ours(**options)()
    for peer in crafting.PEERS:
        theirs = getattr(crafting, peer)(**options)()
        torch.testing.assert_close(theirs, ours, rtol=0, atol=1e-6)


@pytest.mark.parametrize("lever", [name for name in training.LEVERS if "compile" not in name])
def test_with_any_lever_moved_a_step_can_be_taken_and_taken_again(lever):
    options, _ = training.LEVERS[lever]
    step = training.step(width=8, batch=8, **options)
    assert step() is None and step() is None


def test_the_shares_of_the_operators_add_up_to_all_of_the_time():
    rows = where.shares(width=8, batch=8, steps=1)
    assert sum(row["share"] for row in rows) == pytest.approx(1, abs=0.001)
    assert {"convolution, forward", "convolution, backward"} <= {row["kind"] for row in rows}
