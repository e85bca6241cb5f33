"""Claims about batch norm in evaluation mode: its gradient by the images is one more batch norm."""

import copy

import pytest
import torch
from torch import nn

from advlib.norm import BRANCHES, NORMS
from advlib.resnet import resnet18
from study.experiment.fast.frozen import frozen


def seen(model, x, branch):
    """Logits and the gradient of something by the images."""
    x = x.clone().requires_grad_()
    logits = model(x, branch=branch)
    return logits.detach(), torch.autograd.grad(logits.square().sum(), x)[0]


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("norm", NORMS)
def test_a_frozen_network_has_torchs_logits_and_torchs_gradients_by_the_images(norm, training):
    torch.manual_seed(0)
    model, x = resnet18(width=8, norm=norm).double(), torch.rand(4, 3, 32, 32).double()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eps = 0.1  # which torch would not take by itself
    for branch, scale in zip(BRANCHES, (1.0, 0.5), strict=True):  # statistics that are not the ones of the beginning
        model(scale * x, branch=branch)
    quick = frozen(copy.deepcopy(model))
    assert list(quick.state_dict()) == list(model.state_dict())
    for branch in BRANCHES:
        for own, torchs in zip(
            seen(quick.train(training), x, branch), seen(model.train(training), x, branch), strict=True
        ):
            torch.testing.assert_close(own, torchs, rtol=1e-12, atol=0)


def test_a_frozen_network_learns_as_any_other():
    """In training mode nothing is left out: every parameter has the gradient that torch's batch norm gives it."""
    torch.manual_seed(0)
    model, x = resnet18(width=8).double(), torch.rand(4, 3, 32, 32).double()
    quick = frozen(copy.deepcopy(model))
    for network in (model, quick):
        network(x).square().sum().backward()
    for own, torchs in zip(quick.parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(own.grad, torchs.grad, rtol=1e-12, atol=0)


def test_in_evaluation_mode_the_images_have_a_gradient_and_no_weight_of_a_batch_norm_has_one():
    model, x = frozen(resnet18(width=8)).eval(), torch.rand(4, 3, 32, 32).requires_grad_()
    model(x).sum().backward()
    without = {module for module in model.modules() if getattr(module, "weight", x).grad is None}
    assert x.grad is not None and without == {one for one in model.modules() if isinstance(one, nn.BatchNorm2d)}
