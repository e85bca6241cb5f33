"""Config -> Record: the only module that maps names to objects. Everything else is handed what it works with."""

import math
import platform
import subprocess
import sys
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import torch
from torch import nn

from advlib import losses, torchrun, train, versions
from advlib.attacks import cross_entropy, log_odds, pgd
from advlib.augment import AUGMENTATIONS
from advlib.config import Config
from advlib.data import Dataset, load
from advlib.evaluate import evaluate, suite
from advlib.folders import CHECKPOINT, HALVED, MEASURED, PROCESSES, alone
from advlib.interrupt import Interrupted, on_request
from advlib.parallel import ALONE, Team
from advlib.precision import training_dtype
from advlib.products import ProductConv2d
from advlib.records import SCIENCE_VERSION, Record
from advlib.resnet import resnet18
from advlib.unfinished import Unfinished, digest
from advlib.weights import save_weights

STEPS = {"joint": train.train_step, "two-steps": train.two_step_update}
LOSSES = {
    "cross-entropy": lambda smoothing: losses.cross_entropy,
    "label-smoothing": lambda smoothing: partial(losses.label_smoothing, alpha=smoothing),
    "als": lambda smoothing: partial(losses.als, alpha=smoothing),
    "als-published": lambda smoothing: partial(losses.als_published, alpha=smoothing),
}


@dataclass(frozen=True)
class Learned:
    """A trained network, not yet measured: it under each gradient, its data (on the device), its curve."""

    models: Mapping[str, nn.Module]  # in evaluation mode: "true", and "surrogate" where the activations have one
    dataset: Dataset
    curve: list[dict]  # one dict an epoch, as `advlib.train.fit` returns it

    @property
    def model(self) -> nn.Module:
        return self.models["true"]


@dataclass(frozen=True)
class Experiment:
    """A finished run: its record, its trained model under each gradient, and the data it saw (on the device)."""

    record: Record
    models: Mapping[str, nn.Module]  # "true", and "surrogate" where the activations have one
    dataset: Dataset

    @property
    def model(self) -> nn.Module:
        return self.models["true"]


def learn(
    config: Config,
    *,
    device: str | torch.device | None = None,
    data_root: Path | None = None,
    work: Path | None = None,
    processes: int = 1,
    watch: Callable[[nn.Module, Dataset], dict] = lambda model, dataset: {},
) -> Learned:
    """Train one config and measure nothing: what :func:`run` starts with, and all that a lesson needs.

    Arguments as for :func:`run`. watch: as for :func:`advlib.train.fit`, with the data; of this process only. Raises
    what loading the data, :func:`advlib.train.fit` and, for several processes, :func:`advlib.torchrun.train` raise.
    """
    device = _device(device)
    if processes > 1:
        _train_in_company(config, device, data_root, work, processes)
    # a killed command's kernel lives on for a second or two: wait until it lets go of the checkpoint
    with alone(work / "checkpoint.lock", wait=True) if work else nullcontext(), on_request() as stop:
        model, dataset, curve = train_network(
            config, device=device, data_root=data_root, work=work, stop=stop, watch=watch
        )
        if stop():  # it came after the last step: the checkpoint holds the whole training
            raise Interrupted("asked to stop after the training: run it again to go on with the evaluation")
    if work:
        save_weights(model, work / "model.safetensors")
    return Learned(gradients(model.eval(), config, dataset), dataset, curve)


def train_network(
    config: Config,
    *,
    device: torch.device,
    data_root: Path | None,
    work: Path | None,
    stop: Callable[[], bool],
    watch: Callable[[nn.Module, Dataset], dict] = lambda model, dataset: {},
    team: Team = ALONE,
) -> tuple[nn.Module, Dataset, list[dict]]:
    """The config's network, trained by this process or by the ``team`` that it is one of; its data; its curve."""
    dataset = load(config.dataset, root=data_root).subset(config.train_size, config.test_size).to(device)
    model = build_model(config, dataset).to(device, memory_format=torch.channels_last)
    generator = torch.Generator(device).manual_seed(config.seed)
    dtype = training_dtype(config.precision, device)
    curve = train.fit(
        model,
        dataset.train_images,
        dataset.train_labels,
        config,
        step=STEPS[config.update] if config.adversarial else train.clean_step,
        attack=training_attack(config, generator, (team.rank, team.size), dtype),
        loss_fn=LOSSES[config.loss](config.smoothing),
        augment=AUGMENTATIONS[config.augmentation],
        generator=generator,
        precision=dtype,
        checkpoint=work / CHECKPOINT if work else None,
        stop=stop,
        watch=lambda model: watch(model, dataset),
        team=team,
        checksum=dataset.checksum,
    )
    return model, dataset, curve


def _train_in_company(config: Config, device: torch.device, data_root, work: Path | None, processes: int) -> None:
    """Leave the checkpoint of a training in several processes in ``work``: alone, one then goes on from its end."""
    if work is None:
        raise ValueError(f"{processes} processes need a work folder: through it they hand over what they trained")
    if device.type == "cuda" and processes > torch.cuda.device_count():
        raise ValueError(f"{processes} processes need a GPU each, and {torch.cuda.device_count()} can be seen here")
    if device.type not in ("cuda", "cpu"):
        raise ValueError(f"{processes} processes train on GPUs of NVIDIA or on the CPU, not on {device.type}")
    data = load(config.dataset, root=data_root)  # fetched and cached once, before all of them ask for it
    train.refuse_unequal_parts(config, len(data.subset(config.train_size, 0).train_images), processes)
    task = {"config": config.to_dict(), "device": device.type, "data_root": data_root and str(data_root)}
    threads = max(1, torch.get_num_threads() // processes)
    torchrun.train(task, work, processes=processes, threads=threads)


def run(
    config: Config,
    *,
    key: str,
    protocol: str,
    budget: str,
    device: str | torch.device | None = None,
    data_root: Path | None = None,
    work: Path | None = None,
    processes: int | None = None,
) -> Experiment:
    """Train and evaluate one config, and say what it took.

    ``key``, ``protocol`` and ``budget`` name it in the catalogue. device: None for a GPU if there is one. work: a
    folder for the checkpoint, from which a run that was cut off goes on, and for the final weights (float32).
    processes: how many train it, each on a GPU of its own where there are any; None for ``$ADVLIB_NPROC``, else 1.
    One evaluates.

    Raises what :func:`learn` and :func:`advlib.evaluate.evaluate` raise.
    """
    processes = torchrun.processes(config.batch_size, processes)
    device = _device(device)
    # before training: the files may change while it trains
    origin = provenance(device, training_dtype(config.precision, device))
    if work and (work / HALVED).is_file():
        origin["halved"] = True  # a campaign carried its checkpoint in half precision
    if work and not (work / CHECKPOINT).is_file():
        (work / PROCESSES).unlink(missing_ok=True)  # of a training that left nothing
    learned = learn(config, device=device, data_root=data_root, work=work, processes=processes)
    if work and (work / PROCESSES).is_file():
        origin["processes"] = int((work / PROCESSES).read_text())  # also where one has finished what several began
    models, dataset = learned.models, learned.dataset

    unfinished = Unfinished(
        work / MEASURED if work else None,
        {
            "config": config.to_dict(),
            "science_version": SCIENCE_VERSION,
            "weights": digest(learned.model),
            "data": dataset.checksum,
        },
    )
    measurements = evaluate(
        models,
        dataset.test_images,
        dataset.test_labels,
        suite(dual=config.norm != "shared", surrogate="surrogate" in models),
        sweep_size=config.sweep_size,
        strong_size=config.strong_size,
        seed=config.seed,
        unfinished=unfinished,
    )
    record = Record(
        key=key,
        protocol=protocol,
        budget=budget,
        seed=config.seed,
        config=config.to_dict(),
        data=describe_data(dataset),
        provenance=origin,
        cost=cost(config, len(dataset.train_images), learned.curve, unfinished.seconds),
        curve=learned.curve,
        measurements=tuple(measurements),
    )
    return Experiment(record, models, dataset)


def build_model(config: Config, dataset: Dataset, activation: str | None = None) -> nn.Module:
    """The config's ResNet-18 for this data, its initial weights drawn from the config's seed alone."""
    with torch.random.fork_rng():
        torch.manual_seed(config.seed)
        return resnet18(
            len(dataset.classes),
            config.width,
            activation or config.activation,
            config.norm,
            dataset.train_images.shape[1],
            activation_alpha=config.activation_alpha,
            mean=dataset.mean,
            std=dataset.std,
            conv=ProductConv2d if config.precision == "fast" else nn.Conv2d,
            head_bias=config.head_bias,
        )


def gradients(model: nn.Module, config: Config, dataset: Dataset) -> dict[str, nn.Module]:
    """The model by the gradient an attack reads: a twin with plain ReLUs gives surrogate activations their true one."""
    if config.activation != "surrogate-relu":
        return {"true": model}
    twin = build_model(config, dataset, activation="relu").to(next(model.parameters()).device)
    twin.load_state_dict(model.state_dict())
    return {"true": twin.to(memory_format=torch.channels_last).eval(), "surrogate": model}


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
    how["fold"] = config.precision == "fast"
    return partial(train.craft, attack=ascend, **how)


def describe_data(dataset: Dataset) -> dict:
    """What a record says of its images: which they are, how many, and the checksum of their source."""
    return {
        "name": dataset.name,
        "title": dataset.title,
        "checksum": dataset.checksum,
        "classes": list(dataset.classes),
        "train_images": len(dataset.train_images),
        "test_images": len(dataset.test_images),
    }


def passes(config: Config) -> dict[str, int]:
    """Forward and backward passes of one batch that one training step takes: attack, then both halves."""
    crafting = config.train_steps if config.adversarial else 0
    learning = 2 if config.adversarial else 1
    return {"forward": crafting + learning, "backward": crafting + learning}


def cost(config: Config, train_images: int, curve: list[dict], evaluation_seconds: float) -> dict:
    """What a run took: passes a step, steps, seconds of training and evaluation, clean training images a second."""
    seconds = sum(epoch["seconds"] for epoch in curve)
    images = config.images_an_epoch(train_images)
    return {
        "passes_per_step": passes(config),
        "steps": math.ceil(images / config.batch_size) * config.epochs,
        "training_seconds": round(seconds, 2),
        "evaluation_seconds": round(evaluation_seconds, 2),
        "training_images_per_second": round(images * config.epochs / seconds, 1),
    }


def provenance(device: torch.device, dtype: torch.dtype | None) -> dict:
    """What made a record: code, versions, machine. No path, no host name."""
    return {
        **code(),
        "versions": versions.here(),
        "device": device_name(device),
        "threads": torch.get_num_threads(),
        "precision": str(dtype or torch.float32).removeprefix("torch."),
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def device_name(device: torch.device) -> str:
    """What it is and which one: "cuda: NVIDIA H100 80GB HBM3"."""
    return f"{device.type}: {torch.cuda.get_device_name(device) if device.type == 'cuda' else _cpu_name()}"


def _device(device: str | torch.device | None) -> torch.device:
    return torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))


def code(root: Path | None = None) -> dict:
    """The commit of this project's code, which is at ``root``, and whether it was changed since; None where unknown.

    Where ``root`` is no repository that has the code, whatever repository is around it, or there is no git, the commit
    is the one that a pack for a borrowed machine names (``COMMIT``), and unknown in an installed copy; whether the code
    was changed is unknown in both.
    """
    root = root or Path(__file__).resolve().parents[1]
    top = _git(root, "rev-parse", "--show-toplevel")
    ours = (
        top is not None and Path(top).resolve() == root and _git(root, "ls-files", "--error-unmatch", "advlib/run.py")
    )
    if not ours:
        packed = root / "COMMIT"
        return {"commit": packed.read_text().strip() if packed.is_file() else None, "dirty": None}
    commit = _git(root, "rev-parse", "--verify", "HEAD")
    changed = _git(root, "status", "--porcelain", "--untracked-files=no", "--", "advlib", "notebooks")
    return {"commit": commit, "dirty": None if commit is None or changed is None else bool(changed)}


def _git(root: Path, *arguments: str) -> str | None:
    try:
        result = subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, text=True, check=False)
    except OSError:  # there is no such program
        return None
    return result.stdout.strip() if result.returncode == 0 else None


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or sys.platform
