"""advlib.attacks: closed forms on linear models, naive loops, and what an attack must leave as it was."""

import math
from collections import Counter
from functools import partial
from itertools import pairwise

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from advlib.attacks import (
    _narrow,
    cross_entropy,
    eval_mode,
    fgsm,
    first_success,
    pgd,
    predictions,
    require_finite,
    uniform_noise,
)
from advlib.resnet import Standardise
from study.experiment.evaluate import evaluate
from study.experiment.precision import log_odds
from study.findings.masking import measure
from study.plan.attacks import suite

# Every kind of attack: the settings, and the radius of the ball in its norm. Those with a generator need a fresh one.
ATTACKS = {
    "fgsm": {"eps": 0.1},
    "fgsm-large": {"eps": 0.5},
    "pgd": {"eps": 8 / 255, "step_size": 2 / 255, "steps": 10},
    "pgd-out-of-reach": {"eps": 0.1, "step_size": 2 / 255, "steps": 2},
    "pgd-overshooting": {"eps": 0.05, "step_size": 0.3, "steps": 3},
    "pgd-random-start": {"eps": 0.1, "step_size": 0.02, "steps": 3, "random_start": True},
    "pgd-restarts": {"eps": 0.05, "step_size": 0.02, "steps": 2, "random_start": True, "restarts": 3},
    "pgd-l2": {"eps": 0.5, "step_size": 0.2, "steps": 4, "norm": "l2"},
    "pgd-l2-large": {"eps": 9.0, "step_size": 5.0, "steps": 3, "norm": "l2"},
    "pgd-l2-restarts": {"eps": 0.5, "step_size": 0.2, "steps": 2, "norm": "l2", "random_start": True, "restarts": 2},
    "no-steps": {"eps": 0.1, "step_size": 0.1, "steps": 0},
    "random-start-only": {"eps": 0.1, "step_size": 0.1, "steps": 0, "random_start": True},
    "random-start-only-l2": {"eps": 0.5, "step_size": 0.1, "steps": 0, "norm": "l2", "random_start": True},
}
every_attack = pytest.mark.parametrize("settings", ATTACKS.values(), ids=ATTACKS)
deterministic_attack = pytest.mark.parametrize(
    "settings",
    [settings for settings in ATTACKS.values() if "random_start" not in settings],
    ids=[name for name, settings in ATTACKS.items() if "random_start" not in settings],
)
norms = pytest.mark.parametrize("norm", ["linf", "l2"])


def craft(logits_fn, x: Tensor, y: Tensor, settings: dict, **more) -> Tensor:
    if "steps" not in settings:
        return fgsm(logits_fn, x, y, **settings, **more)
    return pgd(logits_fn, x, y, **settings, generator=seeded(0), **more)


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def distance(x_adv: Tensor, x: Tensor, norm: str) -> Tensor:
    """Each image's distance, (B,), in float64."""
    delta = (x_adv.double() - x.double()).flatten(1)
    return delta.abs().amax(dim=1) if norm == "linf" else delta.square().sum(dim=1).sqrt()


class Linear(nn.Module):
    """Two classes with logits +-<w, x>: the loss's gradient has the sign of -w for label 0, of w for label 1."""

    def __init__(self, shape=(3, 4, 4), seed: int = 3):
        super().__init__()
        self.w = nn.Parameter(torch.randn(shape, generator=seeded(seed), dtype=torch.float64) / 50)

    def forward(self, x: Tensor) -> Tensor:
        score = (x * self.w.to(x.dtype)).sum(dim=(1, 2, 3))
        return torch.stack([-score, score], dim=1)

    def uphill(self, y: Tensor) -> Tensor:
        """The direction (B, C, H, W) in which the cross-entropy on ``y`` rises."""
        return torch.where(y.view(-1, 1, 1, 1) == 0, self.w, -self.w).detach()


def linear_case(low: float = 0.0, high: float = 1.0) -> tuple[Linear, Tensor, Tensor]:
    x = low + (high - low) * torch.rand(6, 3, 4, 4, generator=seeded(4), dtype=torch.float64)
    return Linear(), x, torch.tensor([0, 1, 1, 0, 0, 1])


# ---- closed forms


@pytest.mark.parametrize("eps", [8 / 255, 0.1, 0.5])
def test_fgsm_on_a_linear_model_is_one_clipped_signed_step(eps):
    model, x, y = linear_case()
    expected = (x + eps * model.uphill(y).sign()).clamp(0, 1)
    assert torch.equal(fgsm(model, x, y, eps=eps), expected)


@pytest.mark.parametrize("eps", [8 / 255, 0.1, 0.5])
def test_pgd_that_reaches_its_ball_equals_fgsm_on_a_linear_model(eps):
    model, x, y = linear_case()
    expected = (x + eps * model.uphill(y).sign()).clamp(0, 1)
    x_adv = pgd(model, x, y, eps=eps, step_size=eps / 4, steps=7)
    torch.testing.assert_close(x_adv, expected, rtol=0, atol=1e-12)


def test_l2_pgd_on_a_linear_model_ends_at_eps_along_the_gradient():
    model, x, y = linear_case(0.4, 0.6)  # far from the bounds, so that nothing is clipped
    w = model.uphill(y)
    expected = x + 0.3 * w / w.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
    x_adv = pgd(model, x, y, eps=0.3, step_size=0.1, steps=5, norm="l2")
    torch.testing.assert_close(x_adv, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize(("eps", "step_size", "steps", "reach"), [(0.3, 0.1, 2, 0.2), (0.15, 0.1, 2, 0.15)])
@norms
def test_pgd_travels_min_of_eps_and_steps_times_step_size(norm, eps, step_size, steps, reach):
    model, x, y = linear_case(0.4, 0.6)
    x_adv = pgd(model, x, y, eps=eps, step_size=step_size, steps=steps, norm=norm)
    torch.testing.assert_close(distance(x_adv, x, norm), torch.full((6,), reach).double(), rtol=0, atol=1e-8)


@pytest.mark.parametrize(
    ("eps", "step_size", "steps", "reach"),
    [(0.1, 2 / 255, 2, 0.015686), (0.5, 0.5, 2, 0.5), (8 / 255, 2 / 255, 10, 0.031373)],
)
def test_the_papers_attacks_reach_these_radii(tiny, eps, step_size, steps, reach):
    x, y = torch.full((2, 3, 16, 16), 0.5), torch.tensor([1, 2])
    x_adv = pgd(tiny(), x, y, eps=eps, step_size=step_size, steps=steps)
    assert (x_adv - x).abs().max().item() == pytest.approx(reach, abs=1e-6)


@pytest.mark.parametrize("eps", [0.05, 0.4])
def test_on_logits_that_are_channel_means_the_true_channel_falls_and_the_others_rise(eps):
    """foolbox's toy model."""
    x = torch.rand(4, 3, 5, 5, generator=seeded(5))
    y = torch.tensor([0, 1, 2, 1])
    expected = (x + eps).clamp(0, 1)
    for i, label in enumerate(y):
        expected[i, label] = (x[i, label] - eps).clamp(0, 1)
    x_adv = fgsm(lambda images: images.mean(dim=(2, 3)), x, y, eps=eps)
    torch.testing.assert_close(x_adv, expected, rtol=0, atol=1e-7)


def naive_pgd(logits_fn, x, y, *, eps, step_size, steps, norm, start=None):
    """One image and one constraint at a time; its gradient comes from ``backward``. Returns every iterate."""
    iterates = []
    x_adv = x if start is None else start
    for _ in range(steps):
        rows = []
        for i in range(len(x)):
            image = x_adv[i : i + 1].clone().requires_grad_()
            (-F.log_softmax(logits_fn(image), dim=1)[0, y[i]]).backward()
            g = image.grad[0]
            if norm == "linf":
                delta = x_adv[i] + step_size * torch.sign(g) - x[i]
                delta = torch.where(delta > eps, torch.full_like(delta, eps), delta)
                delta = torch.where(delta < -eps, torch.full_like(delta, -eps), delta)
            else:
                delta = x_adv[i] + step_size * g / math.sqrt((g**2).sum()) - x[i]
                length = math.sqrt((delta**2).sum())
                delta = delta if length <= eps else delta * (eps / length)
            rows.append((x[i] + delta).clamp(0, 1))
        x_adv = torch.stack(rows).detach()
        iterates.append(x_adv)
    return iterates


@pytest.mark.parametrize("settings", [{"eps": 0.1, "step_size": 0.04}, {"eps": 0.8, "step_size": 0.5}])
@norms
def test_pgd_equals_a_naive_loop_over_single_images(tiny, batch, norm, settings):
    model, (x, y) = tiny(norm="dual").double(), batch
    x_adv = pgd(model, x.double(), y, steps=4, norm=norm, **settings)
    expected = naive_pgd(model, x.double(), y, steps=4, norm=norm, **settings)[-1]
    torch.testing.assert_close(x_adv, expected, rtol=0, atol=1e-10)


def test_the_attack_goes_through_the_branch_it_is_given(tiny, batch):
    model, (x, y) = tiny(norm="dual"), batch

    def aux(images):
        return model(images, "aux")

    through_aux = pgd(aux, x, y, eps=0.1, step_size=0.05, steps=2)
    for module in model.modules():
        if isinstance(module, nn.ModuleDict):
            nn.init.constant_(module["main"].weight, math.nan)
    assert torch.equal(pgd(aux, x, y, eps=0.1, step_size=0.05, steps=2), through_aux)
    assert model(x).isnan().all()


@deterministic_attack
def test_attacking_in_other_bounds_is_the_same_attack_in_other_units(tiny, batch, settings):
    model, (x, y) = tiny().double(), (batch[0].double(), batch[1])
    scaled = {key: value * 4 if key in ("eps", "step_size") else value for key, value in settings.items()}
    x_adv = craft(lambda images: model((images + 2) / 4), 4 * x - 2, y, scaled, bounds=(-2.0, 2.0))
    torch.testing.assert_close((x_adv + 2) / 4, craft(model, x, y, settings), rtol=0, atol=1e-9)


def test_attacks_raise_the_loss_and_more_steps_raise_it_more(tiny, batch):
    model, (x, y) = tiny(), batch
    noisy = uniform_noise(x, eps=0.02, generator=seeded(0))
    one = pgd(model, x, y, eps=0.02, step_size=0.005, steps=1)
    many = pgd(model, x, y, eps=0.02, step_size=0.005, steps=10)
    losses = [F.cross_entropy(model(images), y).item() for images in (noisy, one, many)]
    assert losses == sorted(losses) and losses[0] < losses[-1] - 0.1


# ---- the ball and the bounds


@every_attack
def test_results_stay_in_the_ball_and_in_the_bounds(tiny, batch, settings):
    x, y = batch
    x_adv = craft(tiny(), x, y, settings)
    assert x_adv.shape == x.shape and x_adv.dtype == x.dtype
    assert 0 <= x_adv.min() and x_adv.max() <= 1
    assert distance(x_adv, x, settings.get("norm", "linf")).max() <= settings["eps"] * (1 + 1e-5) + 1e-7


@every_attack
def test_eps_zero_returns_the_images_bit_for_bit(tiny, batch, settings):
    x, y = batch
    assert torch.equal(craft(tiny(), x, y, {**settings, "eps": 0.0}), x)


@deterministic_attack
def test_zero_steps_or_step_size_return_the_images(tiny, batch, settings):
    x, y = batch
    if "steps" in settings:
        for change in ({"step_size": 0.0}, {"steps": 0}):
            torch.testing.assert_close(craft(tiny(), x, y, {**settings, **change}), x, rtol=0, atol=1e-6)


def test_a_zero_gradient_moves_nothing(batch):
    x, y = batch

    def flat(images):
        return images.sum(dim=(1, 2, 3)).unsqueeze(1) * torch.zeros(10)

    for settings in ({"eps": 0.1}, ATTACKS["pgd"], {**ATTACKS["pgd-l2"], "eps": 1e-3}):
        assert torch.equal(craft(flat, x, y, settings), x)


@norms
def test_a_tiny_gradient_gives_a_full_step_in_a_large_batch(norm):
    """A confident network's gradients are tiny: averaging the loss over the batch would make them smaller still."""
    model, x, y = linear_case(0.4, 0.6)
    x, y = x.repeat(20, 1, 1, 1), y.repeat(20)
    scale = 1e-11 / model.w.norm()
    x_adv = pgd(lambda images: scale * model(images), x, y, eps=0.1, step_size=0.1, steps=1, norm=norm)
    torch.testing.assert_close(distance(x_adv, x, norm), torch.full((120,), 0.1).double(), rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    "dtype, scale",
    [(torch.float64, 1e-300), (torch.float32, 1e-40), (torch.float16, 1e-6), (torch.bfloat16, 1e-38)],
    ids=str,
)
def test_an_l2_step_has_its_full_length_however_small_the_gradient_and_0_stays_put(dtype, scale):
    """The squares of these entries, and those of numbers far larger, are 0 in their precision."""
    slope = torch.linspace(-1, 1, 48, dtype=torch.float64).view(1, 3, 4, 4)

    def of_slope(images):
        score = images * (scale * slope).to(dtype)
        return torch.stack([-score.flatten(1).sum(dim=1), score.flatten(1).sum(dim=1)], dim=1) * still.view(2, 1)

    still = torch.tensor([1.0, 0.0], dtype=dtype)  # the second image's gradient is exactly 0
    x, y = torch.zeros(2, 3, 4, 4, dtype=dtype), torch.tensor([0, 0])
    x_adv = pgd(of_slope, x, y, eps=0.5, step_size=0.5, steps=1, norm="l2", bounds=(-1, 1))
    lengths = distance(x_adv, x, "l2")
    assert lengths[0].item() == pytest.approx(0.5, rel=0.01) and lengths[1] == 0
    assert F.cosine_similarity(x_adv[0].double().flatten(), slope.flatten(), dim=0) > 0.99


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("low", [0, -1])
@pytest.mark.parametrize("name", ["pgd", "pgd-random-start", "fgsm", "pgd-l2", "pgd-l2-large"])
def test_half_precision_images_stay_in_their_ball_and_reach_its_edge(name, low, dtype):
    """Rounded to the nearest they would leave it, with 0.0332 for 0.0314; and steps add up that are below rounding."""
    settings = ATTACKS[name]
    x = low + (1 - low) * torch.rand(50, 3, 32, 32, generator=seeded(7)).to(dtype)
    x[0], x[1] = low, 1
    x_adv = craft(Linear((3, 32, 32)), x, torch.arange(50) % 2, settings, bounds=(low, 1))
    assert x_adv.dtype == dtype and low <= x_adv.min() and x_adv.max() <= 1
    reached = distance(x_adv, x, settings.get("norm", "linf"))
    assert reached.max() <= settings["eps"] * (1 + 1e-6) and reached[2:].min() > 0.75 * settings["eps"]


def test_rounding_towards_an_image_finds_the_neighbour_on_its_side():
    """Against torch's nextafter, on both sides of 0."""
    x = torch.randn(20_000, generator=seeded(8)).to(torch.bfloat16)
    x[:5_000] = 0
    x_adv = x.float() + torch.randn(20_000, generator=seeded(9)) / 50
    near = x_adv.to(torch.bfloat16)
    further = (near.float() - x.float()).abs() > (x_adv - x.float()).abs()
    expected = torch.where(further, torch.nextafter(near, x), near)
    assert torch.equal(_narrow(x_adv, x), expected) and further.float().mean() > 0.3


@norms
def test_the_random_start_fills_the_ball(norm):
    x = torch.full((400, 1, 2, 2), 0.5)
    start = pgd(Linear((1, 2, 2)), x, torch.zeros(400, dtype=torch.int64), eps=0.2, step_size=0.1, steps=0,
                random_start=True, norm=norm, generator=seeded(0))  # fmt: skip
    delta = start - x
    assert delta.mean(dim=0).abs().max() < 0.03
    if norm == "linf":  # uniform in [-eps, eps]: standard deviation eps / sqrt(3)
        assert delta.std().item() == pytest.approx(0.2 / math.sqrt(3), rel=0.05)
        assert delta.abs().max() > 0.19
    else:  # uniform in a ball of dimension 4: (radius / eps)^4 is uniform in [0, 1], mean 1/2, variance 1/12
        volume = (distance(start, x, "l2") / 0.2) ** 4
        assert volume.mean().item() == pytest.approx(0.5, abs=0.06)
        assert volume.var().item() == pytest.approx(1 / 12, rel=0.2)


def test_uniform_noise_is_uniform_clipped_and_of_its_generator():
    x = torch.rand(50, 3, 8, 8, generator=seeded(6))
    noisy = uniform_noise(x, eps=0.1, generator=seeded(7))
    assert torch.equal(noisy, uniform_noise(x, eps=0.1, generator=seeded(7)))
    assert not torch.equal(noisy, uniform_noise(x, eps=0.1, generator=seeded(8)))
    assert 0 <= noisy.min() and noisy.max() <= 1
    delta = (noisy - x)[(x > 0.1) & (x < 0.9)]
    assert delta.abs().max() <= 0.1 + 1e-6
    assert delta.mean().item() == pytest.approx(0, abs=0.003)
    assert delta.std().item() == pytest.approx(0.1 / math.sqrt(3), rel=0.03)
    assert torch.equal(uniform_noise(x, eps=0.0, generator=seeded(7)), x)


# ---- what an attack leaves as it was


def flagged(tiny) -> nn.Module:
    """A model with mixed training flags, mixed requires_grad and one gradient already there."""
    model = tiny(norm="dual")
    for i, module in enumerate(model.modules()):
        module.training = i % 3 == 0
    for i, parameter in enumerate(model.parameters()):
        parameter.requires_grad_(i % 4 != 0)
    model.head.weight.grad = torch.ones_like(model.head.weight)
    return model


def snapshot(model: nn.Module) -> dict:
    return {
        "modes": {name: module.training for name, module in model.named_modules()},
        "frozen": {name: parameter.requires_grad for name, parameter in model.named_parameters()},
        "gradients": {name: None if p.grad is None else p.grad.sum().item() for name, p in model.named_parameters()},
        "state": {name: value.numpy().tobytes() for name, value in model.state_dict().items()},
    }


class Interrupted(Exception):
    pass


@pytest.mark.parametrize("fails_at_call", [None, 1, 2])
@every_attack
def test_model_input_and_generator_are_left_as_they_were(tiny, batch, settings, fails_at_call):
    model, (x, y) = flagged(tiny), batch
    x, y = x.clone(), y.clone()
    before, versions, rng = snapshot(model), (x._version, y._version), torch.get_rng_state()
    calls = Counter()

    def logits_fn(images):
        calls["n"] += 1
        if calls["n"] == fails_at_call:
            raise Interrupted
        return model(images)

    try:
        with eval_mode(model):
            x_adv = craft(logits_fn, x, y, settings)
        assert not x_adv.requires_grad and x_adv.grad_fn is None
        assert x_adv.data_ptr() != x.data_ptr()
    except Interrupted:
        assert calls["n"] == fails_at_call
    assert snapshot(model) == before
    assert torch.equal(x, batch[0]) and torch.equal(y, batch[1]) and (x._version, y._version) == versions
    assert not x.requires_grad and x.grad is None
    assert torch.equal(torch.get_rng_state(), rng)


@pytest.mark.parametrize("fails", [False, True])
def test_first_success_leaves_model_input_and_generator_as_they_were(tiny, batch, fails):
    model, (x, y) = flagged(tiny), batch
    before, rng, version = snapshot(model), torch.get_rng_state(), x._version

    def logits_fn(images):
        if fails and torch.is_grad_enabled():
            raise Interrupted
        return model(images)

    try:
        with eval_mode(model):
            y = model(x).argmax(dim=1)  # so that there is somebody to attack
            needed = first_success(logits_fn, x, y, **ATTACKS["pgd-restarts"], generator=seeded(0))
        assert not fails and needed.max() > 0
    except Interrupted:
        assert fails
    assert snapshot(model) == before
    assert x._version == version and torch.equal(torch.get_rng_state(), rng)


@every_attack
def test_an_input_that_requires_grad_still_gives_a_detached_result(tiny, batch, settings):
    x, y = batch
    expected = craft(tiny(), x, y, settings)
    leaf = x.clone().requires_grad_()
    x_adv = craft(tiny(), leaf, y, settings)
    assert not x_adv.requires_grad and torch.equal(x_adv, expected)
    assert leaf.requires_grad and leaf.grad is None


def test_predictions_are_asked_for_without_gradients(batch):
    asked = []

    def logits_fn(images):
        asked.append(torch.is_grad_enabled())
        return images.flatten(1)

    predictions(logits_fn, batch[0])
    assert asked == [False]


def test_uniform_noise_of_an_input_that_requires_grad_is_detached(batch):
    assert not uniform_noise(batch[0].clone().requires_grad_(), eps=0.1).requires_grad


@every_attack
def test_frozen_models_and_callers_without_gradients_get_the_same_attack(tiny, batch, settings):
    x, y = batch
    expected = craft(tiny(), x, y, settings)
    assert torch.equal(craft(tiny().requires_grad_(False), x, y, settings), expected)
    with torch.no_grad():
        assert torch.equal(craft(tiny(), x, y, settings), expected)
        assert not torch.is_grad_enabled()


@every_attack
def test_inference_mode_changes_no_attack_on_images_from_inside_or_outside(tiny, batch, settings):
    model, (x, y) = tiny(), batch
    expected = craft(model, x, y, settings)
    with torch.inference_mode():
        inside = x.clone(), y.clone()
        assert torch.equal(craft(model, x, y, settings), expected)
        assert torch.equal(craft(model, *inside, settings), expected) and torch.is_inference_mode_enabled()
    assert torch.equal(craft(model, *inside, settings), expected)


def test_inference_mode_changes_no_first_success(tiny, batch):
    model, x = tiny(), batch[0]
    y = model(x).argmax(dim=1)
    expected = first_success(model, x, y, **ATTACKS["pgd"])
    with torch.inference_mode():
        assert torch.equal(first_success(model, x.clone(), y.clone(), **ATTACKS["pgd"]), expected)
    assert 0 < expected.max()


def test_eval_mode_restores_each_modules_own_mode_also_after_an_exception(tiny):
    model = flagged(tiny)
    before = snapshot(model)["modes"]
    assert len(set(before.values())) == 2
    with eval_mode(model) as inside:
        assert inside is model
        assert not any(module.training for module in model.modules())
    assert snapshot(model)["modes"] == before
    with pytest.raises(Interrupted), eval_mode(model):
        raise Interrupted
    assert snapshot(model)["modes"] == before


def test_crafting_in_eval_mode_moves_no_statistics_and_in_train_mode_it_does(tiny, batch):
    model, (x, y) = tiny().train(), batch
    before = snapshot(model)["state"]
    with eval_mode(model):
        pgd(model, x, y, **ATTACKS["pgd"])
    assert snapshot(model)["state"] == before
    pgd(model, x, y, **ATTACKS["pgd"])  # the published protocol wants exactly this
    assert model.stem_norm.num_batches_tracked == 10


@pytest.mark.parametrize("name", ["pgd", "pgd-random-start", "pgd-restarts", "pgd-l2"])
def test_autocast_gives_float32_images_in_the_ball_and_weights_keep_their_gradients(tiny, batch, name):
    settings, model, (x, y) = ATTACKS[name], tiny(), batch
    with torch.autocast("cpu", torch.bfloat16):
        x_adv = craft(model, x, y, settings)
        loss = F.cross_entropy(model(x_adv), y)  # in the same autocast, whose cast weights may be cached
    assert x_adv.dtype == torch.float32 and not torch.equal(x_adv, x)
    assert 0 <= x_adv.min() and x_adv.max() <= 1
    assert distance(x_adv, x, settings.get("norm", "linf")).max() <= settings["eps"] * (1 + 1e-5) + 1e-7
    assert loss > F.cross_entropy(model(x), y)
    loss.backward()
    assert all(p.grad is not None for p in model.parameters())


# ---- one image and its batch


@deterministic_attack
def test_an_image_alone_is_attacked_as_inside_its_batch(tiny, batch, settings):
    model, (x, y) = tiny().double(), (batch[0].double(), batch[1])
    together = craft(model, x, y, settings)
    for i in (0, 2, 4):
        alone = craft(model, x[i : i + 1], y[i : i + 1], settings)
        torch.testing.assert_close(alone[0], together[i], rtol=0, atol=1e-10)


# ---- generators


@pytest.mark.parametrize("name", [name for name, settings in ATTACKS.items() if "random_start" in settings])
def test_the_generator_alone_decides_the_random_start(tiny, batch, name):
    model, (x, y) = tiny(), batch

    def attack(seed):
        return pgd(model, x, y, **ATTACKS[name], generator=seeded(seed))

    assert torch.equal(attack(1), attack(1))
    assert not torch.equal(attack(1), attack(2))


def drawn(x: Tensor, norm: str, eps: float, generator: torch.Generator) -> Tensor:
    """A random start, by hand."""
    if norm == "linf":
        return (x + torch.empty_like(x).uniform_(-eps, eps, generator=generator)).clamp(0, 1)
    direction = torch.empty_like(x).normal_(generator=generator)
    u = torch.empty(len(x), 1, 1, 1).uniform_(generator=generator)
    length = direction.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
    return (x + eps * u ** (1 / x[0].numel()) * direction / length).clamp(0, 1)


@pytest.mark.parametrize("size", [1, 5])
@norms
def test_a_random_start_is_these_draws_of_the_generator_and_no_more(batch, norm, size):
    by_hand, x, y = seeded(0), batch[0][:size], batch[1][:size]
    expected = drawn(x, norm, 0.1, by_hand)
    for attack in (pgd, first_success):
        generator = seeded(0)
        start = {"eps": 0.1, "step_size": 0.1, "steps": 0, "random_start": True, "norm": norm, "generator": generator}
        found = attack(lambda images: images.flatten(1), x, y, **start)
        assert torch.equal(generator.get_state(), by_hand.get_state())
        assert attack is first_success or torch.allclose(found, expected, rtol=0, atol=1e-6)


def test_without_a_generator_the_global_one_is_used(tiny, batch):
    x, y = batch
    torch.manual_seed(11)
    first = pgd(tiny(), x, y, **ATTACKS["random-start-only"])
    assert not torch.equal(pgd(tiny(), x, y, **ATTACKS["random-start-only"]), first)
    torch.manual_seed(11)
    assert torch.equal(pgd(tiny(), x, y, **ATTACKS["random-start-only"]), first)


@norms
def test_a_part_of_a_batch_has_the_random_starts_that_it_has_in_the_whole(norm):
    x, y = torch.rand(4, 3, 4, 4, generator=seeded(1)), torch.zeros(4, dtype=torch.int64)
    start = {"eps": 0.1, "step_size": 0.1, "steps": 0, "random_start": True, "norm": norm}
    whole = pgd(Linear(), x, y, **start, generator=seeded(0))
    parts = [pgd(Linear(), part, y[:2], **start, part=(k, 2), generator=seeded(0)) for k, part in enumerate(x.split(2))]
    assert torch.equal(torch.cat(parts), whole)


# ---- restarts


class FooledInRestart:
    """Classifies everything as 0, except that image ``i`` is fooled in restart ``when[i]`` alone.

    Meant for attacks of no steps, which ask for logits once a restart. Images are told apart by their mean.
    """

    def __init__(self, x: Tensor, when: dict[int, int]):
        self.means, self.when, self.seen = x.mean(dim=(1, 2, 3)), when, []

    def __call__(self, images: Tensor) -> Tensor:
        who = (images.mean(dim=(1, 2, 3)).view(-1, 1) - self.means).abs().argmin(dim=1).tolist()
        self.seen.append(dict(zip(who, images.clone(), strict=True)))
        fooled = [self.when.get(i) == len(self.seen) for i in who]
        return F.one_hot(torch.tensor(fooled).long(), 2).float()


def test_a_success_in_any_restart_is_kept_and_only_survivors_are_attacked_again():
    x = torch.tensor([0.2, 0.4, 0.6, 0.8]).view(4, 1, 1, 1).expand(4, 1, 6, 6).clone()
    model = FooledInRestart(x, when={0: 1, 1: 2, 2: 3})
    x_adv = pgd(model, x, torch.zeros(4, dtype=torch.int64), eps=0.05, step_size=0.0, steps=0, random_start=True,
                restarts=3, generator=seeded(0))  # fmt: skip
    assert [sorted(call) for call in model.seen] == [[0, 1, 2, 3], [1, 2, 3], [2, 3]]
    for image, restart in [(0, 1), (1, 2), (2, 3)]:
        assert torch.equal(x_adv[image], model.seen[restart - 1][image])
    assert any(torch.equal(x_adv[3], call[3]) for call in model.seen)


def test_an_images_random_start_does_not_depend_on_who_survives():
    x = torch.tensor([0.2, 0.4, 0.6, 0.8]).view(4, 1, 1, 1).expand(4, 1, 6, 6).clone()
    starts = []
    for when in ({}, {0: 1, 1: 1}, {0: 1, 1: 2, 2: 2}):
        model = FooledInRestart(x, when)
        how = {"eps": 0.05, "step_size": 0.0, "steps": 0, "random_start": True, "restarts": 3}
        pgd(model, x, torch.zeros(4, dtype=torch.int64), generator=seeded(0), **how)
        starts.append(torch.stack([call[3] for call in model.seen]))
    assert torch.equal(starts[0], starts[1]) and torch.equal(starts[0], starts[2])
    assert not torch.equal(starts[0][0], starts[0][1])


def test_restarts_stop_when_nobody_survives():
    x = torch.tensor([0.3, 0.7]).view(2, 1, 1, 1).expand(2, 1, 6, 6).clone()
    model = FooledInRestart(x, when={0: 1, 1: 2})
    pgd(model, x, torch.zeros(2, dtype=torch.int64), eps=0.05, step_size=0.0, steps=0, random_start=True, restarts=9)
    assert len(model.seen) == 2


@norms
def test_fooled_images_only_grow_in_number_with_restarts(norm):
    """Images at growing distances from a plane, which the step alone does not reach but a lucky start does."""
    w = torch.randn(3, 4, 4, generator=seeded(9))
    w /= w.norm()
    x = 0.5 - torch.linspace(0.01, 0.2, 40).view(-1, 1, 1, 1) * w
    y = torch.zeros(40, dtype=torch.int64)

    def logits_fn(images):
        score = ((images - 0.5) * w).sum(dim=(1, 2, 3))
        return torch.stack([-score, score], dim=1)

    settings = {"eps": 0.1 if norm == "linf" else 0.4, "step_size": 0.0, "steps": 1, "random_start": True, "norm": norm}
    fooled = []
    for restarts in (1, 2, 4, 8):
        x_adv = pgd(logits_fn, x, y, restarts=restarts, generator=seeded(2), **settings)
        fooled.append(logits_fn(x_adv).argmax(dim=1) != y)
    for fewer, more in pairwise(fooled):
        assert (more | ~fewer).all()
    assert 0 < fooled[0].sum() < fooled[-1].sum()


def test_one_restart_is_the_first_of_several(tiny, batch):
    model, (x, y) = tiny(), batch
    y = (model(x).argmax(dim=1) + 1) % 10  # fooled from the start, so that the first restart settles it
    settings = {"eps": 0.001, "step_size": 0.001, "steps": 2, "random_start": True}
    one = pgd(model, x, y, generator=seeded(3), **settings)
    assert torch.equal(pgd(model, x, y, restarts=3, generator=seeded(3), **settings), one)


# ---- first success


def naive_first_success(logits_fn, x, y, *, eps, step_size, steps, norm):
    needed = []
    iterates = [x, *naive_pgd(logits_fn, x, y, eps=eps, step_size=step_size, steps=steps, norm=norm)]
    for i in range(len(x)):
        wrong = [k for k, images in enumerate(iterates) if logits_fn(images)[i].argmax() != y[i]]
        needed.append(min(wrong, default=steps + 1))
    return needed


@norms
def test_first_success_equals_a_naive_loop(tiny, norm):
    model = tiny().double()
    x = torch.rand(12, 3, 16, 16, generator=seeded(9), dtype=torch.float64)
    y = model(x).argmax(dim=1)
    y[0] = (y[0] + 1) % 10
    settings = {"step_size": {"linf": 0.002, "l2": 0.04}[norm], "steps": 6, "norm": norm}
    settings["eps"] = 4 * settings["step_size"]
    needed = first_success(model, x, y, **settings)
    assert needed.dtype == torch.int64
    assert needed.tolist() == naive_first_success(model, x, y, **settings)
    assert {0, 7} < set(needed.tolist())  # already wrong, never, and something between


def test_first_success_agrees_with_pgd_after_every_number_of_steps_where_success_lasts():
    model, x, y = linear_case()
    y = model(x).argmax(dim=1)
    settings = {"eps": 1.0, "step_size": 0.01}
    needed = first_success(model, x, y, steps=20, **settings)
    assert len(set(needed.tolist())) > 2
    for steps in range(1, 21):
        still_right = model(pgd(model, x, y, steps=steps, **settings)).argmax(dim=1) == y
        assert still_right.tolist() == (needed > steps).tolist()


def test_first_success_without_steps_tells_right_from_wrong(tiny, batch):
    model, (x, y) = tiny(), batch
    expected = [0 if wrong else 1 for wrong in model(x).argmax(dim=1) != y]
    assert first_success(model, x, y, eps=0.1, step_size=0.1, steps=0).tolist() == expected


@pytest.mark.parametrize("random_start", [False, True])
def test_an_image_that_is_wrong_as_it_is_needs_no_step(tiny, batch, random_start):
    model, (x, y) = tiny(), batch
    y = model(x).argmax(dim=1)
    y[:2] = (y[:2] + 1) % 10
    needed = first_success(model, x, y, eps=1e-6, step_size=1e-6, steps=2, random_start=random_start)
    assert needed.tolist() == [0, 0, 3, 3, 3]


@pytest.mark.parametrize(
    ("dtype", "step_size", "threshold", "expected"),
    [(torch.bfloat16, 1e-3, 0.505, 6), (torch.float16, 1e-4, 0.5005, 8)],
    ids=["bfloat16", "float16"],
)
def test_first_success_on_half_precision_images_adds_up_steps_below_their_rounding(
    dtype, step_size, threshold, expected
):
    """One pixel from 0.5, whose next neighbours are 0.5039 and 0.5078, or 0.50049 and 0.50098."""

    def logits_fn(images):
        score = images.flatten(1).sum(dim=1) - threshold
        return torch.stack([-score, score], dim=1)

    x, y = torch.full((1, 1, 1, 1), 0.5, dtype=dtype), torch.tensor([0])
    assert first_success(logits_fn, x, y, eps=0.1, step_size=step_size, steps=9).tolist() == [expected]


def test_first_success_sees_each_iterate_of_a_survivor_once_and_nothing_of_the_fallen():
    """The score rises by the step size; image i falls after the number of steps that its distance from 0.5 takes."""
    sizes = []

    def logits_fn(images):
        sizes.append(len(images))
        score = images.mean(dim=(1, 2, 3)) - 0.5
        return torch.stack([-score, score], dim=1)

    x = torch.tensor([0.55, 0.45, 0.35, 0.25, 0.05]).view(5, 1, 1, 1)
    needed = first_success(logits_fn, x, torch.zeros(5, dtype=torch.int64), eps=0.35, step_size=0.1, steps=6)
    assert needed.tolist() == [0, 1, 2, 3, 7]
    assert sizes == [5, 4, 3, 2, 1, 1, 1]
    sizes.clear()
    first_success(logits_fn, x[:3], torch.zeros(3, dtype=torch.int64), eps=0.35, step_size=0.1, steps=6)
    first_success(logits_fn, x[:2], torch.zeros(2, dtype=torch.int64), eps=0.35, step_size=0.1, steps=2)
    assert sizes == [3, 2, 1, 2, 1]  # and of an empty batch nothing


def climb_to_085(images: Tensor) -> Tensor:
    """One pixel, fooled above 0.85: from a random start in [0.1, 0.9] it climbs there by steps of 0.1."""
    score = images.flatten(1).sum(dim=1) - 0.85
    return torch.stack([-score, score], dim=1)


def test_first_success_restarts_attack_survivors_only_and_keep_every_success():
    x, y = torch.full((64, 1, 1, 1), 0.5), torch.zeros(64, dtype=torch.int64)
    settings = {"eps": 0.4, "step_size": 0.1, "steps": 2, "random_start": True}
    once, thrice, often = [
        first_success(climb_to_085, x, y, restarts=restarts, generator=seeded(0), **settings) for restarts in (1, 3, 60)
    ]
    assert set(once.tolist()) == {1, 2, 3}
    assert torch.equal(thrice[once < 3], once[once < 3])
    assert torch.equal(often[thrice < 3], thrice[thrice < 3])
    assert (once < 3).sum() < (thrice < 3).sum() < (often < 3).sum()
    assert often.max() == 2  # a start above 0.65 suffices: 60 of them all below have probability 0.6875^60 < 1e-9


def test_a_random_start_alone_is_no_success_of_first_success():
    x, y = torch.full((64, 1, 1, 1), 0.5), torch.zeros(64, dtype=torch.int64)
    settings = {"eps": 0.4, "step_size": 0.1, "steps": 0, "random_start": True}
    assert climb_to_085(pgd(climb_to_085, x, y, **settings, generator=seeded(0))).argmax(dim=1).sum() > 0
    assert first_success(climb_to_085, x, y, **settings, generator=seeded(0)).tolist() == [1] * 64


@pytest.mark.parametrize("attack", [pgd, first_success])
def test_later_draws_of_the_generator_do_not_depend_on_who_survives(attack):
    """Else the noise of the next batch would change with the model's accuracy on this one."""
    x, y = torch.full((4, 1, 2, 2), 0.5), torch.zeros(4, dtype=torch.int64)
    states = []
    for bias in (-100.0, 100.0):  # nobody is ever fooled; everybody at once

        def logits_fn(images, bias=bias):
            score = images.sum(dim=(1, 2, 3)) + bias
            return torch.stack([-score, score], dim=1)

        generator = seeded(0)
        attack(logits_fn, x, y, **ATTACKS["pgd-restarts"], generator=generator)
        states.append(generator.get_state())
    assert torch.equal(*states)


# ---- values on trust: the published protocol


def published_loop(logits_fn, x, y, *, eps, step_size, steps):
    """The rule of the paper's released code, from its description: the clamp to [0, 1] is in whatever space x is in."""
    x_adv = x.clone()
    for _ in range(steps):
        x_adv = x_adv.detach().requires_grad_()
        F.cross_entropy(logits_fn(x_adv), y, reduction="sum").backward()
        moved = x_adv.detach() + step_size * x_adv.grad.sign()
        x_adv = torch.clamp(torch.min(torch.max(moved, x - eps), x + eps), 0, 1)
    return x_adv.detach()


@pytest.mark.parametrize(
    ("eps", "step_size", "steps"), [(0.1, 2 / 255, 2), (0.5, 0.5, 2), (0.1, 0.1, 1), (0.0, 0.1, 1)]
)
def test_unvalidated_pgd_in_standardised_space_is_the_published_loop(tiny, batch, eps, step_size, steps):
    model, (x, y) = tiny(), batch
    z = model.standardise(x)
    assert z.min() < -1 and z.max() > 1
    expected = published_loop(model.classify, z, y, eps=eps, step_size=step_size, steps=steps)
    z_adv = pgd(model.classify, z, y, eps=eps, step_size=step_size, steps=steps, validate=False)
    assert torch.equal(z_adv, expected)
    assert z_adv.min() == 0 and z_adv.max() == 1
    if step_size == eps and steps == 1:
        assert torch.equal(fgsm(model.classify, z, y, eps=eps, validate=False), expected)


@every_attack
def test_leaving_out_the_checks_changes_no_valid_attack(tiny, batch, settings):
    x, y = batch
    assert torch.equal(craft(tiny(), x, y, settings, validate=False), craft(tiny(), x, y, settings))


# ---- bad input


class RootOfColours(nn.Module):
    """sqrt(a^2 + b^2) of colour differences: finite everywhere, and without a slope where an image is grey."""

    def __init__(self):
        super().__init__()
        self.standardise = Standardise((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))

    def forward(self, x: Tensor, branch: str = "main") -> Tensor:
        a, b = x[:, 0] - x[:, 1], x[:, 1] - x[:, 2]
        colour = (a * a + b * b).sqrt().mean(dim=(1, 2))
        return torch.stack([colour, 0.1 - colour], dim=1)

    classify = forward


def grey_and_coloured() -> tuple[Tensor, Tensor]:
    """Two grey images and a coloured one, all classified correctly."""
    x = torch.rand(3, 1, 4, 4, generator=seeded(5)).repeat(1, 3, 1, 1)
    x[2, 0] = 1 - x[2, 0]
    return x, torch.tensor([1, 1, 0])


NOT_FINITE = "gradients by the image: 2 of 3 are not finite.*a root at 0"


@norms
@pytest.mark.parametrize("attack", [pgd, first_success])
def test_a_gradient_that_is_not_finite_is_an_error_and_no_robustness(attack, norm):
    """sign(NaN) is 0: the image would stay as it is and count as robust."""
    x, y = grey_and_coloured()
    assert (RootOfColours()(x).argmax(dim=1) == y).all()
    with pytest.raises(FloatingPointError, match=NOT_FINITE):
        attack(RootOfColours(), x, y, eps=0.1, step_size=0.05, steps=2, norm=norm)


@norms
def test_on_trust_a_gradient_that_is_not_finite_gives_images_that_are_not(norm):
    """A training's loss then tells, without a wait for the device at every step."""
    x, y = grey_and_coloured()
    x_adv = pgd(RootOfColours(), x, y, eps=0.1, step_size=0.05, steps=1, norm=norm, validate=False)
    assert x_adv[:2].isnan().any() and x_adv[2].isfinite().all()


def test_one_pixel_that_is_not_finite_makes_its_image_so():
    with pytest.raises(FloatingPointError, match="images: 1 of 2 are not finite"):
        require_finite(with_pixel(math.nan), "images")


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_logits_that_are_not_finite_are_an_error_and_no_prediction(value):
    def diverged(images):
        return images.flatten(1)[:, :2] + torch.tensor([0.0, value])

    for asked in (lambda f, x, y: predictions(f, x), partial(first_success, **PGD)):
        with pytest.raises(FloatingPointError, match="the logits are not finite"):
            asked(diverged, X, Y)


@pytest.mark.parametrize(
    "name", ["published:fgsm-0.1", "published:pgd-0.1", "corrected:fgsm-0.1", "corrected:steps-50"]
)
def test_an_evaluation_of_such_a_network_is_an_error(name):
    x, y = grey_and_coloured()
    attacks = [attack for attack in suite(dual=False, surrogate=False) if attack.name == name]
    with pytest.raises(FloatingPointError, match="2 of 3 are not finite"):
        evaluate({"true": RootOfColours()}, (255 * x).to(torch.uint8), y, attacks, sweep_size=3)


def test_a_probe_of_such_a_network_is_an_error():
    with pytest.raises(FloatingPointError, match=NOT_FINITE):
        measure.gradients(RootOfColours(), *grey_and_coloured())


NOT_LOGITS = {
    "tuple": (lambda x: (x.flatten(1), None), TypeError, r"returns a tuple.*model\(x\)\[0\]"),
    "dict": (lambda x: {"out": x.flatten(1)}, TypeError, r"returns a dict.*model\(x\)\['out'\]"),
    "nothing": (lambda x: None, TypeError, "returns a NoneType.*logits"),
    "one-score": (lambda x: x.flatten(1)[:, 0], ValueError, r"logits \(2,\) of 2 images: need \(B, K\)"),
    "map": (lambda x: x, ValueError, r"logits \(2, 3, 4, 4\) of 2 images: need \(B, K\)"),
    "fewer": (lambda x: x.flatten(1)[:1], ValueError, r"logits \(1, 48\) of 2 images: need \(B, K\)"),
}
WITHOUT_GRADIENT = {
    "detached": lambda x: x.detach().flatten(1),
    "detached-inside": lambda x: nn.Linear(48, 2)(x.detach().flatten(1)),
    "classes": lambda x: F.one_hot(x.flatten(1).argmax(dim=1), 48),
}


@pytest.mark.parametrize(("model", "error", "message"), NOT_LOGITS.values(), ids=NOT_LOGITS)
def test_a_model_that_returns_no_logits_is_refused_with_what_it_returns_and_the_remedy(model, error, message):
    on_trust = partial(pgd, **PGD, validate=False)
    for asked in (partial(pgd, **PGD), on_trust, partial(first_success, **PGD), lambda f, x, y: predictions(f, x)):
        with pytest.raises(error, match=message):
            asked(model, X, Y)


@pytest.mark.parametrize("model", WITHOUT_GRADIENT.values(), ids=WITHOUT_GRADIENT)
def test_logits_without_a_gradient_by_the_images_are_refused_with_the_remedy(model):
    for attack in (partial(pgd, **PGD, validate=False), partial(first_success, **PGD)):
        with pytest.raises(ValueError, match=r"no gradient by the images.*detach\(\)"):
            attack(model, X, torch.zeros(2, dtype=torch.int64))


def refusing_to_run(images):
    raise AssertionError("the model was asked although the input is bad")


PGD = {"eps": 0.1, "step_size": 0.05, "steps": 2}
BAD_SETTINGS = [
    ({"eps": -0.1}, r"eps=-0.1 .*8/255"),
    ({"eps": math.nan}, r"eps=nan .*8/255"),
    ({"eps": math.inf}, r"eps=inf .*8/255"),
    ({"step_size": -0.1}, r"step_size=-0.1 .*8/255"),
    ({"step_size": math.nan}, r"step_size=nan .*8/255"),
    ({"step_size": math.inf}, r"step_size=inf .*8/255"),
    ({"steps": -1}, r"steps=-1 .*whole number >= 0"),
    ({"steps": 2.0}, r"steps=2.0 .*whole number >= 0"),
    ({"steps": math.inf}, r"steps=inf .*whole number >= 0"),
    ({"steps": True}, r"steps=True .*whole number >= 0"),
    ({"restarts": 0}, r"restarts=0 .*whole number >= 1"),
    ({"restarts": -2}, r"restarts=-2 .*whole number >= 1"),
    ({"restarts": 1.5}, r"restarts=1.5 .*whole number >= 1"),
    ({"restarts": True}, r"restarts=True .*whole number >= 1"),
    ({"eps": True}, r"eps=True .*8/255"),
    ({"eps": "8/255"}, r"eps='8/255' .*8/255"),
    ({"step_size": None}, r"step_size=None .*8/255"),
    ({"steps": np.float64(2)}, r"steps=2.0 .*whole number >= 0"),
    ({"restarts": np.True_}, r"restarts=True .*whole number >= 1"),
    ({"norm": "l1"}, r"'l1'.*linf, l2"),
    ({"norm": "Linf"}, r"'Linf'.*linf, l2"),
]
X, Y = torch.full((2, 3, 4, 4), 0.5), torch.tensor([0, 1])


def with_pixel(value: float) -> Tensor:
    x = X.clone()
    x[1, 2, 3, 3] = value
    return x


BAD_IMAGES = {
    "above": (with_pixel(1.5), Y, ValueError, r"\[0.5, 1.5\].*bounds \(0.0, 1.0\).*standardise"),
    "below": (with_pixel(-0.1), Y, ValueError, r"\[-0.1, 0.5\].*bounds \(0.0, 1.0\).*standardise"),
    "NaN": (with_pixel(math.nan), Y, ValueError, r"nan.*bounds \(0.0, 1.0\)"),
    "infinite": (with_pixel(math.inf), Y, ValueError, r"inf.*bounds \(0.0, 1.0\)"),
    "uint8": ((X * 255).to(torch.uint8), Y, TypeError, r"uint8.*divide .* by 255"),
    "empty": (X[:0], Y[:0], ValueError, r"empty.*at least one"),
    "one-image": (X[0], Y, ValueError, r"\(3, 4, 4\).*\(B, C, H, W\)"),
    "flat": (X.flatten(1), Y, ValueError, r"\(2, 48\).*\(B, C, H, W\)"),
}
BAD_LABELS = {
    "int32": (X, Y.int(), TypeError, r"int32.*int64.*long\(\)"),
    "float": (X, Y.float(), TypeError, r"float32.*int64.*long\(\)"),
    "one-hot": (X, F.one_hot(Y), ValueError, r"\(2, 2\).*\(B,\)"),
    "too-few": (X, Y[:1], ValueError, r"\(1,\).*\(B,\)"),
    "negative": (X, torch.tensor([0, -1]), ValueError, r"-1 is negative.*from 0"),
}
BAD_BATCHES = BAD_IMAGES | BAD_LABELS


@pytest.mark.parametrize("attack", [pgd, first_success])
@pytest.mark.parametrize(("change", "message"), BAD_SETTINGS)
def test_impossible_settings_are_refused_with_the_value_and_the_remedy(attack, change, message):
    with pytest.raises(ValueError, match=message):
        attack(refusing_to_run, X, Y, **{**PGD, **change})


@pytest.mark.parametrize("eps", [-0.1, math.nan, math.inf])
def test_fgsm_and_noise_refuse_an_impossible_eps(eps):
    for call in (lambda: fgsm(refusing_to_run, X, Y, eps=eps), lambda: uniform_noise(X, eps=eps)):
        with pytest.raises(ValueError, match=rf"eps={eps} .*8/255"):
            call()


@pytest.mark.parametrize("attack", [pgd, first_success, fgsm])
@pytest.mark.parametrize(("x", "y", "error", "message"), BAD_BATCHES.values(), ids=BAD_BATCHES)
def test_bad_batches_are_refused_with_the_value_and_the_remedy(attack, x, y, error, message):
    with pytest.raises(error, match=message):
        attack(refusing_to_run, x, y, **(PGD if attack is not fgsm else {"eps": 0.1}))


@pytest.mark.parametrize(("x", "y", "error", "message"), BAD_IMAGES.values(), ids=BAD_IMAGES)
def test_noise_refuses_bad_images_too(x, y, error, message):
    with pytest.raises(error, match=message):
        uniform_noise(x, eps=0.1)


@pytest.mark.parametrize("attack", [pgd, first_success, fgsm])
def test_a_label_beyond_the_models_classes_is_refused_with_their_range(attack):
    with pytest.raises(ValueError, match=r"label 2 .*classes 0 to 1"):
        attack(Linear(), X, torch.tensor([0, 2]), **(PGD if attack is not fgsm else {"eps": 0.1}))


def test_a_shape_error_is_found_even_on_trust():
    with pytest.raises(ValueError, match=r"\(B, C, H, W\)"):
        pgd(refusing_to_run, X[0], Y, **PGD, validate=False)
    with pytest.raises(ValueError, match="eps=-1"):
        pgd(refusing_to_run, X, Y, **{**PGD, "eps": -1}, validate=False)


def test_images_are_judged_by_the_bounds_given():
    x = X * 4 - 2  # zeros, fine in [-2, 2]
    x[0] = -1.5
    pgd(Linear(), x, Y, **PGD, bounds=(-2.0, 2.0))
    with pytest.raises(ValueError, match=r"bounds \(-1.0, 1.0\)"):
        pgd(Linear(), x, Y, **PGD, bounds=(-1.0, 1.0))


def test_numbers_of_numpy_and_torch_are_those_of_python():
    model, x, y = linear_case()
    plain = {"eps": 0.125, "step_size": 0.0625, "steps": 127, "restarts": 2}
    kinds = {"eps": np.float32, "step_size": torch.tensor, "steps": np.int8, "restarts": np.array}  # 127 + 1 is no int8
    others = {name: kinds[name](value) for name, value in plain.items()}
    for attack in (pgd, first_success):
        assert torch.equal(attack(model, x, y, **others), attack(model, x, y, **plain)), attack
    for f in (partial(fgsm, model, x, y), lambda eps: uniform_noise(x, eps=eps, generator=seeded(0))):
        assert torch.equal(f(eps=np.array(0.125)), f(eps=0.125))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("bounds", [(0.0, 1.0), (-2.0, 2.0)])
def test_pixels_a_rounding_error_beyond_the_bounds_are_attacked_and_end_inside(dtype, bounds):
    beyond = 2 * max(torch.finfo(dtype).eps, torch.finfo(torch.float32).eps) * bounds[1]
    x = torch.cat([X, X]).to(dtype)
    x[0, 0, 0, 0], x[1, 0, 0, 0] = bounds[0] - beyond, bounds[1] + beyond
    y = torch.cat([Y, Y])
    assert first_success(Linear(), x, y, **PGD, bounds=bounds).shape == (4,)
    for x_adv in (pgd(Linear(), x, y, **PGD, bounds=bounds), uniform_noise(x, eps=0.1, bounds=bounds)):
        assert bounds[0] <= x_adv.min() and x_adv.max() <= bounds[1]
    with pytest.raises(ValueError, match="outside bounds.*scale.*standardise in the model"):
        pgd(Linear(), x + 3 * beyond, y, **PGD, bounds=bounds)


# --- the log-odds, for float16 -----------------------------------------------------------------------------------


@pytest.mark.parametrize("classes", [2, 3, 10])
def test_the_gradient_of_cross_entropy_is_that_of_the_log_odds_times_one_minus_p(classes):
    generator = torch.Generator().manual_seed(classes)
    logits = 3 * torch.randn(50, classes, generator=generator, dtype=torch.float64)
    y = torch.randint(classes, (50,), generator=generator)
    logits.requires_grad_()
    by_loss, by_odds = (torch.autograd.grad(raised(logits, y), logits)[0] for raised in (cross_entropy, log_odds))
    p = logits.detach().softmax(dim=1).gather(1, y.unsqueeze(1))
    torch.testing.assert_close(by_loss, (1 - p) * by_odds, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(log_odds(logits, y), ((1 - p) / p).log().sum())


@pytest.mark.parametrize("restarts", [1, 2])
@norms
def test_raising_the_log_odds_is_raising_the_cross_entropy_step_by_step(tiny, batch, norm, restarts):
    (x, y), model = batch, tiny().double()
    attack = {"eps": 0.5, "step_size": 0.1, "steps": 3, "norm": norm, "random_start": True, "restarts": restarts}

    def made(objective):
        return pgd(model, x.double(), y, **attack, objective=objective, generator=torch.Generator().manual_seed(0))

    assert (made(cross_entropy) - x).abs().max() > 0.01
    torch.testing.assert_close(made(log_odds), made(cross_entropy), rtol=0, atol=1e-9)


def test_in_float16_a_sure_network_leaves_the_log_odds_their_signs_and_the_cross_entropy_few():
    """Of margins around 25: 1 - p is about 1e-10, which float16 does not have and float32 cannot add to 1."""
    generator = torch.Generator().manual_seed(0)
    weights = torch.randn(10, 48, generator=generator, dtype=torch.float64) / 7
    x, y = torch.rand(20, 3, 4, 4, generator=generator, dtype=torch.float64), torch.arange(20) % 10

    def sure(x: Tensor) -> Tensor:
        """The features and the layer are in the dtype of x; logits are float32 at least, as the network's are."""
        logits = (x.flatten(1) @ weights.to(x.dtype).T).to(torch.promote_types(x.dtype, torch.float32))
        return logits + 25 * F.one_hot(y, 10)

    def signs(x: Tensor, objective) -> Tensor:
        x = x.clone().requires_grad_()
        return torch.autograd.grad(objective(sure(x), y), x)[0].sign().double()

    exact = signs(x, cross_entropy)
    agree = {raised: (signs(x.half(), raised) == exact).double().mean() for raised in (log_odds, cross_entropy)}
    assert agree[log_odds] > 0.95 and agree[cross_entropy] < 0.5


def test_the_log_odds_of_half_precision_logits_are_float32_and_finite_however_sure_they_are():
    logits = torch.tensor([[60_000.0, -60_000.0, 0.0]], dtype=torch.float16, requires_grad=True)
    for label, expected in ((0, -60_000.0), (1, 120_000.0)):
        value = log_odds(logits, torch.tensor([label]))
        assert value.dtype == torch.float32 and value.item() == pytest.approx(expected, rel=1e-3)
        assert torch.autograd.grad(value, logits)[0].abs().max() == 1
