"""The explorer page: what the reader sees is what the network saw, and nothing outlives the records it came from.

The world is made up and small: synthetic images, networks of width 8, records measured on them here.
"""

import dataclasses
import json
import re
import shutil
import sys
from pathlib import Path

import fake_records as fake
import matplotlib.pyplot as plt
import miniature
import numpy as np
import pytest
import torch
from places import ROOT

from study import records
from study.__main__ import main
from study.evidence.estimates import wilson
from study.experiment import network, weights
from study.findings.explorer import gallery, measure, report
from study.plan import catalogue
from study.plan.attacks import suite
from study.records import packing

sys.path.insert(0, str(ROOT / "tools"))
import browser

PROBES = [attack for attack in suite(dual=True, surrogate=False) if attack.rule == "corrected"]
DATA = miniature.dataset(test_size=60)  # more than the sweeps have
KEYS = {"traditional": {}, "advprop": {"norm": "dual"}, "sat": {"activation": "surrogate-relu"}}


@dataclasses.dataclass
class World:
    """A results folder, a models folder, and the networks in it by key, with their true gradients."""

    results: Path
    models: Path
    networks: dict

    @property
    def file(self) -> Path:
        return self.results / "smoke" / "digits" / report.NAME

    def record(self, key: str) -> records.Record:
        return records.read(self.results / records.run_folder("smoke", "digits", "corrected", key, 0) / "record.json")

    def explore(self) -> dict:
        found = [network.Network(self.record(key), self.models / f"{key}.safetensors") for key in KEYS]
        return measure.explore(found, DATA)


def measured(key: str, network) -> records.Record:
    """The record of a network that nobody trained: what the page reads is measured, the rest made up."""
    names = {attack.name for attack in PROBES}
    return fake.trained(key, catalogue.config(key, budget="smoke"), {"true": network}, DATA, names)


@pytest.fixture(scope="module")
def first_world(tmp_path_factory):
    from advlib.resnet import resnet18

    folder = tmp_path_factory.mktemp("explorer")
    world = World(folder / "results", folder / "models", {})
    for key, options in KEYS.items():
        torch.manual_seed(3)
        trained = resnet18(len(DATA.classes), 8, **options).eval()
        network = resnet18(len(DATA.classes), 8, **options | {"activation": "relu"}).eval()
        network.load_state_dict(trained.state_dict())
        world.networks[key] = network
        record = measured(key, network)
        fake.put(record, world.results)
        weights.save_weights(trained, world.models / f"{key}.safetensors", record)
    packing.write(world.explore(), world.file)
    return world


@pytest.fixture
def world(first_world, tmp_path):
    """A copy that a test may spoil."""
    shutil.copytree(first_world.results, tmp_path / "results")
    shutil.copytree(first_world.models, tmp_path / "models")
    return World(tmp_path / "results", tmp_path / "models", first_world.networks)


def pictures(data: dict) -> np.ndarray:
    """uint8 (N, H, W, C)."""
    size = (len(data["images"]["index"]), *data["images"]["size"], 3)
    return packing.unpack(data["images"]["pixels"], size, np.uint8)


def added(data: dict, seen: dict, attack: str) -> np.ndarray:
    """int8 (E, N, H, W, C)."""
    text = data["noise"] if attack == "noise" else seen[attack]["perturbation"]
    return packing.unpack(text, (len(data["eps"]), *pictures(data).shape), np.int8)


def views(data: dict):
    """Every (key, branch, what was seen through it) of the data."""
    return [(row["key"], branch, seen) for row in data["rows"] for branch, seen in row["branches"].items()]


# the data


def test_what_is_packed_is_unpacked():
    for dtype in (np.uint8, np.int8):
        array = np.arange(-60, 60).astype(dtype).reshape(2, 3, 4, 5)
        assert (packing.unpack(packing.pack(array), array.shape, dtype) == array).all()
    with pytest.raises(TypeError, match="int8"):
        packing.pack(np.zeros(3))


def test_the_same_data_give_the_same_bytes_in_whatever_order_they_come(tmp_path):
    data = {"b": 1, "a": {"d": 2, "c": 3}}
    again = {"a": {"c": 3, "d": 2}, "b": 1}
    assert packing.write(data, tmp_path / "x").read_bytes() == packing.write(again, tmp_path / "y").read_bytes()


def test_the_images_are_the_first_of_each_class(first_world):
    data = json.loads(first_world.file.read_text())
    assert data["images"]["labels"] == list(range(len(DATA.classes)))
    for k, i in enumerate(data["images"]["index"]):
        assert DATA.test_labels[i] == k and k not in DATA.test_labels[:i]
        assert (pictures(data)[k] == DATA.test_images[i].permute(1, 2, 0).numpy()).all()


@pytest.mark.parametrize("attack", report.ATTACKS)
def test_a_perturbation_stays_within_its_size_and_the_sum_is_an_image(first_world, attack):
    data = json.loads(first_world.file.read_text())
    for _, _, seen in views(data):
        delta = added(data, seen, attack).astype(int)
        for eps, one in zip(data["eps"], delta, strict=True):
            assert 0 < np.abs(one).max() <= eps
        assert 0 <= (pictures(data) + delta).min() and (pictures(data) + delta).max() <= 255


@pytest.mark.parametrize("attack", report.ATTACKS)
def test_the_probabilities_are_those_of_the_very_pixels_that_are_shown(first_world, attack):
    data = json.loads(first_world.file.read_text())
    assert {(key, branch) for key, branch, _ in views(data)} == {
        ("traditional", "main"),
        ("advprop", "main"),
        ("advprop", "aux"),
        ("sat", "main"),
    }
    for key, branch, seen in views(data):
        shown = pictures(data) + added(data, seen, attack).astype(int)
        x = torch.from_numpy(shown).permute(0, 1, 4, 2, 3).float() / 255
        with torch.no_grad():
            exact = torch.stack([first_world.networks[key](images, branch=branch).softmax(1) for images in x])
        stored = np.array(seen[attack]["probabilities"]) / report.WHOLE
        assert np.abs(stored - exact.numpy()).max() < 1e-4


def test_fgsm_reads_the_true_gradient_of_a_network_trained_on_surrogates(first_world):
    data = json.loads(first_world.file.read_text())
    (seen,) = [seen for key, _, seen in views(data) if key == "sat"]
    x = DATA.test_images[data["images"]["index"]].float() / 255
    x.requires_grad_()
    labels = torch.tensor(data["images"]["labels"])
    torch.nn.functional.cross_entropy(first_world.networks["sat"](x), labels).backward()
    inside = (x.detach() > 20 / 255) & (x.detach() < 235 / 255)  # elsewhere the bounds may clip
    signs = torch.from_numpy(np.sign(added(data, seen, "fgsm")[-1])).permute(0, 3, 1, 2)
    assert (signs[inside] == x.grad.sign()[inside]).float().mean() > 0.999


def test_the_same_inputs_give_the_same_bytes(first_world, tmp_path):
    again = packing.write(first_world.explore(), tmp_path / "again.json")
    assert again.read_bytes() == first_world.file.read_bytes()


def test_the_command_writes_them_where_the_page_looks_for_them(world, monkeypatch, capsys):
    monkeypatch.setattr(network, "shared", lambda name: DATA)
    before = world.file.read_bytes()
    world.file.unlink()
    places = ["--budget", "smoke", "--results", str(world.results), "--weights", str(world.models)]
    assert main(["measure", "explorer", *KEYS, *places]) == 0
    assert world.file.read_bytes() == before and f"{world.file}: 3 models" in capsys.readouterr().out


def test_a_model_that_is_not_its_records_is_refused(world):
    record = world.record("traditional")
    turned = [dataclasses.replace(m, correct=packing.pack_mask(~m.mask)) for m in record.measurements]
    fake.put(dataclasses.replace(record, measurements=tuple(turned)), world.results)
    with pytest.raises(ValueError, match=r"traditional\.safetensors and its record agree on"):
        world.explore()


# the check that the book's build makes


def test_data_that_belong_to_their_records_are_read(first_world):
    data, found = report.read(first_world.file, first_world.results, first_world.models)
    assert list(found) == [row["key"] for row in data["rows"]] == list(KEYS)


def test_data_of_more_rows_are_not_replaced_by_those_of_fewer(world):
    record = world.record("sat")
    before, one = world.file.read_bytes(), network.Network(record, world.models / "sat.safetensors")
    with pytest.raises(ValueError, match=f"{world.file} shows traditional, advprop, sat: name all of them"):
        next(measure.measure([one], world.results))
    assert world.file.read_bytes() == before


def replaced(world, **changes):
    """The record of the first row, written again with changes; those of a part of it as a dict."""
    record = world.record("traditional")
    whole = {name: getattr(record, name) | new if isinstance(new, dict) else new for name, new in changes.items()}
    fake.put(dataclasses.replace(record, **whole), world.results)


@pytest.mark.parametrize(
    "spoil, complaint",
    [
        (lambda w: (w.models / "sat.safetensors").unlink(), "the model file sat.safetensors is missing"),
        (lambda w: (w.models / "sat.safetensors").write_bytes(b"x"), "the model file sat.safetensors has changed"),
        (lambda w: next(w.results.rglob("traditional/seed0/record.json")).unlink(), "traditional/seed0 is missing"),
        (lambda w: next(w.results.rglob("sat/seed0/run.ipynb")).unlink(), "sat/seed0 has lost its run.ipynb"),
        (lambda w: replaced(w, science_version=0), r"traditional/seed0 is stale \(science version 0"),
        (lambda w: replaced(w, provenance={"device": "another"}), "traditional/seed0 has changed"),
        (lambda w: replaced(w, data={"checksum": "sha256:other"}), "traditional/seed0 is of other data"),
    ],
)
def test_data_that_outlived_what_they_were_made_from_fail_the_build(world, spoil, complaint):
    spoil(world)
    with pytest.raises(ValueError, match=f"{complaint}.*python -m study measure explorer"):
        report.read(world.file, world.results, world.models)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda data: data["images"].update(pixels=data["noise"][::-1]),
        lambda data: data["rows"][0]["branches"]["main"]["fgsm"].update(perturbation="AAAA"),
        lambda data: data.pop("rows"),
        lambda data: data.update(schema=99),
    ],
)
def test_a_damaged_file_is_named_with_the_command_that_makes_it_again(world, spoil):
    data = json.loads(world.file.read_text())
    spoil(data)
    world.file.write_text(json.dumps(data))
    budget, dataset = world.file.parts[-3:-1]
    remedy = f"{world.file} is damaged .*: python -m study measure explorer --budget {budget} --dataset {dataset}"
    with pytest.raises(ValueError, match=remedy):
        report.read(world.file, world.results, world.models)


def test_line_endings_do_not_make_a_record_another(world):
    path = next(world.results.rglob("sat/seed0/record.json"))
    path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
    report.read(world.file, world.results, world.models)


def test_the_page_shows_the_highest_budget_that_has_data(tmp_path):
    assert report.find(tmp_path) is None
    for place in ("smoke/digits", "lite/b", "lite/a", "full/c"):
        packing.write({}, tmp_path / place / report.NAME)
        expected = {"smoke/digits": None, "lite/b": "lite/b", "lite/a": "lite/a", "full/c": "full/c"}[place]
        assert report.find(tmp_path) == (expected and tmp_path / expected / report.NAME)


# the curves


def test_every_point_of_a_curve_is_over_the_same_images_and_has_its_wilson_interval(first_world):
    record = records.read(next(first_world.results.rglob("advprop/seed0/record.json")))
    eps = [1, 2, 4, 8, 16]
    found = report.curves(record, eps)
    assert [point["eps"] for point in found["main"]["pgd-10"]] == [0, *eps]
    assert [point["eps"] for point in found["main"]["fgsm"]] == [0, *eps, 25.5]
    assert [point["eps"] for point in found["main"]["noise"]] == [0, 8, 25.5]
    assert {point["n"] for at in found.values() for listed in at.values() for point in listed} == {50}
    correct = int(record.measurement("corrected:pgd-10-4/255").mask.sum())
    point = found["main"]["pgd-10"][3]
    assert point["accuracy"] == round(100 * correct / 50, 2)
    assert (point["low"], point["high"]) == tuple(round(100 * bound, 2) for bound in wilson(correct, 50))
    assert record.measurement("corrected:clean").n == 60, "longer than the sweeps, and cut to their images"


def test_a_stronger_attack_than_the_pictures_is_named_as_such(first_world):
    record = records.read(next(first_world.results.rglob("advprop/seed0/record.json")))
    found = report.curves(record, [1, 2, 4, 8, 16])
    assert [point["other"] for point in found["aux"]["pgd-10"]] == [None, "PGD-20 8/255"]
    assert {point["other"] for listed in found["main"].values() for point in listed} == {None}


def test_a_point_counts_images_that_survive_true_and_surrogate_gradients(first_world):
    record = records.read(next(first_world.results.rglob("sat/seed0/record.json")))
    known = record.measurement("corrected:fgsm-0.1")
    none = dataclasses.replace(
        known, name=f"{known.name}:surrogate", correct=packing.pack_mask(np.zeros(20, bool)), n=20
    )
    record = dataclasses.replace(record, measurements=(*record.measurements, none))
    points = report.curves(record, [1])["main"]["fgsm"]
    assert points[-1]["accuracy"] == 0 and {point["n"] for point in points} == {20}


def test_a_record_without_a_measurement_of_the_curve_fails_the_build():
    with pytest.raises(KeyError, match="fgsm-1/255"):
        report.curves(fake.record(drop=["corrected:fgsm-1/255"]), [1])


# the page


PROBE = """<pre id="probe"></pre><script>
const probe = setInterval(() => {
  if (document.getElementById("explorer").hidden) return;
  clearInterval(probe);
  const find = (name) => document.getElementById(`explorer-${name}`);
  ACT
  const drawn = (name) => [...find(name).getContext("2d").getImageData(0, 0, 8, 8).data];
  document.getElementById("probe").textContent = JSON.stringify({
    clean: drawn("clean"), shown: drawn("shown"), sentence: find("sentence").textContent, hash: location.hash,
    reading: find("reading").textContent, slider: find("eps").getAttribute("aria-valuetext"),
    chosen: [...document.querySelectorAll(".chosen")].map((point) => Number(point.getAttribute("cx"))),
    sums: [...document.querySelectorAll(".probabilities td:last-child .number")].map((cell) => cell.textContent),
  });
}, 20);</script>"""  # acts on the page once it is there, and writes down what it shows


def markup() -> str:
    """The page's own HTML, as its Markdown has it."""
    source = (ROOT / "book" / "explorer.md").read_text()
    return source[source.index("<link") : source.index("## What to try")]


def standing_alone(world: World, folder: Path, act: str) -> Path:
    """The page without the book around it, with a script that acts on it and then writes down what is drawn."""
    shutil.copytree(ROOT / "book" / "static", folder / "_static", ignore=shutil.ignore_patterns("katex"))
    content = report.page(*report.read(world.file, world.results, world.models))
    probe = PROBE.replace("ACT", act)
    html = f"<!doctype html><html><head><meta charset=utf-8></head><body>{markup()}{content}{probe}</body></html>"
    path = folder / "page.html"
    path.write_text(html.replace("../_static/", "_static/"))
    return path


def browse(path: Path, address: str) -> dict:
    if not browser.find():
        pytest.skip("no chromium here: a script can only be checked in a browser (apt-get install chromium)")
    dom = browser.dom(path, f"#{address}")
    return json.loads(re.search(r'<pre id="probe">(.*?)</pre>', dom, re.DOTALL).group(1))


def rgb(drawn: list[int]) -> np.ndarray:
    return np.array(drawn).reshape(8, 8, 4)[..., :3]


def test_a_browser_draws_the_very_pixels_that_the_network_saw(first_world, tmp_path):
    data = json.loads(first_world.file.read_text())
    (seen,) = [seen for key, branch, seen in views(data) if (key, branch) == ("advprop", "aux")]
    path = standing_alone(first_world, tmp_path, act="")
    there = browse(path, "row=advprop&branch=aux&attack=pgd-10&eps=8&image=green")
    image, eps = DATA.classes.index("green"), data["eps"].index(8)
    assert (rgb(there["clean"]) == pictures(data)[image]).all()
    assert (rgb(there["shown"]) == pictures(data)[image] + added(data, seen, "pgd-10")[eps, image]).all()
    stored = [value / 100 for value in seen["pgd-10"]["probabilities"][eps][image]]
    assert [float(re.search(r"[\d.]+", text).group()) for text in there["sums"]] == pytest.approx(stored, abs=0.051)
    assert "AdvProp network (auxiliary batch norm)" in there["sentence"] and "PGD-20 8/255" in there["reading"]


def test_moving_the_slider_changes_picture_words_curve_and_address(first_world, tmp_path):
    data = json.loads(first_world.file.read_text())
    (seen,) = [seen for key, _, seen in views(data) if key == "traditional"]
    address = "row=traditional&attack=fgsm&eps=1&image=blue"
    before = browse(standing_alone(first_world, tmp_path / "a", act=""), address)
    act = 'find("eps").value = 5; find("eps").dispatchEvent(new Event("input"));'
    after = browse(standing_alone(first_world, tmp_path / "b", act=act), address)
    image = DATA.classes.index("blue")
    assert (rgb(after["shown"]) == pictures(data)[image] + added(data, seen, "fgsm")[-1, image]).all()
    assert (before["slider"], after["slider"]) == ("1 of 255", "16 of 255")
    assert "1/255" in before["sentence"] and "16/255" in after["sentence"]
    assert before["chosen"] < after["chosen"] and before["clean"] == after["clean"]
    assert "eps=1&" in before["hash"] and "eps=16&" in after["hash"]


def test_an_address_with_nonsense_shows_the_default(first_world, tmp_path):
    path = standing_alone(first_world, tmp_path, act="")
    nonsense, plain = (browse(path, a) for a in ("row=constructor&attack=toString&eps=3&image=no&branch=x", ""))
    assert nonsense == plain


def test_the_page_loads_nothing_from_elsewhere():
    for path in (ROOT / "book" / "static").glob("explorer.*"):
        text = path.read_text().replace("http://www.w3.org/2000/svg", "")  # a name, not an address
        assert not re.search(r"https?:|//cdn|@import|fetch\(|XMLHttpRequest|url\(", text), path.name
    assert not re.search(r"https?:", markup())


def test_the_pages_blocks_are_json_and_cannot_end_early(first_world):
    content = report.page(*report.read(first_world.file, first_world.results, first_world.models))
    blocks = re.findall(r'<script type="application/json" id="explorer-json-(\w+)">(.*?)</script>', content)
    assert [name for name, _ in blocks] == ["data", "rows", "attacks"]
    rows = json.loads(blocks[1][1])
    assert rows["sat"]["run"] == "../results/smoke/digits/corrected/sat/seed0/run.html"
    assert "AdvProp, auxiliary batch norm" in content and "nan" not in content.lower().split("<script")[0]


# what is committed


def test_the_committed_data_belong_to_the_committed_records_and_agree_with_them():
    path = report.find(ROOT / "results")
    data, found = report.read(path, ROOT / "results", ROOT / "models")
    assert path.stat().st_size < 2e6
    for row in data["rows"]:
        assert report.agreement(row, found[row["key"]], data) >= measure.AGREEMENT, row["key"]
        assert report.curves(found[row["key"]], data["eps"])
    for _, _, seen in views(data):
        for attack in report.ATTACKS:
            delta = added(data, seen, attack).astype(int)
            assert all(np.abs(one).max() <= eps for eps, one in zip(data["eps"], delta, strict=True))
            assert 0 <= (pictures(data) + delta).min() and (pictures(data) + delta).max() <= 255


def test_the_gallery_shows_the_very_pixels_and_predictions_of_the_data(first_world):
    data = json.loads(first_world.file.read_text())
    figure = gallery.gallery(data, eps=8, images=3)
    panels = np.array(figure.axes).reshape(1 + len(data["rows"]), 3)
    eps, labels = data["eps"].index(8), data["images"]["labels"]
    for line, row in zip(panels[1:], data["rows"], strict=True):
        seen = row["branches"]["main"]
        shown = pictures(data) + added(data, seen, gallery.ATTACK)[eps]
        for k, panel in enumerate(line):
            np.testing.assert_allclose(255 * panel.images[0].get_array(), shown[k], atol=1e-3)
            predicted = int(np.argmax(seen[gallery.ATTACK]["probabilities"][eps][k]))
            wrong = predicted != labels[k]
            assert data["classes"][predicted] in panel.get_title() and ("✗" in panel.get_title()) == wrong
            assert panel.spines["top"].get_visible() == wrong
    assert gallery.words(data, images=3)["alt"].startswith("A grid")
    aux = gallery.gallery(data, [("advprop", "aux")], eps=8, images=1)
    (found,) = (row for row in data["rows"] if row["key"] == "advprop")
    shown = pictures(data) + added(data, found["branches"]["aux"], gallery.ATTACK)[eps]
    np.testing.assert_allclose(255 * aux.axes[1].images[0].get_array(), shown[0], atol=1e-3)
    plt.close("all")
