"""Batch norm with a branch per image distribution: the idea of AdvProp (Xie et al. 2019, section 4.2)."""

from torch import Tensor, nn

BRANCHES = ("main", "aux")


class DualBatchNorm2d(nn.ModuleDict):
    """Two batch norms over (B, C, H, W), of which each call uses one.

    ``"main"`` sees clean images, ``"aux"`` adversarial ones: neither distribution enters the other's statistics or
    affine parameters. The branch is an argument of every call, so nothing can be left switched.
    """

    def __init__(self, channels: int):
        super().__init__({branch: nn.BatchNorm2d(channels) for branch in BRANCHES})

    def forward(self, x: Tensor, branch: str = "main") -> Tensor:
        if branch not in BRANCHES:
            raise ValueError(f"unknown branch {branch!r}: choose one of {', '.join(BRANCHES)}")
        return self[branch](x)


class SharedBatchNorm2d(nn.BatchNorm2d):
    """One batch norm for all images, whatever the branch: every row of the paper without AdvProp."""

    def forward(self, x: Tensor, branch: str = "main") -> Tensor:
        if branch not in BRANCHES:
            raise ValueError(f"unknown branch {branch!r}: choose one of {', '.join(BRANCHES)}")
        return super().forward(x)


# name -> (the layer after each main convolution, the layer after each shortcut convolution)
NORMS = {
    "shared": (SharedBatchNorm2d, SharedBatchNorm2d),
    "dual": (DualBatchNorm2d, DualBatchNorm2d),
    "dual-except-shortcuts": (DualBatchNorm2d, SharedBatchNorm2d),  # the paper's released code: 17 of 20 layers
}
