"""The data of the book's explorer page: images under attack, and what the published models make of them.

For one network of each technique and one of all three: the first test image of each class in canonical order, FGSM and
PGD as in the records' sweeps, and uniform noise, all through the branch that classifies and with true gradients. Each
picture is rounded to whole pixel levels before the network sees it, so that the page shows what the network saw. A
minute or two on a CPU; the same inputs give the same file.
"""

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from advlib.attacks import eval_mode
from advlib.norm import BRANCHES
from study import records
from study.data import Dataset
from study.data.pixels import to_pixels
from study.experiment.evaluate import make_images
from study.experiment.network import Network
from study.experiment.precision import float32
from study.experiment.weights import load_model
from study.findings.explorer import report
from study.machine.progress import progress
from study.plan.attacks import PIXEL, SWEEP_EPS, Attack, suite
from study.records import packing

AGREEMENT = 0.9  # below it, a model's file is hardly that of its record: 16-bit weights flip a verdict here and there


def measure(networks: Sequence[Network], results: Path) -> Iterator[str]:
    """Write the page's data from networks of one budget and data set, and say where. Errors as for :func:`explore`."""
    path = Path(results, *Path(networks[0].record.where).parts[:2], report.NAME)
    _refuse_fewer(path, [one.record.key for one in networks])
    packing.write(explore(networks, networks[0].dataset), path)
    yield f"{path}: {len(networks)} models, {path.stat().st_size / 1e6:.2f} MB"


def _refuse_fewer(path: Path, keys: Sequence[str]) -> None:
    """Raises ValueError if the file there shows more rows than these; one that is damaged shows none."""
    shown = []
    with suppress(OSError, ValueError), packing.reading(path, "make it again") as data:
        shown = [row["key"] for row in data["rows"]]
    if not set(shown) <= set(keys):
        raise ValueError(f"{path} shows {', '.join(shown)}: name all of them, or move it away first")


@float32()
def explore(networks: Sequence[Network], dataset: Dataset) -> dict:
    """The page's data. Raises ValueError where a network's verdicts are not its record's."""
    index = _first_of_each_class(dataset.test_labels, len(dataset.classes))
    images, labels = dataset.test_images[index], dataset.test_labels[index]
    noisy = _noise(images)
    data = {
        "schema": report.SCHEMA,
        "data": {"name": dataset.name, "title": dataset.title, "checksum": dataset.checksum},
        "classes": list(dataset.classes),
        "eps": list(SWEEP_EPS),
        "images": {
            "index": index,
            "labels": labels.tolist(),
            "size": list(images.shape[2:]),
            "pixels": packing.pack(images.permute(0, 2, 3, 1).numpy()),
        },
        "noise": packing.pack(_perturbation(images, noisy)),
        "rows": [],
    }
    for network in progress(networks, desc="explore", unit="model"):
        row = _row(network, images, labels, noisy)
        if (share := report.agreement(row, network.record, data)) < AGREEMENT:
            raise ValueError(
                f"{row['model']} and its record agree on {share:.0%} of the verdicts only: publish the model again"
            )
        data["rows"].append(row)
    return data


def _row(network: Network, images: Tensor, labels: Tensor, noisy: Tensor) -> dict:
    """One network: whose it is, and what each of its branches makes of the images."""
    record = network.record
    surrogate, dual = record.config["activation"] == "surrogate-relu", record.config["norm"] != "shared"
    model = load_model(network.weights, activation="relu" if surrogate else None)
    return {
        "key": record.key,
        "record": record.where,
        "record_sha256": records.digest(record),
        "model": network.weights.name,
        "model_sha256": network.digest,
        "branches": {
            branch: _seen_through(model, images, labels, noisy, dual, branch)
            for branch in (BRANCHES if dual else ("main",))
        },
    }


def _seen_through(model: nn.Module, images: Tensor, labels: Tensor, noisy: Tensor, dual: bool, branch: str) -> dict:
    """What one branch of a network makes of the images, clean and attacked through itself. Shapes: explorer.report."""
    with eval_mode(model):
        seen = {"clean": _ten_thousandths(model, images, branch)}
        for name, attacks in _attacks_of(dual).items():
            through = [replace(attack, branch=branch, through=branch) for attack in attacks]
            shown = torch.stack(
                [_whole_levels(make_images(model, to_pixels(images), labels, attack)) for attack in through]
            )
            seen[name] = {
                "perturbation": packing.pack(_perturbation(images, shown)),
                "probabilities": [_ten_thousandths(model, pictures, branch) for pictures in shown],
            }
        seen["noise"] = {"probabilities": [_ten_thousandths(model, pictures, branch) for pictures in noisy]}
    return seen


def _attacks_of(dual: bool) -> dict[str, list[Attack]]:
    """The page's gradient attacks by name, a size each, from the suite; the last iterate is shown, fooled or not."""
    known = {attack.name: attack for attack in suite(dual=dual, surrogate=False)}
    return {
        method: [replace(known[f"corrected:{method}-{size}/255"], stop="last-step") for size in SWEEP_EPS]
        for method in ("fgsm", "pgd-10")
    }


def _noise(images: Tensor) -> Tensor:
    """uint8 (E, N, C, H, W): the images under uniform noise of each size; the same noise for every network."""
    x, y = to_pixels(images), torch.zeros(len(images), dtype=torch.int64)
    shown = []
    for size in SWEEP_EPS:
        attack = Attack(f"noise-{size}/255", method="noise", eps=size * PIXEL)
        shown.append(_whole_levels(make_images(nn.Identity(), x, y, attack, torch.Generator().manual_seed(size))))
    return torch.stack(shown)


def _first_of_each_class(labels: Tensor, classes: int) -> list[int]:
    """Where each of the classes 0 to ``classes`` - 1 is first met in ``labels`` (N,)."""
    return [int((labels == k).nonzero()[0]) for k in range(classes)]


def _whole_levels(x: Tensor) -> Tensor:
    """Pixels in [0, 1] to the nearest of the 256 levels, uint8; an attack of a whole size stays within it."""
    return (x * 255).round().to(torch.uint8)


def _perturbation(images: Tensor, shown: Tensor) -> np.ndarray:
    """shown - images as int8 (E, N, H, W, C): colour last, as a browser wants its pixels."""
    return (shown.int() - images.int()).to(torch.int8).permute(0, 1, 3, 4, 2).numpy()


@torch.no_grad()
def _ten_thousandths(model: nn.Module, images: Tensor, branch: str) -> list[list[int]]:
    """Class probabilities [N][K] of uint8 images; raises ValueError where rounding them would change a prediction."""
    exact = model(to_pixels(images), branch=branch).softmax(dim=1)
    rounded = (exact * report.WHOLE).round().int()
    if not torch.equal(rounded.argmax(dim=1), exact.argmax(dim=1)):
        raise ValueError("two classes are equally likely to four digits: keep more digits")
    return rounded.tolist()
