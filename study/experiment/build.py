"""From the names in a config to objects: network, gradients, update, loss, attack. What computes is handed these."""

from collections.abc import Callable
from functools import partial

import torch
from torch import nn

from advlib import losses, train
from advlib.attacks import cross_entropy, pgd
from advlib.resnet import resnet18
from study.data import Dataset
from study.experiment.controls import NORMS, one_forward_step
from study.experiment.fast.folded import Folded
from study.experiment.fast.frozen import frozen
from study.experiment.fast.products import ProductConv2d
from study.experiment.precision import log_odds
from study.plan.config import Config

STEPS = {"joint": train.train_step, "two-steps": train.two_step_update, "one-forward": one_forward_step}
LOSSES = {
    "cross-entropy": lambda smoothing: losses.cross_entropy,
    "label-smoothing": lambda smoothing: partial(losses.label_smoothing, alpha=smoothing),
    "als": lambda smoothing: partial(losses.als, alpha=smoothing),
    "als-published": lambda smoothing: partial(losses.als_published, alpha=smoothing),
}


def build_model(config: Config, dataset: Dataset, activation: str | None = None) -> nn.Module:
    """The config's ResNet-18 for this data, its initial weights drawn from the config's seed alone."""
    with torch.random.fork_rng():
        torch.manual_seed(config.seed)
        return resnet18(
            len(dataset.classes),
            config.width,
            activation or config.activation,
            NORMS[config.norm],
            dataset.train_images.shape[1],
            activation_alpha=config.activation_alpha,
            mean=dataset.mean,
            std=dataset.std,
            conv=ProductConv2d if config.precision == "fast" else nn.Conv2d,
            head_bias=config.head_bias,
        )


def placed(model: nn.Module, device: torch.device) -> nn.Module:
    """``model`` on the device, its layers as that one computes them fastest; numbers are the same but for rounding."""
    model = model.to(device, memory_format=torch.channels_last)
    return frozen(model) if device.type == "cuda" else model


def gradients(model: nn.Module, config: Config, dataset: Dataset) -> dict[str, nn.Module]:
    """The model by the gradient an attack reads: a twin with plain ReLUs gives surrogate activations their true one."""
    if config.activation != "surrogate-relu":
        return {"true": model}
    twin = placed(build_model(config, dataset, activation="relu"), next(model.parameters()).device)
    twin.load_state_dict(model.state_dict())
    return {"true": twin.eval(), "surrogate": model}


def training_step(config: Config) -> Callable:
    """The update of Algorithm 1 for this config: clean, or from twins too, on both halves in one step or one by one."""
    return STEPS[config.update] if config.adversarial else train.clean_step


def training_attack(
    config: Config,
    generator: torch.Generator | None = None,
    part: tuple[int, int] = (0, 1),
    dtype: torch.dtype | None = None,
):
    """``attack(model, x, y)`` of Algorithm 1 for this config. Values are taken on trust: the loop makes the pixels.

    ``part``: which of how many equal parts of the batch its images are, see :func:`advlib.attacks.pgd`. ``dtype``: what
    the training computes in. In float16 the attack raises the log-odds, whose gradients do not become 0.
    """
    ascend = partial(
        pgd,
        eps=config.train_eps,
        step_size=config.train_step_size,
        steps=config.train_steps,
        random_start=config.train_random_start,
        generator=generator if config.train_random_start else None,
        validate=False,
        part=part,
        objective=log_odds if dtype == torch.float16 else cross_entropy,
    )
    how = {"branch": config.attack_branch, "mode": config.attack_mode, "space": config.attack_space}
    if config.precision == "fast":
        how["view"] = Folded
    return partial(train.craft, attack=ascend, **how)


def device_or_best(device: str | torch.device | None = None) -> torch.device:
    """The device of that name; of None a GPU, if there is one."""
    return torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
