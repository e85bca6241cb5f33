"""advlib.activations: which function runs forward, and of which function the gradient is."""

import math

import pytest
import torch
from torch import nn

from advlib.activations import ParametricSoftplus, SurrogateReLU, make_activation


def gradient(activation, x: torch.Tensor) -> torch.Tensor:
    x = x.detach().clone().requires_grad_()
    (g,) = torch.autograd.grad(activation(x).sum(), x)
    return g


def test_the_surrogates_published_vector():
    x = torch.tensor([-1, -0.1, 0, 0.1, 1], dtype=torch.float64)
    forward = torch.tensor([0, 0, 0, 0.1, 1], dtype=torch.float64)
    backward = torch.tensor([4.5398e-05, 0.2689414214, 0.5, 0.7310585786, 0.9999546021], dtype=torch.float64)
    surrogate = SurrogateReLU()
    assert torch.equal(surrogate(x), forward)
    torch.testing.assert_close(gradient(surrogate, x), backward, rtol=0, atol=1e-9)
    assert gradient(nn.ReLU(), x).tolist() == [0, 0, 0, 1, 1]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_the_surrogates_forward_is_exactly_relu(dtype):
    x = torch.linspace(-20, 20, 1001).to(dtype)
    assert torch.equal(SurrogateReLU(3.0)(x), x.clamp_min(0))


@pytest.mark.parametrize("alpha", [0.5, 1.0, 10.0])
def test_the_surrogates_gradient_is_the_softplus_derivative(alpha):
    x = torch.linspace(-3, 3, 101, dtype=torch.float64)
    h = 1e-5  # central difference of log(1 + exp(alpha x)) / alpha, written out
    softplus = [[math.log1p(math.exp(alpha * (v + s))) / alpha for s in (-h, h)] for v in x.tolist()]
    expected = torch.tensor([(high - low) / (2 * h) for low, high in softplus], dtype=torch.float64)
    torch.testing.assert_close(gradient(SurrogateReLU(alpha), x), expected, rtol=0, atol=1e-8)
    torch.testing.assert_close(gradient(ParametricSoftplus(alpha), x), expected, rtol=0, atol=1e-8)


def test_the_surrogate_passes_the_chain_rule_on():
    x = torch.tensor([-0.2, 0.3], dtype=torch.float64, requires_grad=True)
    (SurrogateReLU(2.0)(3 * x) * torch.tensor([5.0, 7.0])).sum().backward()
    expected = [5 * 3 / (1 + math.exp(1.2)), 7 * 3 / (1 + math.exp(-1.8))]
    torch.testing.assert_close(x.grad, torch.tensor(expected, dtype=torch.float64), rtol=0, atol=1e-12)


def test_gradcheck_rejects_the_surrogate_and_accepts_the_softplus():
    x = torch.tensor([-0.31, -0.02, 0.05, 0.4], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(ParametricSoftplus(), x)
    assert torch.autograd.gradcheck(nn.ReLU(), x)
    assert not torch.autograd.gradcheck(SurrogateReLU(), x, raise_exception=False)


def test_the_softplus_tends_to_relu_as_alpha_grows():
    x = torch.linspace(-2, 2, 401, dtype=torch.float64)
    gaps = [(ParametricSoftplus(alpha)(x) - x.relu()).abs().max().item() for alpha in (1.0, 10.0, 100.0, 1000.0)]
    expected = [math.log(2) / alpha for alpha in (1.0, 10.0, 100.0, 1000.0)]  # the gap is largest at 0
    assert gaps == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("make", [SurrogateReLU, ParametricSoftplus])
def test_large_inputs_give_finite_values_and_saturated_gradients(make, dtype):
    x = torch.tensor([-20, 20], dtype=dtype)
    value, slope = make()(x), gradient(make(), x)
    assert value.dtype == slope.dtype == dtype
    assert value.tolist() == [pytest.approx(0, abs=1e-6), 20]
    assert slope.tolist() == [pytest.approx(0, abs=1e-6), 1]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", ["surrogate-relu", "parametric-softplus"])
def test_the_input_gradient_is_finite_and_float32_under_autocast(name, dtype):
    layer = nn.Linear(2, 2)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[20.0, 0.0], [0.0, -20.0]]))
        layer.bias.zero_()
    x = torch.ones(1, 2, requires_grad=True)
    with torch.autocast("cpu", dtype):
        out = make_activation(name)()(layer(x))
    (g,) = torch.autograd.grad(out.float().sum(), x)
    assert out.tolist() == [[pytest.approx(20), pytest.approx(0, abs=1e-6)]]
    assert g.dtype == torch.float32 and g.tolist() == [[pytest.approx(20), pytest.approx(0, abs=1e-6)]]


@pytest.mark.parametrize(
    ("name", "value_at_minus_half"),
    [
        ("relu", 0.0),
        ("surrogate-relu", 0.0),
        ("parametric-softplus", math.log1p(math.exp(-1.0)) / 2),  # alpha = 2
        ("silu", -0.5 / (1 + math.exp(0.5))),
        ("gelu", -0.5 * 0.5 * (1 + math.erf(-0.5 / math.sqrt(2)))),
    ],
)
def test_every_name_makes_the_function_it_names(name, value_at_minus_half):
    activation = make_activation(name, alpha=2.0)()
    x = torch.tensor([-0.5], dtype=torch.float64)
    assert activation(x).item() == pytest.approx(value_at_minus_half, abs=1e-12)


@pytest.mark.parametrize("name", ["surrogate-relu", "parametric-softplus"])
def test_alpha_reaches_the_activation_and_its_printed_form(name):
    slope = gradient(make_activation(name, alpha=2.0)(), torch.tensor([-0.5], dtype=torch.float64))
    assert slope.item() == pytest.approx(1 / (1 + math.exp(1.0)), abs=1e-12)
    assert "alpha=2.0" in repr(make_activation(name, alpha=2.0)())


@pytest.mark.parametrize("make", [SurrogateReLU, ParametricSoftplus, make_activation("surrogate-relu")])
def test_alpha_is_the_papers_10_unless_another_is_given(make):
    assert make().alpha == 10


def test_an_unknown_activation_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match=r"'swish'.*relu, surrogate-relu, parametric-softplus, silu, gelu"):
        make_activation("swish")
