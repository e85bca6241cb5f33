"""One forward over both halves of a batch is batch norm over all of its images, and nothing else changes."""

import fake_records as fake
import miniature
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from advlib import train
from advlib.attacks import pgd
from advlib.losses import cross_entropy
from advlib.resnet import resnet18
from study.experiment import build
from study.experiment.controls import BOTH, NORMS, JointBatchNorm2d, one_forward_step
from study.experiment.evaluate import evaluate
from study.experiment.weights import load_model, save_weights
from study.plan import catalogue
from study.plan.attacks import suite
from study.plan.config import Config

ONE_FORWARD = {"adversarial": True, "update": "one-forward"}
EXACT = {"rtol": 1e-9, "atol": 1e-9}


class Longhand(nn.Module):
    """Batch norm over all images of a call, written out; where there are two branches, each half has its own affine."""

    def __init__(self, channels: int, branches: int):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(branches, channels))
        self.bias = nn.Parameter(torch.zeros(branches, channels))
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))

    def forward(self, x, branch):
        mean, var = self.running_mean, self.running_var
        if self.training:
            n = x.numel() / x.shape[1]
            mean = x.sum(dim=(0, 2, 3)) / n
            var = ((x - mean.view(1, -1, 1, 1)) ** 2).sum(dim=(0, 2, 3)) / n
            self.running_mean = (0.9 * self.running_mean + 0.1 * mean).detach()
            self.running_var = (0.9 * self.running_var + 0.1 * var * n / (n - 1)).detach()
        half = {"main": lambda i: 0, "aux": lambda i: 1, BOTH: lambda i: int(i >= len(x) // 2)}[branch]
        rows = [half(i) % len(self.weight) for i in range(len(x))]
        weight, bias = (torch.stack([p[r] for r in rows])[:, :, None, None] for p in (self.weight, self.bias))
        return (x - mean.view(1, -1, 1, 1)) / torch.sqrt(var.view(1, -1, 1, 1) + 1e-5) * weight + bias


def network(norm, width: int = 8) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = resnet18(4, width, norm=norm).double().train()
    model.head.weight.data *= 0.05  # a sure net has gradients of nothing but rounding, and their signs are anybody's
    return model


def batch(seed: int = 0):
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(6, 3, 16, 16, generator=generator, dtype=torch.float64), torch.tensor([0, 1, 2, 3, 0, 1])


def attack(model, x, y):
    return train.craft(model, x, y, lambda f, x, y: pgd(f, x, y, eps=0.1, step_size=0.05, steps=2))


def sgd(model, lr: float = 0.1):
    return torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9, weight_decay=5e-4)


def layers(model: nn.Module, kind: type) -> list[nn.Module]:
    return [module for module in model.modules() if isinstance(module, kind)]


def affine(layer: nn.Module) -> tuple[torch.Tensor, torch.Tensor]:
    """Weight and bias, a line for each branch that has its own."""
    if isinstance(layer, JointBatchNorm2d):
        return tuple(torch.stack([p["main"], p["aux"]]) for p in (layer.weight, layer.bias))
    return layer.weight[None], layer.bias[None]


@pytest.mark.parametrize(("norm", "branches"), [("shared", 1), ("dual-affine", 2)])
def test_two_updates_are_those_of_a_batch_norm_over_both_halves_written_out(norm, branches):
    ours, by_hand = network(NORMS[norm]), network((lambda c: Longhand(c, branches),) * 2)
    mine, theirs = sgd(ours), sgd(by_hand)
    for k in range(2):
        x, y = batch(k)
        loss, logits = one_forward_step(ours, mine, x, y, attack, cross_entropy)
        expected = by_hand(torch.cat([x, attack(by_hand, x, y)]), BOTH)
        torch.testing.assert_close(logits, expected.detach(), **EXACT)
        theirs.zero_grad()
        F.cross_entropy(expected, torch.cat([y, y])).backward()
        theirs.step()
        assert loss.item() == pytest.approx(F.cross_entropy(expected, torch.cat([y, y])).item(), abs=1e-10)
    for ours_layer, layer in zip(layers(ours, NORMS[norm][0]), layers(by_hand, Longhand), strict=False):
        weight, bias = affine(ours_layer)
        torch.testing.assert_close(weight, layer.weight, **EXACT)
        torch.testing.assert_close(bias, layer.bias, **EXACT)
        statistics = getattr(ours_layer, "statistics", ours_layer)
        torch.testing.assert_close(statistics.running_mean, layer.running_mean, **EXACT)
        torch.testing.assert_close(statistics.running_var, layer.running_var, **EXACT)
        assert branches == 1 or not torch.equal(weight[0], weight[1])
    for name in ("stem.weight", "blocks.7.conv2.weight", "head.weight"):
        torch.testing.assert_close(ours.state_dict()[name], by_hand.state_dict()[name], **EXACT)


def test_with_equal_affine_parameters_the_branches_are_one_shared_norm():
    """As they are at the start: so is the first step, and each parameter's gradient is shared out between the two."""
    shared, joint = network("shared"), network(NORMS["dual-affine"])
    x, y = batch()
    (_, expected), (_, logits) = (
        one_forward_step(model, torch.optim.SGD(model.parameters(), lr=0.0), x, y, attack, cross_entropy)
        for model in (shared, joint)
    )
    torch.testing.assert_close(logits, expected, **EXACT)
    for one, two in zip(layers(shared, nn.BatchNorm2d), layers(joint, JointBatchNorm2d), strict=True):
        torch.testing.assert_close(two.statistics.running_mean, one.running_mean, **EXACT)
        torch.testing.assert_close(two.statistics.running_var, one.running_var, **EXACT)
        torch.testing.assert_close(two.weight["main"].grad + two.weight["aux"].grad, one.weight.grad, **EXACT)


def test_running_averages_move_to_the_mean_of_all_images_at_once_and_not_half_by_half():
    x, y = batch()
    twins = (x + 0.2).clamp(0, 1)
    found = {}
    for step in (one_forward_step, train.train_step):
        model = network("shared")
        clean, adversarial = (model.stem(model.standardise(half)).mean((0, 2, 3)).detach() for half in (x, twins))
        _, logits = step(model, sgd(model, lr=0.0), x, y, lambda *_: twins, cross_entropy)
        found[step] = model.stem_norm.running_mean, logits
    torch.testing.assert_close(found[one_forward_step][0], 0.1 * (clean + adversarial) / 2, **EXACT)
    torch.testing.assert_close(found[train.train_step][0], 0.9 * 0.1 * clean + 0.1 * adversarial, **EXACT)
    assert (found[one_forward_step][1] - found[train.train_step][1]).abs().max() > 1e-3, "each half by its own batch"


def test_the_attack_goes_through_the_auxiliary_affine_parameters_and_moves_no_statistics():
    layer = JointBatchNorm2d(3).double()
    for parameter in layer.parameters():
        nn.init.normal_(parameter)
    layer.statistics.running_mean.normal_()
    layer.eval()
    x, before = torch.randn(4, 3, 5, 5, dtype=torch.float64), miniature.state(layer)
    statistics = layer.statistics.running_mean, layer.statistics.running_var
    for branch in ("main", "aux"):
        expected = F.batch_norm(x, *statistics, layer.weight[branch], layer.bias[branch])
        torch.testing.assert_close(layer(x, branch), expected)
    both = layer(x, BOTH)
    torch.testing.assert_close(both, torch.cat([layer(x[:2], "main"), layer(x[2:], "aux")]))
    assert miniature.same(layer.state_dict(), before)
    with pytest.raises(ValueError, match="'auxiliary'.*main, aux, both"):
        layer(x, "auxiliary")


@pytest.mark.parametrize("norm", ["shared", "dual-affine"])
def test_it_learns_and_is_evaluated_and_kept_like_any_other(tmp_path, norm):
    config, data = miniature.config(**ONE_FORWARD, norm=norm, epochs=4), miniature.dataset()
    model, curve = miniature.fit(config, data)
    assert curve[-1]["loss"] < curve[0]["loss"]
    record = fake.trained("adversarial", config, {"true": model.eval()}, data)
    again = load_model(save_weights(model, tmp_path / "w.safetensors", record))
    attacks, shown = suite(dual=norm != "shared", surrogate=False), (data.test_images, data.test_labels)
    measured = [evaluate({"true": one}, *shown, attacks, sweep_size=8) for one in (model, again)]
    assert measured[0] == measured[1]
    aux = [m for m in measured[0] if m.name == "corrected:clean:aux"]
    assert len(aux) == (norm != "shared")
    if aux:
        images = data.test_images[:8].float() / 255
        assert not torch.equal(model(images, "main"), model(images, "aux"))


def test_in_half_precision_it_returns_what_it_was_given():
    layer = JointBatchNorm2d(3)
    assert layer(torch.randn(4, 3, 2, 2).bfloat16(), BOTH).dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"norm": "dual-affine"}, "it needs update='one-forward'"),
        ({"update": "one-forward", "adversarial": False}, "without adversarial=True"),
        ({"update": "one-forward", "norm": "dual"}, "choose norm='shared' or 'dual-affine', or update='joint'"),
        ({"update": "one-forward", "norm": "dual-affine", "precision": "fast"}, "take precision='auto'"),
    ],
)
def test_what_does_not_go_together_is_refused_with_the_remedy(changes, message):
    with pytest.raises(ValueError, match=message):
        Config(**{"adversarial": True} | changes)


def test_the_fast_mode_attacks_the_same_network_after_one_forward():
    data = miniature.dataset()
    exact, fast = (miniature.config(**ONE_FORWARD, precision=precision) for precision in ("float32", "fast"))
    curves = [miniature.fit(config, data)[1] for config in (exact, fast)]
    assert curves[0][0]["loss"] == pytest.approx(curves[1][0]["loss"], rel=1e-2)


def test_the_controls_of_the_catalogue_differ_from_their_rows_by_the_update_and_the_norm():
    update = ("joint", "one-forward")
    for key, base, expected in [
        ("adversarial-one-forward", "adversarial", {"update": update}),
        ("advprop-one-forward", "advprop", {"update": update, "norm": ("dual", "dual-affine")}),
    ]:
        assert catalogue.config(base).differences(catalogue.config(key)) == expected
        assert build.training_step(catalogue.config(key)) is one_forward_step
