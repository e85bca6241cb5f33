"""Question 2: one step of Algorithm 1 beside common practice. Question 3: which lever gives how much?"""

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from advlib.attacks import eval_mode
from advlib.resnet import resnet18
from benchmarks.race import Contestant, Work, race
from study.data.pixels import to_pixels
from study.experiment.augment import AUGMENTATIONS
from study.experiment.build import LOSSES, device_or_best, training_attack, training_step
from study.experiment.fast.parallel import ALONE, Scaler
from study.experiment.fast.products import ProductConv2d
from study.experiment.precision import autocast, training_dtype
from study.machine.kernel import ALLOCATOR
from study.plan import catalogue
from study.plan.config import Config

STEP = "benchmarks.training:step"
FAST = {"precision": "fast"}
UNFOLDED = {"precision": "auto", "products": True}
LEVERS = {  # taken from the fast mode, or added to it: options of `step`, and whether the allocator keeps its memory
    "fast": (FAST, True),
    "without bfloat16": (FAST | {"half": False}, True),
    "without channels last": (FAST | {"channels_last": False}, True),
    "without folded batch norm": (UNFOLDED, True),
    "without folded batch norm, with gradients by the weights while attacking": (UNFOLDED | {"thrifty": False}, True),
    "without convolutions as products, but in the attack": (FAST | {"products": False}, True),
    "without an allocator that keeps its memory": (FAST, False),
    "with the loss read at every step": (FAST | {"read_loss": True}, True),
    "with a fused optimiser": (FAST | {"fused": True}, True),
    "with both halves in one batch (another experiment)": (FAST | {"one_pass": True}, True),
    "with torch.compile": (FAST | {"compiled": True}, True),
}


def against_common_practice(rounds: int = 3) -> list[dict]:
    """Question 2, at the paper's width: the common step, and ours in float32, by default, and in the fast mode."""
    found = []
    for batch in (128, 256):
        options = {"width": 64, "batch": batch}
        contestants = [
            Contestant("common practice", "benchmarks.common_practice:step", options),
            Contestant("ours, float32", STEP, options | {"precision": "float32"}, ALLOCATOR),
            Contestant("ours", STEP, options | {"precision": "auto"}, ALLOCATOR),
            Contestant("ours, fast", STEP, options | FAST, ALLOCATOR),
        ]
        found += race(f"width 64, batch {batch}", contestants, images=batch, rounds=rounds)
    return found


def levers(rounds: int = 5) -> list[dict]:
    """Question 3: the fast step with one lever taken away or added, at the paper's size and at the small budget's."""
    found = []
    for width, batch in ((64, 128), (16, 64)):
        contestants = [
            Contestant(name, STEP, {"width": width, "batch": batch, **options}, ALLOCATOR if keeps else {})
            for name, (options, keeps) in LEVERS.items()
        ]
        found += race(f"width {width}, batch {batch}", contestants, images=batch, rounds=rounds)
    return found


def step(
    width: int,
    batch: int,
    precision: str,
    *,
    steps: int = 2,
    half: bool = True,
    channels_last: bool = True,
    products: bool | None = None,
    thrifty: bool = True,
    read_loss: bool = False,
    fused: bool = False,
    one_pass: bool = False,
    compiled: bool = False,
) -> Work:
    """The step inside :func:`training.fit`, on random images. Each further option moves one lever."""
    config = catalogue.config("adversarial", width=width, batch_size=batch, precision=precision, train_steps=steps)
    device = device_or_best()
    layout = torch.channels_last if channels_last else torch.contiguous_format
    conv = ProductConv2d if (precision == "fast" if products is None else products) else nn.Conv2d
    torch.manual_seed(0)
    model = resnet18(width=width, norm=config.norm, conv=conv).to(device, memory_format=layout).train()
    trained = torch.compile(model) if compiled else model
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4, fused=fused or None)
    generator = torch.Generator(device).manual_seed(0)
    next_batch = _batches(config, generator, layout)
    dtype = training_dtype(config.precision, device) if half else None
    loss_fn, scaler = LOSSES[config.loss](config.smoothing), Scaler(device, dtype, ALONE)
    update = _one_pass if one_pass else training_step(config)
    crafting = training_attack(config, generator, dtype=dtype) if thrifty else partial(_wasteful, config=config)

    def one_step() -> None:
        x, y = next_batch()
        with autocast(device, dtype):  # the attack is on the network itself, whatever the update trains
            loss, _ = update(trained, optimizer, x, y, lambda _, x, y: crafting(model, x, y), loss_fn, scaler)
        if read_loss:
            loss.item()

    return one_step


def _batches(config: Config, generator: torch.Generator, layout: torch.memory_format) -> Callable:
    """A function that draws pixels (B, 3, 32, 32), augmented as a training does it, and labels (B,)."""
    B, where = config.batch_size, {"device": generator.device, "generator": generator}
    images = torch.randint(0, 256, (8 * B, 3, 32, 32), dtype=torch.uint8, **where)
    labels = torch.randint(0, 10, (8 * B,), **where)

    def draw() -> tuple[Tensor, Tensor]:
        chosen = torch.randint(0, len(images), (B,), **where)
        augmented = AUGMENTATIONS[config.augmentation](images[chosen], generator)
        return to_pixels(augmented).to(memory_format=layout), labels[chosen]

    return draw


def _one_pass(model, optimizer, x, y, attack, loss_fn, scaler):
    """Clean and adversarial images share one batch, and so its statistics: not what Algorithm 1 does."""
    logits = model(torch.cat([x, attack(model, x, y)]))
    loss = loss_fn(logits, torch.cat([y, y]))
    optimizer.zero_grad()
    scaler.scale(loss).backward()
    scaler.step(optimizer)
    scaler.update()
    return loss.detach(), logits


def _wasteful(model, x, y, config: Config):
    """PGD that calls ``backward``, and so computes gradients by the weights that nobody reads."""
    x_adv = x
    with eval_mode(model):
        for _ in range(config.train_steps):
            x_adv = x_adv.detach().requires_grad_()
            F.cross_entropy(model(x_adv), y, reduction="sum").backward()
            moved = x_adv.detach() + config.train_step_size * x_adv.grad.sign()
            x_adv = (x + (moved - x).clamp(-config.train_eps, config.train_eps)).clamp(0, 1)
    return x_adv
