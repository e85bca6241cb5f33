"""advlib.norm: each branch is an ordinary batch norm on its own data, and nothing reaches the other branch."""

import pytest
import torch
from torch import nn

from advlib.norm import BRANCHES, NORMS, DualBatchNorm2d, SharedBatchNorm2d


def batches(n: int, seed: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(7, 4, 3, 3, generator=generator) * (seed + 1) + seed for _ in range(n)]


def snapshot(module: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in module.state_dict().items()}


def assert_same_state(module: nn.Module, before: dict[str, torch.Tensor]) -> None:
    torch.testing.assert_close(module.state_dict(), before, rtol=0, atol=0)


def test_each_branch_equals_an_ordinary_batch_norm_fed_its_own_data():
    dual = DualBatchNorm2d(4)
    plain = {branch: nn.BatchNorm2d(4) for branch in BRANCHES}
    for clean, adversarial in zip(batches(3, seed=0), batches(3, seed=5), strict=True):
        assert torch.equal(dual(clean, "main"), plain["main"](clean))
        assert torch.equal(dual(adversarial, "aux"), plain["aux"](adversarial))
    dual.eval()
    (x,) = batches(1, seed=2)
    for branch in BRANCHES:
        assert_same_state(dual[branch], plain[branch].state_dict())
        assert torch.equal(dual(x, branch), plain[branch].eval()(x))
    assert not torch.equal(dual(x, "main"), dual(x, "aux"))


@pytest.mark.parametrize(("used", "other"), [("main", "aux"), ("aux", "main")])
def test_a_branch_leaves_the_other_ones_statistics_and_gradients_alone(used, other):
    dual = DualBatchNorm2d(4)
    before = snapshot(dual[other])
    for x in batches(2, seed=3):
        dual(x, used).square().sum().backward()
    assert_same_state(dual[other], before)
    assert all(p.grad is None for p in dual[other].parameters())
    assert all(p.grad is not None for p in dual[used].parameters())
    assert dual[used].num_batches_tracked == 2


def test_the_branch_defaults_to_main():
    dual = DualBatchNorm2d(4)
    (x,) = batches(1, seed=4)
    dual(x)
    assert [dual[branch].num_batches_tracked.item() for branch in ("main", "aux")] == [1, 0]


def test_a_shared_norm_is_one_batch_norm_for_both_branches():
    shared, plain = SharedBatchNorm2d(4), nn.BatchNorm2d(4)
    for branch, x in zip(BRANCHES, batches(2, seed=1), strict=True):
        assert torch.equal(shared(x, branch), plain(x))
    assert_same_state(shared, plain.state_dict())
    assert shared.num_batches_tracked == 2


@pytest.mark.parametrize("norm", [DualBatchNorm2d, SharedBatchNorm2d])
@pytest.mark.parametrize("branch", ["auxiliary", "", None, 0])
def test_an_unknown_branch_is_refused_by_name_and_moves_no_statistics(norm, branch):
    layer = norm(4)
    before = snapshot(layer)
    with pytest.raises(ValueError, match=rf"{branch!r}.*main, aux"):
        layer(torch.zeros(2, 4, 3, 3), branch)
    assert_same_state(layer, before)


def test_state_dict_keys_name_the_branch():
    tensors = ["weight", "bias", "running_mean", "running_var", "num_batches_tracked"]
    assert list(DualBatchNorm2d(4).state_dict()) == [
        f"{branch}.{name}" for branch in ("main", "aux") for name in tensors
    ]
    assert list(SharedBatchNorm2d(4).state_dict()) == tensors


def test_the_published_norm_has_no_twin_on_shortcuts():
    assert NORMS["shared"] == (SharedBatchNorm2d, SharedBatchNorm2d)
    assert NORMS["dual"] == (DualBatchNorm2d, DualBatchNorm2d)
    assert NORMS["dual-except-shortcuts"] == (DualBatchNorm2d, SharedBatchNorm2d)
