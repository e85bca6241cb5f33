"""What two processes do in ``test_parallel.py``: ``torchrun --nproc-per-node 2 tests/team.py FOLDER``. Nothing asserts.

Each leaves what it found in ``FOLDER/<rank>.pt``. Run by one process, :func:`cases` is what the tests compare with.
"""

import os
import shutil
import sys
from contextlib import suppress
from functools import partial
from pathlib import Path

import miniature
import torch
from torch import nn

from advlib import train
from advlib.attacks import pgd
from advlib.norm import DualBatchNorm2d
from study.data import pixels
from study.experiment import build, run, training
from study.experiment.fast.parallel import Scaler, Team, joined, synchronise
from study.machine.interrupt import Interrupted

ADVERSARIAL = {"adversarial": True, "train_random_start": True, "train_eps": 0.05}
TRAININGS = {
    "clean": {},
    "corrected AdvProp": {**ADVERSARIAL, "norm": "dual", "loss": "als", "smoothing": 0.02},
    "published AdvProp": {
        **ADVERSARIAL,
        "norm": "dual-except-shortcuts",
        "update": "two-steps",
        "attack_mode": "train",
        "attack_space": "standardised",
        "augmentation": "published",
        "batch_size": 24,
        "last_batch": "kept",  # of 16
    },
    "shared norm, attacked in training mode": {**ADVERSARIAL, "attack_mode": "train"},
    "one forward": {**ADVERSARIAL, "update": "one-forward"},
    "one forward, affine parameters of two": {**ADVERSARIAL, "update": "one-forward", "norm": "dual-affine"},
}
SHORT = {"epochs": 2, "lr": 0.02}


def fit(changes: dict, team: Team, dtype: torch.dtype = torch.float64, **options) -> tuple[nn.Module, list[dict]]:
    """Six or eight steps. In double precision, for in single the sign of a gradient makes whole steps of rounding."""
    config, data = miniature.config(**{**SHORT, **changes}), miniature.dataset()
    model = build.build_model(config, data).to(memory_format=torch.channels_last).to(dtype)
    generator = torch.Generator().manual_seed(config.seed)
    step = build.STEPS[config.update] if config.adversarial else train.clean_step
    curve = training.fit(
        model,
        data.train_images,
        data.train_labels,
        config,
        step=step,
        attack=build.training_attack(config, generator, (team.rank, team.size), options.get("precision")),
        loss_fn=build.LOSSES[config.loss](config.smoothing),
        augment=run.AUGMENTATIONS[config.augmentation],
        generator=generator,
        team=team,
        **options,
    )
    return model, curve


def left(model: nn.Module, curve: list[dict]) -> dict:
    return {
        "state": miniature.state(model),
        "curve": [{name: value for name, value in entry.items() if name != "seconds"} for entry in curve],
    }


def batch_norm(team: Team, dtype: torch.dtype, dual: bool = False) -> dict[str, torch.Tensor]:
    """A batch norm's output, gradients and buffers after two batches; per image, this process's part.

    The second channel's mean is far from zero: there a variance from sums of squares would be nothing but rounding.
    """
    generator = torch.Generator().manual_seed(0)
    layer = nn.ModuleList([DualBatchNorm2d(3) if dual else nn.BatchNorm2d(3)])
    layer = layer.to(torch.promote_types(dtype, torch.float32))  # autocast casts images alone
    for parameter in layer.parameters():
        nn.init.normal_(parameter, generator=generator)
    synchronise(layer, team)
    found = {}
    for k in range(2):
        x = (
            torch.randn(6, 3, 5, 4, generator=generator, dtype=torch.float64)
            + torch.tensor([0, 1000, -1])[:, None, None]
        )
        x = team.part(x.to(dtype)).requires_grad_()
        y = layer[0](x, branch="aux") if dual else layer[0](x)
        weights = team.part(torch.randn(6, 3, 5, 4, generator=generator, dtype=torch.float64).to(dtype))
        (weights * y.sin()).sum().backward()
        found |= {f"output {k}": y.detach(), f"input gradient {k}": x.grad}
    found |= {name: team.sum(p.grad) for name, p in layer.named_parameters() if p.grad is not None}
    return found | dict(layer.named_buffers())


def attack_in_training_mode(team: Team) -> dict[str, torch.Tensor]:
    """The images of an L2 attack (whose step shows the whole gradient, not its sign) that moves the statistics."""
    config, data = miniature.config(), miniature.dataset()
    model = synchronise(build.build_model(config, data).double().train(), team)
    x, y = pixels.to_pixels(data.train_images[:16]).double(), data.train_labels[:16]
    attack = partial(pgd, eps=0.5, step_size=0.2, steps=3, norm="l2", validate=False)
    return {"images": train.craft(model, team.part(x), team.part(y), attack, branch="main", mode="train")}


def interrupted(team: Team, folder: Path) -> dict:
    """A training stopped after five of its eight steps, at the wish of its last process, and gone on with."""
    path, answers = folder / "cut.pt", iter([False] * 5 + [team.rank == team.size - 1])
    with suppress(Interrupted):
        fit(TRAININGS["corrected AdvProp"], team, checkpoint=path, stop=lambda: next(answers))
    if team.first:
        shutil.copy(path, folder / f"cut-by-{team.size}.pt")
    team.any(False)  # it is written: now the others may read it
    return left(*fit(TRAININGS["corrected AdvProp"], team, checkpoint=path))


def saved_often(team: Team, folder: Path) -> dict:
    """A training with a checkpoint before every step, by the first one's clock: the others' would never say so."""
    os.environ[training.SAVE_EVERY] = "0" if team.first else "inf"
    found = left(*fit(TRAININGS["corrected AdvProp"], team, checkpoint=folder / "often.pt"))
    del os.environ[training.SAVE_EVERY]
    return found


def overflown(team: Team) -> dict[str, torch.Tensor]:
    """A weight and the scale after two steps, of which the first overflows in the last process alone."""
    weight = nn.Parameter(torch.ones(3))
    optimizer = torch.optim.SGD([weight], lr=0.5)
    scaler, scales = Scaler(torch.device("cpu"), torch.float16, team), []
    for slope in (3e38 if team.rank == team.size - 1 else 1.0, 1.0):
        train.update(optimizer, (slope * weight).sum(), scaler)
        scales.append(scaler.get_scale())
    return {"weight": weight.detach(), "scales": torch.tensor(scales)}


def cases(team: Team, folder: Path) -> dict:
    """Everything that must be the same for one process and for two."""
    return {
        **{f"train: {name}": left(*fit(changes, team)) for name, changes in TRAININGS.items()},
        "single precision": left(*fit({"epochs": 1, "lr": 1e-3}, team, torch.float32)),
        "float16": left(*fit({"epochs": 1, "lr": 1e-3}, team, torch.float32, precision=torch.float16)),
        "overflown": overflown(team),
        "saved often": saved_often(team, folder),
        "batch norm": batch_norm(team, torch.float64),
        "batch norm, aux of two": batch_norm(team, torch.float64, dual=True),
        "batch norm, bfloat16": batch_norm(team, torch.bfloat16),
        "attack": attack_in_training_mode(team),
        "interrupted": interrupted(team, folder),
    }


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    with joined(torch.device("cpu")) as team:
        torch.save(cases(team, folder), folder / f"{team.rank}.pt")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
