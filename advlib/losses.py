"""Cross-entropy and its two smoothed relatives. Each maps logits (B, K) and labels (B,) to the batch's mean loss."""

import torch
import torch.nn.functional as F
from torch import Tensor


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """-log p(label), averaged over the batch."""
    return F.cross_entropy(_wide(logits), labels)


def label_smoothing(logits: Tensor, labels: Tensor, alpha: float) -> Tensor:
    """Cross-entropy with (1 - alpha) on the label and alpha spread evenly over all K classes (Szegedy et al. 2016)."""
    _check_alpha(alpha)
    return F.cross_entropy(_wide(logits), labels, label_smoothing=alpha)


def als_targets(logits: Tensor, labels: Tensor, alpha: float) -> Tensor:
    """Targets (B, K) of adversarial label smoothing: alpha moves to the least likely class.

    The least likely class is the argmin of the logits (the first of several), the true one not excluded: where the two
    coincide, the target is one-hot again (Goibert & Dohmatob 2019, section 3). No gradient flows into targets.
    """
    _check_alpha(alpha)
    K = logits.shape[1]
    true, least_likely = F.one_hot(labels, K), F.one_hot(logits.argmin(dim=1), K)
    return (1 - alpha) * true.to(logits.dtype) + alpha * least_likely.to(logits.dtype)


def als(logits: Tensor, labels: Tensor, alpha: float) -> Tensor:
    """Adversarial label smoothing: cross-entropy against :func:`als_targets`, by log-softmax.

    The gradient with respect to the logits is (softmax - target) / B, however small a probability is.
    """
    targets = als_targets(_wide(logits), labels, alpha)
    return -(targets * F.log_softmax(_wide(logits), dim=1)).sum(dim=1).mean()


def als_published(logits: Tensor, labels: Tensor, alpha: float, offset: float = 1e-8) -> Tensor:
    """ALS as the paper's released code computes it: log(softmax + 1e-8), argmin over the softmax.

    Where the least likely probability is far below ``offset``, its gradient vanishes: there the loss no longer
    smooths. Kept for the ``published`` protocol only.
    """
    probabilities = _wide(logits).softmax(dim=1)
    targets = als_targets(probabilities, labels, alpha)
    return -(targets * torch.log(probabilities + offset)).sum(dim=1).mean()


def _wide(logits: Tensor) -> Tensor:
    """In float32 at least: in float16 a sure network's loss overflows, and the released code's 1e-8 is 0."""
    return logits.to(torch.promote_types(logits.dtype, torch.float32))


def _check_alpha(alpha: float) -> None:
    if not 0 <= alpha < 1:
        raise ValueError(f"smoothing alpha={alpha} is not in [0, 1): it is the label mass taken from the true class")
