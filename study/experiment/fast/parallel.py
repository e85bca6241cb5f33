"""One training in several processes: each takes its part of every batch, and together they compute what one would.

Every process draws the order, the augmentation and the random starts of the whole batch from the same generator and
takes its part of them. What mixes images is shared: batch-norm statistics, gradients of parameters, the decision to
stop. The parts are of one size, so the mean over a batch is the mean of the parts' means.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from advlib.norm import SharedBatchNorm2d

# Torch's own. Measured: a clean lite training, started at 2^26, skips eight steps and goes on at 2^18 or 2^17; started
# here, lite trainings skip none of their first steps, and the smallest ones one of 69. A lower start would spare that
# one, let more small gradients become 0, and take 2,000 steps to double
INIT_SCALE = 2.0**16
PIXELS = (0, 2, 3)  # the dimensions of (B, C, H, W) over which batch norm takes its statistics


class Lost(RuntimeError):
    """Another process of the team has ended, so this one cannot go on."""


@dataclass(frozen=True)
class Team:
    """The processes that train one network, as one of them sees them. The default is a process of its own.

    Every method but ``part`` waits for all others to call it too. Raises Lost if one of them has ended.
    """

    rank: int = 0
    size: int = 1

    @property
    def first(self) -> bool:
        """Whether this is the process that writes files."""
        return self.rank == 0

    def part(self, batch: Tensor) -> Tensor:
        """This process's images of a whole batch: (B, ...) to (B / size, ...)."""
        n = len(batch) // self.size
        return batch[self.rank * n : (self.rank + 1) * n]

    def sum(self, tensor: Tensor) -> Tensor:
        """The sum over all processes, the same bits in each."""
        if self.size == 1:
            return tensor
        total = tensor.clone()
        with _together():
            dist.all_reduce(total)
        return total

    def mean(self, tensor: Tensor) -> Tensor:
        return tensor if self.size == 1 else self.sum(tensor) / self.size

    def gather(self, tensor: Tensor) -> Tensor:
        """Everyone's tensor, by rank: (...) to (size, ...)."""
        if self.size == 1:
            return tensor.unsqueeze(0)
        everyones = [torch.empty_like(tensor) for _ in range(self.size)]
        with _together():
            dist.all_gather(everyones, tensor)
        return torch.stack(everyones)

    def any(self, *flags: bool) -> list[bool]:
        """Which of the flags is set in one of them, in one message. On the CPU: no GPU is waited for."""
        return list(flags) if self.size == 1 else self.sum(torch.tensor(flags, dtype=torch.int)).bool().tolist()

    def average_gradients(self, optimizer: torch.optim.Optimizer) -> None:
        """The gradient of the whole batch's mean loss.

        In one message. A parameter that took no part has no gradient, and that in every process: the two-step update's
        zeros are averaged, as any others.
        """
        if self.size == 1:
            return
        parameters = [p for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        whole = self.mean(torch.cat([p.grad.flatten() for p in parameters]))
        for parameter, part in zip(parameters, whole.split([p.numel() for p in parameters]), strict=True):
            parameter.grad.copy_(part.view_as(parameter.grad))


ALONE = Team()


class Scaler(torch.amp.GradScaler):
    """Scales the loss of a training in float16, whose small gradients would be 0, and takes each step of a team.

    Gradients are averaged while they are scaled, so that one that has overflown anywhere has done so everywhere: all
    skip the step and lower the scale, or none. In other precisions nothing is scaled or skipped.
    """

    def __init__(self, device: torch.device, precision: torch.dtype | None, team: Team):
        super().__init__(device.type, init_scale=INIT_SCALE, enabled=precision == torch.float16)
        self.team = team

    def step(self, optimizer: torch.optim.Optimizer):
        self.team.average_gradients(optimizer)
        return super().step(optimizer)


@contextmanager
def joined(device: torch.device) -> Iterator[Team]:
    """The team of the processes that ``torchrun`` has started; tensors travel by NCCL between GPUs, by gloo else."""
    dist.init_process_group("cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo")
    yield Team(dist.get_rank(), dist.get_world_size())
    dist.destroy_process_group()  # not after an exception: it could wait for a process that has ended


@contextmanager
def _together() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        raise Lost(f"another process has ended ({error})") from error


class WholeBatchNorm2d(SharedBatchNorm2d):
    """Batch norm over the whole batch, of which each process holds its part: in training mode, whatever the branch.

    Images (B / size, C, H, W). Output, gradients and running statistics are those of one process (Ioffe & Szegedy
    2015) up to rounding; the names in its state are the same. torch's own SyncBatchNorm works on GPUs only.
    """

    def __init__(self, like: nn.BatchNorm2d, team: Team):
        """Takes over parameters, statistics and mode of ``like``."""
        super().__init__(like.num_features, like.eps, like.momentum, like.affine)
        self.weight, self.bias = like.weight, like.bias
        self.running_mean, self.running_var = like.running_mean, like.running_var
        self.num_batches_tracked = like.num_batches_tracked
        self.team = team
        self.train(like.training)

    def forward(self, x: Tensor, branch: str = "main") -> Tensor:
        if not self.training:
            return super().forward(x, branch)
        mean, var = whole_statistics(x.detach(), self.team)
        self._remember(mean, var, self.team.size * x.numel() // x.shape[1])
        affine = (self.weight, self.bias) if self.affine else (torch.ones_like(mean), torch.zeros_like(mean))
        return _Normalise.apply(x, *affine, mean, var, self.eps, self.team)

    @torch.no_grad()
    def _remember(self, mean: Tensor, var: Tensor, n: int) -> None:
        """Running statistics: the variance without bias, of the n values that a channel has in the whole batch."""
        self.num_batches_tracked += 1
        self.running_mean.lerp_(mean.to(self.running_mean.dtype), self.momentum)
        self.running_var.lerp_((var * n / (n - 1)).to(self.running_var.dtype), self.momentum)


def whole_statistics(x: Tensor, team: Team) -> tuple[Tensor, Tensor]:
    """Mean and (biased) variance of each channel over the whole batch: (C,) each, at least in float32.

    From everyone's own mean and variance (Chan, Golub & LeVeque 1983): sums of squares would cancel.
    """
    var, mean = torch.var_mean(_wide(x), PIXELS, correction=0)
    means, variances = team.gather(torch.stack([mean, var])).unbind(1)
    return means.mean(0), variances.mean(0) + means.var(0, correction=0)


class _Normalise(torch.autograd.Function):
    """(x - mean) / sqrt(var + eps) weight + bias, where mean and var depend on every process's x.

    The input's gradient is that of the sum of all processes' losses; those of weight and bias are this process's share.
    """

    @staticmethod
    def forward(ctx, x, weight, bias, mean, var, eps, team):
        ctx.save_for_backward(x, weight, mean, var)
        ctx.eps, ctx.team = eps, team
        return F.batch_norm(x, mean, var, weight, bias, eps=eps)

    @staticmethod
    def backward(ctx, grad):
        x, weight, mean, var = ctx.saved_tensors
        channel = (1, -1, 1, 1)
        scale = (var + ctx.eps).rsqrt()
        g, x_hat = _wide(grad), (_wide(x) - mean.view(channel)) * scale.view(channel)
        sums = torch.stack([g.sum(PIXELS), (g * x_hat).sum(PIXELS)])
        if not ctx.needs_input_grad[0]:
            return None, sums[1], sums[0], None, None, None, None
        along, across = ctx.team.sum(sums) / (ctx.team.size * x.numel() // x.shape[1])
        # what moves the mean or the variance is taken out: the output does not depend on them
        inner = g - along.view(channel) - x_hat * across.view(channel)
        return (inner * (weight * scale).view(channel)).to(x.dtype), sums[1], sums[0], None, None, None, None


def _wide(x: Tensor) -> Tensor:
    """At least float32, whatever autocast has made of it."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def synchronise(model: nn.Module, team: Team) -> nn.Module:
    """Let every batch norm of ``model`` see the whole batch, in place; a process of its own keeps torch's."""
    if team.size > 1:
        for parent in list(model.modules()):
            for name, child in list(parent.named_children()):
                if isinstance(child, nn.BatchNorm2d):
                    setattr(parent, name, WholeBatchNorm2d(child, team))
    return model
