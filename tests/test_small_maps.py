"""A convolution as one matrix product is torch's convolution, in value and in both gradients."""

import pytest
import torch
import torch.nn.functional as F
from torch.autograd import gradcheck

from advlib import run, small_maps
from advlib.small_maps import SmallMapConv2d, convolve
from tests import miniature


@pytest.fixture
def generator():
    return torch.Generator().manual_seed(0)


@pytest.mark.parametrize("shape", [(2, 3, 4, 4), (1, 1, 1, 1), (3, 2, 2, 5)], ids=str)
@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format], ids=["channels last", "contiguous"])
def test_value_and_gradients_equal_those_of_torch_s_convolution(generator, shape, layout):
    x = torch.randn(shape, generator=generator, dtype=torch.float64).to(memory_format=layout)
    weight = torch.randn(7, shape[1], 3, 3, generator=generator, dtype=torch.float64).to(memory_format=layout)
    pull = torch.randn(shape[0], 7, *shape[2:], generator=generator, dtype=torch.float64)
    found = []
    for apply in (convolve, lambda x, weight: F.conv2d(x, weight, padding=1)):
        inputs = [tensor.clone().requires_grad_() for tensor in (x, weight)]
        out = apply(*inputs)
        found.append((out, *torch.autograd.grad(out, inputs, pull)))
    for ours, torchs in zip(*found, strict=True):
        assert ours.shape == torchs.shape
        torch.testing.assert_close(ours, torchs)


def test_the_gradients_are_those_of_finite_differences(generator):
    x = torch.randn(2, 3, 3, 4, generator=generator, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(2, 3, 3, 3, generator=generator, dtype=torch.float64, requires_grad=True)
    assert gradcheck(convolve, (x, weight))


def test_a_gradient_that_nobody_asks_for_is_not_computed(generator, monkeypatch):
    x = torch.randn(1, 2, 4, 4, generator=generator, requires_grad=True)
    weight = torch.randn(2, 2, 3, 3, generator=generator)
    turns = []
    real = small_maps._neighbourhoods
    monkeypatch.setattr(small_maps, "_neighbourhoods", lambda x, turn=False: turns.append(turn) or real(x, turn))
    convolve(x, weight).sum().backward()
    assert turns == [False, True]  # forward, and the gradient by x: none by the weight


@pytest.mark.parametrize(
    ("channels", "size", "dtype", "stride", "taken"),
    [
        (256, 4, torch.bfloat16, 1, True),
        (256, 5, torch.bfloat16, 1, False),
        (128, 4, torch.bfloat16, 1, False),
        (256, 4, torch.float32, 1, False),
        (256, 4, torch.bfloat16, 2, False),
    ],
)
def test_the_product_is_taken_for_small_maps_of_many_channels_in_half_precision_alone(
    monkeypatch, channels, size, dtype, stride, taken
):
    seen = []
    monkeypatch.setattr(small_maps, "convolve", lambda x, weight: seen.append(1) or x)
    layer = SmallMapConv2d(channels, channels, 3, stride, padding=1, bias=False).to(dtype)
    layer(torch.zeros(1, channels, size, size, dtype=dtype))
    assert bool(seen) == taken


def test_under_autocast_the_layer_is_as_near_to_float32_as_torch_s_own(generator):
    x = torch.randn(4, 256, 4, 4, generator=generator)
    layer = SmallMapConv2d(256, 256, 3, padding=1, bias=False)
    exact = F.conv2d(x, layer.weight, padding=1)
    with torch.autocast("cpu", torch.bfloat16):
        ours, torchs = layer(x.bfloat16()), F.conv2d(x, layer.weight, padding=1)
    error = [(made.float() - exact).abs().mean().item() for made in (ours, torchs)]
    assert ours.dtype == torch.bfloat16
    assert error[0] < 1.1 * error[1]


def test_a_fast_network_has_the_same_weights_under_the_same_names():
    data = miniature.dataset()
    usual, fast = (run.build_model(miniature.config(precision=name), data) for name in ("float32", "fast"))
    assert any(isinstance(module, SmallMapConv2d) for module in fast.modules())
    assert miniature.same(miniature.state(usual), miniature.state(fast))
