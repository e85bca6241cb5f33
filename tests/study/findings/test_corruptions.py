"""Corruptions: images are spoilt as their names say, alike for every network, and what is on file is what was seen."""

import dataclasses
import json
import random
import re
import sys

import fake_records as fake
import matplotlib.pyplot as plt
import miniature
import numpy as np
import pytest
import torch
from peers import imported
from torch import nn

from study.__main__ import main
from study.evidence import selection
from study.experiment import network as at_hand
from study.experiment.weights import save_weights
from study.findings.corruptions import judge, measure, report
from study.findings.corruptions.judge import COMMON, KINDS, SEVERITIES, Corruptions
from study.plan import catalogue
from study.records import Measurement, packing
from study.records.packing import pack_mask

QUICK = ["contrast", "fog"]  # one that is a formula, one that draws
NOT_MORE_BUT_OTHERWISE = {"frost", "glass_blur", "saturate"}  # severities of which no one is simply more of the last


@pytest.fixture(autouse=True)
def own_records(tmp_path, monkeypatch):
    monkeypatch.setenv("ADVLIB_RESULTS", str(tmp_path))


@pytest.fixture(scope="module")
def spoil():
    imported("imagecorruptions")
    return measure.library()


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    """uint8 (12, 3, 32, 32): colours that change slowly over the image, as in photographs."""
    coarse = torch.rand(12, 3, 5, 5, generator=torch.Generator().manual_seed(0))
    smooth = nn.functional.interpolate(coarse, size=32, mode="bicubic", align_corners=True)
    return (255 * smooth.clamp(0, 1)).to(torch.uint8).numpy()


def distance(a: np.ndarray, b: np.ndarray) -> float:
    """Root of the mean squared difference of pixels, the mean over images."""
    return float(np.sqrt(((a.astype(float) - b) ** 2).mean(axis=(1, 2, 3))).mean())


@pytest.mark.parametrize("kind", KINDS)
def test_a_higher_severity_changes_an_image_more(kind, images, spoil):
    moved = [distance(images, measure.corrupted(images, kind, severity, spoil)) for severity in SEVERITIES]
    assert moved[0] > 1 and moved[-1] > moved[0]
    assert moved == sorted(moved) or kind in NOT_MORE_BUT_OTHERWISE


@pytest.mark.parametrize("kind", KINDS)
def test_spoilt_images_are_the_same_every_time_and_an_image_does_not_depend_on_those_after_it(kind, images, spoil):
    before = images.copy()
    np.random.seed(1)
    first = measure.corrupted(images[:6], kind, 3, spoil)
    np.random.seed(2)
    assert np.array_equal(measure.corrupted(images[:4], kind, 3, spoil), first[:4])
    assert first.shape == (6, 3, 32, 32) and first.dtype == np.uint8
    assert np.array_equal(images, before)


@pytest.mark.parametrize("kind", KINDS)
def test_the_global_generators_are_left_as_they_were(kind, images, spoil):
    np.random.seed(3)
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    measure.corrupted(images[:2], kind, 1, spoil)
    assert random.getstate() == states[0] and torch.equal(torch.get_rng_state(), states[2])
    assert all(np.array_equal(now, then) for now, then in zip(np.random.get_state(), states[1], strict=True))


def test_two_kinds_and_two_severities_draw_from_seeds_of_their_own():
    seeds = {measure.how(kind, severity)["seed"] for kind in KINDS for severity in SEVERITIES}
    assert len(seeds) == len(KINDS) * len(SEVERITIES) and max(seeds) < 2**32


def test_contrast_is_its_formula(images, spoil):
    mean = (images / 255).mean(axis=(2, 3), keepdims=True)  # of each channel; severity 2 keeps three tenths
    expected = np.uint8(np.clip((images / 255 - mean) * 0.3 + mean, 0, 1) * 255)
    assert abs(measure.corrupted(images, "contrast", 2, spoil).astype(int) - expected).max() <= 1


def test_the_groups_are_the_librarys(spoil):
    names = sys.modules["imagecorruptions"].get_corruption_names
    assert {group: list(kinds) for group, kinds in judge.GROUPS.items()} == {g: names(g) for g in judge.GROUPS}
    assert set(names("validation")) - set(judge.EXTRA) == {"spatter"}


@pytest.mark.parametrize(
    ("images", "kind", "severity", "message"),
    [
        (np.zeros((1, 3, 32, 32), np.uint8), "fogg", 1, "unknown corruption 'fogg': did you mean 'fog'"),
        (np.zeros((1, 3, 32, 32), np.uint8), "spatter", 1, "unknown corruption 'spatter'"),
        (np.zeros((1, 3, 32, 32), np.uint8), "fog", 6, "severity=6: choose one of 1, 2, 3, 4, 5"),
        (np.zeros((1, 3, 16, 16), np.uint8), "fog", 1, "at least 32 pixels"),
        (np.zeros((1, 3, 32, 32), np.float32), "fog", 1, "uint8"),
        (np.zeros((1, 1, 32, 32), np.uint8), "fog", 1, r"\(N, 3, H, W\)"),
    ],
)
def test_what_cannot_be_spoilt_is_refused(images, kind, severity, message):
    with pytest.raises(ValueError, match=message):
        measure.corrupted(images, kind, severity)


def test_an_unknown_kind_is_refused_before_a_record_is_read(capsys):
    assert main(["measure", "corruptions", "als", "--kinds", "fog", "brightnes", "--results", "nowhere"]) == 2
    assert "unknown corruption 'brightnes': did you mean 'brightness'" in capsys.readouterr().err


def test_without_the_library_the_command_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "imagecorruptions", None)
    with pytest.raises(ImportError, match=r"pip install --no-deps -r requirements-peers\.lock"):
        measure.library()


# networks


class Deaf(nn.Module):
    """Class 1, whatever it sees."""

    def __init__(self):
        super().__init__()
        self.logits = nn.Parameter(torch.tensor([0.0, 1.0, 0.0, 0.0]))

    def forward(self, x, branch="main"):
        return self.logits.expand(len(x), -1)


@pytest.fixture
def world(monkeypatch, tmp_path, spoil):
    """A trained network, its record and its weights, on images of 32 pixels: (results, models, network, data)."""
    data = miniature.dataset(size=32, test_size=30)
    monkeypatch.setattr(at_hand, "shared", lambda name: data)
    config = catalogue.config("traditional", budget="smoke", dataset="cifar10", epochs=1, batch_size=16)
    model, _ = miniature.fit(config, data)
    model.eval()
    record = fake.trained("traditional", config, {"true": model}, data)
    fake.put(record, tmp_path / "results")
    save_weights(model, tmp_path / "models" / "traditional.safetensors", record)
    return record, tmp_path, model, data


def command(folder, *kinds) -> list[str]:
    places = ["--results", str(folder / "results"), "--weights", str(folder / "models")]
    return [
        "measure",
        "corruptions",
        "traditional",
        "--budget",
        "smoke",
        "--dataset",
        "cifar10",
        *places,
        "--kinds",
        *kinds,
    ]


def test_what_is_on_file_is_what_the_network_sees_image_by_image(world, capsys):
    record, folder, model, data = world
    assert main(command(folder, *QUICK)) == 0
    assert "of 30 images" in capsys.readouterr().out
    (found,) = Corruptions.collect(folder / "results", [record]).values()
    assert [*found.pixels] == QUICK[::-1] and found.images == 30 and found.weights, "in their own order"
    assert found.made_by.keys() == set(measure.LIBRARIES) and not found.complete
    pixels = data.test_images.numpy()
    mean = (pixels / 255).mean(axis=(2, 3), keepdims=True)
    grey = np.uint8(np.clip((pixels / 255 - mean) * 0.05 + mean, 0, 1) * 255)  # contrast at severity 5
    for column, shown in {"clean": pixels, "contrast-5": grey}.items():
        with torch.no_grad():
            right = [model(torch.from_numpy(x[None]) / 255).argmax().item() for x in shown] == data.test_labels.numpy()
        assert (found.mask(column) != right).sum() <= 1, "rounding may turn one"
    assert (found.mask("clean") != found.mask("contrast-5")).any(), "or a file of clean images would do"
    shown = json.loads((folder / "results" / "smoke" / "cifar10" / judge.EXAMPLES).read_text())
    assert [*shown["pixels"]] == sorted(["clean", *KINDS])


@pytest.mark.parametrize("spoil", [{"fog": "AAAA"}, {"clean": "not base 64"}], ids=["deflated", "text"])
def test_a_damaged_picture_of_the_corruptions_is_named_with_the_command_that_makes_it_again(tmp_path, spoil):
    record = fake.record()
    path = tmp_path / "lite" / "cifar10-jpeg" / judge.EXAMPLES
    whole = dict.fromkeys(["clean", *KINDS], packing.pack(np.zeros((2, 2, 3), np.uint8)))
    data = {"checksum": record.data["checksum"], "size": [2, 2], "pixels": whole}
    packing.write(data, path)
    assert report.examples(tmp_path, [record]) == data
    packing.write(data | {"pixels": whole | spoil}, path)
    with pytest.raises(ValueError, match=f"{path} is damaged .*: make it anew: {Corruptions.command(record)}"):
        report.examples(tmp_path, [record])


def test_a_network_that_ignores_what_it_sees_is_as_accurate_under_everything(world, monkeypatch):
    record, folder, _, data = world
    clean, *others = record.measurements
    ones = dataclasses.replace(clean, correct=pack_mask(data.test_labels.numpy() == 1))
    deaf = dataclasses.replace(record, measurements=(ones, *others))
    fake.put(deaf, folder / "results")
    monkeypatch.setattr(at_hand.Network, "model", Deaf())
    assert main(command(folder, *QUICK)) == 0
    (found,) = Corruptions.collect(folder / "results", [deaf]).values()
    assert {measurement.correct for measurement in found.measurements} == {found.measurements[0].correct}
    assert found.mask("fog-5").tolist() == (data.test_labels == 1).tolist()


def test_a_command_that_was_cut_off_goes_on_where_it_was(world, monkeypatch):
    record, folder, *_ = world
    path = folder / "results" / record.where / Corruptions.FILE
    assert main(command(folder, *QUICK)) == 0
    whole, made = Corruptions.read(path, record), measure.corrupted
    path.unlink()

    def cut_off(images, kind, severity, spoil=None):
        if (kind, severity) == ("contrast", 4):
            raise RuntimeError("the power is gone")
        return made(images, kind, severity, spoil)

    monkeypatch.setattr(measure, "corrupted", cut_off)
    assert main(command(folder, *QUICK)) == 2
    assert [*Corruptions.read(path, record).pixels] == ["fog"]
    asked = []
    monkeypatch.setattr(measure, "corrupted", lambda *a, **k: (asked.append(a[1]), made(*a, **k))[1])
    monkeypatch.setattr(measure, "write_examples", lambda dataset, path: path)
    assert main(command(folder, *QUICK)) == 0
    assert set(asked) == {"contrast"} and measured(path, record) == whole.measurements
    assert main([*command(folder, *QUICK), "--anew"]) == 0
    assert set(asked) == set(QUICK) and measured(path, record) == whole.measurements


def measured(path, record) -> tuple[Measurement, ...]:
    return Corruptions.read(path, record).measurements


def test_what_is_on_file_is_thrown_away_only_when_asked(world, capsys, monkeypatch):
    record, folder, model, _ = world
    monkeypatch.setattr(measure, "write_examples", lambda dataset, path: path)
    path, weights = folder / "results" / record.where / Corruptions.FILE, folder / "models" / "traditional.safetensors"
    assert main(command(folder, "fog")) == 0
    before, one = path.read_bytes(), command(folder, "contrast")
    assert main([*one, "--images", "20"]) == 2
    said = f"{path} is of 30 images, not of 20: ask for --images 30, or begin again with --anew"
    assert said in capsys.readouterr().err
    with monkeypatch.context() as patch:
        patch.setattr(measure, "version", lambda name: "another")
        assert main(one) == 2
    assert "other versions of imagecorruptions-imaug" in (said := capsys.readouterr().err) and "--anew" in said
    save_weights(model, weights, record, dtype=torch.float16)
    assert main(one) == 2
    assert "the weights have changed since" in (said := capsys.readouterr().err) and "--anew" in said
    assert path.read_bytes() == before
    assert main([*one, "--images", "20", "--anew"]) == 0
    assert [*Corruptions.read(path, record).pixels] == ["contrast"] and Corruptions.read(path, record).images == 20


# what follows from the files


def _measured(column: str, mask: np.ndarray, rule: str = "corrupted") -> Measurement:
    return Measurement(f"{rule}:{column}", column, {"method": "none"}, len(mask), pack_mask(mask))


def on_file(record, *, images=100, kinds=COMMON, pixels="same", lost=0.5, seed=0) -> Corruptions:
    """Made-up corruptions of a record: under each an image that was right is lost with probability ``lost``."""
    rng = np.random.default_rng(seed)
    clean = record.measurement("corrected:clean").mask[:images]
    columns = [_measured("clean", clean)]
    for kind in kinds:
        columns += [_measured(f"{kind}-{s}", clean & (rng.random(images) > lost)) for s in SEVERITIES]
    own = {"made_by": {"imagecorruptions-imaug": "1.1.5"}, "pixels": dict.fromkeys(kinds, pixels)}
    return Corruptions(**fake.about(record, images), measurements=tuple(columns), **own)


@pytest.fixture
def group(tmp_path):
    """Three records with corruptions beside them; AdvProp loses fewest images."""
    found = [fake.record(key, **{"corrected:clean": 0.9}) for key in ("traditional", "adversarial", "advprop")]
    for record, lost in zip(found, (0.6, 0.5, 0.2), strict=True):
        fake.put(record, tmp_path)
        on_file(record, lost=lost, seed=int(10 * lost)).write(tmp_path, record)
    return found


def test_a_file_that_lacks_a_severity_is_refused_with_the_command_that_makes_it(group, tmp_path):
    path = tmp_path / group[0].where / Corruptions.FILE
    raw = json.loads(path.read_text())
    path.write_text(json.dumps(raw | {"pixels": raw["pixels"] | {"saturate": "x"}}))
    with pytest.raises(ValueError, match=r"it lacks saturate-1\).*python -m study measure corruptions traditional"):
        judge.networks(tmp_path, group)


def test_networks_that_saw_other_images_are_not_compared(group, tmp_path):
    on_file(group[1], pixels="others").write(tmp_path, group[1])
    with pytest.raises(ValueError, match="adversarial.*other corrupted images.*measure both with one library"):
        judge.networks(tmp_path, group)
    on_file(group[1], images=50).write(tmp_path, group[1])
    with pytest.raises(ValueError, match="100 and 50 images"):
        judge.networks(tmp_path, group)


def test_a_network_counts_when_all_common_corruptions_are_there(group, tmp_path):
    on_file(group[1], kinds=COMMON[:-1]).write(tmp_path, group[1])
    assert [network.key for network in judge.networks(tmp_path, group)] == ["traditional", "advprop"]


def test_mean_accuracy_and_difference_are_those_of_the_masks(group, tmp_path):
    plain, _, advprop = judge.networks(tmp_path, group)
    by_hand = {}
    for network in (plain, advprop):
        one = network.measured[0]
        by_hand[network.key] = np.mean([one.mask(f"{kind}-{s}") for kind in COMMON for s in SEVERITIES])
        estimate = judge.accuracy(network.masks(COMMON))
        assert estimate.value == pytest.approx(by_hand[network.key])
        assert 0 <= estimate.low < estimate.value < estimate.high <= 1 and (estimate.n, estimate.seeds) == (100, 1)
    difference = judge.compared([plain, advprop], advprop, "traditional")
    assert difference.value == pytest.approx(by_hand["advprop"] - by_hand["traditional"]) and difference.low > 0
    assert judge.compared([plain, advprop], plain, "traditional") is None, "a row against itself"
    assert judge.compared([plain, advprop], advprop, "adversarial") is None, "which is not there"


def test_a_comparison_of_two_networks_knows_how_much_trainings_differ(group, tmp_path):
    """One accuracy of a training is of all its corruptions: its luck is not drawn anew for each of them."""
    alone = judge.networks(tmp_path, group)
    more = [fake.record("als", seed=seed, **{"corrected:clean": 0.5 + seed / 50}) for seed in range(3)]
    known = judge.networks(tmp_path, [*group, *more])
    by_images, both = (judge.compared(networks, networks[2], "traditional") for networks in (alone, known))
    shares = [float(np.mean(network.masks(COMMON))) for network in (known[2], known[0])]
    luck = known[0].spread.factor ** 2 * sum(p * (1 - p) for p in shares)
    assert both.value == by_images.value and both.error**2 == pytest.approx(by_images.error**2 + luck)


def test_the_interval_is_over_images_and_not_over_images_times_corruptions():
    image = np.random.default_rng(0).random((1, 400)) < 0.5  # 75 corruptions that all lose the same images
    many, one = judge.accuracy([image] * 75), judge.accuracy([image])
    assert (many.low, many.high) == pytest.approx((one.low, one.high))
    assert many.high - many.low == pytest.approx(2 * 1.96 * 0.5 / 20, rel=0.1)
    perfect = judge.accuracy([np.ones((1, 50), bool)] * 3)
    assert perfect.value == perfect.high == 1 and perfect.low < 1, "fifty images are no proof of perfection"


def test_page_sentences_and_figures_have_the_numbers_of_the_files(group, tmp_path):
    networks = judge.networks(tmp_path, group)
    advprop = judge.accuracy(networks[2].masks(COMMON))
    said = report.summary(networks)
    assert f"**AdvProp** has the highest accuracy on corrupted images, {100 * advprop.value:.1f} %, against " in said
    assert "it cannot be told from" not in said
    assert "On corrupted images AdvProp is more accurate than Traditional" in said
    shown = report.overview(networks)
    assert f"<td>{100 * advprop.value:.1f}<" in shown and "against Adversarial" in shown and "<strong>+" in shown
    assert report.by_group(networks).count("<tr>") == 1 + len(networks) and "extra" not in report.by_group(networks)
    words = report.words(networks, selection.groups(tmp_path)[0])
    assert f"AdvProp {100 * advprop.value:.1f} %" in words["by_kind"]["alt"]
    figure = report.by_kind(networks)
    fog = float(figure.axes[0].texts[COMMON.index("fog")].get_text())
    assert fog == round(100 * np.mean(networks[0].masks(["fog"])))
    lines = report.by_severity(networks).axes[0].lines
    assert lines[2].get_ydata()[0] == 100 * np.mean(networks[2].clean) and len(lines[2].get_ydata()) == 1 + len(
        SEVERITIES
    )
    assert "imagecorruptions-imaug 1.1.5" in report.made_by(networks)
    plt.close("all")


def test_what_cannot_be_told_apart_is_not_called_better(tmp_path):
    found = [fake.record(key, **{"corrected:clean": 0.9}) for key in ("traditional", "advprop")]
    for record in found:
        fake.put(record, tmp_path)
        on_file(record, seed=5).write(tmp_path, record)
    said = report.summary(judge.networks(tmp_path, found))
    assert (
        "On corrupted images AdvProp cannot be told from Traditional" in said
        and "differs in no group for certain" in said
    )
    assert not re.search(r"(more|less) accurate", said) and "; it cannot be told from " in said
