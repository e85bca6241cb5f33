"""ReLU and its smooth relatives (Xie et al. 2020; the paper's section "Smooth Adversarial Training")."""

from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class _ReLUWithSoftplusGradient(torch.autograd.Function):
    @staticmethod
    def forward(x: Tensor, alpha: float) -> Tensor:
        return x.relu()

    @staticmethod
    def setup_context(ctx, inputs, output):
        x, ctx.alpha = inputs
        ctx.save_for_backward(x)

    @staticmethod
    def backward(ctx, grad_output: Tensor):
        (x,) = ctx.saved_tensors
        return grad_output * torch.sigmoid(ctx.alpha * x), None


class SurrogateReLU(nn.Module):
    """ReLU forward, derivative of the parametric softplus backward: what the paper calls SAT (equations 1 and 2).

    forward: max(x, 0); backward: sigmoid(alpha x). The gradient is not the gradient of the function, on purpose: it
    keeps information where ReLU's is zero. An evaluation must therefore also attack with the true gradient.
    """

    def __init__(self, alpha: float = 10.0):
        super().__init__()
        self.alpha = alpha

    def forward(self, x: Tensor) -> Tensor:
        return _ReLUWithSoftplusGradient.apply(x, self.alpha)

    def extra_repr(self) -> str:
        return f"alpha={self.alpha}"


class ParametricSoftplus(nn.Module):
    """log(1 + exp(alpha x)) / alpha, smooth both ways: SAT as its authors propose it (Xie et al. 2020, section 4)."""

    def __init__(self, alpha: float = 10.0):
        super().__init__()
        self.alpha = alpha

    def forward(self, x: Tensor) -> Tensor:
        return F.softplus(x, beta=self.alpha)

    def extra_repr(self) -> str:
        return f"alpha={self.alpha}"


def make_activation(name: str, alpha: float = 10.0):
    """The constructor of a named activation; ``alpha`` matters to the two that have one."""
    activations = {
        "relu": nn.ReLU,
        "surrogate-relu": partial(SurrogateReLU, alpha),
        "parametric-softplus": partial(ParametricSoftplus, alpha),
        "silu": nn.SiLU,
        "gelu": nn.GELU,
    }
    if name not in activations:
        raise ValueError(f"unknown activation {name!r}: choose one of {', '.join(activations)}")
    return activations[name]
