"""ResNet-18 for 32x32 images (He et al. 2016): 3x3 stem, stride 1, no max-pool, a branch at every batch norm."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from advlib.activations import make_activation
from advlib.norm import NORMS

CIFAR10_MEAN = (0.4914, 0.4822, 0.4465)  # per channel, in pixels: the constants of the paper's released code
CIFAR10_STD = (0.2023, 0.1994, 0.2010)


class Standardise(nn.Module):
    """Pixels in [0, 1] to (x - mean) / std per channel: the model's first layer, so that attacks live in pixels."""

    def __init__(self, mean: Sequence[float], std: Sequence[float]):
        super().__init__()
        self.register_buffer("mean", torch.tensor([float(value) for value in mean]).view(1, -1, 1, 1))
        self.register_buffer("std", torch.tensor([float(value) for value in std]).view(1, -1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[1] != self.mean.shape[1]:  # one channel would broadcast to three without a word
            raise ValueError(f"images of {x.shape[1]} channel(s) for a model of {self.mean.shape[1]}: set in_channels")
        return (x - self.mean) / self.std

    def to_pixels(self, z: Tensor) -> Tensor:
        return z * self.std + self.mean


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut; the branch reaches every batch norm."""

    def __init__(
        self,
        in_channels: int,
        channels: int,
        stride: int,
        act: Callable,
        norm: Callable,
        shortcut_norm: Callable,
        conv: Callable,
    ):
        super().__init__()
        self.conv1 = conv(in_channels, channels, 3, stride, padding=1, bias=False)
        self.norm1 = norm(channels)
        self.act1 = act()
        self.conv2 = conv(channels, channels, 3, padding=1, bias=False)
        self.norm2 = norm(channels)
        self.act2 = act()
        self.projects = stride != 1 or in_channels != channels
        if self.projects:
            self.shortcut_conv = conv(in_channels, channels, 1, stride, bias=False)
            self.shortcut_norm = shortcut_norm(channels)

    def forward(self, x: Tensor, branch: str) -> Tensor:
        shortcut = self.shortcut_norm(self.shortcut_conv(x), branch) if self.projects else x
        x = self.act1(self.norm1(self.conv1(x), branch))
        x = self.norm2(self.conv2(x), branch)
        return self.act2(x + shortcut)


class ResNet18(nn.Module):
    """Pixels (B, C, H, W) in [0, 1] to logits (B, K): ``standardise``, then ``classify``."""

    def __init__(self, *, num_classes: int, width: int, act: Callable, norms: tuple, conv: Callable, mean, std):
        super().__init__()
        norm, shortcut_norm = norms
        self.standardise = Standardise(mean, std)
        self.stem = nn.Conv2d(len(mean), width, 3, padding=1, bias=False)
        self.stem_norm = norm(width)
        self.stem_act = act()
        in_channels, blocks = width, []
        for channels, stride in [(width, 1), (2 * width, 2), (4 * width, 2), (8 * width, 2)]:
            blocks.append(BasicBlock(in_channels, channels, stride, act, norm, shortcut_norm, conv))
            blocks.append(BasicBlock(channels, channels, 1, act, norm, shortcut_norm, conv))
            in_channels = channels
        self.blocks = nn.ModuleList(blocks)
        self.head = nn.Linear(in_channels, num_classes)

    def forward(self, x: Tensor, branch: str = "main") -> Tensor:
        return self.classify(self.standardise(x), branch)

    def classify(self, z: Tensor, branch: str = "main") -> Tensor:
        """Standardised images (B, C, H, W) to logits (B, K): the space in which the paper's released code attacks."""
        h = self.stem_act(self.stem_norm(self.stem(z), branch))
        for block in self.blocks:
            h = block(h, branch)
        return self.head(h.mean(dim=(2, 3))).to(z.dtype)  # logits stay float32 under autocast


def resnet18(
    num_classes: int = 10,
    width: int = 64,
    activation: str = "relu",
    norm: str | tuple = "shared",
    in_channels: int = 3,
    *,
    activation_alpha: float = 10.0,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    conv: Callable[..., nn.Module] = nn.Conv2d,
    head_bias: str = "zero",
) -> ResNet18:
    """A freshly initialised ResNet-18: Kaiming normal for convolutions and the linear layer, from torch's generator.

    At width 64: 11,173,962 parameters (``norm="shared"``), 11,183,562 (``"dual"``), 11,181,770
    (``"dual-except-shortcuts"``, the paper's released code); a pair of layers will do, too. ``mean``, ``std``: per
    channel, in pixels; None for CIFAR-10's if there are 3 channels, and for 0.5 otherwise. ``conv``: what makes the
    convolutions of the blocks, such as another way to compute the same. ``head_bias``: "zero", or "torch" for what
    torch draws for a linear layer, as in the paper's released code; the weights are the same under both.

    Raises ValueError on an unknown activation, norm or bias, a width below 1, fewer than 2 classes, or mean and std
    that do not fit the channels.
    """
    for name, value, known in [("norm", norm, NORMS), ("head_bias", head_bias, ("zero", "torch"))]:
        if value not in known and not isinstance(value, tuple):
            raise ValueError(f"unknown {name} {value!r}: choose one of {', '.join(known)}")
    if width < 1 or num_classes < 2 or in_channels < 1:
        raise ValueError(f"{width=}, {num_classes=}, {in_channels=}: need width >= 1, at least 2 classes, 1 channel")
    mean = (CIFAR10_MEAN if in_channels == 3 else (0.5,) * in_channels) if mean is None else mean
    std = (CIFAR10_STD if in_channels == 3 else (0.5,) * in_channels) if std is None else std
    if not len(mean) == len(std) == in_channels or min(std) <= 0:
        raise ValueError(f"{mean=}, {std=}: need {in_channels} values each, every std positive")
    act, norms = make_activation(activation, activation_alpha), NORMS.get(norm, norm)
    model = ResNet18(num_classes=num_classes, width=width, act=act, norms=norms, conv=conv, mean=mean, std=std)
    _initialise(model, head_bias)
    return model


def _initialise(model: ResNet18, head_bias: str) -> None:
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(module.weight)
    if head_bias == "zero":
        nn.init.zeros_(model.head.bias)
