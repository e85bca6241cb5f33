"""Convolutions as matrix products, for processors that multiply bfloat16 matrices in hardware.

With what each output pixel sees written out as the row of a matrix (Chellapilla et al. 2006), a convolution is one
product, and so is each of its gradients. Where maps are small and channels many, or where every second pixel is left
out, oneDNN's convolution can take longer, most of all for the gradient by the weights; `benchmarks/` has what a
training step gains. Only the order of the sums differs.
"""

from itertools import product

import torch
import torch.nn.functional as F
from torch import Tensor, nn

VALUE, BY_IMAGE, BY_WEIGHT = "value", "gradient by the image", "gradient by the weight"
ALL = frozenset({VALUE, BY_IMAGE, BY_WEIGHT})


class ProductConv2d(nn.Conv2d):
    """A convolution whose value and gradients are products where that is faster.

    Parameters, their names and first values are those of :class:`torch.nn.Conv2d`; so is the result, but for rounding.
    Raises ValueError on a bias, and on a padding that changes the size of a map.
    """

    def __init__(
        self, in_channels: int, channels: int, k: int, stride: int = 1, *, padding: int = 0, bias: bool = False
    ):
        if bias or k % 2 == 0 or padding != k // 2:
            raise ValueError(f"{bias=}, {k=}, {padding=}: need no bias, an odd k, and a padding of k // 2")
        super().__init__(in_channels, channels, k, stride, padding, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        if parts := worthwhile(x, self.weight, self.stride[0]):
            return convolve(x, self.weight.to(x.dtype), stride=self.stride[0], parts=parts)
        return super().forward(x)


def worthwhile(x: Tensor, weight: Tensor, stride: int) -> frozenset[str]:
    """Which of VALUE, BY_IMAGE and BY_WEIGHT are faster as products: as measured on two cores of a Xeon with AMX."""
    if x.dtype != torch.bfloat16 or x.device.type != "cpu":
        return frozenset()
    C, k, side = weight.shape[1], weight.shape[2], max(x.shape[2:])
    if k == 1:
        return frozenset({BY_IMAGE, BY_WEIGHT}) if stride == 2 and C * side >= 1024 else frozenset()
    if stride == 2:
        return ALL if C >= 256 else frozenset({BY_WEIGHT}) if C >= 128 else frozenset()
    if C >= 512 and side <= 4:
        return ALL
    return frozenset({BY_WEIGHT}) if C >= 256 and side <= 8 else frozenset()


def convolve(
    x: Tensor, weight: Tensor, bias: Tensor | None = None, *, stride: int = 1, parts: frozenset[str] = ALL
) -> Tensor:
    """``F.conv2d(x, weight, bias, stride, padding=k // 2)`` for an odd k, its named parts as products.

    x: (B, C, H, W), weight: (O, C, k, k) and bias: (O,) of one dtype; the value is (B, O, H', W').
    """
    return _Convolution.apply(x, weight, bias, stride, parts)


class _Convolution(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, bias: Tensor | None, stride: int, parts: frozenset[str]) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.stride, ctx.parts = stride, parts
        if VALUE not in parts:
            return F.conv2d(x, weight, bias, stride, len(weight[0, 0]) // 2)
        rows, (B, H, W) = _patches(x, weight, stride)
        pixels = F.linear(rows, weight.permute(0, 2, 3, 1).flatten(1), bias)
        return pixels.view(B, H, W, len(weight)).permute(0, 3, 1, 2)

    @staticmethod
    def backward(ctx, gradient: Tensor):
        x, weight = ctx.saved_tensors
        for_image, for_weight, for_bias = ctx.needs_input_grad[:3]
        left = [for_image and BY_IMAGE not in ctx.parts, for_weight and BY_WEIGHT not in ctx.parts, False]
        by_image, by_weight = _by_torch(gradient, x, weight, ctx.stride, left) if any(left) else (None, None)
        if for_image and BY_IMAGE in ctx.parts:
            by_image = _by_image(gradient, x, weight, ctx.stride)
        if for_weight and BY_WEIGHT in ctx.parts:
            by_weight = _by_weight(gradient, x, weight, ctx.stride)
        return by_image, by_weight, gradient.sum(dim=(0, 2, 3)) if for_bias else None, None, None


def _by_torch(gradient: Tensor, x: Tensor, weight: Tensor, stride: int, which: list[bool]):
    padding = len(weight[0, 0]) // 2
    return torch.ops.aten.convolution_backward(
        gradient, x, weight, None, [stride] * 2, [padding] * 2, [1, 1], False, [0, 0], 1, which
    )[:2]


def _by_weight(gradient: Tensor, x: Tensor, weight: Tensor, stride: int) -> Tensor:
    O, C, *kernel = weight.shape
    matrix = gradient.permute(0, 2, 3, 1).reshape(-1, O).t() @ _patches(x, weight, stride)[0]
    return matrix.view(O, *kernel, C).permute(0, 3, 1, 2)


def _by_image(gradient: Tensor, x: Tensor, weight: Tensor, stride: int) -> Tensor:
    """Pixels in the same place of ``stride`` x ``stride`` cells need the same taps: one product for each place."""
    (B, C, H, W), k = x.shape, weight.shape[2]
    made = gradient.new_zeros(B, H, W, C) if stride > k else gradient.new_empty(B, H, W, C)
    for i, j in product(range(stride), repeat=2):
        (down, top), (across, left) = _taps(i, k, stride), _taps(j, k, stride)
        if down and across:
            count = len(range(i, H, stride)), len(range(j, W, stride))
            rows = _windows(gradient, (top, left), (len(down), len(across)), 1, count)
            taps = torch.cat([weight[:, :, row, column] for row in down for column in across])
            made[:, i::stride, j::stride] = (rows @ taps).view(B, *count, C)
    return made.permute(0, 3, 1, 2)


def _taps(place: int, k: int, stride: int) -> tuple[list[int], int]:
    """Along one side: the taps through which a pixel in this place reaches outputs, and the first output's offset."""
    taps = [tap for tap in reversed(range(k)) if (place + k // 2 - tap) % stride == 0]
    return taps, (place + k // 2 - taps[0]) // stride if taps else 0


def _patches(x: Tensor, weight: Tensor, stride: int) -> tuple[Tensor, tuple[int, int, int]]:
    """What each output pixel sees of x, (B H' W', k k C), and (B, H', W')."""
    (B, _, H, W), k = x.shape, weight.shape[2]
    count = -(-H // stride), -(-W // stride)
    return _windows(x, (-(k // 2),) * 2, (k, k), stride, count), (B, *count)


def _windows(x: Tensor, first: tuple[int, int], size: tuple[int, int], stride: int, count: tuple[int, int]) -> Tensor:
    """``count`` windows down and across (B, C, H, W), a row of ``size`` pixels each, the first of them at ``first``.

    ``first`` counts pixels from the upper left, and is negative beyond the border, where there is zero.
    """
    pixels = x.permute(0, 2, 3, 1)
    ends = [first[d] + (count[d] - 1) * stride + size[d] for d in (0, 1)]
    bottom, right = (max(0, end - side) for end, side in zip(ends, pixels.shape[1:3], strict=True))
    if any((*first, bottom, right)):
        pixels = F.pad(pixels, (0, 0, -first[1], right, -first[0], bottom))
    pixels = pixels.contiguous()
    B, _, _, C = pixels.shape
    image, down, across, _ = pixels.stride()
    strides = image, stride * down, stride * across, down, across, 1
    return pixels.as_strided((B, *count, *size, C), strides).reshape(-1, size[0] * size[1] * C)
