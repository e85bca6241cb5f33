"""Claims about arithmetic: what is called float32 is float32, whatever a caller has set, and its settings come back."""

import miniature
import numpy as np
import pytest
import torch

from advlib import autoattack, corrupt, probe, recombine, run, train, transfer
from advlib.evaluate import PAPER_COLUMNS, evaluate
from advlib.precision import float32


def settings() -> dict:
    """Everything that lets float32 be less, as it is now."""
    found = {f"autocast {device}": torch.is_autocast_enabled(device) for device in ("cpu", "cuda")}
    cuda, cudnn, mkldnn = torch.backends.cuda, torch.backends.cudnn, torch.backends.mkldnn
    for part in (cuda.matmul, cudnn.conv, cudnn.rnn, mkldnn.matmul, mkldnn.conv):
        found[part] = part.fp32_precision
    return found | {"products": torch.get_float32_matmul_precision(), "tuning": cudnn.benchmark}


@pytest.fixture
def loose():
    """A caller who has set everything for speed."""
    before = settings()
    products, benchmark = torch.get_float32_matmul_precision(), torch.backends.cudnn.benchmark
    torch.set_float32_matmul_precision("medium")
    torch.backends.cudnn.benchmark = True
    with torch.autocast("cpu", torch.bfloat16):
        yield
    torch.set_float32_matmul_precision(products)
    torch.backends.cudnn.benchmark = benchmark
    for part, value in before.items():
        if hasattr(part, "fp32_precision"):
            part.fp32_precision = value


def test_a_caller_who_has_set_nothing_finds_nothing_set():
    before = settings()
    with float32():
        assert settings() != before
    assert settings() == before


def test_inside_nothing_is_less_than_float32_and_outside_all_is_as_it_was(loose):
    a = torch.rand(64, 64)
    before = settings()
    with pytest.raises(KeyError), float32():
        inside = settings()
        assert (a @ a).dtype == torch.float32
        raise KeyError
    assert settings() == before and (a @ a).dtype == torch.bfloat16
    assert inside["products"] == "highest" and not inside["tuning"]
    assert not inside["autocast cpu"] and not inside["autocast cuda"]
    assert {value for value in inside.values() if isinstance(value, str)} == {"ieee", "highest"}


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
    return Witness(run.build_model(miniature.config(), miniature.dataset())).eval()


def test_a_network_is_measured_in_float32_whatever_the_caller_has_set(loose, witness):
    data = miniature.dataset(test_size=8)
    images, labels = data.test_images, data.test_labels
    seen = {}

    def by(name, measure):
        witness.seen = set()
        measure()
        seen[name] = witness.seen

    by("evaluation", lambda: evaluate({"true": witness}, images, labels, [*PAPER_COLUMNS], sweep_size=8))
    x = train.to_pixels(images)
    by("transfer", lambda: transfer.among({"a": witness}, x, labels, seeds={"a": 0}))
    pixels = images.numpy().astype(np.uint8)
    by("corruptions", lambda: corrupt._measurement("fog", {}, witness, pixels, labels))
    step = train.clean_step
    config = miniature.config(epochs=1)
    by("training", lambda: miniature.fit(config, miniature.dataset(), model=witness.train(), step=step))
    assert all(found == {(False, "highest")} for found in seen.values()), seen


@pytest.mark.parametrize("measure", [evaluate, probe.measure, transfer.among, recombine.measure, autoattack.attack])
def test_all_that_measures_does_so_in_the_one_place_that_sets_float32(measure):
    """Those that need a record or a peer's library, by their decorator: it is the one that the test above has run."""
    (wrapper,) = {cell.cell_contents for cell in measure.__closure__ if isinstance(cell.cell_contents, type(float32()))}
    assert wrapper.func is float32.__wrapped__
