"""advlib.resnet: the architecture against torchvision's, where the branch goes, and which numbers come out."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from advlib.resnet import CIFAR10_MEAN, CIFAR10_STD, resnet18


def batch_norms(model: nn.Module) -> dict[str, nn.BatchNorm2d]:
    return {name: module for name, module in model.named_modules() if isinstance(module, nn.BatchNorm2d)}


def shortcuts(names) -> list[str]:
    return [name for name in names if "shortcut" in name]


@pytest.fixture(scope="module")
def torchvision_twin():
    """Our width-64 network and torchvision's ResNet-18 with the same weights, a 3x3 stem and no max-pool."""
    models = pytest.importorskip("torchvision.models")
    torch.manual_seed(0)
    ours, theirs = resnet18().double(), models.resnet18(num_classes=10).double()
    theirs.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False).double()
    theirs.maxpool = nn.Identity()
    weights = [value for name, value in ours.state_dict().items() if not name.startswith("standardise.")]
    theirs.load_state_dict(dict(zip(theirs.state_dict(), weights, strict=True)))
    return ours, theirs


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_logits_equal_torchvisions(torchvision_twin, training):
    ours, theirs = torchvision_twin
    x = torch.rand(3, 3, 16, 16, dtype=torch.float64)
    standardised = (x - torch.tensor(CIFAR10_MEAN).view(1, 3, 1, 1)) / torch.tensor(CIFAR10_STD).view(1, 3, 1, 1)
    with torch.no_grad():
        torch.testing.assert_close(ours.train(training)(x), theirs.train(training)(standardised), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    ("norm", "parameters", "layers", "on_shortcuts"),
    [("shared", 11_173_962, 20, 3), ("dual", 11_183_562, 40, 6), ("dual-except-shortcuts", 11_181_770, 37, 3)],
)
def test_parameters_and_batch_norms_at_full_width(norm, parameters, layers, on_shortcuts):
    model = resnet18(norm=norm)
    assert sum(p.numel() for p in model.parameters()) == parameters
    names = batch_norms(model)
    assert len(names) == layers
    assert len(shortcuts(names)) == on_shortcuts
    assert len([name for name in names if name.endswith(".aux")]) == layers - 20


@pytest.mark.parametrize(("broken", "sound"), [("main", "aux"), ("aux", "main")])
def test_a_branchs_parameters_reach_that_branch_only(tiny, batch, broken, sound):
    model, (x, _) = tiny(norm="dual"), batch
    before = model(x, sound)
    for name, module in batch_norms(model).items():
        if name.endswith(broken):
            nn.init.constant_(module.weight, math.nan)
    assert torch.equal(model(x, sound), before)
    assert model(x, broken).isnan().all()


@pytest.mark.parametrize(("used", "other"), [("main", "aux"), ("aux", "main")])
@pytest.mark.parametrize("norm", ["dual", "dual-except-shortcuts"])
def test_a_loss_trains_its_own_branch_and_moves_its_own_statistics(tiny, batch, norm, used, other):
    model, (x, y) = tiny(norm=norm).train(), batch
    before = {name: value.clone() for name, value in model.state_dict().items()}
    F.cross_entropy(model(x, used), y).backward()
    for name, parameter in model.named_parameters():
        assert (parameter.grad is None) == (f".{other}." in name), name
    for name, value in model.named_buffers():
        moved = not name.startswith("standardise.") and f".{other}." not in name
        assert torch.equal(value, before[name]) != moved, name


def test_equal_branches_give_identical_logits(tiny, batch):
    model, (x, _) = tiny(norm="dual"), batch
    assert not torch.equal(model(x, "aux"), model(x, "main"))
    for module in model.modules():
        if isinstance(module, nn.ModuleDict):
            module["aux"].load_state_dict(module["main"].state_dict())
    assert torch.equal(model(x, "aux"), model(x, "main"))


@pytest.mark.parametrize("norm", ["shared", "dual", "dual-except-shortcuts"])
def test_the_branch_defaults_to_main(tiny, batch, norm):
    model, (x, _) = tiny(norm=norm), batch
    assert torch.equal(model(x), model(x, "main"))


@pytest.mark.parametrize("norm", ["shared", "dual"])
def test_an_unknown_branch_is_refused(tiny, batch, norm):
    with pytest.raises(ValueError, match="'clean'.*main, aux"):
        tiny(norm=norm)(batch[0], "clean")


def test_the_first_layer_standardises_per_channel(tiny, batch):
    mean, std = (0.1, 0.5, 0.7), (0.2, 0.25, 0.5)
    model, (x, _) = tiny(mean=mean, std=std), batch
    z = torch.stack([(x[:, c] - mean[c]) / std[c] for c in range(3)], dim=1)
    torch.testing.assert_close(model(x), model.classify(z))
    torch.testing.assert_close(model.standardise(x), z)
    torch.testing.assert_close(model.standardise.to_pixels(z), x)


@pytest.mark.parametrize("kind", [list, np.array, torch.tensor])
def test_constants_of_any_kind_are_float32_in_the_network(tiny, batch, kind):
    model = tiny(mean=kind((0.5, 0.25, 0.0)), std=kind((1, 0.5, 0.25)))
    assert model.standardise.mean.dtype == model.standardise.std.dtype == torch.float32
    assert torch.equal(model(batch[0]), tiny(mean=(0.5, 0.25, 0.0), std=(1.0, 0.5, 0.25))(batch[0]))


def test_standardising_equals_folding_the_constants_into_the_stem(tiny, batch):
    """So attacking pixels is attacking an un-normalised network. Inside the border: padding is 0 afterwards."""
    model, (x, _) = tiny(), batch
    mean, std = torch.tensor(CIFAR10_MEAN), torch.tensor(CIFAR10_STD)
    weight = model.stem.weight / std.view(1, 3, 1, 1)
    bias = -(model.stem.weight * (mean / std).view(1, 3, 1, 1)).sum(dim=(1, 2, 3))
    inside = F.conv2d(x, weight, bias)
    torch.testing.assert_close(model.stem(model.standardise(x))[:, :, 1:-1, 1:-1], inside, rtol=1e-4, atol=1e-5)


def test_a_branch_of_the_network_reads_the_classify_half(tiny, batch):
    model, (x, _) = tiny(norm="dual"), batch
    assert torch.equal(model.classify(model.standardise(x), "aux"), model(x, "aux"))


@pytest.mark.parametrize("activation", ["relu", "surrogate-relu", "parametric-softplus"])
def test_logits_are_float32_under_bfloat16_autocast(tiny, batch, activation):
    model, (x, _) = tiny(activation=activation), batch
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        logits = model(x)
    assert logits.dtype == torch.float32
    assert not torch.equal(logits, model(x))  # autocast did run
    assert (logits - model(x)).norm() < 0.1 * model(x).norm()


def test_the_surrogate_network_is_the_relu_network_forward_and_another_backward(tiny, batch):
    x = batch[0].clone().requires_grad_()
    relu, surrogate = tiny(activation="relu"), tiny(activation="surrogate-relu")
    surrogate.load_state_dict(relu.state_dict())
    assert torch.equal(surrogate(x), relu(x))
    (true,) = torch.autograd.grad(relu(x).sum(), x)
    (other,) = torch.autograd.grad(surrogate(x).sum(), x)
    assert not torch.allclose(true, other, rtol=0.1)


def test_activation_alpha_reaches_all_seventeen_activations(tiny):
    for options, alpha in (({}, 10.0), ({"activation_alpha": 3.0}, 3.0)):
        model = tiny(activation="surrogate-relu", **options)
        assert [module.alpha for module in model.modules() if hasattr(module, "alpha")] == [alpha] * 17


@pytest.mark.parametrize("size", [1, 3, 5])
def test_any_batch_size_in_training_mode(tiny, batch, size):
    x, y = batch[0][:size], batch[1][:size]
    model = tiny(norm="dual").train()
    loss = F.cross_entropy(model(x), y) + F.cross_entropy(model(x, "aux"), y)
    loss.backward()
    assert loss.isfinite() and all(p.grad.isfinite().all() for p in model.parameters())


def test_one_image_in_evaluation_equals_its_row_in_the_batch(tiny, batch):
    model, (x, _) = tiny(norm="dual"), batch
    for i in (0, 2, 4):
        torch.testing.assert_close(model(x[i : i + 1], "aux")[0], model(x, "aux")[i], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("branch", ["main", "aux"])
def test_torch_compile_takes_the_branch_and_the_surrogate_in_one_graph(tiny, batch, branch):
    model, (x, y) = tiny(norm="dual", activation="surrogate-relu").train(), batch
    expected = torch.autograd.grad(F.cross_entropy(model(x, branch), y), model.stem.weight)
    torch._dynamo.reset()
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    gradient = torch.autograd.grad(F.cross_entropy(compiled(x, branch), y), model.stem.weight)
    torch.testing.assert_close(gradient, expected, rtol=1e-4, atol=1e-5)


def test_other_channels_and_classes():
    model = resnet18(num_classes=7, width=4, in_channels=1).eval()
    x = torch.rand(2, 1, 9, 13)
    assert model(x).shape == (2, 7)
    torch.testing.assert_close(model.standardise(x), 2 * x - 1)  # 0.5 and 0.5 where CIFAR-10's constants do not fit


def test_the_smallest_network_has_one_channel_and_two_classes():
    assert resnet18(num_classes=2, width=1, in_channels=1).eval()(torch.rand(2, 1, 8, 8)).shape == (2, 2)


def test_images_of_another_channel_count_are_refused(tiny):
    """(B, 1, H, W) - (1, 3, 1, 1) would broadcast: a grey image would pass as three different ones."""
    with pytest.raises(ValueError, match="1 channel.* 3"):
        tiny()(torch.rand(2, 1, 16, 16))


def test_convolutions_start_kaiming_normal_and_the_head_without_bias():
    torch.manual_seed(0)
    model = resnet18()
    for name, parameter in model.named_parameters():
        if parameter.ndim > 1 and parameter.numel() > 5000:
            fan_in = parameter[0].numel()
            assert parameter.std().item() == pytest.approx(math.sqrt(2 / fan_in), rel=0.05), name
            # a normal, not a uniform of the same width: the fourth moment of a normal is 3
            assert parameter.pow(4).mean().item() == pytest.approx(3 * (2 / fan_in) ** 2, rel=0.2), name
    assert model.head.bias.abs().max() == 0


def test_the_same_seed_gives_the_same_weights():
    first, second, other = [resnet18_state(seed) for seed in (0, 0, 1)]
    assert torch.equal(first, second) and not torch.equal(first, other)


def resnet18_state(seed: int) -> torch.Tensor:
    torch.manual_seed(seed)
    return torch.cat([p.flatten() for p in resnet18(width=4).parameters()])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"norm": "triple"}, "'triple'.*shared, dual"),
        ({"activation": "swish"}, "'swish'.*relu"),
        ({"width": 0}, "width=0.*width >= 1"),
        ({"num_classes": 1}, "num_classes=1.*at least 2"),
        ({"in_channels": 0}, "in_channels=0.*1 channel"),
        ({"mean": (0.5,)}, r"mean=\(0.5,\).*3 values"),
        ({"std": (0.5, 0.5)}, r"std=\(0.5, 0.5\).*3 values"),
        ({"std": (0.5, 0.5, 0.0)}, "every std positive"),
    ],
)
def test_impossible_options_are_refused_with_the_value_and_the_remedy(options, message):
    with pytest.raises(ValueError, match=message):
        resnet18(**{"width": 8, **options})
