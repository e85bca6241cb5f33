"""One experiment as one frozen, validated value. No torch here: a config can be read anywhere."""

import difflib
import math
from dataclasses import asdict, dataclass, fields, replace
from pathlib import PurePath

CHOICES = {
    "activation": ("relu", "surrogate-relu", "parametric-softplus", "silu", "gelu"),
    "norm": ("shared", "dual", "dual-except-shortcuts", "dual-affine"),
    "loss": ("cross-entropy", "label-smoothing", "als", "als-published"),
    "attack_space": ("pixels", "standardised"),
    "attack_mode": ("eval", "train"),
    "attack_branch": ("aux", "main"),
    "update": ("joint", "two-steps", "one-forward"),
    "schedule": ("cosine", "one-cycle", "published"),
    "last_batch": ("dropped", "kept"),
    "head_bias": ("zero", "torch"),
    "augmentation": ("crop-flip", "crop", "published", "none"),
    "precision": ("auto", "float32", "bf16", "fp16", "fast"),
    "evaluation": ("float32", "tf32"),
}
# Fields added after the first records, with the value those were made with: what a record without the field had
SINCE = {"strong_size": 0, "last_batch": "dropped", "head_bias": "zero", "evaluation": "float32"}


@dataclass(frozen=True)
class Config:
    """Everything that decides what a run computes. The defaults are the corrected baseline at full budget.

    Raises ValueError on an impossible value and TypeError on a wrong type, naming the field and the remedy.
    """

    # data
    dataset: str = "cifar10"
    train_size: int = 0  # images, the first in canonical order; 0 for all
    test_size: int = 0  # images of the main columns; 0 for all
    strong_size: int = 0  # images of the attacks of many steps, at most test_size; 0 for as many
    sweep_size: int = 2000  # images of the sweeps and of the attacks between two protocols, at most test_size

    # model: ResNet-18
    width: int = 64  # channels of the first stage, a multiple of 8
    activation: str = "relu"
    activation_alpha: float = 10.0  # sharpness of the surrogate and of the parametric softplus
    norm: str = "shared"  # "dual" is AdvProp; "dual-affine" has its affine parameters twice, its statistics once

    # loss
    loss: str = "cross-entropy"
    smoothing: float = 0.0  # alpha: label mass moved away from the true class

    # training attack: PGD
    adversarial: bool = False  # learn from adversarial twins as well
    train_eps: float = 0.1  # L-inf radius, in the units of attack_space
    train_step_size: float = 2 / 255  # same units
    train_steps: int = 2
    train_random_start: bool = False
    attack_space: str = "pixels"  # where eps is measured and images are clamped to [0, 1]
    attack_mode: str = "eval"  # batch norm while crafting
    attack_branch: str = "aux"  # batch norm attacked through, where there are two
    # one step on both halves (Algorithm 1); the adversarial half first, then the clean one; or one step after one
    # forward, where batch norm takes the statistics of both halves together
    update: str = "joint"

    # optimisation: SGD
    epochs: int = 100
    batch_size: int = 256  # clean images
    last_batch: str = "dropped"  # of an epoch, where it is incomplete: "dropped" or "kept"
    lr: float = 0.1  # peak
    momentum: float = 0.9
    weight_decay: float = 5e-4
    schedule: str = "cosine"
    head_bias: str = "zero"  # of the linear layer at the start, or as "torch" draws it
    augmentation: str = "crop-flip"
    # of training: "auto" is bf16 where the device computes in it, fp16 on GPUs that have only that, else float32;
    # "fast" is that, an attack through folded batch norm, and convolutions as products on a CPU
    precision: str = "auto"
    # of measuring: "float32", or "tf32", where a GPU's convolutions round what they multiply to 10 bits of mantissa
    evaluation: str = "float32"

    seed: int = 0  # drives initial weights, order, augmentation and random starts

    def __post_init__(self):
        for field in fields(self):
            self._check_type(field.name, field.type)
        for name, choices in CHOICES.items():
            value = getattr(self, name)
            if value not in choices:
                raise ValueError(
                    f"unknown {name} {value!r}: {did_you_mean(value, choices)}choose one of {', '.join(choices)}"
                )
        for name in ("width", "batch_size", "epochs", "sweep_size"):
            self._require(name, getattr(self, name) >= 1, "at least 1")
        self._require("width", self.width % 8 == 0, "a multiple of 8: others crash channels-last training on some CPUs")
        for name in ("train_size", "test_size", "strong_size", "train_steps", "seed"):
            self._require(name, getattr(self, name) >= 0, "0 or more")
        for name in ("train_eps", "train_step_size", "weight_decay"):
            self._require(name, getattr(self, name) >= 0, "0 or more")
        self._require("seed", self.seed < 2**63, "less than 2^63, as torch's generators take it")
        for name in ("lr", "activation_alpha"):
            self._require(name, getattr(self, name) > 0, "more than 0")
        self._require("momentum", 0 <= self.momentum < 1, "in [0, 1)")
        self._require("smoothing", 0 <= self.smoothing < 1, "in [0, 1)")
        if (self.loss == "cross-entropy") != (self.smoothing == 0):
            raise ValueError(
                f"loss={self.loss!r} with smoothing={self.smoothing}: cross-entropy takes 0, "
                "the smoothed losses more than 0"
            )
        self._check_one_forward()
        if self.norm != "shared" and not self.adversarial:
            raise ValueError(
                f"norm={self.norm!r} without adversarial=True: the auxiliary branch would never be trained"
            )

    def _check_one_forward(self) -> None:
        if self.norm == "dual-affine" and self.update != "one-forward":
            raise ValueError(f"norm='dual-affine' with update={self.update!r}: it needs update='one-forward'")
        if self.update == "one-forward" and not self.adversarial:
            raise ValueError("update='one-forward' without adversarial=True: there would be one half only")
        if self.update == "one-forward" and self.norm not in ("shared", "dual-affine"):
            raise ValueError(
                f"update='one-forward' with norm={self.norm!r}: one forward takes the statistics of both halves "
                "together; choose norm='shared' or 'dual-affine', or update='joint'"
            )
        if self.norm == "dual-affine" and self.precision == "fast":
            raise ValueError("norm='dual-affine' with precision='fast': it cannot be folded; take precision='auto'")

    def _check_type(self, name: str, kind: type) -> None:
        value = getattr(self, name)
        if kind is float and isinstance(value, int) and not isinstance(value, bool):
            value = float(value)
            object.__setattr__(self, name, value)
        if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
            raise TypeError(f"{name}={value!r} is {type(value).__name__}, but {name} is {kind.__name__}")
        if kind is float and not math.isfinite(value):
            raise ValueError(f"{name}={value} is not finite: give a number")

    def _require(self, name: str, holds: bool, what: str) -> None:
        if not holds:
            raise ValueError(f"{name}={getattr(self, name)} must be {what}")

    def change(self, **changes) -> "Config":
        """A copy with some fields changed, validated again. Raises ValueError on a name that is no field."""
        names = [field.name for field in fields(self)]
        for name in changes:
            if name not in names:
                raise ValueError(
                    f"unknown parameter {name!r}: {did_you_mean(name, names)}the parameters are {', '.join(names)}"
                )
        return replace(self, **changes)

    def differences(self, other: "Config") -> dict[str, tuple]:
        """Field name -> (this value, the other's value), where the two differ."""
        mine, theirs = asdict(self), asdict(other)
        return {name: (mine[name], theirs[name]) for name in mine if mine[name] != theirs[name]}

    def images_an_epoch(self, images: int) -> int:
        """How many of so many training images an epoch sees: all, or those of its complete batches."""
        return images if self.last_batch == "kept" else images // self.batch_size * self.batch_size

    @property
    def reach(self) -> float:
        """How far the training attack can move a value: from the image its steps may end before ``train_eps``."""
        steps = self.train_steps * self.train_step_size
        return self.train_eps if self.train_random_start else min(self.train_eps, steps)

    def to_dict(self) -> dict:
        return asdict(self)

    def to_record(self) -> dict:
        """As a record has it, which goes to others."""
        return asdict(self) | {"dataset": public(self.dataset)}


def public(dataset: str) -> str:
    """A data set's name without a path of this machine: of one from the root, or from a home, the last part stays."""
    kind, _, path = dataset.partition(":")
    return f"{kind}:{PurePath(path).name}" if path.startswith("~") or PurePath(path).is_absolute() else dataset


def did_you_mean(value, choices) -> str:
    close = difflib.get_close_matches(str(value), choices, n=1)
    return f"did you mean {close[0]!r}? " if close else ""
