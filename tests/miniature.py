"""A world small enough to train in: synthetic images that a net of width 8 learns in a second. Nothing here asserts."""

import math
from contextlib import suppress
from itertools import chain, repeat

import torch

from advlib import train
from study.data import Dataset
from study.experiment import build, run, training
from study.machine.interrupt import Interrupted
from study.plan.config import Config

CLASSES = ("red", "green", "blue", "grey")


def dataset(train_size: int = 64, test_size: int = 40, size: int = 8, seed: int = 0) -> Dataset:
    """Noisy images (3, size, size) whose class is the brighter channel, or none."""
    generator = torch.Generator().manual_seed(seed)
    n = train_size + test_size
    labels = torch.arange(n) % len(CLASSES)
    images = torch.randint(40, 170, (n, 3, size, size), generator=generator)
    for c in range(3):
        images[labels == c, c] += 45
    images = images.to(torch.uint8)
    order = torch.randperm(n, generator=generator)
    images, labels = images[order], labels[order]
    return Dataset(
        name="tiny",
        title="synthetic colours",
        classes=CLASSES,
        mean=(0.45, 0.44, 0.43),
        std=(0.20, 0.21, 0.22),
        train_images=images[:train_size].clone(),
        train_labels=labels[:train_size].clone(),
        test_images=images[train_size:].clone(),
        test_labels=labels[train_size:].clone(),
        checksum="sha256:tiny",
    )


def config(**changes) -> Config:
    """A corrected config that trains in well under a second."""
    small = {
        "dataset": "tiny",
        "width": 8,
        "epochs": 2,
        "batch_size": 16,
        "sweep_size": 20,
        "lr": 0.05,
        "precision": "float32",
    }
    return Config().change(**{**small, **changes})


def fit(config: Config, data: Dataset, *, model=None, step=None, **options):
    """Train as ``run`` does, but without evaluating. Returns the model and its curve."""
    model = model or build.build_model(config, data).to(memory_format=torch.channels_last)
    generator = torch.Generator().manual_seed(config.seed)
    options.setdefault("attack", build.training_attack(config, generator, dtype=options.get("precision")))
    options.setdefault("loss_fn", build.LOSSES[config.loss](config.smoothing))
    options.setdefault("augment", run.AUGMENTATIONS[config.augmentation])
    step = step or (build.STEPS[config.update] if config.adversarial else train.clean_step)
    curve = training.fit(model, data.train_images, data.train_labels, config, step=step, generator=generator, **options)
    return model, curve


def cut_off(config: Config, data: Dataset, *, after: int = 1, **options):
    """Train as :func:`fit` does until it is asked to stop, after so many epochs. Returns the model."""
    model = options.pop("model", None) or build.build_model(config, data).to(memory_format=torch.channels_last)
    answers = chain(repeat(False, after * math.ceil(len(data.train_images) / config.batch_size)), [True])
    with suppress(Interrupted):
        fit(config, data, model=model, stop=lambda: next(answers), **options)
    return model


def state(model) -> dict:
    """A copy of weights and statistics."""
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def same(a: dict, b: dict) -> bool:
    """Bit for bit."""
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)
