"""Question 1: how fast are adversarial images made, beside four libraries that make the same ones?"""

import os
import warnings
from functools import partial

import numpy as np
import torch
from torch import nn

from advlib.attacks import pgd
from advlib.resnet import resnet18
from benchmarks.race import Contestant, Work, race
from study.experiment.build import device_or_best
from study.experiment.fast.folded import Folded
from study.experiment.fast.products import ProductConv2d
from study.experiment.precision import autocast, training_dtype
from study.machine.kernel import ALLOCATOR

ATTACKS = {
    "PGD-10": {"eps": 8 / 255, "step_size": 2 / 255, "steps": 10},
    "PGD-2": {"eps": 0.1, "step_size": 2 / 255, "steps": 2},
}
PEERS = ("torchattacks", "foolbox", "art", "cleverhans")


def question(width: int = 64, batch: int = 64, rounds: int = 3) -> list[dict]:
    """Each library on the same network, images and layout; ours in float32, and in the fast mode."""
    found = []
    for name, attack in ATTACKS.items():
        options = {"width": width, "batch": batch, **attack}
        contestants = [
            Contestant("ours, float32", "benchmarks.crafting:ours", options),
            *(Contestant(peer, f"benchmarks.crafting:{peer}", options) for peer in PEERS),
            Contestant("ours, fast", "benchmarks.crafting:fast", options, ALLOCATOR),
        ]
        found += race(f"{name}, width {width}, batch {batch}", contestants, images=batch, rounds=rounds)
    return found


def victim(width: int, batch: int, conv=nn.Conv2d):
    """A ResNet-18 in evaluation mode with statistics of its own, channels last, uniform images and labels."""
    device = device_or_best()
    torch.manual_seed(0)
    model = resnet18(width=width, conv=conv)
    x, y = torch.rand(batch, 3, 32, 32), torch.randint(0, 10, (batch,))
    with torch.no_grad():
        model(x[:16])
    x, y = x.to(device, memory_format=torch.channels_last), y.to(device)
    return model.eval().to(device, memory_format=torch.channels_last), x, y


def ours(width: int, batch: int, **attack) -> Work:
    model, x, y = victim(width, batch)
    return lambda: pgd(model, x, y, **attack)


def fast(width: int, batch: int, **attack) -> Work:
    model, x, y = victim(width, batch, conv=ProductConv2d)

    def craft():
        with autocast(x.device, training_dtype("fast", x.device)):
            return pgd(partial(Folded(model, "main"), branch="main"), x, y, **attack, validate=False)

    return craft


def torchattacks(width: int, batch: int, eps: float, step_size: float, steps: int) -> Work:
    warnings.simplefilter("ignore")
    from torchattacks import PGD

    model, x, y = victim(width, batch)
    attack = PGD(model, eps=eps, alpha=step_size, steps=steps, random_start=False)
    return lambda: attack(x, y)


def foolbox(width: int, batch: int, eps: float, step_size: float, steps: int) -> Work:
    warnings.simplefilter("ignore")
    from foolbox import PyTorchModel
    from foolbox.attacks import LinfPGD

    model, x, y = victim(width, batch)
    wrapped = PyTorchModel(model, bounds=(0, 1), device=str(x.device))
    attack = LinfPGD(abs_stepsize=step_size, steps=steps, random_start=False)
    return lambda: attack(wrapped, x, y, epsilons=eps)[1]


def art(width: int, batch: int, eps: float, step_size: float, steps: int) -> Work:
    warnings.simplefilter("ignore")
    from art.attacks.evasion import ProjectedGradientDescent
    from art.estimators.classification import PyTorchClassifier

    model, x, y = victim(width, batch)
    wrapped = PyTorchClassifier(
        model,
        loss=nn.CrossEntropyLoss(),
        input_shape=(3, 32, 32),
        nb_classes=10,
        clip_values=(0, 1),
        device_type="gpu" if x.is_cuda else "cpu",
    )
    attack = ProjectedGradientDescent(
        wrapped, norm=np.inf, eps=eps, eps_step=step_size, max_iter=steps, batch_size=batch, verbose=False
    )
    images, labels = x.cpu().numpy(), y.cpu().numpy()
    return lambda: torch.from_numpy(attack.generate(images, y=labels))


def cleverhans(width: int, batch: int, eps: float, step_size: float, steps: int) -> Work:
    warnings.simplefilter("ignore")
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    from cleverhans.torch.attacks.projected_gradient_descent import projected_gradient_descent

    model, x, y = victim(width, batch)
    options = {"clip_min": 0, "clip_max": 1, "y": y, "rand_init": False}
    options |= {"sanity_checks": not x.is_cuda}  # numpy has to read them
    return lambda: projected_gradient_descent(model, x, eps, step_size, steps, np.inf, **options).detach()
