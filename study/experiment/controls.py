"""Controls for AdvProp: one forward over clean images and their twins, so that batch norm sees both together.

In :func:`advlib.train.train_step` each half goes forward by itself. So also a shared batch norm normalises each half by
its own statistics, and only its running averages mix the two.
"""

import torch
from torch import Tensor, nn

from advlib import norm
from advlib.norm import BRANCHES, SharedBatchNorm2d
from advlib.train import UNSCALED, update

BOTH = "both"  # the branch of a batch whose first half is main and whose second half is aux


class JointBatchNorm2d(nn.Module):
    """One batch norm for all images (B, C, H, W), with affine parameters of each branch's own."""

    def __init__(self, channels: int):
        super().__init__()
        self.statistics = SharedBatchNorm2d(channels, affine=False)
        self.weight = nn.ParameterDict({branch: torch.ones(channels) for branch in BRANCHES})
        self.bias = nn.ParameterDict({branch: torch.zeros(channels) for branch in BRANCHES})

    def forward(self, x: Tensor, branch: str = "main") -> Tensor:
        if branch not in (*BRANCHES, BOTH):
            raise ValueError(f"unknown branch {branch!r}: choose one of {', '.join((*BRANCHES, BOTH))}")
        normalised = self.statistics(x)
        if branch != BOTH:
            return self._scaled(normalised, branch)
        return torch.cat([self._scaled(half, one) for half, one in zip(normalised.chunk(2), BRANCHES, strict=True)])

    def _scaled(self, x: Tensor, branch: str) -> Tensor:
        weight, bias = (parameter[branch].view(1, -1, 1, 1) for parameter in (self.weight, self.bias))
        return (x * weight + bias).to(x.dtype)  # as under autocast


NORMS = norm.NORMS | {"dual-affine": (JointBatchNorm2d, JointBatchNorm2d)}


def one_forward_step(model, optimizer, x: Tensor, y: Tensor, attack, loss_fn, scaler=UNSCALED) -> tuple[Tensor, Tensor]:
    """:func:`advlib.train.train_step` with one forward over both halves: batch norm has the statistics of all images.

    A batch norm that tells the branches apart must be a :class:`JointBatchNorm2d`.
    """
    branch = BOTH if any(isinstance(module, JointBatchNorm2d) for module in model.modules()) else BRANCHES[0]
    logits = model(torch.cat([x, attack(model, x, y)]), branch=branch)
    loss = loss_fn(logits, torch.cat([y, y]))
    update(optimizer, loss, scaler)
    return loss.detach(), logits.detach()
