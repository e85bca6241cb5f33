"""A convolution as matrix products is torch's convolution, in value and in both gradients."""

import pytest
import torch
import torch.nn.functional as F
from torch.autograd import gradcheck

from study.experiment import build
from study.experiment.fast import products
from study.experiment.fast.folded import Folded
from study.experiment.fast.products import ALL, BY_IMAGE, BY_WEIGHT, VALUE, ProductConv2d, convolve, worthwhile
from study.plan import catalogue
from tests import miniature

NONE = frozenset()


@pytest.fixture
def generator():
    return torch.Generator().manual_seed(0)


@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("k", [1, 3, 5])
@pytest.mark.parametrize("shape", [(2, 3, 4, 4), (1, 1, 1, 1), (3, 2, 2, 5), (2, 3, 7, 6), (0, 3, 4, 4)], ids=str)
@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format], ids=["channels last", "contiguous"])
def test_value_and_gradients_equal_those_of_torch_s_convolution(generator, shape, k, stride, layout):
    x, weight, bias, pull = _inputs(generator, shape, k, stride, layout)
    ours = _value_and_gradients(lambda *inputs: convolve(*inputs, stride=stride), (x, weight, bias), pull)
    torchs = _value_and_gradients(lambda *inputs: F.conv2d(*inputs, stride, k // 2), (x, weight, bias), pull)
    for made, expected in zip(ours, torchs, strict=True):
        assert made.shape == expected.shape
        torch.testing.assert_close(made, expected)


@pytest.mark.parametrize(
    "parts",
    [NONE, {VALUE}, {BY_IMAGE}, {BY_WEIGHT}, {BY_IMAGE, BY_WEIGHT}, {VALUE, BY_WEIGHT}],
    ids=lambda parts: ", ".join(sorted(parts)) or "none",  # a set's own order changes from process to process
)
def test_whichever_parts_are_products_the_result_is_the_same(generator, parts):
    for k in (1, 3):
        x, weight, bias, pull = _inputs(generator, (2, 3, 6, 6), k, 2, torch.channels_last)
        ours = _value_and_gradients(
            lambda *inputs: convolve(*inputs, stride=2, parts=frozenset(parts)), (x, weight, bias), pull
        )
        torchs = _value_and_gradients(lambda *inputs, k=k: F.conv2d(*inputs, 2, k // 2), (x, weight, bias), pull)
        for made, expected in zip(ours, torchs, strict=True):
            torch.testing.assert_close(made, expected)


@pytest.mark.parametrize("stride", [1, 2])
def test_the_gradients_are_those_of_finite_differences(generator, stride):
    x = torch.randn(2, 3, 3, 4, generator=generator, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(2, 3, 3, 3, generator=generator, dtype=torch.float64, requires_grad=True)
    assert gradcheck(lambda x, weight: convolve(x, weight, stride=stride), (x, weight))


@pytest.mark.parametrize("parts", [ALL, NONE], ids=["products", "torch's"])
def test_a_gradient_that_nobody_asks_for_is_not_computed(generator, monkeypatch, parts):
    x = torch.randn(1, 2, 4, 4, generator=generator, requires_grad=True)
    weight = torch.randn(2, 2, 3, 3, generator=generator)
    asked = []
    for name in ("_by_image", "_by_weight", "_by_torch"):
        real = getattr(products, name)
        monkeypatch.setattr(products, name, lambda *a, name=name, real=real: asked.append((name, a[4:])) or real(*a))
    convolve(x, weight, parts=parts).sum().backward()
    assert asked == ([("_by_image", ())] if parts else [("_by_torch", ([True, False, False],))])


@pytest.mark.parametrize(
    ("channels", "side", "k", "stride", "parts"),
    [
        (512, 4, 3, 1, ALL),
        (512, 8, 3, 1, {BY_WEIGHT}),
        (256, 8, 3, 1, {BY_WEIGHT}),
        (256, 9, 3, 1, NONE),
        (128, 4, 3, 1, NONE),
        (256, 8, 3, 2, ALL),
        (128, 16, 3, 2, {BY_WEIGHT}),
        (64, 32, 3, 2, NONE),
        (64, 32, 1, 2, {BY_IMAGE, BY_WEIGHT}),
        (64, 8, 1, 2, NONE),
        (512, 32, 1, 1, NONE),
    ],
)
def test_products_are_for_small_maps_of_many_channels_and_for_strides(channels, side, k, stride, parts):
    weight = torch.zeros(1, channels, k, k)
    x = torch.zeros(1, channels, side, side, dtype=torch.bfloat16)
    assert worthwhile(x, weight, stride) == parts
    assert worthwhile(x.float(), weight, stride) == NONE  # float32 is torch's own business, and so are other devices
    assert worthwhile(x.to("meta"), weight, stride) == NONE


def test_at_the_width_of_the_small_budget_nothing_is_a_product(monkeypatch):
    """Its records in the fast mode were made before there were so many products, and can still be made again."""
    seen = []
    real = products.worthwhile
    monkeypatch.setattr(products, "worthwhile", lambda x, *a: seen.append((x.dtype, real(x, *a))) or seen[-1][1])
    for width, expected in ((catalogue.BUDGETS["lite"]["width"], False), (32, True)):
        seen.clear()
        model = build.build_model(miniature.config(precision="fast", width=width), miniature.dataset())
        with torch.autocast("cpu", torch.bfloat16):
            model(torch.rand(1, 3, 32, 32))
            Folded(model.eval(), "main")(torch.rand(1, 3, 32, 32), "main")
        assert len(seen) == 19 + 20  # the attack's network asks for its stem as well, which sees float32
        assert [dtype for dtype, _ in seen].count(torch.bfloat16) == 19 + 19
        assert any(parts for _, parts in seen) == expected


@pytest.mark.parametrize(
    ("k", "stride", "channels", "side"), [(3, 1, 512, 4), (3, 1, 256, 8), (3, 2, 256, 8), (1, 2, 128, 8)]
)
def test_under_autocast_the_layer_is_as_near_to_float32_as_torch_s_own(generator, k, stride, channels, side):
    x = torch.randn(4, channels, side, side, generator=generator).bfloat16().float()
    layer = ProductConv2d(channels, 64, k, stride, padding=k // 2, bias=False)
    layer.weight.data = layer.weight.data.bfloat16().float()  # so that what is left is the rounding of results
    pull = torch.randn(4, 64, side // stride, side // stride, generator=generator).bfloat16().float()
    exact = _value_and_gradients(lambda x, weight: F.conv2d(x, weight, None, stride, k // 2), (x, layer.weight), pull)
    assert worthwhile(x.bfloat16(), layer.weight, stride)

    def own(x, weight):
        return torch.func.functional_call(layer, {"weight": weight}, (x.bfloat16(),))

    def torchs(x, weight):
        return F.conv2d(x, weight, None, stride, k // 2)

    with torch.autocast("cpu", torch.bfloat16):
        found = [_value_and_gradients(apply, (x, layer.weight), pull.bfloat16()) for apply in (own, torchs)]
    for made, expected, truth in zip(*found, exact, strict=True):
        assert made.dtype == expected.dtype
        error = [(value.float() - truth).abs().mean().item() for value in (made, expected)]
        assert error[0] < 1.1 * error[1]


@pytest.mark.parametrize("options", [{"bias": True}, {"padding": 0}, {"padding": 2}])
def test_what_would_be_another_convolution_is_refused(options):
    with pytest.raises(ValueError, match="need no bias, an odd k, and a padding of k // 2"):
        ProductConv2d(3, 4, 3, **{"padding": 1} | options)


def test_a_fast_network_has_the_same_weights_under_the_same_names():
    data = miniature.dataset()
    usual, fast = (build.build_model(miniature.config(precision=name), data) for name in ("float32", "fast"))
    assert any(isinstance(module, ProductConv2d) for module in fast.modules())
    assert miniature.same(miniature.state(usual), miniature.state(fast))


def _inputs(generator, shape, k: int, stride: int, layout):
    """Images, weights, biases, and a gradient for the value, in float64."""
    x = torch.randn(shape, generator=generator, dtype=torch.float64).to(memory_format=layout)
    weight = torch.randn(7, shape[1], k, k, generator=generator, dtype=torch.float64).to(memory_format=layout)
    bias = torch.randn(7, generator=generator, dtype=torch.float64)
    sides = [-(-side // stride) for side in shape[2:]]
    return x, weight, bias, torch.randn(shape[0], 7, *sides, generator=generator, dtype=torch.float64)


def _value_and_gradients(apply, inputs, pull):
    inputs = [tensor.detach().clone().requires_grad_() for tensor in inputs]
    value = apply(*inputs)
    return value, *torch.autograd.grad(value, inputs, pull)
