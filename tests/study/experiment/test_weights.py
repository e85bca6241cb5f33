"""Trained weights: what is saved is what is loaded, and the committed models are their records' models."""

import json

import miniature
import pytest
import torch
from places import ROOT
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from study import records
from study.data import load
from study.data.pixels import to_pixels
from study.experiment import build, provenance
from study.experiment.weights import load_model, load_weights, save_weights

MODELS = sorted((ROOT / "models").glob("*.safetensors"))


def test_weights_come_back_bit_for_bit_in_float32_and_rounded_in_float16(tiny, batch, tmp_path):
    model = tiny(norm="dual")
    for dtype, tolerance in [(torch.float32, 0.0), (torch.float16, 1e-3)]:
        again = load_weights(tiny(norm="dual"), save_weights(model, tmp_path / "w.safetensors", dtype=dtype))
        for name, value in model.state_dict().items():
            assert torch.allclose(again.state_dict()[name], value, rtol=tolerance, atol=1e-6 if tolerance else 0), name
    assert not again.training


def test_what_float16_does_not_hold_is_saved_in_float32(tiny, tmp_path):
    model = tiny()
    model.stem_norm.running_var[0] = 1e5  # the largest of float16 is 65,504
    path = save_weights(model, tmp_path / "w.safetensors", dtype=torch.float16)
    again = load_weights(tiny(), path)
    assert torch.equal(again.stem_norm.running_var, model.stem_norm.running_var)
    assert load_file(path)["stem_norm.running_mean"].dtype == torch.float16


def test_a_file_with_its_record_is_a_whole_model_and_one_without_is_refused(tmp_path):
    data, config = miniature.dataset(), miniature.config(norm="dual", adversarial=True, activation="surrogate-relu")
    model = build.build_model(config, data).eval()
    record = records.Record(
        "sat-advprop", "corrected", "smoke", 0, config.to_dict(), provenance.describe_data(data), {}, {}, [], ()
    )
    path = save_weights(model, tmp_path / "m.safetensors", record)
    x = to_pixels(data.test_images)
    for branch in ("main", "aux"):
        assert torch.equal(load_model(path)(x, branch), model(x, branch))
        assert torch.equal(load_model(path, activation="relu")(x, branch), model(x, branch))
    with pytest.raises(ValueError, match="does not say what it is"):
        load_model(save_weights(model, tmp_path / "bare.safetensors"))


def test_the_same_network_of_the_same_record_is_the_same_file_whenever_it_is_saved(tmp_path):
    """By its digest a file is known to what was measured of it; safetensors draws the order of its metadata by lot."""
    data, config = miniature.dataset(), miniature.config()
    model = build.build_model(config, data)
    record = records.Record(
        "traditional", "corrected", "smoke", 0, config.to_dict(), provenance.describe_data(data), {}, {}, [], ()
    )
    files = {save_weights(model, tmp_path / f"{k}", record).read_bytes() for k in range(8)}
    assert len(files) == 1
    with safe_open(tmp_path / "0", framework="pt") as file:
        about = file.metadata()
    assert about["record"] == record.where and json.loads(about["config"]) == record.config
    assert json.loads(about["classes"]) == list(data.classes)


def _changed(**of_tensors):
    """A file with tensors changed, by the end of their names; those that become None are left out."""

    def change(path, about, state):
        for ending, new in of_tensors.items():
            for name in [name for name in state if name.endswith(ending)]:
                state[name] = new(state[name])
        save_file({name: t.contiguous() for name, t in state.items() if t is not None}, path, metadata=about)

    return change


def _said(**what):
    """A file that says other things of itself."""
    return lambda path, about, state: save_file(state, path, metadata=about | what)


NO_WEIGHTS = {
    "empty": lambda path, about, state: path.write_bytes(b""),
    "cut": lambda path, about, state: path.write_bytes(path.read_bytes()[:9000]),
    "with a header of 4 EB": lambda path, about, state: path.write_bytes((2**62).to_bytes(8, "little") + b"{}"),
    "with a header without an end": lambda path, about, state: path.write_bytes(
        (10**5).to_bytes(8, "little") + 10**5 * b"["
    ),
    "not a number": _changed(**{"stem.weight": lambda t: t * float("nan")}),
    "a deviation of 0": _changed(std=torch.zeros_like),
    "a negative variance": _changed(running_var=lambda t: t - 9),
    "a mean of another shape": _changed(mean=torch.flatten),
    "a layer less": _changed(**{"stem.weight": lambda t: None}),
    "a layer of another shape": _changed(**{"stem.weight": lambda t: t[:1]}),
    "a config that is no JSON": _said(config="{"),
    "a config that is none": _said(config="[1]"),
    "a config of tomorrow": _said(config='{"width": 7}'),
    "classes that are none": _said(classes="3"),
}


@pytest.mark.parametrize("what", NO_WEIGHTS)
def test_what_no_network_can_have_is_refused_with_the_file_and_the_remedy(what, tmp_path):
    data, config = miniature.dataset(), miniature.config()
    record = records.Record(
        "traditional", "corrected", "smoke", 0, config.to_dict(), provenance.describe_data(data), {}, {}, [], ()
    )
    path = save_weights(build.build_model(config, data), tmp_path / "w.safetensors", record)
    with safe_open(path, framework="pt") as file:
        about = file.metadata()
    NO_WEIGHTS[what](path, about, load_file(path))
    with pytest.raises(ValueError, match=f"{path} is no file of a network's weights .*: fetch it or make it again"):
        load_model(path)


@pytest.mark.parametrize("path", MODELS, ids=lambda path: path.stem)
def test_a_committed_model_names_its_record_and_its_card_says_what_the_record_says(path):
    with safe_open(path, framework="pt") as file:
        about = file.metadata()
    record = records.read(ROOT / "results" / about["record"] / "record.json")
    assert json.loads(about["config"]) == record.config
    card = path.with_suffix(".md").read_text()
    assert f"| {100 * record.measurement('corrected:clean').accuracy:.1f} |" in card
    assert path.stat().st_size < 2_000_000


@pytest.mark.parametrize("path", MODELS, ids=lambda path: path.stem)
def test_evaluating_a_committed_model_gives_its_record(path):
    with safe_open(path, framework="pt") as file:
        record = records.read(ROOT / "results" / file.metadata()["record"] / "record.json")
    try:
        data = load(record.config["dataset"], download=False)
    except FileNotFoundError as error:
        pytest.skip(f"needs the images the model was tested on: {error}")
    assert data.checksum == record.data["checksum"]
    n = 256
    with torch.no_grad():
        right = load_model(path)(to_pixels(data.test_images[:n])).argmax(dim=1) == data.test_labels[:n]
    then = torch.from_numpy(record.measurement("corrected:clean").mask[:n])
    assert (right != then).sum() <= 3  # weights of 16 bits may turn an image or two
