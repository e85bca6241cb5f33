"""Claims about arithmetic: what is called float32 is float32, whatever a caller has set, and its settings come back."""

from types import SimpleNamespace

import miniature
import numpy as np
import pytest
import torch

from advlib import train
from study.data import pixels as data_pixels
from study.experiment import build, precision
from study.experiment.evaluate import evaluate
from study.experiment.precision import float32
from study.findings.autoattack import measure as autoattack
from study.findings.branches import measure as recombine
from study.findings.corruptions import measure as corrupt
from study.findings.explorer import measure as explore
from study.findings.masking import measure as probe
from study.findings.masking import transfer
from study.plan.attacks import PAPER_COLUMNS, suite

B = torch.backends


def settings() -> list:
    """Everything that lets float32 be less, as it is now; what torch refuses to tell is None."""
    found = [torch.is_autocast_enabled(device) for device in precision.DEVICES]
    for get, _, _ in precision._settings():
        try:
            found.append(get())
        except RuntimeError:
            found.append(None)
    return found


STRICT = [False] * len(precision.DEVICES) + [strict for _, _, strict in precision._settings()]
newer = pytest.mark.skipif(not hasattr(B.cudnn, "conv"), reason="torch has one setting an operation since 2.9")
LOOSE = {
    "as it comes": [],
    "the older settings": [(B.cudnn, "allow_tf32", True), (B.cudnn, "benchmark", True)],
    "products": [(B.cuda.matmul, "fp32_precision", "tf32")],
    "products on the CPU": [(B.mkldnn.matmul, "fp32_precision", "bf16")],
    "cuDNN": [(B.cudnn, "fp32_precision", "tf32")],
    "everything": [(B, "fp32_precision", "tf32")],
}


@pytest.fixture(params=[pytest.param(key, marks=newer if k > 1 else []) for k, key in enumerate(LOOSE)])
def loose(request):
    """A caller who has set something for speed, in a process of torch's that has been set back."""
    fresh = [(set_to, get()) for get, set_to, _ in precision._settings()]
    changed = [(part, name, getattr(part, name)) for part, name, _ in LOOSE[request.param]]
    if request.param == "the older settings":
        torch.set_float32_matmul_precision("medium")
    for part, name, value in LOOSE[request.param]:
        setattr(part, name, value)
    with torch.autocast("cpu", torch.bfloat16):
        yield request.param
    for part, name, value in changed:
        setattr(part, name, value)
    for set_to, value in fresh:
        set_to(value)


def test_inside_nothing_is_less_than_float32_and_outside_all_is_as_it_was(loose):
    a = torch.rand(64, 64)
    before = settings()
    with pytest.raises(KeyError), float32():
        inside = settings()
        assert (a @ a).dtype == torch.float32
        raise KeyError
    assert settings() == before and (a @ a).dtype == torch.bfloat16
    assert before != STRICT and [value for value in inside if value is not None] == [
        strict for value, strict in zip(inside, STRICT, strict=True) if value is not None
    ]
    assert None not in inside or loose == "everything"


def test_an_older_torch_has_its_two_settings_set(monkeypatch):
    older = SimpleNamespace(cuda=None, mkldnn=None, cudnn=SimpleNamespace(allow_tf32=True, benchmark=True))
    monkeypatch.setattr(torch, "backends", older)
    assert [strict for _, _, strict in precision._settings()] == ["highest", False, False]


def test_a_forward_in_half_precision_sees_a_weight_that_has_changed_since_the_last():
    """As it has between the two steps of the published update: a copy that autocast kept would be the old one."""
    weight, seen = torch.nn.Parameter(torch.ones(1, 1)), []
    with precision.autocast(torch.device("cpu"), torch.bfloat16):
        for value in (1.0, 2.0):
            weight.data.fill_(value)
            seen.append(torch.nn.functional.linear(torch.ones(1, 1), weight).item())
    assert seen == [1.0, 2.0]


def test_a_callers_inference_mode_changes_no_evaluation():
    data = miniature.dataset(test_size=8)
    model = build.build_model(miniature.config(), data).eval()

    def measured():
        attacks = suite(dual=False, surrogate=False)
        return evaluate({"true": model}, data.test_images, data.test_labels, attacks, sweep_size=8)

    expected = measured()
    with torch.inference_mode():
        assert measured() == expected and torch.is_inference_mode_enabled()


class Witness(torch.nn.Module):
    """A network that notes what it was computed in."""

    def __init__(self, model):
        super().__init__()
        self.model, self.standardise, self.seen = model, model.standardise, set()

    def forward(self, x, branch="main"):
        self.note()
        return self.model(x, branch)

    def classify(self, z, branch="main"):
        self.note()
        return self.model.classify(z, branch)

    def note(self):
        self.seen.add((torch.is_autocast_enabled("cpu"), torch.get_float32_matmul_precision()))


@pytest.fixture
def witness() -> Witness:
    return Witness(build.build_model(miniature.config(), miniature.dataset())).eval()


def test_a_network_is_measured_in_float32_whatever_the_caller_has_set(loose, witness):
    data = miniature.dataset(test_size=8)
    images, labels = data.test_images, data.test_labels
    seen = {}

    def by(name, measure):
        witness.seen = set()
        measure()
        seen[name] = witness.seen

    by("evaluation", lambda: evaluate({"true": witness}, images, labels, [*PAPER_COLUMNS], sweep_size=8))
    x = data_pixels.to_pixels(images)
    by("transfer", lambda: transfer.among({"a": witness}, x, labels, seeds={"a": 0}))
    pixels = images.numpy().astype(np.uint8)
    network = SimpleNamespace(model=witness, dataset=data, device=images.device)
    by("corruptions", lambda: corrupt._measurement("fog", {}, network, pixels))
    step = train.clean_step
    config = miniature.config(epochs=1)
    by("training", lambda: miniature.fit(config, miniature.dataset(), model=witness.train(), step=step))
    assert all(found == {(False, "highest")} for found in seen.values()), seen


@newer
@pytest.mark.parametrize("tf32", [False, True])
def test_an_evaluation_that_asks_for_it_rounds_a_gpus_convolutions_and_nothing_else(tf32, witness):
    data, before, seen = miniature.dataset(test_size=8), settings(), set()
    witness.note = lambda: seen.add((B.cudnn.conv.fp32_precision, B.cuda.matmul.fp32_precision))
    evaluate({"true": witness}, data.test_images, data.test_labels, [*PAPER_COLUMNS], sweep_size=8, tf32=tf32)
    assert seen == {("tf32" if tf32 else "ieee", "ieee")} and settings() == before


@pytest.mark.parametrize(
    "measure", [evaluate, probe.probe, transfer.among, recombine.crossed, autoattack.attack, explore.explore]
)
def test_all_that_measures_does_so_in_the_one_place_that_sets_float32(measure):
    """Those that need a record or a peer's library, by their decorator: it is the one that the test above has run."""
    (wrapper,) = {cell.cell_contents for cell in measure.__closure__ if isinstance(cell.cell_contents, type(float32()))}
    assert wrapper.func is float32.__wrapped__
