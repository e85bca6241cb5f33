"""Question 6: what is left of the gradient that an attack follows, where a network is computed in half precision?"""

from pathlib import Path

import torch
from torch import Tensor, nn

from advlib.attacks import cross_entropy
from benchmarks.race import ROOT
from study import records
from study.data.pixels import to_pixels
from study.experiment.network import Network
from study.experiment.precision import autocast, log_odds

KEYS = ("adversarial", "advprop", "als-sat-advprop")  # of the committed networks
RECORDS = ROOT / "results" / "lite" / "cifar10-jpeg" / "corrected"
TIMES = (1, 4, 10)  # what logits are multiplied by, to stand for a longer training
BATCH = 64
WAYS = {  # name -> what is computed in, what is raised, and what it is multiplied by
    "float32, cross-entropy": (None, cross_entropy, 1),
    "bfloat16, cross-entropy": (torch.bfloat16, cross_entropy, 1),
    "float16, cross-entropy": (torch.float16, cross_entropy, 1),
    "float16, cross-entropy × 1,024": (torch.float16, cross_entropy, 1024),
    "float16, log-odds": (torch.float16, log_odds, 1),
}


def question(images: int = 256) -> list[dict]:
    """:func:`kept` of three committed networks, on the first test images of their data."""
    found = []
    for key in KEYS:
        record = records.read(RECORDS / key / "seed0" / "record.json")
        network = Network(record, Path(ROOT, "models", f"{key}.safetensors"))
        x, y = network.first(images, images)
        found += [{"network": key, "images": images, **line} for line in kept(network.model, to_pixels(x), y)]
    return found


def kept(model: nn.Module, x: Tensor, y: Tensor) -> list[dict]:
    """By way and logits: the share of the gradient's entries that became 0, and of the signs that are float64's.

    x: (N, C, H, W) pixels; y: (N,). Entries that are 0 in float64 do not count. Gradients are those of an attack in
    training: through the auxiliary branch, in evaluation mode.
    """
    model = model.to(x.device, memory_format=torch.channels_last).eval()
    exact = gradients(model.double(), x.double(), y, None, cross_entropy, 1)
    ways = {name: gradients(model.float(), x, y, *way) for name, way in WAYS.items()}
    found = []
    for name, by_times in ways.items():
        for times, gradient in by_times.items():
            counts = exact[times] != 0
            zeros, signs = gradient == 0, gradient.sign() == exact[times].sign()
            shares = {"zeros": zeros[counts].double().mean().item(), "signs": signs[counts].double().mean().item()}
            found.append({"way": name, "times": times} | {what: round(share, 6) for what, share in shares.items()})
    return found


def gradients(
    model: nn.Module, x: Tensor, y: Tensor, dtype: torch.dtype | None, objective, factor
) -> dict[int, Tensor]:
    """What logits are multiplied by -> the gradient by the images (N, C, H, W) of the objective."""
    found = {times: [] for times in TIMES}
    for images, labels in zip(x.split(BATCH), y.split(BATCH), strict=True):
        images = images.clone().requires_grad_()
        with autocast(x.device, dtype):
            logits = model(images, branch="aux")
            for times, parts in found.items():
                raised = factor * objective(times * logits, labels)
                parts += torch.autograd.grad(raised, images, retain_graph=True)
    return {times: torch.cat(parts) for times, parts in found.items()}
