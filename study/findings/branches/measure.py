"""The four networks inside one of AdvProp's: statistics of either branch with the affine parameters of either.

A dual batch norm keeps two pairs: running mean and variance, and what was learnt on top of them, scale and shift. A
branch uses the one pair with the other of the same name. Crossed, they are networks that nobody trained, and they tell
which of the two makes the branches differ (Zhang et al. 2024). :mod:`branches.judge` reads what is measured here.

Statistics are of what a layer receives, and that depends on the affine parameters of the layers below it. So a crossing
has them of inputs that no layer of it ever gets. The other way to cross, ``anew``, measures them again through the
affine parameters in question: on clean training images instead of the main branch's, on attacked ones instead of the
auxiliary branch's.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import product
from pathlib import Path

import torch
from torch import Tensor, nn

from advlib.attacks import pgd
from advlib.norm import BRANCHES
from advlib.resnet import resnet18
from advlib.train import craft
from study.data.pixels import to_pixels
from study.experiment.build import placed
from study.experiment.evaluate import evaluate
from study.experiment.network import Network, refuse_single
from study.experiment.precision import float32
from study.findings.branches.judge import COLUMNS, KEPT, PAIRS, WAYS, Combinations, measurement
from study.plan.attacks import PAPER_COLUMNS, PGD_20, Attack
from study.plan.config import Config
from study.records import Record

TRAINING_IMAGES = 4_000  # the first of the record's, for statistics that are measured anew
BATCH = 250  # of them
STATISTICS = ("running_mean", "running_var", "num_batches_tracked")
AFFINE = ("weight", "bias")


def recombine(state: Mapping[str, Tensor], statistics: str, affine: str) -> dict[str, Tensor]:
    """The state of a network with one batch norm a layer, from that of a network with two.

    Each dual batch norm gives the running statistics of the branch ``statistics`` and the affine parameters of the
    branch ``affine``; everything else, a shared batch norm too, stays. The tensors are those of ``state``, not copies.
    Raises ValueError on an unknown branch, or where there is no dual batch norm.
    """
    for branch in (statistics, affine):
        if branch not in BRANCHES:
            raise ValueError(f"unknown branch {branch!r}: choose one of {', '.join(BRANCHES)}")
    source = dict.fromkeys(STATISTICS, statistics) | dict.fromkeys(AFFINE, affine)
    dual = {name.removesuffix(".aux.weight") for name in state if name.endswith(".aux.weight")}
    if not dual:
        raise ValueError("no dual batch norm to recombine: the network was trained without AdvProp")
    found = {}
    for name, value in state.items():
        layer, *rest = name.rsplit(".", 2)
        if layer not in dual:
            found[name] = value
        elif rest[0] == BRANCHES[0]:
            part = rest[1]
            found[f"{layer}.{part}"] = state[f"{layer}.{source[part]}.{part}"]
    return found


def combined(state: Mapping[str, Tensor], record: Record, pair: tuple[str, str], activation: str) -> nn.Module:
    """The record's network with the statistics and affine parameters of ``pair``, in evaluation mode.

    An ordinary network with one batch norm a layer: it is the same whichever branch is asked for.
    """
    config, channels = record.as_config(), state["standardise.mean"].shape[1]
    model = resnet18(
        len(record.data["classes"]),
        config.width,
        activation,
        "shared",
        channels,
        activation_alpha=config.activation_alpha,
    )
    model.load_state_dict(recombine(state, *pair))
    return model.eval()


@torch.no_grad()
def measure_statistics(model: nn.Module, batches: list[Tensor]) -> None:
    """Put the mean over ``batches`` of pixels (B, C, H, W) in the place of the running statistics of ``model``.

    Each batch counts by its images. The affine parameters and the mode of each module stay as they were.
    """
    layers = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    usual = [(layer.momentum, layer.training) for layer in layers]
    for layer in layers:
        layer.reset_running_stats()
        layer.train()
    seen = 0
    for batch in batches:
        seen += len(batch)
        for layer in layers:
            layer.momentum = len(batch) / seen
        model(batch)
    for layer, (momentum, training) in zip(layers, usual, strict=True):
        layer.momentum, layer.training = momentum, training


def twins(model: nn.Module, batches: list[Tensor], labels: list[Tensor], config: Config) -> list[Tensor]:
    """The batches of pixels after the attack of the record's training, through ``model``, in evaluation mode."""
    how = {"eps": config.train_eps, "step_size": config.train_step_size, "steps": config.train_steps}
    ascend = partial(pgd, **how, validate=False)
    return [craft(model, x, y, ascend, space=config.attack_space) for x, y in zip(batches, labels, strict=True)]


def attacks(surrogate: bool) -> list[Attack]:
    """The evaluator's attacks of :data:`judge.COLUMNS`, under both gradients where there are two."""
    chosen = [attack for attack in (*PAPER_COLUMNS, PGD_20) if attack.column in COLUMNS]
    return chosen + [replace(a, gradient="surrogate") for a in chosen if surrogate and a.method != "none"]


def measure(
    networks: Sequence[Network], results: Path, images: int | None = None, *, anew: bool = False
) -> Iterator[str]:
    """Attack the four networks inside each on its test images, or the first ``images``, and say what was found.

    Raises ValueError where one has no second batch norm, before any is attacked, and what :class:`Network` raises.
    """
    refuse_single(networks)
    for network in networks:
        there = Combinations.begun(results, network.record, network.digest, images, anew)
        found = crossed(network, there.images if there else images)
        path = found.write(results, network.record)
        rates = ", ".join(f"{m.name} {100 * m.accuracy:.1f} %" for m in found.measurements)
        yield f"{path}: of {found.images} images right, statistics+affine: {rates}"


@float32()
def crossed(network: Network, images: int | None = None) -> Combinations:
    """Each of the four networks, crossed either way, attacked through itself."""
    record, device, state = network.record, network.device, network.model.state_dict()
    shown, labels = network.first(images, len(network.dataset.test_images))
    own, config = record.config["activation"], record.as_config()
    gradients = {"true": "relu", "surrogate": own} if own == "surrogate-relu" else {"true": own}
    train_images, train_labels = network.dataset.train_images, network.dataset.train_labels
    trained = min(config.train_size or len(train_images), TRAINING_IMAGES)
    clean = [to_pixels(batch.to(device)) for batch in train_images[:trained].split(BATCH)]
    classes = list(train_labels[:trained].to(device).split(BATCH))
    found = []
    for way, pair in product(WAYS, PAIRS):
        models = {
            gradient: placed(combined(state, record, pair, activation), device)
            for gradient, activation in gradients.items()
        }
        if way != KEPT:
            statistics, affine = pair
            branch = placed(combined(state, record, (affine, affine), own), device)
            seen = clean if statistics == BRANCHES[0] else twins(branch, clean, classes, config)
            for model in models.values():
                measure_statistics(model, seen)
        # an attack's name seeds its noise: all networks start from the same images
        how = {"sweep_size": len(shown), "seed": record.seed}
        measured = evaluate(models, shown, labels, attacks("surrogate" in models), **how)
        found += [replace(m, name=measurement(way, pair, m.name.removeprefix("corrected:"))) for m in measured]
    return Combinations(**network.about(len(shown)), training_images=trained, measurements=tuple(found))
