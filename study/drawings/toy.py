"""Problems with two pixels, on which a decision boundary can be seen. Losses and attacks are those of the experiments.

An "image" is (2, 1, 1), both pixels in [0, 1]; a network of one hidden layer learns it in about a second. Everything is
seeded, and torch's generators are left as they were.
"""

from collections.abc import Callable
from functools import partial

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from torch import Tensor, nn

from advlib.attacks import pgd, predictions
from advlib.losses import als, cross_entropy, label_smoothing
from study.presentation.figures import MARKERS, PALETTE, style

SMOOTHING = 0.2  # alpha: larger than in the experiments, so that two pixels show what it does
SMOOTHINGS = {  # title -> loss
    "none": cross_entropy,
    "label smoothing": partial(label_smoothing, alpha=SMOOTHING),
    "adversarial smoothing": partial(als, alpha=SMOOTHING),
}
WIDE = 0.16  # radius of the attack on `clusters`: it takes some points over the boundary, and not all
SHADES = (0.4, 0.6, 0.8, 1.0)  # of confidence, named beside `smoothing`
EPS = 0.05  # radius of the squares of `curves`; those of different classes do not touch
SCALES = (1, 10, 100, 1000)  # what logits are multiplied by in `masking`
UNSCALED = "PGD on the unscaled network"


def smoothing() -> Figure:
    """Confidence and decision boundaries of one network, trained with no, standard and adversarial label smoothing.

    The paper's Figure 2, computed: :func:`clusters`, K = 3, the losses of :mod:`advlib.losses`. The last panel is the
    confidence along the dashed line of the others. Each title has how many points an attack of radius WIDE fools.
    """
    x, y = clusters()
    grid, u = _grid()
    row = len(u) * 3 // 10  # of the grid: pixel 2 = 0.3, through two clusters
    with style():
        figure, panels = plt.subplots(2, 2, figsize=(6.4, 6.6))
        for panel, colour, dashes, (title, loss_fn) in zip(
            panels.flat, ["black", *PALETTE], ("-", "--", ":"), SMOOTHINGS.items(), strict=False
        ):
            model = train(x, y, loss_fn)
            with torch.no_grad():
                confidence, predicted = model(grid).softmax(1).max(1)
            confidence = confidence.view(len(u), -1)
            shades = panel.contourf(u, u, confidence, levels=np.linspace(1 / 3, 1, 9), cmap="Greys", vmin=0.2, vmax=1.4)
            _boundary(panel, u, predicted)
            _points(panel, x, y)
            panel.axhline(u[row], color="black", lw=0.8, ls="--")
            lost = int(fooled(model, x, y, eps=WIDE).sum())
            panel.set(title=f"{title}\n{lost} of {len(y)} fooled", xlabel="pixel 1", ylabel="pixel 2", aspect="equal")
            panels[1, 1].plot(u, confidence[row], color=colour, ls=dashes, lw=2, label=title)
        panels[1, 1].set(title="along the dashed line\n", xlabel="pixel 1", ylabel="confidence", ylim=(0.3, 1.5))
        panels[1, 1].legend(loc="upper center", fontsize=8.5, borderpad=0.1)
        figure.colorbar(shades, ax=panels, label="confidence", location="bottom", shrink=0.6, aspect=40, ticks=SHADES)
    return figure


def squares() -> Figure:
    """Ordinary and adversarial training on :func:`curves`, with the square of radius eps around every point."""
    x, y = curves()
    grid, u = _grid()
    with style():
        figure, panels = plt.subplots(1, 2, figsize=(6.6, 3.8), sharey=True)
        for panel, (title, attack) in zip(
            panels, {"ordinary training": None, "adversarial training": training_attack()}.items(), strict=True
        ):
            model = train(x, y, attack=attack)
            _boundary(panel, u, predictions(model, grid))
            _points(panel, x, y)
            lost = fooled(model, x, y)
            for (a, b), wrong in zip(x.flatten(1).tolist(), lost.tolist(), strict=True):
                edge = {"ec": PALETTE[3], "lw": 2} if wrong else {"ec": "grey", "lw": 0.8}
                panel.add_patch(Rectangle((a - EPS, b - EPS), 2 * EPS, 2 * EPS, fill=False, **edge))
            panel.set(title=f"{title}\n{int(lost.sum())} of {len(y)} fooled", xlabel="pixel 1", aspect="equal")
        panels[0].set_ylabel("pixel 2")
    return figure


def masking() -> Figure:
    """The same decisions, ever "safer": what :func:`masked_accuracy` measures, drawn."""
    with style():
        figure, axes = plt.subplots(figsize=(5.6, 3.6))
        for (name, values), colour, marker, dashes, size in zip(
            masked_accuracy().items(), PALETTE, MARKERS, ("-", "--", ":"), (11, 6, 7), strict=False
        ):
            percent = [100 * value for value in values]
            axes.plot(SCALES, percent, color=colour, marker=marker, ls=dashes, lw=size / 3, ms=size, label=name)
        axes.set(xscale="log", ylim=(-3, 105), xlabel="logits multiplied by", ylabel="accuracy under attack (%)")
        axes.set_xticks(SCALES, [f"{scale}" for scale in SCALES])
        axes.legend(loc="best")
    return figure


def masked_accuracy() -> dict[str, list[float]]:
    """Accuracy under FGSM and PGD of one ordinary network whose logits are multiplied by each of :data:`SCALES`.

    No decision changes by that. In 32 bits the softmax saturates, the gradient of the cross-entropy becomes zero, and
    the attacks stand still. The last entry attacks the network as it was.
    """
    x, y = curves()
    model = train(x, y)
    one_step, many = (partial(pgd, eps=EPS, step_size=step, steps=steps) for step, steps in ((EPS, 1), (EPS / 8, 40)))
    accuracy: dict[str, list[float]] = {"FGSM": [], "PGD": [], UNSCALED: []}
    for scale in SCALES:
        scaled = partial(_scaled, model, scale)
        for name, attack, target in [("FGSM", one_step, scaled), ("PGD", many, scaled), (UNSCALED, many, model)]:
            wrong = predictions(scaled, attack(target, x, y)) != y
            accuracy[name].append(1 - wrong.float().mean().item())
    return accuracy


def clusters() -> tuple[Tensor, Tensor]:
    """Three round clusters of 20 points: x (60, 2, 1, 1) in [0, 1], y (60,)."""
    generator = torch.Generator().manual_seed(0)
    centres = torch.tensor([[0.25, 0.28], [0.75, 0.3], [0.48, 0.76]])
    y = torch.arange(3).repeat_interleave(20)
    noise = 0.06 * torch.randn(len(y), 2, generator=generator)
    return (centres[y] + noise).clamp(0, 1).view(-1, 2, 1, 1), y


def curves() -> tuple[Tensor, Tensor]:
    """Two curves that run side by side, 16 points each: x (32, 2, 1, 1) in [0, 1], y (32,)."""
    u = torch.linspace(0.08, 0.92, 16)
    wave = 0.5 + 0.18 * torch.sin(2 * torch.pi * u)
    below, above = torch.stack([u, wave - 0.14], 1), torch.stack([u, wave + 0.14], 1)
    y = torch.arange(2).repeat_interleave(16)
    return torch.cat([below, above]).view(-1, 2, 1, 1), y


def train(
    x: Tensor,
    y: Tensor,
    loss_fn: Callable[[Tensor, Tensor], Tensor] = cross_entropy,
    attack=None,
    steps: int = 400,
) -> nn.Module:
    """A small network (B, 2, 1, 1) -> (B, K) that minimises ``loss_fn`` on all points at once, by Adam.

    With ``attack(logits_fn, x, y)`` it learns from points and adversarial twins in equal parts, as Algorithm 1 does.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Flatten(), nn.Linear(2, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU())
        model.append(nn.Linear(64, int(y.max()) + 1))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(steps):
        images, labels = (torch.cat([x, attack(model, x, y)]), torch.cat([y, y])) if attack else (x, y)
        optimizer.zero_grad()
        loss_fn(model(images), labels).backward()
        optimizer.step()
    return model.eval()


def training_attack(eps: float = EPS) -> Callable:
    """PGD that can reach every corner of its square: 5 steps of eps / 2."""
    return partial(pgd, eps=eps, step_size=eps / 2, steps=5)


def fooled(model: nn.Module, x: Tensor, y: Tensor, eps: float = EPS) -> Tensor:
    """bool (B,): whether 40 steps of PGD, from ten random starts, find a wrong class inside the square."""
    generator = torch.Generator().manual_seed(0)
    x_adv = pgd(model, x, y, eps=eps, step_size=eps / 8, steps=40, random_start=True, restarts=10, generator=generator)
    return predictions(model, x_adv) != y


def _scaled(model: nn.Module, scale: float, x: Tensor) -> Tensor:
    return scale * model(x)


def _grid() -> tuple[Tensor, np.ndarray]:
    u = torch.linspace(0, 1, 161)
    rows, columns = torch.meshgrid(u, u, indexing="ij")
    return torch.stack([columns.flatten(), rows.flatten()], 1).view(-1, 2, 1, 1), u.numpy()


def _boundary(panel, u: np.ndarray, predicted: Tensor) -> None:
    for k in range(int(predicted.max()) + 1):
        panel.contour(u, u, (predicted == k).view(len(u), -1).float(), levels=[0.5], colors="black", linewidths=2)


def _points(panel, x: Tensor, y: Tensor) -> None:
    for k, (colour, marker) in enumerate(zip(PALETTE, "os^", strict=False)):
        a, b = x.flatten(1)[y == k].T
        panel.plot(a, b, marker, color=colour, mec="black", mew=0.6, ms=5)
    panel.grid(False)
    panel.set(xlim=(0, 1), ylim=(0, 1))
