"""The attacks of the suite carried out on a trained model.

What is measured is a mask: which test images, in canonical order, were classified correctly; its mean is the accuracy.
All of it is float32, unless a GPU's convolutions are allowed TensorFloat-32.
"""

import copy
import zlib
from collections.abc import Mapping
from contextlib import nullcontext
from functools import partial

import torch
from torch import Tensor, nn

from advlib.attacks import eval_mode, fgsm, first_success, pgd, predictions, require_finite, uniform_noise
from advlib.train import craft
from study.data.pixels import to_pixels
from study.experiment import precision
from study.experiment.unfinished import Unfinished
from study.machine.progress import progress
from study.plan.attacks import Attack
from study.records import PUBLISHED_BATCH, Measurement


@precision.float32()
def evaluate(
    models: Mapping[str, nn.Module],
    images: Tensor,
    labels: Tensor,
    attacks: list[Attack],
    *,
    sweep_size: int,
    strong_size: int = 0,
    seed: int = 0,
    batch_size: int = 256,
    tf32: bool = False,
    unfinished: Unfinished | None = None,
) -> list[Measurement]:
    """Measure every attack on the test images, in canonical order.

    models: gradient name -> model; "surrogate" is the same weights with surrogate activations. images: uint8
    (N, C, H, W); labels: (N,). ``strong_size``, ``sweep_size``: how many of them each kind of attack gets at most; of
    strong ones 0 is all. ``tf32``: as :func:`precision.tf32`. Models, their modes and statistics, and torch's
    generators are left as they were: each attack draws from a generator of its own, seeded by ``seed`` and the
    attack's name. Raises TypeError on images that are not uint8, and what :func:`advlib.attacks.pgd` raises.
    """
    kept = unfinished or Unfinished(None, {})
    sizes = {"all": len(images), "strong": strong_size or len(images), "sweep": sweep_size}
    for attack in progress(attacks, desc="evaluate", unit="attack"):
        if kept.get(attack.name) is None:
            n = min(sizes[attack.images], len(images))
            with precision.tf32() if tf32 else nullcontext():
                outcomes = _measure(models[attack.gradient], images[:n], labels[:n], attack, seed, batch_size)
            masks = [(told, correct.cpu().numpy()) for told, correct in outcomes]
            kept.add(attack.name, [Measurement.of(a.name, a.column, a.specification, mask) for a, mask in masks])
    return [measurement for attack in attacks for measurement in kept.get(attack.name)]


def make_images(
    model: nn.Module, x: Tensor, y: Tensor, attack: Attack, generator: torch.Generator | None = None
) -> Tensor:
    """The images (B, C, H, W) that ``attack`` shows the model instead of pixels ``x``. Mode as the model's own."""
    if attack.method == "none":
        return x
    if attack.method == "noise":
        return uniform_noise(x, eps=attack.eps, generator=generator)
    if attack.method == "fgsm":
        ascend = partial(fgsm, eps=attack.eps)
    else:
        ascend = partial(pgd, **_ascent(attack), generator=generator)
    if attack.space == "standardised":
        ascend = partial(ascend, validate=False)  # standardised images lie beyond [0, 1]: the published clamp
    shown = craft(model, x, y, ascend, branch=attack.through, mode="train", space=attack.space)
    require_finite(shown, "attacked images")
    return shown


def _measure(model, images: Tensor, labels: Tensor, attack: Attack, seed: int, batch_size: int):
    """[(attack as reported, correct (n,))]: one pair, or one for each number of steps."""
    generator = torch.Generator(images.device).manual_seed(zlib.crc32(f"{seed} {attack.name}".encode()))
    if attack.statistics == "batch":
        # a copy, as each pass moves the running statistics; they do not matter to batch statistics
        model, batch_size = copy.deepcopy(model).train(), PUBLISHED_BATCH
    parts = []
    with eval_mode(model) if attack.statistics == "running" else nullcontext():
        for batch, y in zip(images.split(batch_size), labels.split(batch_size), strict=True):
            parts.append(_outcome(model, to_pixels(batch), y, attack, generator))
    outcome = torch.cat(parts)
    if attack.stop == "last-step":
        return [(attack, outcome)]
    return [(report, outcome > report.steps) for report in attack.reported]


def _outcome(model, x: Tensor, y: Tensor, attack: Attack, generator: torch.Generator) -> Tensor:
    """Per image: classified correctly (bool), or for first-success the number of steps that fooled it."""
    if attack.stop == "first-success":
        return first_success(partial(model, branch=attack.branch), x, y, **_ascent(attack), generator=generator)
    shown = make_images(model, x, y, attack, generator)
    return predictions(partial(model, branch=attack.branch), shown) == y


def _ascent(attack: Attack) -> dict:
    names = ("eps", "step_size", "steps", "random_start", "restarts", "norm")
    return {name: getattr(attack, name) for name in names}
