"""Four attack libraries agree with ours: FGSM, and PGD from the image itself, in float32 on the CPU.

Each needs its own library (`pip install --no-deps -r requirements-peers.lock`) and is skipped without it.
"""

import warnings

import numpy as np
import pytest
import torch
from peers import imported
from torch import nn

from advlib.attacks import fgsm, pgd

FGSM = [8 / 255, 0.1, 0.5]
PGD = [(0.1, 2 / 255, 2), (0.5, 0.5, 2), (8 / 255, 2 / 255, 10)]  # eps, step size, steps


def torchattacks(model: nn.Module):
    peer = imported("torchattacks")

    def one_step(x, y, eps):
        return peer.FGSM(model, eps=eps)(x, y)

    def many_steps(x, y, eps, step_size, steps):
        return peer.PGD(model, eps=eps, alpha=step_size, steps=steps, random_start=False)(x, y)

    return one_step, many_steps


def foolbox(model: nn.Module):
    peer = imported("foolbox")
    wrapped = peer.PyTorchModel(model, bounds=(0, 1), device="cpu")

    def one_step(x, y, eps):
        return peer.attacks.FGSM()(wrapped, x, y, epsilons=eps)[1]

    def many_steps(x, y, eps, step_size, steps):
        attack = peer.attacks.LinfPGD(abs_stepsize=step_size, steps=steps, random_start=False)
        return attack(wrapped, x, y, epsilons=eps)[1]

    return one_step, many_steps


def art(model: nn.Module):
    attacks = imported("art.attacks.evasion")
    wrapped = imported("art.estimators.classification").PyTorchClassifier(
        model, loss=nn.CrossEntropyLoss(), input_shape=(3, 32, 32), nb_classes=10, clip_values=(0, 1), device_type="cpu"
    )

    def run(attack, x, y):
        return torch.from_numpy(attack.generate(x.numpy(), y=y.numpy()))

    def one_step(x, y, eps):
        return run(attacks.FastGradientMethod(wrapped, norm=np.inf, eps=eps), x, y)

    def many_steps(x, y, eps, step_size, steps):
        attack = attacks.ProjectedGradientDescent(
            wrapped, norm=np.inf, eps=eps, eps_step=step_size, max_iter=steps, num_random_init=0, verbose=False
        )
        return run(attack, x, y)

    return one_step, many_steps


def cleverhans(model: nn.Module):
    one = imported("cleverhans.torch.attacks.fast_gradient_method").fast_gradient_method
    many = imported("cleverhans.torch.attacks.projected_gradient_descent").projected_gradient_descent

    def one_step(x, y, eps):
        return one(model, x, eps, np.inf, clip_min=0, clip_max=1, y=y).detach()

    def many_steps(x, y, eps, step_size, steps):
        return many(model, x, eps, step_size, steps, np.inf, clip_min=0, clip_max=1, y=y, rand_init=False).detach()

    return one_step, many_steps


@pytest.fixture(scope="module")
def victim():
    """A small convolutional network with batch norm, in evaluation mode, and 32 uniform images with random labels."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1, bias=False),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.Conv2d(8, 16, 3, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(16),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(4),
            nn.Flatten(),
            nn.Linear(256, 10),
        )
        x, y = torch.rand(32, 3, 32, 32), torch.randint(0, 10, (32,))
        model(2 * x - 1)  # running statistics other than 0 and 1
    return model.eval(), x, y


@pytest.fixture(scope="module", params=[torchattacks, foolbox, art, cleverhans], ids=lambda peer: peer.__name__)
def peer(request, victim):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return request.param(victim[0])


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("eps", FGSM)
def test_fgsm_agrees(victim, peer, eps):
    (model, x, y), (one_step, _) = victim, peer
    ours = fgsm(model, x, y, eps=eps)
    torch.testing.assert_close(one_step(x.clone(), y, eps), ours, rtol=0, atol=1e-6)
    assert (ours - x).abs().max().item() == pytest.approx(eps, abs=1e-6)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("eps", "step_size", "steps"), PGD)
def test_pgd_agrees(victim, peer, eps, step_size, steps):
    (model, x, y), (_, many_steps) = victim, peer
    ours = pgd(model, x, y, eps=eps, step_size=step_size, steps=steps)
    torch.testing.assert_close(many_steps(x.clone(), y, eps, step_size, steps), ours, rtol=0, atol=1e-6)
    assert (ours - x).abs().max().item() == pytest.approx(min(eps, steps * step_size), abs=1e-6)
