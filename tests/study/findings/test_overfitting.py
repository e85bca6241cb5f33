"""Watching a training changes nothing, sees what the evaluation would see, and is judged by the rule as written."""

import dataclasses

import fake_records as fake
import matplotlib.pyplot as plt
import miniature
import numpy as np
import pytest

from study import records
from study.__main__ import main
from study.experiment import build, retrain, run
from study.experiment.unfinished import digest
from study.findings.overfitting import judge, measure, report
from study.findings.overfitting.judge import Watched
from study.machine.interrupt import Interrupted
from study.plan.config import Config
from study.records import Measurement, write
from study.records.packing import pack_mask

MIX = {
    "adversarial": True,
    "norm": "dual",
    "activation": "surrogate-relu",
    "train_eps": 0.05,
    "train_random_start": True,
}
ALL = 24
DATA = miniature.dataset(32, ALL)


@pytest.fixture(autouse=True)
def data(monkeypatch):
    for module in (run, retrain):
        monkeypatch.setattr(module, "load", lambda name: DATA)


@pytest.fixture(scope="module")
def finished():
    """A run of a second, and the digest of the network that it ended with."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run, "load", lambda name: DATA)
        done = run.run(miniature.config(**MIX), key="sat-advprop", protocol="corrected", budget="smoke", device="cpu")
    return done.record, digest(done.models["surrogate"])


# ---- a training that is watched


def test_a_watched_training_ends_with_the_same_network_bit_for_bit(finished):
    record, weights = finished
    config = miniature.config(**MIX)
    names = judge.columns(config)
    learned = run.learn(config, device="cpu", watch=lambda model, data: measure.look(model, data, config, names, 24))
    assert digest(learned.models["surrogate"]) == weights
    assert [len(line["watched"]) for line in learned.curve] == [3] * record.config["epochs"]


def test_after_the_last_epoch_it_sees_what_a_run_measures(finished):
    """The attacks of the records' sweep, through the auxiliary branch; the main one has them in its record."""
    record, _ = finished
    watched = measure.watch(record, images=20)
    assert watched.images == 20 and watched.record_digest == records.digest(record)
    assert [m.column for m in watched.epochs[-1]] == ["clean", "fgsm-8/255", "pgd-10-8/255"]
    assert all(m.attack["branch"] == m.attack["through"] == "aux" for epoch in watched.epochs for m in epoch)
    clean = record.measurement("corrected:clean:aux")
    assert np.array_equal(watched.epochs[-1][0].mask, clean.mask[:20])
    assert {m.attack["gradient"] for m in watched.epochs[-1]} == {"true"}


def test_with_one_batch_norm_it_watches_the_only_branch(finished):
    config = miniature.config(**MIX | {"norm": "shared"})
    done = run.run(config, key="sat", protocol="corrected", budget="smoke", device="cpu")
    last = measure.watch(done.record, images=ALL).epochs[-1]
    for measurement in last:
        theirs = done.record.measurement(measurement.name.removeprefix("epoch-2:"))
        assert np.array_equal(measurement.mask[: theirs.n], theirs.mask)


def cut_off_after_an_epoch(model, images, labels, config, *, fit=run.training.fit, **options):
    answers = iter([False] * (len(images) // config.batch_size) + [True])
    fit(model, images, labels, config, **options | {"stop": lambda: next(answers)})


def test_a_training_that_was_cut_off_goes_on_and_keeps_what_was_seen(finished, tmp_path, monkeypatch):
    record, _ = finished
    whole, fit, trained = measure.watch(record, images=ALL), run.training.fit, []
    monkeypatch.setattr(run.training, "fit", cut_off_after_an_epoch)
    with pytest.raises(Interrupted):
        measure.watch(record, images=ALL, work=tmp_path)
    real = build.STEPS["joint"]
    monkeypatch.setattr(run.training, "fit", fit)
    monkeypatch.setitem(build.STEPS, "joint", lambda *args: trained.append(1) or real(*args))
    assert measure.watch(record, images=ALL, work=tmp_path).epochs == whole.epochs
    assert len(trained) == 32 // record.config["batch_size"]  # the second of two epochs


def test_a_training_watched_on_fewer_images_is_not_gone_on_from(finished, tmp_path, monkeypatch):
    record, _ = finished
    fit = run.training.fit
    monkeypatch.setattr(run.training, "fit", cut_off_after_an_epoch)
    with pytest.raises(Interrupted):
        measure.watch(record, work=tmp_path, images=10)
    monkeypatch.setattr(run.training, "fit", fit)
    assert {m.n for epoch in measure.watch(record, work=tmp_path, images=20).epochs for m in epoch} == {20}


def test_provenance_is_of_before_the_training_and_threads_are_those_it_had(finished, monkeypatch):
    record, _ = finished
    order, real = [], measure.retrain
    monkeypatch.setattr(measure, "retrain", lambda *args, **options: order.append("training") or real(*args, **options))
    monkeypatch.setattr(measure, "provenance", lambda *_: order.append("provenance") or {"threads": 99})
    found = measure.watch(record, images=ALL)
    assert order == ["provenance", "training"] and found.provenance["threads"] == record.provenance["threads"]


def test_the_command_leaves_a_file_beside_the_record_and_says_what_it_saw(finished, tmp_path, capsys, monkeypatch):
    record, _ = finished
    monkeypatch.setenv("ADVLIB_WORK", str(tmp_path / "work"))
    where = records.run_folder("smoke", "digits", "corrected", "sat-advprop", 0)
    record = dataclasses.replace(record, config=record.config | {"dataset": "digits"})
    path = write(record, tmp_path / where / "record.json")
    asked = ["measure", "overfitting", "sat-advprop", "--budget", "smoke", "--results", str(tmp_path)]
    assert main([*asked, "--images", "10"]) == 0, "without a file of weights"
    assert "the record repeats; pgd-10-8/255" in capsys.readouterr().out
    found = Watched.read(path.with_name(Watched.FILE), record)
    assert found.images == 10 and found.provenance["versions"] and found.weights == ""
    assert main([*asked, "--images", "4"]) == 2
    assert "is of 10 images, not of 4: ask for --images 10" in capsys.readouterr().err
    for images in ("25", "0"):
        assert main([*asked, "--images", images, "--anew"]) == 2
        assert f"{images} images are asked for, and {record.where} was tested on 24" in capsys.readouterr().err
    assert Watched.read(path.with_name(Watched.FILE), record) == found


# ---- what is set against the attack of the training


@pytest.mark.parametrize(
    ("changes", "size"),
    [
        ({"train_eps": 0.1, "train_step_size": 2 / 255, "train_steps": 2}, 4),  # two steps of 2/255 reach no further
        ({"train_eps": 0.1, "train_step_size": 0.1, "train_steps": 2}, 16),  # 25.5/255: the largest that records have
        ({"train_eps": 8 / 255, "train_step_size": 2 / 255, "train_steps": 10}, 8),
        ({"train_eps": 0.1, "train_step_size": 2 / 255, "train_steps": 2, "train_random_start": True}, 16),
    ],
)
def test_the_attacks_that_are_watched_are_no_larger_than_that_of_the_training(changes, size):
    config = miniature.config(adversarial=True, **changes)
    assert judge.size(config) == size
    assert judge.columns(config) == ("clean", f"fgsm-{size}/255", f"pgd-10-{size}/255")


@pytest.mark.parametrize(
    "changes",
    [
        {"adversarial": False, "norm": "shared"},
        {"attack_space": "standardised"},
        {"norm": "dual", "attack_branch": "main"},
    ],
)
def test_a_training_whose_attack_cannot_be_compared_is_refused_before_it_starts(finished, changes, monkeypatch):
    record, _ = finished
    monkeypatch.setattr(measure, "retrain", None)
    with pytest.raises(ValueError, match="no attack to overfit to|can be set against"):
        measure.watch(dataclasses.replace(record, config=record.config | changes), images=ALL)


# ---- the verdict


def epoch(k: int, one: float, many: float, n: int = 200) -> tuple[Measurement, ...]:
    """Made-up measurements of epoch ``k``; the clean ones are those of the fake record."""
    clean = fake.record().measurement("corrected:clean").mask[:n]
    names = judge.columns(Config(**fake.record().config))
    masks = dict(zip(names, (clean, np.arange(n) < one * n, np.arange(n) < many * n), strict=True))
    return tuple(Measurement(f"epoch-{k}:corrected:{c}", c, {}, n, pack_mask(mask)) for c, mask in masks.items())


def made(*epochs: tuple[float, float, float]) -> tuple[records.Record, Watched]:
    """``epochs``: accuracy in training, under FGSM, under PGD-10."""
    curve = [
        {"epoch": k + 1, "lr": 0.1, "loss": 1.0, "clean_accuracy": 0.5, "adversarial_accuracy": trained, "seconds": 1.0}
        for k, (trained, _, _) in enumerate(epochs)
    ]
    record = dataclasses.replace(fake.record(), curve=curve)
    seen = [one for k, (_, *rates) in enumerate(epochs) for one in epoch(k + 1, *rates)]
    return record, Watched(**fake.about(record), measurements=tuple(seen))


@pytest.mark.parametrize(
    ("epochs", "verdict", "which"),
    [
        ([(0.3, 0.3, 0.2), (0.9, 0.9, 0.0)], judge.OVERFITS, [2]),
        ([(0.9, 0.9, 0.0), (0.4, 0.3, 0.3)], judge.RECOVERS, [1]),
        ([(0.3, 0.3, 0.2), (0.4, 0.4, 0.3)], judge.SPARED, []),
        # below a quarter, but not for certain: 22 of 100 is within the interval of 40 images of 200
        ([(0.9, 0.9, 0.20), (0.9, 0.9, 0.20)], judge.SPARED, []),
        ([(0.9, 0.9, 0.12), (0.9, 0.9, 0.12)], judge.OVERFITS, [1, 2]),
        # FGSM falls together with PGD, where the network resists the attack of its training alone
        ([(0.9, 0.0, 0.0)], judge.OVERFITS, [1]),
    ],
)
def test_an_epoch_is_overfitted_where_pgd_is_for_certain_below_a_quarter_of_the_training(epochs, verdict, which):
    record, watched = made(*epochs)
    assert (judge.verdict(watched, record), judge.overfitted(watched, record)) == (verdict, which)


def test_all_epochs_share_one_error():
    """12.5 % of 200 lies certainly below 0.2 in one epoch of one, and not so among two hundred."""
    alone, many = made((0.8, 0.8, 0.125)), made(*[(0.8, 0.8, 0.125)] * 200)
    assert judge.overfitted(alone[1], alone[0]) == [1]
    assert judge.overfitted(many[1], many[0]) == []


# ---- the file, the table, the figure


@pytest.mark.parametrize(
    "change",
    [
        lambda seen: seen[:3],  # an epoch less
        lambda seen: [*seen, *epoch(3, 0.5, 0.5)],
        lambda seen: seen[:-1],
        lambda seen: seen[3:] + seen[:3],
        lambda seen: [seen[0], seen[2], seen[1], *seen[3:]],
        lambda seen: [*seen[:-1], dataclasses.replace(seen[-1], column="pgd-20-4/255")],
        lambda seen: [],
    ],
)
def test_a_file_of_other_epochs_or_other_attacks_is_refused_with_the_remedy(tmp_path, change):
    record, watched = made((0.3, 0.3, 0.2), (0.9, 0.9, 0.0))
    assert watched.epochs == [watched.measurements[:3], watched.measurements[3:]]
    other = dataclasses.replace(watched, measurements=tuple(change(list(watched.measurements))))
    path = fake.beside(other, tmp_path)
    with pytest.raises(
        ValueError, match=r"\(it is of other epochs or other attacks\).*python -m study measure overfitting advprop"
    ):
        Watched.read(path, record)


def test_the_table_and_the_figure_show_the_numbers_of_the_file(monkeypatch):
    monkeypatch.setattr("study.presentation.markup.links", lambda runs: "")
    found = [made((0.3, 0.4, 0.25), (0.9, 0.95, 0.0)), made((0.3, 0.4, 0.25), (0.4, 0.4, 0.3))]
    table = report.summary(found)
    for number in ("90.0", "95.0", "0.0", "25.0", "epoch 1", "overfits: epochs 2", "spared"):
        assert number in table, number
    figure = report.by_epoch(found)
    panel = figure.axes[0]
    assert [list(line.get_ydata()) for line in panel.lines] == [[30, 90], [40, 95], [25, 0]]
    assert panel.get_title("left") == "AdvProp\ncorrected, ε = 4/255"
    plt.close(figure)
    words = report.by_epoch_words(found)
    assert "AdvProp, corrected, overfits: PGD-10 4/255 25.0 %, 0.0 %." in words["alt"]
    assert "first 200 test images" in words["caption"]


def test_nothing_watched_shows_nothing():
    assert report.summary([]) == "" and judge.collect("nowhere", [fake.record()]) == []
