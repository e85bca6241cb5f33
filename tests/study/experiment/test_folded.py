"""Folding batch norm changes no logit and no gradient beyond rounding, for every network that is trained here."""

import pytest
import torch
import torch.nn.functional as F

from advlib.resnet import resnet18
from study.data import pixels
from study.experiment import build
from study.experiment.fast.folded import Folded
from tests import miniature


def network(norm: str, activation: str = "relu"):
    """Width 8, with running statistics and affine parameters that differ from channel to channel and by branch."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = resnet18(width=8, norm=norm, activation=activation).double()
        for module in model.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                torch.nn.init.normal_(module.weight, 1.0, 0.3)
                torch.nn.init.normal_(module.bias, 0.0, 0.3)
                module.running_mean.normal_(0.0, 0.5)
                module.running_var.uniform_(0.5, 2.0)
    return model.eval()


@pytest.fixture
def images():
    generator = torch.Generator().manual_seed(1)
    return torch.rand(5, 3, 16, 16, generator=generator, dtype=torch.float64), torch.tensor([0, 3, 9, 1, 1])


@pytest.mark.parametrize("activation", ["relu", "surrogate-relu", "parametric-softplus", "silu", "gelu"])
@pytest.mark.parametrize("norm", ["shared", "dual", "dual-except-shortcuts"])
@pytest.mark.parametrize("branch", ["main", "aux"])
def test_logits_and_the_gradient_by_the_image_are_those_of_the_network(images, norm, activation, branch):
    model, (x, y) = network(norm, activation), images
    found = {}
    for name, seen in {"as it is": model, "folded": Folded(model, branch)}.items():
        inputs = x.clone().requires_grad_()
        logits = seen(inputs, branch=branch)
        found[name] = logits, torch.autograd.grad(F.cross_entropy(logits, y, reduction="sum"), inputs)[0]
    for as_it_is, folded in zip(*found.values(), strict=True):
        assert as_it_is.abs().max() > 1e-3
        torch.testing.assert_close(folded, as_it_is, rtol=1e-9, atol=1e-11)


def test_standardised_images_are_classified_without_standardising_them_again(images):
    model, (x, _) = network("shared"), images
    torch.testing.assert_close(Folded(model, "main").classify(model.standardise(x), "main"), model(x))


def test_the_two_branches_fold_into_two_networks(images):
    model, (x, _) = network("dual"), images
    assert (Folded(model, "main")(x, "main") - Folded(model, "aux")(x, "aux")).abs().max() > 0.01


def test_another_branch_than_the_folded_one_is_refused(images):
    with pytest.raises(ValueError, match="folded for the branch 'aux', not 'main'"):
        Folded(network("dual"), "aux")(images[0], "main")


def test_no_parameter_and_no_statistic_asks_for_a_gradient_or_is_changed(images):
    model, (x, y) = network("dual"), images
    before = miniature.state(model)
    logits = Folded(model, "aux")(x.requires_grad_(), "aux")
    F.cross_entropy(logits, y).backward()
    assert all(parameter.grad is None for parameter in model.parameters())
    assert miniature.same(before, miniature.state(model))


def test_weights_are_those_of_the_moment_of_folding(images):
    model, (x, _) = network("shared"), images
    folded = Folded(model, "main")
    before = folded(x, "main")
    torch.nn.init.zeros_(model.stem.weight)
    assert torch.equal(folded(x, "main"), before)


def test_under_autocast_the_whole_pass_is_bfloat16_and_as_near_to_float32_as_the_network_s_own(images):
    model, x = network("shared").float(), images[0].float()
    with torch.autocast("cpu", torch.bfloat16):
        folded = Folded(model, "main")
        logits, unfolded = folded(x, "main"), model(x)
    assert {layer.weight.dtype for block in folded.blocks for layer in (block.first, block.second)} == {torch.bfloat16}
    assert logits.dtype == torch.float32
    exact = model(x)
    assert (logits - exact).abs().mean() < 2 * (unfolded - exact).abs().mean()


@pytest.mark.parametrize("dtype", [None, torch.float16], ids=["cross-entropy", "log-odds"])
@pytest.mark.parametrize("space", ["pixels", "standardised"])
def test_the_twins_of_a_folded_attack_are_those_of_the_network_itself(space, dtype):
    """Also where it raises what a training in float16 does; computed in double precision all the same."""
    data = miniature.dataset()
    config = miniature.config(adversarial=True, norm="dual", attack_space=space)
    model, _ = miniature.fit(config, data)
    model = model.double()
    model.head.weight.data *= 0.1  # so that it is sure of no image: 1 - p must be more than rounding
    x, y = data.test_images[:16].double() / 255, data.test_labels[:16]
    attacks = build.training_attack(config), build.training_attack(config.change(precision="fast"), dtype=dtype)
    made = [attack(model, x, y) for attack in attacks]
    assert (made[0] - x).abs().max() > 0.01
    torch.testing.assert_close(made[1], made[0], rtol=0, atol=1e-6)


def test_an_attack_in_training_mode_is_not_folded_as_its_statistics_are_the_batch_s():
    data = miniature.dataset()
    config = miniature.config(adversarial=True, attack_mode="train")
    model = build.build_model(config, data).train()
    x, y = pixels.to_pixels(data.train_images[:16]), data.train_labels[:16]
    before = model.stem_norm.running_mean.clone()
    build.training_attack(config.change(precision="fast"))(model, x, y)
    assert not torch.equal(model.stem_norm.running_mean, before)  # the network's own layers were passed through
