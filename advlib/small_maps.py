"""3x3 convolutions of small maps as one matrix product, for processors that multiply bfloat16 matrices in hardware.

At 4x4 pixels and 512 channels oneDNN's convolution takes twice as long as its matrix product of the same numbers, and
its gradient by the weights four times; `benchmarks/` has what a training step gains. Writing out each pixel's
neighbourhood as the row of a matrix (Chellapilla et al. 2006) turns the convolution and both of its gradients into one
product each. Only the order of the sums differs.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

LARGEST = 4  # pixels a side, and
FEWEST = 256  # channels: beyond these, writing the rows out costs more than the product saves


class SmallMapConv2d(nn.Conv2d):
    """A convolution without bias that takes the product where it is faster: bfloat16 on a CPU, small maps, 3x3.

    Parameters and everything else are those of :class:`torch.nn.Conv2d`; so is the result in any other case.
    """

    def forward(self, x: Tensor) -> Tensor:
        if not worthwhile(x, self.weight, self.stride[0]):
            return super().forward(x)
        return convolve(x, self.weight)


def worthwhile(x: Tensor, weight: Tensor, stride: int) -> bool:
    """Whether :func:`convolve` is faster here than torch's convolution: as measured, not as reasoned."""
    small = max(x.shape[2:]) <= LARGEST and weight.shape[1] >= FEWEST and weight.shape[2:] == (3, 3)
    return small and stride == 1 and x.dtype == torch.bfloat16 and x.device.type == "cpu"


def convolve(x: Tensor, weight: Tensor) -> Tensor:
    """``F.conv2d(x, weight, padding=1)`` in the dtype of x: (B, C, H, W) and (O, C, 3, 3) to (B, O, H, W)."""
    return _Product.apply(x, weight.to(x.dtype))


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        O = len(weight)
        return _maps(_neighbourhoods(x) @ weight.permute(0, 2, 3, 1).reshape(O, -1).t(), x)

    @staticmethod
    def backward(ctx, gradient: Tensor):
        x, weight = ctx.saved_tensors
        O, C = weight.shape[:2]
        by_x = by_weight = None
        if ctx.needs_input_grad[
            0
        ]:  # a pixel reaches the outputs around it: the same neighbourhoods, turned by 180 degrees
            turned = weight.permute(2, 3, 0, 1).reshape(9 * O, C)
            by_x = _maps(_neighbourhoods(gradient, turn=True) @ turned, x)
        if ctx.needs_input_grad[1]:
            rows = gradient.permute(0, 2, 3, 1).reshape(-1, O)
            by_weight = (rows.t() @ _neighbourhoods(x)).view(O, 3, 3, C).permute(0, 3, 1, 2)
        return by_x, by_weight


def _neighbourhoods(x: Tensor, turn: bool = False) -> Tensor:
    """(B, C, H, W) to (B H W, 9 C): each pixel's 3x3 neighbours, zero beyond the border, last one first if ``turn``."""
    H, W = x.shape[2:]
    padded = F.pad(x.permute(0, 2, 3, 1), (0, 0, 1, 1, 1, 1))
    places = (2, 1, 0) if turn else (0, 1, 2)
    return torch.cat([padded[:, i : i + H, j : j + W] for i in places for j in places], dim=3).flatten(0, 2)


def _maps(rows: Tensor, x: Tensor) -> Tensor:
    B, _, H, W = x.shape
    return rows.view(B, H, W, -1).permute(0, 3, 1, 2)
