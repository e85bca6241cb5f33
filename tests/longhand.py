"""What the paper's released code computes, written out from the 19 points of the chapter "As published".

Nothing of advlib is called here. The network is a dictionary of tensors (float64, named as in the state of advlib's
ResNet-18), and every layer, attack, loss and update is spelt out. The points are numbered as in the chapter.
"""

import math

import torch
import torch.nn.functional as F

STRIDES = (1, 1, 2, 1, 2, 1, 2, 1)  # of the eight blocks
LR, MOMENTUM, DECAY = 0.1, 0.9, 5e-4  # 11
PIXEL = 1 / 255
COLUMNS = {  # of the evaluation: eps, step size, steps, in standardised units (1); 9: both steps of PGD 0.5
    "clean": None,
    "fgsm-0.1": (0.1, 0.1, 1),
    "pgd-0.1": (0.1, 2 * PIXEL, 2),
    "fgsm-0.5": (0.5, 0.5, 1),
    "pgd-0.5": (0.5, 0.5, 2),
    "pgd-0.5-code": (0.5, 2 * PIXEL, 2),
    "clamp-alone": (0.0, 0.0, 1),
}


class Released:
    """One training. ``smoothing``: alpha of ALS, 0 without; ``advprop``, ``sat``, ``adversarial``: the techniques."""

    def __init__(self, state: dict, *, adversarial: bool, advprop: bool, sat: bool, smoothing: float):
        self.state = {name: value.detach().clone() for name, value in state.items()}
        self.adversarial, self.advprop, self.sat, self.smoothing = adversarial, advprop, sat, smoothing
        statistics = ("running_mean", "running_var", "num_batches_tracked", "mean", "std")
        self.learnt = [name for name in state if name.rsplit(".", 1)[1] not in statistics]
        self.momenta = {}

    # --- the network, always with the statistics of its batch, which move the running ones (2, 3) ---

    def standardise(self, pixels):
        return (pixels - self.state["standardise.mean"]) / self.state["standardise.std"]

    def norm(self, name, x, branch):
        if f"{name}.weight" not in self.state:  # 5: all but the three on shortcuts have a twin
            name = f"{name}.{branch}"
        mean = x.mean(dim=(0, 2, 3))
        variance = ((x - mean.view(1, -1, 1, 1)) ** 2).mean(dim=(0, 2, 3))
        n = x.numel() / x.shape[1]
        with torch.no_grad():
            self.state[f"{name}.running_mean"] = 0.9 * self.state[f"{name}.running_mean"] + 0.1 * mean
            unbiased = variance * n / (n - 1)
            self.state[f"{name}.running_var"] = 0.9 * self.state[f"{name}.running_var"] + 0.1 * unbiased
            self.state[f"{name}.num_batches_tracked"] = self.state[f"{name}.num_batches_tracked"] + 1
        scaled = (x - mean.view(1, -1, 1, 1)) / torch.sqrt(variance.view(1, -1, 1, 1) + 1e-5)
        return scaled * self.state[f"{name}.weight"].view(1, -1, 1, 1) + self.state[f"{name}.bias"].view(1, -1, 1, 1)

    def act(self, x):
        y = x.clamp(min=0)
        if not self.sat:
            return y
        soft = torch.logaddexp(10 * x, torch.zeros_like(x)) / 10  # its slope is sigmoid(10 x)
        return y.detach() + soft - soft.detach()  # 8: everywhere, also in the evaluation's attack

    def conv(self, name, x, stride, padding):
        return F.conv2d(x, self.state[f"{name}.weight"], stride=stride, padding=padding)

    def classify(self, z, branch):
        h = self.act(self.norm("stem_norm", self.conv("stem", z, 1, 1), branch))
        for i, stride in enumerate(STRIDES):
            block = f"blocks.{i}"
            aside = h
            if f"{block}.shortcut_conv.weight" in self.state:
                aside = self.norm(f"{block}.shortcut_norm", self.conv(f"{block}.shortcut_conv", h, stride, 0), branch)
            h = self.act(self.norm(f"{block}.norm1", self.conv(f"{block}.conv1", h, stride, 1), branch))
            h = self.norm(f"{block}.norm2", self.conv(f"{block}.conv2", h, 1, 1), branch)
            h = self.act(h + aside)
        return h.mean(dim=(2, 3)) @ self.state["head.weight"].T + self.state["head.bias"]

    # --- attack, losses, update ---

    def attack(self, z, y, eps, step_size, steps):
        """1: in standardised units, clamped to [0, 1] there; 4: through the main branch; 10: from the image itself."""
        moved = z
        for _ in range(steps):
            moved = moved.detach().requires_grad_()
            loss = self.cross_entropy(self.classify(moved, "main"), y)
            (gradient,) = torch.autograd.grad(loss, moved)
            moved = moved.detach() + step_size * gradient.sign()
            moved = z + (moved - z).clamp(-eps, eps)
            moved = moved.clamp(0, 1)
        return moved

    def cross_entropy(self, logits, y):
        return (logits.logsumexp(dim=1) - logits[torch.arange(len(y)), y]).mean()

    def loss(self, logits, y):
        if not self.smoothing:
            return self.cross_entropy(logits, y)
        p = logits.exp() / logits.exp().sum(dim=1, keepdim=True)  # 7
        everyone = torch.arange(len(y))
        true, least = p[everyone, y], p[everyone, p.argmin(dim=1)]
        alpha = self.smoothing
        return -((1 - alpha) * torch.log(true + 1e-8) + alpha * torch.log(least + 1e-8)).mean()

    def descend(self, z, y, branch, lr):
        """One optimiser step; what the loss does not depend on has a gradient of 0, and decays. Loss and logits."""
        weights = [self.state[name].requires_grad_() for name in self.learnt]
        logits = self.classify(z, branch)
        loss = self.loss(logits, y)
        gradients = torch.autograd.grad(loss, weights, allow_unused=True)
        for name, weight, gradient in zip(self.learnt, weights, gradients, strict=True):
            weight = weight.detach()
            slope = (0 if gradient is None else gradient) + DECAY * weight
            self.momenta[name] = MOMENTUM * self.momenta[name] + slope if name in self.momenta else slope
            self.state[name] = weight - lr * self.momenta[name]
        return loss.detach(), logits.detach()

    def update(self, pixels, y, lr, attack=None):
        """6: a step on the adversarial half, then one on the clean half. Twins in pixels, loss and logits."""
        z = self.standardise(pixels)
        if not self.adversarial:
            return pixels, *self.descend(z, y, "main", lr)
        twins = self.attack(z, y, *attack)
        on_twins, logits_of_twins = self.descend(twins, y, "aux" if self.advprop else "main", lr)
        on_clean, logits = self.descend(z, y, "main", lr)
        shown = twins * self.state["standardise.std"] + self.state["standardise.mean"]
        return shown, (on_twins + on_clean) / 2, torch.cat([logits, logits_of_twins])

    # --- evaluation ---

    def shown(self, pixels, y, column):
        """The standardised images that a batch becomes under a column of the paper's tables."""
        z = self.standardise(pixels)
        return self.attack(z, y, *COLUMNS[column]) if COLUMNS[column] else z

    def predict(self, z):
        with torch.no_grad():
            return self.classify(z, "main").argmax(dim=1)


def rate(share: float) -> float:
    """12: what the optimiser is given when a share of the training is done, a hundred times in all.

    The scheduler of the released code (T_max 80) is asked after each epoch, for that epoch, so it lags by one.
    """
    epoch = int(100 * share + 1e-9)
    asked_for = 0 if epoch == 0 else epoch - 1
    return LR * (1 + math.cos(math.pi * min(asked_for, 79) / 80)) / 2
