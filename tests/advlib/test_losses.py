"""advlib.losses: hand-computed vectors, gradients in closed form, and the published quirk shown to be one."""

import math
from functools import partial

import pytest
import torch
import torch.nn.functional as F

from advlib.losses import als, als_published, als_targets, cross_entropy, label_smoothing

LOGITS = torch.tensor([[2, 1, 0, -1], [0, 0, 3, -2], [-3, 1, 2, 0]], dtype=torch.float64)
LABELS = torch.tensor([0, 2, 0])  # the third label is also the least likely class


def gradient(loss, logits: torch.Tensor, *args) -> torch.Tensor:
    logits = logits.detach().clone().requires_grad_()
    (g,) = torch.autograd.grad(loss(logits, *args), logits)
    return g


def random_case(dtype=torch.float64, K: int = 10) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    logits = 4 * torch.randn(16, K, generator=generator, dtype=torch.float64)
    return logits.to(dtype), torch.randint(0, K, (16,), generator=generator)


def softmax(row: list[float]) -> list[float]:
    exponentials = [math.exp(v - max(row)) for v in row]
    return [e / sum(exponentials) for e in exponentials]


@pytest.mark.parametrize(
    ("alpha", "per_sample"),
    [
        (0.0, [0.4401896986, 0.1010320367, 5.4120783069]),
        (0.02, [0.5001896986, 0.2010320367, 5.4120783069]),
        (0.1, [0.7401896986, 0.6010320367, 5.4120783069]),
    ],
)
def test_als_vectors(alpha, per_sample):
    for i, expected in enumerate(per_sample):
        assert als(LOGITS[i : i + 1], LABELS[i : i + 1], alpha).item() == pytest.approx(expected, abs=1e-9)
    assert als(LOGITS, LABELS, alpha).item() == pytest.approx(sum(per_sample) / 3, abs=1e-9)


def test_als_gradient_vector():
    expected = torch.tensor([[-0.3360857401, 0.2368828181, 0.0871443187, 0.0120586033]], dtype=torch.float64)
    torch.testing.assert_close(gradient(als, LOGITS[:1], LABELS[:1], 0.02), expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize("alpha", [0.0, 0.02, 0.3])
def test_als_gradient_is_softmax_minus_target_over_the_batch(alpha):
    logits, labels = random_case()
    expected = []
    for row, label in zip(logits.tolist(), labels.tolist(), strict=True):
        target = [0.0] * len(row)
        target[label] += 1 - alpha
        target[min(range(len(row)), key=row.__getitem__)] += alpha
        expected.append([(p - q) / len(logits) for p, q in zip(softmax(row), target, strict=True)])
    torch.testing.assert_close(
        gradient(als, logits, labels, alpha), torch.tensor(expected, dtype=torch.float64), rtol=0, atol=1e-12
    )


def test_als_changes_nothing_where_the_label_is_the_least_likely_class():
    assert als_targets(LOGITS[2:], LABELS[2:], 0.1).tolist() == [[1, 0, 0, 0]]
    assert als(LOGITS[2:], LABELS[2:], 0.1).item() == pytest.approx(F.cross_entropy(LOGITS[2:], LABELS[2:]).item())


def test_als_puts_alpha_on_the_least_likely_class():
    targets = als_targets(LOGITS, LABELS, 0.1)
    torch.testing.assert_close(targets, torch.tensor([[0.9, 0, 0, 0.1], [0, 0, 0.9, 0.1], [1, 0, 0, 0]]).double())


def test_targets_are_distributions_without_gradient():
    logits, labels = random_case()
    targets = als_targets(logits.requires_grad_(), labels, 0.3)
    assert not targets.requires_grad
    assert targets.dtype == logits.dtype and targets.min() >= 0
    torch.testing.assert_close(targets.sum(dim=1), torch.ones(16, dtype=torch.float64), rtol=0, atol=1e-15)


def test_of_several_least_likely_classes_the_first_is_taken():
    targets = als_targets(torch.zeros(1, 4), torch.tensor([2]), 0.25)
    assert targets.tolist() == [[0.25, 0, 0.75, 0]]


def extreme(dtype) -> tuple[torch.Tensor, torch.Tensor]:
    """Ten logits whose float32 softmax underflows to 0 at several classes; class 9 is the least likely."""
    return torch.tensor(
        [[60.0, 0.0, -60.0, -10.0, -20.0, -30.0, -40.0, -50.0, -55.0, -90.0]], dtype=dtype
    ), torch.tensor([0])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_als_finds_the_least_likely_class_and_pulls_at_it_below_underflow(dtype):
    logits, labels = extreme(dtype)
    assert als_targets(logits, labels, 0.02)[0, 9].item() == pytest.approx(0.02)
    g = gradient(als, logits, labels, 0.02)[0]
    assert g[9].item() == pytest.approx(-0.02, abs=1e-9)  # -alpha / B, and B is 1


def test_als_pulls_with_alpha_over_the_batch_size():
    logits, labels = extreme(torch.float64)
    g = gradient(als, logits.repeat(4, 1), labels.repeat(4), 0.02)
    torch.testing.assert_close(g[:, 9], torch.full((4,), -0.005, dtype=torch.float64))


def test_the_published_als_stops_pulling_there():
    """The documented quirk: log(p + 1e-8) is flat where p is far below 1e-8, and float32 softmax loses the argmin."""
    logits, labels = extreme(torch.float32)
    assert logits.softmax(dim=1).argmin() != logits.argmin() == 9
    assert gradient(als_published, logits, labels, 0.02)[0, 9].item() == 0
    g = gradient(als_published, logits.double(), labels, 0.02)[0]
    assert abs(g[9].item()) < 1e-12 * 0.02


@pytest.mark.parametrize("alpha", [0.0, 0.02, 0.05])
def test_the_published_als_is_als_where_probabilities_are_not_small(alpha):
    """The released formula, written out with loops."""
    total = 0.0
    for row, label in zip(LOGITS.tolist(), LABELS.tolist(), strict=True):
        p = softmax(row)
        least = p.index(min(p))
        total -= (1 - alpha) * math.log(p[label] + 1e-8) + alpha * math.log(p[least] + 1e-8)
    assert als_published(LOGITS, LABELS, alpha).item() == pytest.approx(total / 3, abs=1e-12)
    assert als_published(LOGITS, LABELS, alpha).item() == pytest.approx(als(LOGITS, LABELS, alpha).item(), abs=1e-5)


def test_the_published_offset_stays_in_the_loss():
    certain = torch.tensor([[0.0, -1000.0]], dtype=torch.float64)
    assert als_published(certain, torch.tensor([1]), 0.0).item() == pytest.approx(-math.log(1e-8), abs=1e-6)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize(
    "loss", [cross_entropy, *(partial(f, alpha=0.1) for f in (label_smoothing, als, als_published))]
)
def test_a_loss_of_half_precision_logits_is_that_of_the_same_logits_in_float32(loss, dtype):
    """In float16 1e-8 is 0, 120,000 infinite, and infinity times a target of 0 no number."""
    logits = torch.tensor([[6e4, -6e4, -6e4], [-6e4, 6e4, 0], [-10, 10, -30]], dtype=dtype)
    labels = torch.tensor([0, 0, 2])
    assert torch.equal(loss(logits, labels), loss(logits.float(), labels)) and loss(logits, labels).isfinite()
    assert torch.equal(gradient(loss, logits, labels), gradient(loss, logits.float(), labels).to(dtype))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("loss", [als, label_smoothing])
def test_alpha_zero_is_cross_entropy(loss, dtype):
    logits, labels = random_case(dtype)
    torch.testing.assert_close(loss(logits, labels, 0.0), F.cross_entropy(logits, labels), rtol=1e-6, atol=0)


def test_cross_entropy_is_minus_the_mean_log_probability():
    logits, labels = random_case()
    expected = -sum(math.log(softmax(row)[k]) for row, k in zip(logits.tolist(), labels.tolist(), strict=True)) / 16
    assert cross_entropy(logits, labels).item() == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("alpha", [0.02, 0.3])
def test_label_smoothing_spreads_alpha_over_all_classes(alpha):
    logits, labels = random_case()
    total = 0.0
    for row, label in zip(logits.tolist(), labels.tolist(), strict=True):
        p = softmax(row)
        total -= sum(((1 - alpha) * (k == label) + alpha / len(p)) * math.log(p[k]) for k in range(len(p)))
    assert label_smoothing(logits, labels, alpha).item() == pytest.approx(total / 16, abs=1e-12)


LOSSES = {
    "cross-entropy": cross_entropy,
    "label-smoothing": lambda z, y: label_smoothing(z, y, 0.1),
    "als": lambda z, y: als(z, y, 0.1),
    "als-published": lambda z, y: als_published(z, y, 0.1),
}


@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
def test_a_constant_added_to_the_logits_changes_no_loss(loss):
    logits, labels = random_case()
    assert loss(logits + 37.5, labels).item() == pytest.approx(loss(logits, labels).item(), abs=1e-10)


@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
def test_every_loss_is_the_mean_over_the_batch(loss):
    logits, labels = random_case()
    one_by_one = [loss(logits[i : i + 1], labels[i : i + 1]).item() for i in range(16)]
    assert loss(logits, labels).item() == pytest.approx(sum(one_by_one) / 16, abs=1e-12)


@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
def test_bfloat16_logits_give_a_loss_near_the_float64_one(loss):
    logits, labels = random_case(torch.bfloat16)
    value = loss(logits, labels)
    assert value.item() == pytest.approx(loss(logits.double(), labels).item(), rel=0.02)
    assert gradient(loss, logits, labels).isfinite().all()


@pytest.mark.parametrize("loss", [als, als_targets, als_published, label_smoothing])
@pytest.mark.parametrize("alpha", [-0.1, 1.0, 2.0, math.nan, math.inf])
def test_alpha_outside_zero_to_one_is_refused_with_its_meaning(loss, alpha):
    with pytest.raises(ValueError, match=rf"alpha={alpha}.*\[0, 1\).*label mass"):
        loss(LOGITS, LABELS, alpha)
