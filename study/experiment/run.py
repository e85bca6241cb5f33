"""One run, from a config to its record: data, training, evaluation, and what is to be said of them."""

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from study.data import Dataset, load
from study.experiment import training
from study.experiment.augment import AUGMENTATIONS
from study.experiment.build import (
    LOSSES,
    build_model,
    device_or_best,
    gradients,
    placed,
    training_attack,
    training_step,
)
from study.experiment.evaluate import evaluate
from study.experiment.fast import launch
from study.experiment.fast.parallel import ALONE, Team
from study.experiment.precision import training_dtype
from study.experiment.provenance import cost, describe_data, provenance
from study.experiment.unfinished import Unfinished, digest, set_aside_foreign
from study.experiment.weights import save_weights
from study.machine.folders import CHECKPOINT, CHECKPOINT_LOCK, HALVED, MEASURED, PROCESSES, WEIGHTS, alone
from study.machine.interrupt import Interrupted, on_request
from study.plan.attacks import suite
from study.plan.config import Config
from study.records import SCIENCE_VERSION, Measurement, Record


@dataclass(frozen=True)
class Learned:
    """A trained network by the gradients that an attack may read, the data it saw (on the device), its curve."""

    models: Mapping[str, nn.Module]  # in evaluation mode: "true", and "surrogate" where the activations have one
    dataset: Dataset
    curve: list[dict]  # one dict an epoch, as `training.fit` returns it

    @property
    def model(self) -> nn.Module:
        return self.models["true"]


@dataclass(frozen=True)
class Experiment(Learned):
    """A finished run: what it learned, and its record."""

    record: Record


def learn(
    config: Config,
    *,
    device: str | torch.device | None = None,
    work: Path | None = None,
    processes: int = 1,
    watch: Callable[[nn.Module, Dataset], dict] = lambda model, dataset: {},
) -> Learned:
    """Train one config and measure nothing: what :func:`run` starts with, and all that a lesson needs.

    Arguments as for :func:`run`. watch: as for :func:`training.fit`, with the data; of this process only. Raises
    what loading the data, :func:`training.fit` and, for several processes, :func:`launch.train` raise.
    """
    device = device_or_best(device)
    if work and (work / CHECKPOINT).is_file():
        with alone(work / CHECKPOINT_LOCK, wait=True):
            set_aside_foreign(work, config, load(config.dataset).checksum)
    if processes > 1:
        _train_in_company(config, device, work, processes)
    # a killed command's kernel lives on for a second or two: wait until it lets go of the checkpoint
    with alone(work / CHECKPOINT_LOCK, wait=True) if work else nullcontext(), on_request() as stop:
        model, dataset, curve = train_network(config, device=device, work=work, stop=stop, watch=watch)
        if stop():  # it came after the last step: the checkpoint holds the whole training
            raise Interrupted("asked to stop after the training: run it again to go on with the evaluation")
    if work:
        save_weights(model, work / WEIGHTS)
    return Learned(gradients(model.eval(), config, dataset), dataset, curve)


def train_network(
    config: Config,
    *,
    device: torch.device,
    work: Path | None,
    stop: Callable[[], bool],
    watch: Callable[[nn.Module, Dataset], dict] = lambda model, dataset: {},
    team: Team = ALONE,
) -> tuple[nn.Module, Dataset, list[dict]]:
    """The config's network, trained by this process or by the ``team`` that it is one of; its data; its curve."""
    dataset = load(config.dataset).subset(config.train_size, config.test_size).to(device)
    if len(dataset.test_images) < 2:  # found out by the evaluation, a whole training would be lost
        raise ValueError(f"{config.dataset}: a test image alone has no statistics of its own: give two or more")
    model = placed(build_model(config, dataset), device)
    generator = torch.Generator(device).manual_seed(config.seed)
    dtype = training_dtype(config.precision, device)
    curve = training.fit(
        model,
        dataset.train_images,
        dataset.train_labels,
        config,
        step=training_step(config),
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


def _train_in_company(config: Config, device: torch.device, work: Path | None, processes: int) -> None:
    """Leave the checkpoint of a training in several processes in ``work``: alone, one then goes on from its end."""
    if work is None:
        raise ValueError(f"{processes} processes need a work folder: through it they hand over what they trained")
    if device.type == "cuda" and processes > torch.cuda.device_count():
        raise ValueError(f"{processes} processes need a GPU each, and {torch.cuda.device_count()} can be seen here")
    if device.type not in ("cuda", "cpu"):
        raise ValueError(f"{processes} processes train on GPUs of NVIDIA or on the CPU, not on {device.type}")
    data = load(config.dataset)  # fetched and cached once, before all of them ask for it
    training.refuse_unequal_parts(config, len(data.subset(config.train_size, 0).train_images), processes)
    task = {"config": config.to_dict(), "device": device.type}
    threads = max(1, torch.get_num_threads() // processes)
    launch.train(task, work, processes=processes, threads=threads)


def run(
    config: Config,
    *,
    key: str,
    protocol: str,
    budget: str,
    device: str | torch.device | None = None,
    work: Path | None = None,
    processes: int | None = None,
) -> Experiment:
    """Train and evaluate one config, and say what it took.

    ``key``, ``protocol`` and ``budget`` name it in the catalogue. device: None for a GPU if there is one. work: a
    folder for the checkpoint, from which a run that was cut off goes on, and for the final weights (float32).
    processes: how many train it, each on a GPU of its own where there are any; None for ``$ADVLIB_NPROC``, else 1.
    One evaluates.

    Raises what :func:`learn` and :func:`evaluate.evaluate` raise.
    """
    processes = launch.processes(config.batch_size, processes)
    device = device_or_best(device)
    origin = provenance(device, training_dtype(config.precision, device))  # now: files may change while it trains
    if work and not (work / CHECKPOINT).is_file():
        (work / PROCESSES).unlink(missing_ok=True)  # of a training that left nothing
    learned = learn(config, device=device, work=work, processes=processes)
    measurements, seconds = measure(config, learned, work)
    record = Record(
        key=key,
        protocol=protocol,
        budget=budget,
        seed=config.seed,
        config=config.to_record(),
        data=describe_data(learned.dataset),
        provenance=origin | _marks(work),
        cost=cost(config, len(learned.dataset.train_images), learned.curve, seconds),
        curve=learned.curve,
        measurements=tuple(measurements),
    )
    return Experiment(learned.models, learned.dataset, learned.curve, record)


def measure(config: Config, learned: Learned, work: Path | None) -> tuple[list[Measurement], float]:
    """What the attack suite does to a trained network, and the seconds that took; ``work`` keeps what is measured."""
    data = learned.dataset
    origin = {
        "config": config.to_dict(),
        "science_version": SCIENCE_VERSION,
        "weights": digest(learned.model),
        "data": data.checksum,
    }
    unfinished = Unfinished(work / MEASURED if work else None, origin)
    measurements = evaluate(
        learned.models,
        data.test_images,
        data.test_labels,
        suite(dual=config.norm != "shared", surrogate="surrogate" in learned.models),
        sweep_size=config.sweep_size,
        strong_size=config.strong_size,
        seed=config.seed,
        tf32=config.evaluation == "tf32",
        unfinished=unfinished,
    )
    return measurements, unfinished.seconds


def _marks(work: Path | None) -> dict:
    """What its scratch folder says of how a network was trained."""
    marks = {}
    if work and (work / HALVED).is_file():
        marks["halved"] = True  # a campaign carried its checkpoint in half precision
    if work and (work / PROCESSES).is_file():
        marks["processes"] = int((work / PROCESSES).read_text())  # also where one has finished what several began
    return marks
