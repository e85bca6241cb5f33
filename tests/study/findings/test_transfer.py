"""Images from other rows, and the smoothed target: they catch a network that leads its attack astray, and no other."""

import dataclasses
import json
import shutil
from hashlib import sha256
from pathlib import Path

import fake_records as fake
import matplotlib.pyplot as plt
import pytest
import torch
from test_probe import Stopped

from advlib.losses import als
from study import records
from study.__main__ import main
from study.data.pixels import to_pixels
from study.experiment import run
from study.experiment.weights import save_weights
from study.findings.masking import checks, judge, measure, probes, report, transfer
from study.findings.masking.probes import Probe
from study.machine.folders import MARKS
from study.plan import catalogue
from study.plan.attacks import PIXEL
from study.plan.catalogue import config
from study.records import Measurement
from study.records.packing import pack_mask

IMAGES = 24
KEYS = ("traditional", "als")
FROM_ALS = "probe:from-smoke/digits/corrected/als/seed0"


@pytest.fixture(scope="module")
def learned():
    """Two networks of width 8 that have learnt the digits, apart: seconds."""
    return {key: run.learn(config(key, budget="smoke", epochs=5)) for key in KEYS}


@pytest.fixture(scope="module")
def shown(learned):
    data = learned["als"].dataset
    return to_pixels(data.test_images[:IMAGES]), data.test_labels[:IMAGES]


def among(models, shown):
    return transfer.among(models, *shown, seeds=dict.fromkeys(models, 0))


# ---- images from other rows


def test_images_are_made_on_the_source_and_judged_by_the_target(learned, shown, monkeypatch):
    """Beside torchattacks' PGD on the source: from the image, where both take the same steps."""
    torchattacks = pytest.importorskip("torchattacks")
    x, y = shown
    a, b = (learned[key].model for key in KEYS)
    monkeypatch.setattr(transfer, "SENT", dataclasses.replace(transfer.SENT, random_start=False))
    right = among({"a": a, "b": b}, shown)
    attack = torchattacks.PGD(a, eps=8 * PIXEL, alpha=2 * PIXEL, steps=20, random_start=False)
    theirs = b(attack(x, y)).argmax(dim=1) == y
    assert (right["a", "b"] != theirs).sum() <= 1  # of IMAGES: a gradient of nothing but rounding may turn a sign
    assert right["a", "a"].sum() <= right["a", "b"].sum()  # images fool the network they were made on first of all


def test_a_network_that_stops_its_gradient_falls_to_images_from_its_open_twin(learned, shown):
    """The white box finds next to nothing on it; the same weights, open, give images that it gets wrong."""
    model = learned["traditional"].model
    right = among({"open": model, "stopped": Stopped(model)}, shown)
    assert torch.equal(right["open", "stopped"], right["open", "open"])
    assert right["stopped", "stopped"].sum() > right["open", "stopped"].sum() + 3


def made_up_probe(key="als", n=200, **accuracies):
    """A probe of a network that passes all but what ``accuracies`` turn round. Names: "pgd-20-8/255", ..."""
    record = fake.record(key, budget="smoke")
    usual = {"clean": 0.9, "pgd-20-8/255": 0.3, "unbounded": 0.0, "square-8/255": 0.5, "smoothed-8/255": 0.35}
    measurements = tuple(
        Measurement(f"probe:{name}", name, {}, n, fake.mask(accuracy, n))
        for name, accuracy in (usual | accuracies).items()
    )
    none = pack_mask(torch.zeros(n, dtype=torch.bool).numpy())
    loss = {"0": 0.1, "19": 2.0, "20": 2.0}
    own = {"zero_gradient": none, "vanishing_gradient": none, "loss": loss, "last_step": (0.0, 0.0)}
    return record, Probe(**fake.about(record, n), measurements=measurements, **own)


def of_probe(record, probed) -> dict[str, judge.Result]:
    judged = judge.verdict([record], record.key, record.protocol, {record.where: probed})
    return {result.check.id: result for result in judged.results if result.check.of_probe}


@pytest.mark.parametrize(
    ("transferred", "outcome"), [(0.6, "passes"), (0.3, "passes"), (0.29, "passes"), (0.1, "fails")]
)
def test_the_white_box_must_leave_no_more_right_than_images_from_another_row(transferred, outcome):
    record, probed = made_up_probe(**{"from-smoke/digits/corrected/sat/seed0": transferred})
    assert of_probe(record, probed)["rows"].outcome == outcome


def test_an_image_that_an_attack_puts_right_does_not_count_against_the_white_box():
    """30 % survive the white box; 60 % are right under images from elsewhere, half of them wrong without an attack."""
    record, probed = made_up_probe(**{"clean": 0.3, "from-smoke/digits/corrected/sat/seed0": 0.6})
    (finding,) = of_probe(record, probed)["rows"].findings
    assert finding.accuracies == (pytest.approx(0.3), pytest.approx(0.3)) and finding.outcome == "passes"


def test_all_comparisons_of_all_probes_share_one_error_whether_or_not_they_were_measured(monkeypatch):
    """Each of k has 1 - 0.05 / k, where k counts every other row for each seed that was probed."""
    asked, real = [], checks.pair
    monkeypatch.setattr(checks, "pair", lambda *a, **k: asked.append(a[4]) or real(*a, **k))
    record, bare = made_up_probe()
    _, full = made_up_probe(**{"from-smoke/digits/corrected/sat/seed0": 0.25})
    twin = dataclasses.replace(record, seed=1, config=record.config | {"seed": 1})
    confidences = []
    for group, by_place in (
        ([record], {record.where: bare}),
        ([record], {record.where: full}),
        ([record, twin], {record.where: full, twin.where: full}),
    ):
        asked.clear()
        judge.verdict(group, record.key, record.protocol, by_place)
        confidences.append(asked[-1])
    row, rule = catalogue.rows()["als"], "corrected"
    of_record = sum(len(check.pairs(row, rule)) for check in checks.CHECKS if check.asked(row))
    of_probe = 6 + len(catalogue.rows()) - 1  # six once, and every other row
    assert confidences == pytest.approx([1 - 0.05 / (of_record + k * of_probe) for k in (1, 1, 2)], abs=1e-12)


def test_without_transferred_images_the_check_is_not_measured_and_the_verdict_stands():
    record, probed = made_up_probe()
    judged = judge.verdict([record], record.key, record.protocol, {record.where: probed})
    alone = judge.verdict([record], record.key, record.protocol, {})
    assert judged.result("rows").outcome == "not measured" and judged.result("square").outcome == "passes"
    assert judged.verdict == alone.verdict


def test_images_from_a_network_that_was_trained_anew_are_refused(tmp_path):
    record, probed = made_up_probe(clean=0.5)
    other, source = made_up_probe("sat", clean=0.5)
    attack = {"source": other.where, "source_weights": "old"}
    made = Measurement(f"probe:from-{other.where}", "made up", attack, 200, probed.zero_gradient)
    group = []
    for of, one in (
        (record, dataclasses.replace(probed, measurements=(*probed.measurements, made))),
        (other, dataclasses.replace(source, weights="new")),
    ):
        of = dataclasses.replace(of, measurements=(fake.measurement(fake.attacks(of.key)[0], 0.5),))
        group.append(of)
        dataclasses.replace(one, record_digest=records.digest(of)).write(tmp_path, of)
    with pytest.raises(ValueError, match=f"other weights than .*python -m study measure transfer {record.flags}"):
        probes.probes(tmp_path, group)
    fake.beside(dataclasses.replace(source, weights="old", record_digest=records.digest(group[1])), tmp_path)
    assert set(probes.probes(tmp_path, group)) == {record.where, other.where}


def test_a_source_is_named_by_its_row():
    assert report.name(FROM_ALS) == "PGD-20 8/255 made on ALS"


def test_the_figure_and_its_words_show_what_is_right_without_attack_and_under_it():
    other = "smoke/digits/corrected/sat/seed0"
    record, probed = made_up_probe(**{f"from-{other}": 0.95})
    published = record.where.replace("corrected", "published")
    found = probes.transfers({record.where: probed, published: probed, record.where.replace("seed0", "seed1"): probed})
    assert found.keys() == {("als", "als"), ("sat", "als")}  # of one protocol and seed
    assert found["als", "als"].value == pytest.approx(0.3)
    assert found["sat", "als"].value == pytest.approx(0.9)  # 95 % are right, 5 % of them only under attack
    words = report.transfers_words(found, [record])
    assert "ALS: 30.0 % under its white box, 90.0 % under images made on SAT." in words["alt"]
    assert "first 200 test images" in words["caption"]
    panel = report.transfers(found).axes[0]
    assert {text.get_text() for text in panel.texts} == {"30", "90"} and panel.get_ylabel() == "made on"
    assert [text.get_text() for text in panel.get_yticklabels()] == ["ALS", "SAT"]
    plt.close("all")


def test_without_transferred_images_there_is_no_figure():
    record, probed = made_up_probe()
    assert probes.transfers({record.where: probed}) == {}


# ---- the smoothed target


def test_the_ascent_on_the_smoothed_loss_follows_its_gradient(learned, shown):
    """One step from the image moves each pixel by the sign of autograd's gradient of ALS, where it moves at all."""
    model, (x, y) = learned["als"].model, shown
    seen = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(len(x) * als(model(seen), y, 0.2), seen)
    steps = []
    real = measure.pgd

    def spied(logits_fn, x, y, **how):
        how |= {"steps": 1, "random_start": False, "restarts": 1}
        steps.append(real(logits_fn, x, y, **how) - x)
        return x + steps[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(measure, "pgd", spied)
        measure.smoothed(model, x, y, 0.2, torch.Generator())
    free = (x > 2 * PIXEL) & (x < 1 - 2 * PIXEL) & (gradient.abs() > 1e-9)  # no edge of the pixels in the way
    assert free.sum() > 100
    assert torch.equal(steps[0].sign()[free], gradient.sign()[free])


def test_raising_the_smoothed_loss_fools_an_open_network(learned, shown):
    model, (x, y) = learned["als"].model, shown
    right = (model(x).argmax(dim=1) == y).sum()
    assert measure.smoothed(model, x, y, 0.02, torch.Generator().manual_seed(0)).sum() < right


@pytest.mark.parametrize(("smoothed", "outcome"), [(0.35, "passes"), (0.29, "passes"), (0.1, "fails")])
def test_the_plain_target_must_leave_no_more_right_than_the_smoothed_one(smoothed, outcome):
    assert of_probe(*made_up_probe(**{"smoothed-8/255": smoothed}))["target"].outcome == outcome


def test_the_check_is_asked_of_rows_with_als_alone():
    record, probed = made_up_probe("traditional")
    assert of_probe(record, probed)["target"].outcome == "not asked"


# ---- the command


@pytest.fixture(scope="module")
def project(learned, tmp_path_factory):
    """The folder of a project with two rows that were run and probed."""
    folder = tmp_path_factory.mktemp("project")
    for key, found in learned.items():
        images, labels = found.dataset.test_images[:20], found.dataset.test_labels[:20]
        few = dataclasses.replace(found.dataset, test_images=images, test_labels=labels)
        record = fake.trained(key, config(key, budget="smoke"), {"true": found.model}, few)
        fake.put(record, folder / "results")
        weights = save_weights(found.model, folder / "models" / f"{key}.safetensors", record)
        about = fake.about(record, 20, sha256(weights.read_bytes()).hexdigest())
        made = measure.probe(found.model, images, labels, record=record, about=about, queries=20)
        made.write(folder / "results", record)
    for mark in MARKS:
        (folder / mark).parent.mkdir(exist_ok=True)
        (folder / mark).write_text("")
    return folder


@pytest.fixture
def probed(project, tmp_path, monkeypatch):
    """The results folder of a copy of the project, in which the test works."""
    shutil.copytree(project, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path / "results"


def on_file(results, key) -> tuple[Path, records.Record, Probe]:
    path = results / "smoke" / "digits" / "corrected" / key / "seed0" / Probe.FILE
    record = records.read(path.with_name("record.json"))
    return path, record, Probe.read(path, record)


def command(*words) -> int:
    return main(["measure", "transfer", *words, "--budget", "smoke", "--results", "results"])


def test_the_command_adds_to_every_probe_what_the_other_rows_images_do(probed, learned, capsys):
    assert command() == 0 and command("als", "traditional", "als") == 0  # the second time in the place of the first
    said = capsys.readouterr().out
    assert "under its white box" in said and "under images made on als, the worst of 1" in said
    path, record, found = on_file(probed, "traditional")
    (added,) = [m for m in found.measurements if probes.FROM in m.name]
    assert added.name == FROM_ALS and added.n == 20
    assert added.attack["source_weights"] == sha256(Path("models/als.safetensors").read_bytes()).hexdigest()
    assert added.attack["made_by"].keys() == {"commit", "dirty", "versions", "device"}
    data = learned["als"].dataset
    models = {of: learned[of.split("/")[-2]].model for of in (record.where, added.attack["source"])}
    shown = to_pixels(data.test_images[:20]), data.test_labels[:20]
    assert (added.mask == among(models, shown)[added.attack["source"], record.where].numpy()).all()
    assert len(json.loads(path.read_text())["measurements"]) == 5


def test_fewer_rows_than_before_leave_what_others_did(probed):
    _, record, found = on_file(probed, "traditional")
    others = [dataclasses.replace(found.measurements[0], name=f"probe:{probes.FROM}smoke/digits/corrected/sat/seed0")]
    dataclasses.replace(found, measurements=(*found.measurements, *others)).write(probed, record)
    assert command("als", "traditional") == 0
    names = [m.name for m in on_file(probed, "traditional")[2].measurements if probes.FROM in m.name]
    assert names == [others[0].name, FROM_ALS]


def test_a_probe_of_other_weights_is_refused_with_the_remedy(probed, capsys):
    path, *_ = on_file(probed, "als")
    path.write_text(path.read_text().replace('"weights": "', '"weights": "0'))
    assert command() == 2
    said = capsys.readouterr().err
    assert "the weights have changed since): measure again: python -m study measure masking als" in said


def test_probing_again_keeps_the_images_from_other_rows_while_the_weights_are_the_same(probed):
    assert command() == 0
    path, record, found = on_file(probed, "als")
    again = dataclasses.replace(found, measurements=tuple(m for m in found.measurements if probes.FROM not in m.name))
    assert probes.with_transferred(again, probed, record) == found != again
    other = dataclasses.replace(again, weights="new")
    assert probes.with_transferred(other, probed, record) == other
    assert probes.with_transferred(again, probed / "none", record) == again
    path.write_text("{")
    assert probes.with_transferred(again, probed, record) == again


def test_an_experiment_of_our_own_is_refused(probed, capsys):
    assert command("als", "als-0.2") == 2
    assert "between rows of the paper" in capsys.readouterr().err


def test_one_network_alone_is_refused(probed, capsys):
    assert command("als") == 2 and command("als", "als") == 2
    assert capsys.readouterr().err.count("transfer needs two networks or more") == 2


def test_a_network_that_was_not_probed_is_refused_with_the_command_that_probes_it(probed, capsys):
    path, *_ = on_file(probed, "als")
    path.unlink()
    assert command("als", "traditional") == 2
    said = f"{path.relative_to(probed.parent)} is not there: measure: python -m study measure masking als "
    assert said in capsys.readouterr().err
