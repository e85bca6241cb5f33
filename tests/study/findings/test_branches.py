"""The four networks inside one of AdvProp's: made as they should be, read with care, and judged by the stated rules."""

import dataclasses
import re

import fake_records as fake
import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from miniature import same
from places import ROOT
from torch import nn

from advlib.norm import BRANCHES
from advlib.resnet import resnet18
from study import records
from study.__main__ import main
from study.evidence import comparisons, selection
from study.evidence.estimates import Estimate
from study.experiment import run
from study.experiment.network import Network
from study.experiment.weights import save_weights
from study.findings.branches import judge, measure, report
from study.findings.branches.judge import ANEW, AUX, COLUMNS, KEPT, MAIN, PAIRS, WAYS, Combinations, measurement
from study.plan.catalogue import config
from study.records import Measurement
from study.records.packing import pack_mask

RECORD = ROOT / "results" / "lite" / "cifar10-jpeg" / "corrected" / "advprop" / "seed0" / "record.json"
CROSSED = [pair for pair in PAIRS if pair not in (MAIN, AUX)]


def single(state) -> nn.Module:
    model = resnet18(width=8)
    model.load_state_dict(state)
    return model.eval()


def parts(pair) -> dict[str, str]:
    """Name of a tensor of a batch norm -> the branch that it comes from."""
    statistics, affine = pair
    return {
        "running_mean": statistics,
        "running_var": statistics,
        "num_batches_tracked": statistics,
        "weight": affine,
        "bias": affine,
    }


# the four networks


@pytest.mark.parametrize("norm", ["dual", "dual-except-shortcuts"])
def test_the_two_pure_combinations_are_the_branches_to_the_bit(tiny, batch, norm):
    model = tiny(norm=norm)
    for branch in BRANCHES:
        alone = single(measure.recombine(model.state_dict(), branch, branch))
        for asked in BRANCHES:
            assert torch.equal(alone(batch[0], asked), model(batch[0], branch))


def test_the_crossed_ones_are_neither_branch_nor_each_other(tiny, batch):
    model = tiny(norm="dual")
    logits = [single(measure.recombine(model.state_dict(), *pair))(batch[0]) for pair in PAIRS]
    assert all(not torch.allclose(a, b, atol=1e-3) for i, a in enumerate(logits) for b in logits[:i])


@pytest.mark.parametrize("pair", PAIRS)
@pytest.mark.parametrize(("norm", "dual"), [("dual", 20), ("dual-except-shortcuts", 17)])
def test_every_dual_layer_is_recombined_and_every_other_tensor_is_left_alone(tiny, pair, norm, dual):
    model = tiny(norm=norm)
    before, after = model.state_dict(), measure.recombine(model.state_dict(), *pair)
    layers = [name for name, module in model.named_modules() if type(module).__name__ == "DualBatchNorm2d"]
    assert len(layers) == dual
    for layer in layers:
        for part, branch in parts(pair).items():
            assert torch.equal(after.pop(f"{layer}.{part}"), before[f"{layer}.{branch}.{part}"])
    rest = {name: value for name, value in before.items() if not {"main", "aux"} & set(name.split("."))}
    assert same(after, rest)


def test_recombining_leaves_the_state_as_it_was(tiny):
    model = tiny(norm="dual")
    before = {name: value.clone() for name, value in model.state_dict().items()}
    single(measure.recombine(model.state_dict(), "main", "aux"))
    assert same(model.state_dict(), before)


def test_what_cannot_be_recombined_is_refused(tiny):
    with pytest.raises(ValueError, match="trained without AdvProp"):
        measure.recombine(tiny().state_dict(), "main", "aux")
    with pytest.raises(ValueError, match="unknown branch 'auxiliary': choose one of main, aux"):
        measure.recombine(tiny(norm="dual").state_dict(), "main", "auxiliary")


def test_the_branches_of_a_published_network_are_its_pure_combinations():
    found = Network(records.read(RECORD), ROOT / "models" / "advprop.safetensors")
    model, x = found.model, torch.rand(2, 3, 32, 32, device=found.device)
    for branch in BRANCHES:
        alone = measure.combined(model.state_dict(), found.record, (branch, branch), "relu")
        alone = alone.to(found.device, memory_format=torch.channels_last)
        assert torch.equal(alone(x), model(x, branch)) and not alone.training


# statistics measured anew


def test_statistics_measured_anew_are_those_of_the_images_and_nothing_else_changes(tiny, batch):
    model = tiny()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    batches = [batch[0][:2], batch[0][2:4]]
    measure.measure_statistics(model, batches)
    inputs = [model.stem(model.standardise(x)) for x in batches]  # of the first batch norm, whatever stands above it
    mean = torch.stack([z.mean(dim=(0, 2, 3)) for z in inputs]).mean(0)
    var = torch.stack([z.var(dim=(0, 2, 3)) for z in inputs]).mean(0)
    assert torch.allclose(model.stem_norm.running_mean, mean, atol=1e-5)
    assert torch.allclose(model.stem_norm.running_var, var, atol=1e-5)
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert {name.rsplit(".", 1)[1] for name in changed} <= {"running_mean", "running_var", "num_batches_tracked"}
    assert len([name for name in changed if name.endswith("running_mean")]) == 20
    assert not any(module.training for module in model.modules())
    assert {layer.momentum for layer in model.modules() if isinstance(layer, nn.BatchNorm2d)} == {0.1}


def test_statistics_measured_anew_weigh_images_and_not_batches(tiny, batch):
    """A last batch of one image counts as one, whether its neighbour has four or it is counted by itself."""
    x = torch.cat([batch[0][:4], torch.ones_like(batch[0][:1])])  # a white one: nothing like the others
    found = tiny()
    measure.measure_statistics(found, [x[:4], x[4:]])
    of_each = [found.stem(found.standardise(part)).mean(dim=(0, 2, 3)) for part in (x[:4], x[4:])]
    assert torch.allclose(found.stem_norm.running_mean, (4 * of_each[0] + of_each[1]) / 5, atol=1e-5)
    assert not torch.allclose(found.stem_norm.running_mean, (of_each[0] + of_each[1]) / 2, atol=1e-2)


def test_twins_are_attacked_as_in_training_and_stay_within_its_reach(tiny, batch):
    x, y = batch
    asked = config("advprop")
    (twin,) = measure.twins(tiny(), [x], [y], asked)
    reach = min(asked.train_eps, asked.train_steps * asked.train_step_size)
    assert 0 < (twin - x).abs().max() <= reach + 1e-6


# the file


def mask(accuracy: float, n: int = fake.IMAGES, shift: int = 0) -> np.ndarray:
    return np.roll(np.arange(n) < round(accuracy * n), shift)


def made_up(record, accuracies, n=fake.IMAGES) -> Combinations:
    """``accuracies``: (way, pair, column) -> share of right images, the first of n; 0.5 where none is given."""
    found = [
        Measurement(measurement(*place), place[2], {}, n, pack_mask(mask(accuracies.get(place, 0.5), n)))
        for place in ((way, pair, column) for way in WAYS for pair in PAIRS for column in COLUMNS)
    ]
    return Combinations(**fake.about(record, n), training_images=4000, measurements=tuple(found))


@pytest.fixture
def record():
    return fake.record("advprop", **{"corrected:clean": 0.5, "corrected:clean:aux": 0.5})


@pytest.mark.parametrize("k", [0, 5, -1])
def test_a_file_that_lacks_one_of_the_four_networks_in_a_column_is_refused_with_the_remedy(record, tmp_path, k):
    found = made_up(record, {})
    without = [one for one in found.measurements if one != found.measurements[k]]
    path = fake.beside(dataclasses.replace(found, measurements=tuple(without)), tmp_path)
    lacking = re.escape(found.measurements[k].name)
    with pytest.raises(ValueError, match=f"{lacking}.*python -m study measure branches advprop"):
        Combinations.read(path, record)


def test_an_image_must_survive_both_gradients(record):
    found = made_up(record, {(KEPT, MAIN, "pgd-0.1"): 0.5})
    name = f"{measurement(KEPT, MAIN, 'pgd-0.1')}:surrogate"
    more = Measurement(name, "pgd-0.1", {}, fake.IMAGES, pack_mask(mask(0.5, shift=40)))
    both = dataclasses.replace(found, measurements=(*found.measurements, more)).right(KEPT, MAIN, "pgd-0.1")
    assert (both == (mask(0.5) & mask(0.5, shift=40))).all() and both.sum() == 60


COMMITTED = sorted((ROOT / "results").glob(f"lite/*/*/*/seed*/{Combinations.FILE}"))


@pytest.mark.parametrize("path", COMMITTED, ids=[path.parent.parent.name for path in COMMITTED])
def test_a_committed_file_is_of_the_records_attacks_and_says_of_the_branches_what_the_record_says(path):
    record = records.read(path.with_name("record.json"))
    found = Combinations.read(path, record)
    for one in found.measurements:
        _, _, column, *surrogate = one.name.split(":")
        theirs = record.measurement(":".join(["corrected", column, *surrogate]))
        assert one.attack == theirs.attack
    for pair, mark in ((MAIN, ""), (AUX, ":aux")):
        for column in COLUMNS:
            theirs = comparisons.survivors(record, f"corrected:{column}{mark}")
            ours = found.right(KEPT, pair, column)[: len(theirs)]
            assert (ours == theirs[: len(ours)]).mean() > 0.95, "the weights are rounded, and no more"


# what follows from it


def crossing(record, accuracies, n=1000):
    return judge.crossing("advprop", "corrected", [made_up(record, accuracies, n)])


@pytest.mark.parametrize(
    ("main_aux", "aux_main", "aux_aux", "carrier"),
    [
        (0.5, 0.1, 0.5, judge.AFFINE),
        (0.1, 0.5, 0.5, judge.STATISTICS),
        (0.3, 0.3, 0.5, judge.BOTH),
        (0.5, 0.5, 0.1, judge.UNDECIDED),  # the branches do not differ
        (0.9, 0.7, 0.101, judge.UNDECIDED),
    ],
)
def test_what_carries_a_difference_follows_the_rules(record, main_aux, aux_main, aux_aux, carrier):
    rates = dict(zip(PAIRS, (0.1, main_aux, aux_main, aux_aux), strict=True))
    found = crossing(record, {(ANEW, pair, "clean"): rate for pair, rate in rates.items()})
    assert found.split(ANEW, "clean").carrier == carrier
    mirrored = crossing(record, {(ANEW, pair, "clean"): 1 - rate for pair, rate in rates.items()})
    assert mirrored.split(ANEW, "clean").carrier == carrier, "a loss is carried as a gain is"


def test_the_two_main_effects_add_up_to_the_difference_between_the_branches(record):
    rng = np.random.default_rng(0)
    places = [(way, pair, column) for way in WAYS for pair in PAIRS for column in COLUMNS]
    found = crossing(record, {place: rng.uniform() for place in places})
    for split in found.splits:
        rate = {pair: found.accuracy(split.way, pair, split.column).value for pair in PAIRS}
        mm, ma, am, aa = (rate[pair] for pair in PAIRS)
        assert split.branches.value == pytest.approx(aa - mm)
        assert split.statistics.value + split.affine.value == pytest.approx(aa - mm)
        assert split.affine.value == pytest.approx(((ma - mm) + (aa - am)) / 2)
        assert split.interaction.value == pytest.approx(((aa - am) - (ma - mm)) / 2)
        assert split.lead.value == pytest.approx(split.affine.value - split.statistics.value)


def test_all_comparisons_of_a_network_share_one_error():
    estimates = sum(field.type is Estimate for field in dataclasses.fields(judge.Split))
    assert estimates == 5
    assert 1 - judge.CONFIDENCE == pytest.approx(0.05 / (2 * (4 * 5 + 1)))


def test_the_answer_follows_the_numbers(record):
    strong = COLUMNS[-1]
    by_affine = {(way, pair, strong): 0.4 if pair[1] == "aux" else 0.1 for way in WAYS for pair in PAIRS}
    by_statistics = {(way, pair, strong): 0.4 if pair[0] == "aux" else 0.1 for way in WAYS for pair in PAIRS}
    said = {
        name: report.answer([crossing(record, rates)])
        for name, rates in [("affine", by_affine), ("statistics", by_statistics), ("neither", {})]
    }
    assert "anew: affine parameters in 1 of 1 network." in said["affine"]
    assert "is what Zhang et al. report" in said["affine"] and "change accuracy by +0.0 points" in said["affine"]
    assert "anew: statistics in 1 of 1 network." in said["statistics"] and "That is not what" in said["statistics"]
    assert "change accuracy by +30.0 points" in said["statistics"]
    assert "anew: undecided in 1 of 1 network." in said["neither"]
    assert "neither confirmed nor refuted" in said["neither"]


def test_crossed_networks_that_do_not_work_are_said_so(record):
    broken = {(KEPT, pair, "clean"): 0.1 for pair in CROSSED}
    said = report.explained(crossing(record, broken))
    assert said.count("do not fit each other") == 1
    assert "of a difference of +0.0" in said and "whether there is one is **undecided**" in said
    assert "do not fit" not in report.explained(crossing(record, {}))


def test_the_tables_show_the_numbers_of_the_file(record):
    found = crossing(record, {(ANEW, ("main", "aux"), "clean"): 0.724})
    assert "72.4<" in report.four_networks(found)
    assert report.four_networks(found).count('scope="row"') == len(WAYS) * len(PAIRS)
    effects = report.effects(found)
    assert "<strong>+11.2</strong>" in effects and "99.88 %" in effects  # (22.4 + 0) / 2
    assert effects.count("undecided") + effects.count("affine parameters</td>") == len(WAYS) * len(COLUMNS)


def test_the_figure_shows_each_network_each_way_and_its_words_say_the_numbers(record):
    found = crossing(record, {(ANEW, ("main", "aux"), COLUMNS[-1]): 0.724})
    figure = report.crossed([found, found])
    plt.close(figure)
    assert len(figure.axes) == 2 * len(COLUMNS)
    for axes, column in zip(figure.axes[: len(COLUMNS)], COLUMNS, strict=True):
        drawn = [container.lines[0].get_xdata()[0] for container in axes.containers]
        assert drawn == [100 * found.accuracy(way, pair, column).value for way in WAYS for pair in PAIRS]
    words = report.crossed_words([found], [record])
    assert "statistics measured anew: main + main 50.0 %, main + aux 72.4 %" in words["alt"]
    with pytest.raises(ValueError, match="python -m study measure branches"):
        report.crossed([])


def test_the_branches_of_every_row_with_two_are_compared_over_the_same_images():
    group = [fake.record(key, protocol) for key in ("advprop", "sat-advprop", "sat") for protocol in ("corrected",)]
    found = report.two_branches(group)
    assert set(found) == {("advprop", "corrected"), ("sat-advprop", "corrected")}
    for (key, protocol), columns in found.items():
        (record,) = selection.runs_of(group, key, protocol)
        both = columns["clean"]
        main, aux = (record.measurement(f"corrected:clean{mark}").accuracy for mark in ("", ":aux"))
        assert (both.main.value, both.aux.value) == (main, aux) and both.gain.value == pytest.approx(aux - main)
    assert found["sat-advprop", "corrected"]["pgd-0.1"].gain.n == fake.SWEEP, "as many as the surrogate has seen"
    assert report.both_branches(group).count('scope="row"') == 2


def test_a_branch_that_guesses_is_not_called_robust():
    worse = {"corrected:clean:aux": 0.1, "corrected:clean": 0.6, "corrected:pgd-20-8/255": 0.0}
    said = report.which_is_robust([fake.record("advprop", **worse, **{"corrected:pgd-20-8/255:aux": 0.1})])
    assert "the auxiliary branch is ahead in 1 of 1" in said and "10.0 % of clean images" in said
    assert "no robustness" in said
    honest = {"corrected:clean:aux": 0.5, "corrected:clean": 0.6}
    assert "no robustness" not in report.which_is_robust([fake.record("advprop", **honest)])


def test_without_a_file_the_page_says_how_to_make_it(record):
    assert judge.crossings([record], {}) == []
    said = report.missing([record], [])
    assert "measured for 0" in said and f"python -m study measure branches {record.key} {record.flags}`" in said
    assert report.missing([record], [crossing(record, {})]) == ""


# the command


def test_the_command_attacks_all_four_and_leaves_a_file_beside_the_record(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(measure, "TRAINING_IMAGES", 64)
    monkeypatch.setattr(measure, "PGD_20", dataclasses.replace(measure.PGD_20, steps=2))  # seconds, not minutes
    asked = config("sat-advprop", budget="smoke", epochs=1)
    learned = run.learn(asked)
    clean = ("corrected:clean", "corrected:clean:aux")
    record = fake.trained("sat-advprop", asked, learned.models, learned.dataset, clean)
    folder = fake.put(record, tmp_path)
    weights = save_weights(learned.model, tmp_path / "model.safetensors", record)
    command = ["measure", "branches", "sat-advprop", "--budget", "smoke", "--images", "12", "--results", str(tmp_path)]
    assert main([*command, "--weights", str(weights)]) == 0
    assert "of 12 images right, statistics+affine: kept:main+main:clean" in capsys.readouterr().out
    found = Combinations.read(folder / Combinations.FILE, record)
    assert len(found.measurements) == len(WAYS) * len(PAIRS) * 7, "four columns, three of them under two gradients"
    for pair, mark in ((MAIN, ""), (AUX, ":aux")):
        assert (found.right(KEPT, pair, "clean") == record.measurement(f"corrected:clean{mark}").mask[:12]).all()
    assert found.training_images == 64 and set(found.provenance) >= {"commit", "versions", "device"}
    command[command.index("12")] = "4"
    assert main([*command, "--weights", str(weights)]) == 2
    assert "is of 12 images, not of 4: ask for --images 12" in capsys.readouterr().err
