"""One update of training: Algorithm 1 of the paper, and the update of its released code.

An ``attack`` here maps ``(model, x, y)`` to adversarial twins of ``x``, as in line 9 of Algorithm 1; :func:`craft`
makes one from FGSM or PGD. A step returns the detached loss and logits, so nobody needs another forward for accuracy.
"""

from collections.abc import Callable
from contextlib import nullcontext
from functools import partial

import torch
from torch import Tensor

from advlib.attacks import eval_mode

UNSCALED = torch.amp.GradScaler(enabled=False)  # scales nothing and skips no step


def train_step(model, optimizer, x: Tensor, y: Tensor, attack, loss_fn, scaler=UNSCALED) -> tuple[Tensor, Tensor]:
    """One update of Algorithm 1: learn from clean images and their adversarial twins (equation 4).

    x: (B, C, H, W) pixels in [0, 1]; y: (B,) labels. Returns the loss and logits (2B, K), clean half first. The twins
    come before the clean predictions of line 4, so that both forwards of the loss stand together.
    """
    x_adv = attack(model, x, y)  # lines 6 to 9
    logits = torch.cat([model(x, branch="main"), model(x_adv, branch="aux")])  # lines 4, 10, 11
    loss = loss_fn(logits, torch.cat([y, y]))  # lines 12 to 15: one mean over 2B predictions
    update(optimizer, loss, scaler)  # line 16
    return loss.detach(), logits.detach()


def clean_step(model, optimizer, x: Tensor, y: Tensor, attack, loss_fn, scaler=UNSCALED) -> tuple[Tensor, Tensor]:
    """One update of Algorithm 1 without adversarial training: ``attack`` is not called. Logits (B, K)."""
    logits = model(x, branch="main")
    loss = loss_fn(logits, y)
    update(optimizer, loss, scaler)
    return loss.detach(), logits.detach()


def two_step_update(model, optimizer, x: Tensor, y: Tensor, attack, loss_fn, scaler=UNSCALED) -> tuple[Tensor, Tensor]:
    """The update of the released code: one optimiser step on the adversarial half, then one on the clean half.

    Shapes as for :func:`train_step`; the loss returned is the mean of the two. Every parameter has a gradient in both
    half-steps, from the first on, if only of zeros: in the released code the attack leaves gradients behind, which are
    zeroed. So the idle branch's affine parameters decay and coast on momentum.
    """
    x_adv = attack(model, x, y)
    adversarial = model(x_adv, branch="aux")
    adversarial_loss = loss_fn(adversarial, y)
    update(optimizer, adversarial_loss, scaler, idle_decays=True)

    clean = model(x, branch="main")
    clean_loss = loss_fn(clean, y)
    update(optimizer, clean_loss, scaler, idle_decays=True)
    return (clean_loss.detach() + adversarial_loss.detach()) / 2, torch.cat([clean, adversarial]).detach()


def update(optimizer, loss: Tensor, scaler: torch.amp.GradScaler, idle_decays: bool = False) -> None:
    """One step. A parameter that ``loss`` does not depend on has a gradient of zeros (``idle_decays``) or stays.

    scaler: multiplies the loss, divides the gradients by as much, and skips the step if one of them has overflown.
    """
    optimizer.zero_grad(set_to_none=not idle_decays)
    if idle_decays:
        for parameter in (p for group in optimizer.param_groups for p in group["params"] if p.grad is None):
            parameter.grad = torch.zeros_like(parameter)
    scaler.scale(loss).backward()
    scaler.step(optimizer)
    scaler.update()


def craft(
    model,
    x: Tensor,
    y: Tensor,
    attack,
    *,
    branch: str = "aux",
    mode: str = "eval",
    space: str = "pixels",
    view: Callable = lambda model, branch: model,
) -> Tensor:
    """Adversarial twins (B, C, H, W) of pixels ``x``, by ``attack(logits_fn, x, y)`` through one branch of the model.

    ``mode="eval"`` touches no batch-norm statistics; with ``"train"`` every pass moves them. ``space="standardised"``
    attacks (x - mean) / std, where the released code measures eps and clamps to [0, 1]; the result is in pixels again.
    ``view(model, branch)``: what an attack in evaluation mode sees, such as a faster network that computes the same.
    """
    with eval_mode(model) if mode == "eval" else nullcontext():
        seen = view(model, branch) if mode == "eval" else model
        if space == "pixels":
            return attack(partial(seen, branch=branch), x, y)
        z_adv = attack(partial(seen.classify, branch=branch), model.standardise(x), y)
        return model.standardise.to_pixels(z_adv)
