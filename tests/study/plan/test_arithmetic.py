"""The arithmetic that the book states is the arithmetic that torch counts."""

import pytest
import torch
from torch.nn.functional import cross_entropy
from torch.utils.flop_counter import FlopCounterMode

from advlib.resnet import resnet18
from study.plan import arithmetic
from study.plan.config import Config
from study.presentation.markup import duration


def counted(work) -> int:
    with FlopCounterMode(display=False) as counter:
        work()
    return counter.get_total_flops()


@pytest.mark.parametrize("width", [8, 16])
def test_a_forward_pass_has_as_many_operations_as_torch_counts(width):
    model, x = resnet18(width=width), torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        assert counted(lambda: model(x)) == 2 * 2 * arithmetic.multiply_adds(width)


@pytest.mark.parametrize(("by_image", "forward_passes"), [(True, 2), (False, 3)])
def test_gradients_by_image_and_by_weights_have_about_as_many_operations_as_torch_counts(by_image, forward_passes):
    """Of the first layer only one is taken, which the count ignores."""
    model, x, y = resnet18(width=8), torch.rand(4, 3, 32, 32, requires_grad=by_image), torch.arange(4)
    model.requires_grad_(not by_image)
    expected = forward_passes * 4 * 2 * arithmetic.multiply_adds(8)
    assert counted(lambda: cross_entropy(model(x), y).backward()) == pytest.approx(expected, rel=0.03)


def test_an_adversarial_row_takes_ten_thirds_of_the_work_of_a_plain_one():
    plain, adversarial = (arithmetic.training(Config(adversarial=flag), 50_000) for flag in (False, True))
    assert adversarial / plain == pytest.approx(10 / 3)
    assert 2 * arithmetic.multiply_adds(64) == pytest.approx(1.11e9, rel=0.01)  # the ResNet-18 of the CIFAR literature


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(5.04, "5.0 s"), (56, "56 s"), (840, "14 min"), (6850, "114 min"), (9000, "2.5 h"), (4e5, "4.6 days")],
)
def test_a_duration_is_read_in_the_unit_that_suits_it(seconds, text):
    assert duration(seconds) == text
