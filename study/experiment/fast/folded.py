"""The network as an attack sees it: in evaluation mode batch norm is one factor and one shift a channel.

Both go into the convolution before it (Jacob et al. 2018 fold them for inference), and the passes that norms make over
the activations are gone. What an attack needs is a gradient by the image alone, so no weight here asks for one. Beside
rounding nothing changes; rounding does, so folding belongs to the fast mode and not to the others.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from advlib.norm import DualBatchNorm2d
from advlib.resnet import ResNet18
from study.experiment.fast import products


class Folded:
    """``model`` through one ``branch`` in evaluation mode, its weights as they are now.

    Called as the model is, ``folded(x, branch)``, on pixels (B, C, H, W), and ``classify`` on standardised images.
    Raises ValueError on another branch than its own.
    """

    def __init__(self, model: ResNet18, branch: str):
        self.branch, self.standardise = branch, model.standardise
        self.stem = _Layer(model.stem, model.stem_norm, branch), model.stem_act
        self.blocks = [_Block(block, branch) for block in model.blocks]
        dtype = _dtype(model.head.weight)
        self.head = model.head.weight.detach().to(dtype), model.head.bias.detach().to(dtype)

    def __call__(self, x: Tensor, branch: str) -> Tensor:
        return self.classify(self.standardise(x), branch)

    def classify(self, z: Tensor, branch: str) -> Tensor:
        """Standardised images (B, C, H, W) to logits (B, K) in the dtype of z."""
        if branch != self.branch:
            raise ValueError(f"folded for the branch {self.branch!r}, not {branch!r}: fold the model again")
        conv, act = self.stem
        h = act(conv(z))
        for block in self.blocks:
            h = block(h)
        return F.linear(h.mean(dim=(2, 3)), *self.head).to(z.dtype)


class _Block:
    def __init__(self, block: nn.Module, branch: str):
        self.first, self.act1 = _Layer(block.conv1, block.norm1, branch), block.act1
        self.second, self.act2 = _Layer(block.conv2, block.norm2, branch), block.act2
        self.shortcut = _Layer(block.shortcut_conv, block.shortcut_norm, branch) if block.projects else None

    def __call__(self, x: Tensor) -> Tensor:
        shortcut = self.shortcut(x) if self.shortcut else x
        return self.act2(self.second(self.act1(self.first(x))) + shortcut)


class _Layer:
    """A convolution and the batch norm after it, as one convolution with a bias."""

    def __init__(self, conv: nn.Conv2d, norm: nn.Module, branch: str):
        norm = norm[branch] if isinstance(norm, DualBatchNorm2d) else norm
        factor = norm.weight * torch.rsqrt(norm.running_var + norm.eps)
        dtype = _dtype(conv.weight)
        self.weight = (conv.weight * factor.view(-1, 1, 1, 1)).detach().to(dtype)
        self.bias = (norm.bias - norm.running_mean * factor).detach().to(dtype)
        self.stride, self.padding = conv.stride, conv.padding

    def __call__(self, x: Tensor) -> Tensor:
        if parts := products.worthwhile(x, self.weight, self.stride[0]):
            return products.convolve(x, self.weight, self.bias, stride=self.stride[0], parts=parts)
        return F.conv2d(x, self.weight, self.bias, self.stride, self.padding)


def _dtype(weight: Tensor) -> torch.dtype:
    """What autocast would compute in: cast once here, and not at every pass."""
    device = weight.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else weight.dtype
