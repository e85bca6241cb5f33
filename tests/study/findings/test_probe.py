"""Probes: a network that hides its gradient is caught, an honest one is not, and the parts do what they say."""

import dataclasses
import json
import sys
import types
from hashlib import sha256

import fake_records as fake
import numpy as np
import pytest
import torch
from torch import nn

from study.__main__ import main
from study.data import load
from study.data.pixels import to_pixels
from study.experiment import run
from study.experiment.evaluate import evaluate
from study.experiment.weights import save_weights
from study.findings.masking import checks, judge, measure, probes
from study.machine.folders import alone
from study.plan.attacks import PIXEL, suite
from study.plan.catalogue import config

IMAGES = 24


class Masked(nn.Module):
    """A network with the interface of ours around ``model``; what hides the gradient is for the kinds to say."""

    def __init__(self, model):
        super().__init__()
        self.model, self.standardise = model, nn.Identity()

    def forward(self, x, branch="main"):
        return self.classify(x, branch)


class Rounded(Masked):
    """Pixels are rounded to eight levels on the way in, and a staircase has no slope."""

    def classify(self, x, branch="main"):
        return self.model((x * 7).round() / 7, branch)


class Stopped(Masked):
    """The gradient is stopped, but for a whisper that float32 cannot tell from noise."""

    def classify(self, x, branch="main"):
        logits = self.model(x, branch)
        return logits.detach() + 1e-20 * (logits - logits.detach()) * torch.tensor([-1.0, 1.0]).repeat(5)


class Loud(Masked):
    """Logits times a million: each decision stays; the softmax is exactly 0 and 1, and its gradient is 0."""

    def classify(self, x, branch="main"):
        return 1e6 * self.model(x, branch)


class Edge(nn.Module):
    """Class 1 where the mean pixel is above ``at``, and a slope that leads there."""

    def __init__(self, at=0.9):
        super().__init__()
        self.slope, self.at = nn.Parameter(torch.tensor(5.0)), at

    def forward(self, x, branch="main"):
        height = self.slope * (x.flatten(1).mean(dim=1) - self.at)
        return torch.stack([-height, height], dim=1)


MASKS = {"rounded": Rounded, "stopped": Stopped, "loud": Loud}


@pytest.fixture(scope="module")
def honest():
    """A network of width 8 that has learnt the digits, and its data: seconds."""
    return run.learn(config("traditional", budget="smoke", epochs=5))


@pytest.fixture(scope="module")
def shown(honest):
    return honest.dataset.test_images[:IMAGES], honest.dataset.test_labels[:IMAGES]


def recorded(model, shown):
    """A record of the network's own accuracies under the corrected rule."""
    attacks = [attack for attack in suite(dual=False, surrogate=False) if attack.rule == "corrected"]
    found = evaluate({"true": model}, *shown, attacks, sweep_size=len(shown[0]))
    return dataclasses.replace(fake.record("traditional", budget="smoke"), measurements=tuple(found))


def probe(model, shown, record, queries=20):
    return measure.probe(model, *shown, record=record, about=fake.about(record, len(shown[1])), queries=queries)


def verdict(record, probed=None):
    return judge.verdict([record], record.key, record.protocol, {record.where: probed} if probed else {})


def failing(judged) -> set[str]:
    return {result.check.id for result in judged.failing}


@pytest.fixture(scope="module")
def honest_measured(honest, shown):
    record = recorded(honest.model, shown)
    return record, probe(honest.model, shown, record, 50)


def test_an_honest_network_shows_no_sign_of_masking(honest_measured):
    record, probed = honest_measured
    judged = verdict(record, probed)
    assert record.measurement("corrected:clean").accuracy > 0.5, "it has learnt something"
    assert failing(judged) - {"flat", "rising"} == set()
    unknown = {r.check.id for r in judged.results if r.outcome == "not measured"}
    assert unknown == {"rows"}, "that needs other networks: see test_transfer"


@pytest.mark.parametrize("kind", MASKS)
def test_a_network_that_hides_its_gradient_is_caught_by_its_probe(kind, honest, shown, honest_measured):
    record, _ = honest_measured  # attacked when it still showed its gradient: the record alone is honest
    judged = verdict(record, probe(MASKS[kind](honest.model), shown, record))
    assert judged.verdict == "masked"
    assert failing(judged) >= {"unbounded", "vanishing"} | ({"zero"} if kind != "stopped" else set())
    assert not failing(judged) & {check.id for check in checks.CHECKS if not check.of_probe}


def test_a_network_that_hides_its_gradient_is_caught_by_its_record_alone(honest, shown):
    judged = verdict(recorded(Rounded(honest.model), shown))
    assert judged.verdict == "masked" and "grey" in failing(judged)


def test_square_catches_a_hidden_gradient_and_clears_an_open_one():
    class Hidden(Edge):
        def forward(self, x, branch="main"):
            return super().forward(x).detach() + 0 * x.flatten(1).sum(dim=1, keepdim=True)

    grey = torch.full((24, 3, 8, 8), 26, dtype=torch.uint8), torch.zeros(24, dtype=torch.int64)
    record = fake.record("traditional", budget="smoke")
    found = {kind: failing(verdict(record, probe(kind(at=0.11), grey, record, 200))) for kind in (Edge, Hidden)}
    assert "square" in found[Hidden] and "square" not in found[Edge]


def test_a_probe_is_of_the_images_and_says_of_what(honest_measured):
    record, probed = honest_measured
    assert fake.about(record, IMAGES).items() <= dataclasses.asdict(probed).items()
    assert {m.name for m in probed.measurements} == {
        "probe:clean",
        "probe:pgd-20-8/255",
        "probe:unbounded",
        "probe:square-8/255",
    }
    assert all(m.n == IMAGES for m in probed.measurements)
    assert (probed.mask("clean") == record.measurement("corrected:clean").mask).all()
    assert probed.loss["0"] < probed.loss["19"]
    assert json.loads(json.dumps(dataclasses.asdict(probed))) is not None


def test_the_same_network_gives_the_same_probe(honest, shown, honest_measured):
    record, probed = honest_measured
    assert probe(honest.model, shown, record, 50) == probed


def test_probing_leaves_the_model_and_torchs_generator_as_they_were(honest, shown):
    record, model = fake.record("traditional", budget="smoke"), honest.model
    model.zero_grad(set_to_none=True)
    model.train()
    next(model.children()).eval()
    modes = [module.training for module in model.modules()]
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    before = torch.get_rng_state()
    try:
        probe(model, [part[:10] for part in shown], record)
        assert torch.equal(torch.get_rng_state(), before)
        assert [module.training for module in model.modules()] == modes
        assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())
        assert all(parameter.grad is None for parameter in model.parameters())
    finally:
        model.eval()


class Linear(nn.Module):
    """Logits W x: whose gradient is known."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(3, 12, generator=torch.Generator().manual_seed(0)))

    def forward(self, x, branch="main"):
        return x.flatten(1) @ self.weight.T


def test_the_gradient_is_that_of_each_images_own_cross_entropy():
    model, x, y = Linear(), torch.rand(5, 3, 2, 2), torch.tensor([0, 1, 2, 0, 1])
    w = model.weight.detach().double().numpy()
    logits = x.double().flatten(1).numpy() @ w.T
    softmax = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    expected = (softmax - np.eye(3)[y]) @ w
    assert np.allclose(measure.gradients(model, x, y).flatten(1).numpy(), expected, atol=1e-6)


class Constant(nn.Module):
    """Class 0, whatever it sees: no attack can change it, and there is no gradient to climb."""

    def __init__(self):
        super().__init__()
        self.logits = nn.Parameter(torch.tensor([1.0, 0.0, 0.0]))

    def forward(self, x, branch="main"):
        return self.logits + 0 * x.flatten(1).sum(dim=1, keepdim=True)


def test_what_no_attack_can_change_survives_and_what_is_wrong_already_does_not():
    x, y = torch.rand(4, 3, 8, 8), torch.tensor([0, 1, 0, 2])
    right = torch.tensor([True, False, True, False])
    assert torch.equal(measure.unbounded(Constant(), x, y, torch.Generator().manual_seed(0)), right)
    assert torch.equal(measure.square(Constant(), x, y, 10, seed=0), right)


def test_without_a_bound_everything_is_within_reach():
    x, y = torch.full((3, 3, 8, 8), 0.1), torch.zeros(3, dtype=torch.int64)
    assert not measure.unbounded(Edge(), x, y, torch.Generator().manual_seed(0)).any()
    assert measure.square(Edge(), x, y, 50, seed=0).all(), "8/255 is not enough"


def test_a_start_near_the_image_finds_what_the_image_itself_hides():
    class Plateau(Edge):
        """No slope at the one image that is asked for."""

        def forward(self, x, branch="main"):
            away = (x - 0.1).flatten(1).abs().amax(dim=1) > 1e-4
            return torch.where(away[:, None], super().forward(x), super().forward(x).detach())

    x, y = torch.full((2, 3, 8, 8), 0.1), torch.zeros(2, dtype=torch.int64)
    assert not measure.unbounded(Plateau(), x, y, torch.Generator().manual_seed(0)).any()
    assert not measure.gradients(Plateau(), x, y).any()


def test_a_square_that_leaves_its_ball_is_refused(monkeypatch):
    class Square:
        def __init__(self, model, **options):
            pass

        def __call__(self, x, y):
            return (x + 0.1).clamp(0, 1)

    monkeypatch.setitem(sys.modules, "torchattacks", types.SimpleNamespace(Square=Square))
    with pytest.raises(RuntimeError, match="left its ball"):
        measure.square(Constant(), torch.rand(2, 3, 8, 8), torch.tensor([0, 0]), 10, seed=0)


def test_without_torchattacks_a_probe_says_what_to_install_before_it_measures_anything(monkeypatch):
    monkeypatch.setitem(sys.modules, "torchattacks", None)
    with pytest.raises(ImportError, match=r"pip install --no-deps -r requirements-peers\.lock"):
        measure.square(Constant(), torch.rand(2, 3, 8, 8), torch.tensor([0, 0]), 10, seed=0)
    nothing = object()  # that could be asked
    with pytest.raises(ImportError, match="Square needs torchattacks"):
        next(measure.measure([nothing], "results"))


def test_the_last_step_counts_with_its_interval_and_a_loss_that_never_moves_has_none():
    low, high = measure._interval([0.0, 1.0, 2.0, 3.0])
    assert (low, high) == pytest.approx((1.5 - 2.0543, 1.5 + 2.0543), abs=1e-3)  # t(3) = 3.182, s / sqrt(4) = 0.6455
    assert measure._interval([0.25, 0.25]) == (0.25, 0.25)


# the command


def test_the_command_leaves_a_probe_beside_the_record(honest, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(measure, "QUERIES", 20)
    asked = config("traditional", budget="smoke", epochs=5)
    record = fake.trained("traditional", asked, honest.models, honest.dataset)
    folder = fake.put(record, tmp_path)
    weights = save_weights(honest.model, tmp_path / "model.safetensors", record)
    asked = ["measure", "masking", "traditional", "--budget", "smoke", "--images", "12", "--results", str(tmp_path)]
    assert main([*asked, "--weights", str(weights)]) == 0
    assert f"{folder / 'probe.json'}: of 12 images right, clean" in capsys.readouterr().out
    (found,) = probes.probes(tmp_path, [record]).values()
    assert found.images == 12 and found.weights == sha256(weights.read_bytes()).hexdigest()
    assert (found.mask("clean") == record.measurement("corrected:clean").mask[:12]).all()
    before = (folder / "probe.json").read_bytes()
    assert main([*asked, "--images", "4", "--weights", str(weights)]) == 2
    assert "is of 12 images, not of 4: ask for --images 12, or begin again with --anew" in capsys.readouterr().err
    with alone(folder):
        assert main([*asked, "--weights", str(weights)]) == 2
    assert f"measuring the network of {record.where} is under way in another process" in capsys.readouterr().err
    assert (folder / "probe.json").read_bytes() == before


def test_the_sizes_are_those_of_the_records():
    assert measure.SQUARE["eps"] == measure.PGD_20.eps == 8 * PIXEL
    assert to_pixels(load("digits").test_images[:1]).max() <= 1 == measure.UNBOUNDED.eps
    assert measure.UNBOUNDED.steps * measure.UNBOUNDED.step_size > 1, "every pixel can go anywhere"
