"""Figures of ideas, for the theory chapters: drawn from formulas, not measured. No torch.

What they say about the code is checked by tests.
"""

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch, Rectangle

from study.presentation.figures import MARKERS, PALETTE, style

RADII = {"0": 0.0, "4/255": 4 / 255, "8/255": 8 / 255, "0.1": 0.1, "0.5": 0.5}  # the lengths that the book speaks of
CLEAN, ADVERSARIAL, SHARED = PALETTE[0], PALETTE[1], "0.35"


def how_large_is_eps() -> Figure:
    """One of scikit-learn's digits under changes of every size in RADII: of random sign, and towards grey.

    Both rows stay inside the ball and inside [0, 1]. At 0.5 the second is one flat grey: every image is within 0.5 of
    it, so a ball that large holds no information about the label (Madry et al. 2018).
    """
    from sklearn.datasets import load_digits

    x = np.kron(load_digits().images[3] / 16, np.ones((4, 4)))  # 32 x 32: the size of a CIFAR image
    signs = np.random.default_rng(0).choice([-1.0, 1.0], x.shape)
    with style():
        figure, panels = plt.subplots(2, len(RADII), figsize=(6.2, 2.9))
        for (name, eps), (top, bottom) in zip(RADII.items(), panels.T, strict=True):
            top.imshow(np.clip(x + eps * signs, 0, 1), cmap="gray", vmin=0, vmax=1)
            bottom.imshow(np.clip(0.5, x - eps, x + eps), cmap="gray", vmin=0, vmax=1)
            top.set_title(rf"$\varepsilon$ = {name}", loc="center")
        panels[0, 0].set_ylabel("random signs")
        panels[1, 0].set_ylabel("towards grey")
        for panel in panels.flat:
            panel.set(xticks=[], yticks=[])
    return figure


def attack_paths() -> Figure:
    """FGSM, PGD and a PGD that cannot reach its ball, on a curved loss over two pixels; lengths in units of eps."""

    def loss(u, v):
        return 1.2 * u - 0.3 * (v - 0.15 + 0.9 * u**2) ** 2

    def gradient(u, v):
        bend = v - 0.15 + 0.9 * u**2
        return np.array([1.2 - 1.08 * u * bend, -0.6 * bend])

    def path(step_size, steps):
        points = [np.zeros(2)]
        for _ in range(steps):
            points.append(np.clip(points[-1] + step_size * np.sign(gradient(*points[-1])), -1, 1))
        return np.array(points)

    attacks = {
        "FGSM: one step of eps": path(1, 1),
        "PGD: 6 steps of eps/4": path(1 / 4, 6),
        "PGD: 2 steps of 2/255, eps 0.1": path(2 / 255 / 0.1, 2),
    }
    with style():
        figure, axes = plt.subplots(figsize=(5.6, 4.9))
        u, v = np.meshgrid(np.linspace(-1.3, 1.3, 200), np.linspace(-1.3, 1.3, 200))
        shades = axes.contourf(u, v, loss(u, v), levels=14, cmap="Greys", alpha=0.55)
        axes.add_patch(Rectangle((-1, -1), 2, 2, fill=False, lw=1.5, ls="--", ec="black"))
        axes.annotate("the ball", (-1, -1), (3, 4), textcoords="offset points")
        for (name, points), colour, marker in zip(attacks.items(), PALETTE, MARKERS, strict=False):
            label = f"{name}; loss {loss(*points[-1]):.2f}"
            axes.plot(*points.T, color=colour, marker=marker, ms=6, lw=2.2, label=label)
        axes.plot(0, 0, "k+", ms=12, mew=2)
        axes.annotate("x", (0, 0), (-12, -12), textcoords="offset points")
        axes.set(xlabel="change of pixel 1, in eps", ylabel="change of pixel 2, in eps", aspect="equal")
        axes.grid(False)
        figure.colorbar(shades, label="loss")
        figure.legend(loc="outside lower center", ncols=1)
    return figure


def two_branches() -> Figure:
    """The paper's Figure 1, redrawn: one batch norm for all images, and AdvProp's two, between shared convolutions."""
    with style():
        figure, (one, two) = plt.subplots(1, 2, figsize=(6.2, 5))
        for panel, title in [(one, "one batch norm"), (two, "AdvProp: two")]:
            panel.set(xlim=(0, 4), ylim=(0, 6.6), title=title)
            panel.axis("off")
            _box(panel, 0.2, 0.2, 1.7, 0.8, "$x$\nclean", CLEAN)
            _box(panel, 2.1, 0.2, 1.7, 0.8, "$x_{adv}$\nadversarial", ADVERSARIAL, dashed=True)
            _box(panel, 0.2, 1.7, 3.6, 0.7, "convolution", SHARED)
            _box(panel, 0.2, 4.6, 3.6, 0.7, "ReLU, next convolution", SHARED)
            for colour, at, style_ in [(CLEAN, 1.05, "-"), (ADVERSARIAL, 2.95, "--")]:
                for low, high in [(1.05, 1.65), (2.45, 3.05), (3.95, 4.55), (5.35, 5.95)]:
                    _arrow(panel, (at, low), (at, high), colour, style_)
            panel.text(2, 6.1, "... logits", ha="center")
        _box(one, 0.2, 3.1, 3.6, 0.8, r"BN: $\mu, \sigma^2, \gamma, \beta$" + "\nof the mixture", SHARED)
        _box(two, 0.2, 3.1, 1.7, 0.8, "BN main\n" + r"$\mu, \sigma^2, \gamma, \beta$", CLEAN)
        _box(two, 2.1, 3.1, 1.7, 0.8, "BN aux\n" + r"$\mu, \sigma^2, \gamma, \beta$", ADVERSARIAL, dashed=True)
    return figure


def surrogate_gradient() -> Figure:
    """Value and slope of the ReLU and of the parametric softplus: the paper's Figure 3, computed."""
    z = np.linspace(-2, 2, 801)
    with style():
        figure, (value, slope) = plt.subplots(1, 2, figsize=(6.6, 3.2))
        value.plot(z, np.maximum(z, 0), color="black", lw=2.5, label="ReLU")
        slope.plot(z, np.heaviside(z, 0), color="black", lw=2.5)
        for alpha, colour, dashes in zip((1, 3, 10), PALETTE, ("--", "-.", ":"), strict=False):
            value.plot(
                z,
                np.logaddexp(0, alpha * z) / alpha,
                color=colour,
                ls=dashes,
                lw=2,
                label=rf"softplus, $\alpha$ = {alpha}",
            )
            slope.plot(z, 1 / (1 + np.exp(-alpha * z)), color=colour, ls=dashes, lw=2)
        value.set(title="forward: value", xlabel="z")
        slope.set(title="backward: slope", xlabel="z")
        value.legend(loc="upper left")
    return figure


def training_step() -> Figure:
    """One call of :func:`advlib.train.train_step` as a flow, with the place where each technique enters."""
    with style():
        figure, axes = plt.subplots(figsize=(6.2, 4.6))
        axes.set(xlim=(0, 10), ylim=(0, 8.4))
        axes.axis("off")
        _box(axes, 0.2, 6.6, 2.2, 1.0, "$x, y$\n$B$ images", CLEAN)
        _box(axes, 0.2, 3.6, 2.2, 1.3, "attack\nFGSM, PGD", ADVERSARIAL, dashed=True)
        _box(axes, 3.6, 6.6, 2.6, 1.0, "model(x, main)", CLEAN)
        _box(axes, 3.6, 3.75, 2.6, 1.0, "model(x_adv, aux)", ADVERSARIAL, dashed=True)
        _box(axes, 7.5, 5.1, 2.3, 1.2, "loss_fn\n$2B$ logits", SHARED)
        _box(axes, 7.5, 2.2, 2.3, 1.0, "one update\nof $\\theta$", SHARED)
        _arrow(axes, (2.5, 7.1), (3.5, 7.1), CLEAN)
        _arrow(axes, (1.3, 6.5), (1.3, 5.0), CLEAN)
        _arrow(axes, (2.5, 4.25), (3.5, 4.25), ADVERSARIAL, "--")
        axes.text(3.0, 4.5, "$x_{adv}$", ha="center", fontsize=10)
        _arrow(axes, (6.3, 7.1), (7.7, 6.4), CLEAN)
        _arrow(axes, (6.3, 4.25), (7.7, 5.0), ADVERSARIAL, "--")
        _arrow(axes, (8.65, 5.0), (8.65, 3.3), SHARED)
        for at, name, what in [
            ((4.9, 5.65), "AdvProp", "which batch norm"),
            ((8.65, 7.6), "ALS", "which label"),
            ((4.9, 1.5), "SAT", "the slope that both gradients use"),
        ]:
            axes.text(*at, name, ha="center", weight="bold", fontsize=11)
            axes.text(at[0], at[1] - 0.5, what, ha="center", fontsize=9.5)
        _arrow(axes, (4.9, 6.05), (4.9, 6.5), "black")
        _arrow(axes, (4.9, 5.05), (4.9, 4.8), "black")
        _arrow(axes, (8.65, 6.95), (8.65, 6.4), "black")
        _arrow(axes, (3.9, 1.75), (1.6, 3.5), "black")
        _arrow(axes, (6.0, 1.75), (7.4, 2.4), "black")
    return figure


def published_clamp(mean: Sequence[float], std: Sequence[float]) -> Figure:
    """What clamping standardised images to [0, 1] does to pixels, with no attack at all, channel by channel.

    (x - mean) / std in [0, 1] means x in [mean, mean + std]; ``mean`` and ``std`` per channel, in pixels.
    """
    x = np.linspace(0, 1, 256)
    names = ("red", "green", "blue")
    with style():
        figure, (curve, ramps) = plt.subplots(
            2, 1, figsize=(5.6, 5.2), height_ratios=(3, 1), sharex=True, layout="constrained"
        )
        curve.plot(x, x, color="black", lw=1, label="unchanged")
        for name, m, s, colour, dashes in zip(
            names, mean, std, (PALETTE[3], PALETTE[2], PALETTE[0]), ("-", "--", ":"), strict=False
        ):
            curve.plot(x, clamped(x, m, s), color=colour, ls=dashes, lw=2.2, label=name)
        curve.set(ylabel="pixel after the clamp", aspect="auto")
        curve.legend(loc="upper left")
        after = np.stack([clamped(x, m, s) for m, s in zip(mean, std, strict=True)], axis=-1)
        before = np.repeat(x[:, None], 3, axis=1)
        ramps.imshow(np.stack([before, after]), extent=(0, 1, 0, 2), aspect="auto", interpolation="nearest")
        ramps.set(yticks=[1.5, 0.5], yticklabels=["before", "after"], xlabel="pixel before the clamp")
        ramps.grid(False)
    return figure


def clamped(x: np.ndarray, mean: float, std: float) -> np.ndarray:
    """Pixels ``x`` of one channel after the published clamp alone: standardise, clamp to [0, 1], undo."""
    return np.clip((x - mean) / std, 0, 1) * std + mean


def _box(panel, left: float, bottom: float, width: float, height: float, text: str, colour, dashed=False) -> None:
    shape = FancyBboxPatch(
        (left, bottom),
        width,
        height,
        boxstyle="round,pad=0.05",
        fc="white",
        ec=colour,
        lw=2,
        ls="--" if dashed else "-",
    )
    panel.add_patch(shape)
    panel.text(left + width / 2, bottom + height / 2, text, ha="center", va="center", fontsize=9.5)


def _arrow(panel, start, end, colour, dashes="-") -> None:
    arrow = {"arrowstyle": "-|>", "color": colour, "lw": 1.8, "ls": dashes, "shrinkA": 0, "shrinkB": 0}
    panel.annotate("", end, start, arrowprops=arrow)
