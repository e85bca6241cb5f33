"""The look of all figures, and the figures that need no record: formulas, drawn. No torch.

Colours are seaborn's colour-blind palette, and nothing is told by colour alone. The background is opaque white, so a
figure reads the same in the book's light and dark themes.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

PALETTE = sns.color_palette("colorblind")
MARKERS = "osD^vP*Xp<>h"


@contextmanager
def style() -> Iterator[None]:
    """The look of all figures; the reader's own settings are back afterwards."""
    with (
        sns.axes_style("whitegrid"),
        plt.rc_context(
            {
                "figure.dpi": 144,
                "font.size": 10,
                "axes.titlesize": 11,
                "figure.facecolor": "white",
                "savefig.facecolor": "white",
                "legend.frameon": False,
                "axes.titlelocation": "left",
                "figure.constrained_layout.use": True,
            }
        ),
    ):
        yield
        interactive = plt.isinteractive()
    matplotlib.interactive(
        interactive
    )  # a notebook's first figure switches it on: put back off, no later figure would show


def picture(panel: Axes, pixels: np.ndarray, caption: str, wrong: bool = False) -> None:
    """One image (H, W, C), pixels in [0, 1], with a caption; a frame and a cross mark a wrong prediction."""
    panel.imshow(np.clip(pixels, 0, 1), interpolation="nearest")
    panel.set(xticks=[], yticks=[])
    panel.set_title(("✗ " if wrong else "") + caption, fontsize=7, loc="center", pad=3)
    for spine in panel.spines.values():
        spine.set(visible=wrong, color=PALETTE[3], linewidth=2.5)


def surrogate_gradient(alphas: Sequence[float] = (1, 3, 10)) -> Figure:
    """Value and slope of the ReLU and of the parametric softplus: the paper's Figure 3, computed."""
    z = np.linspace(-2, 2, 801)
    with style():
        figure, (value, slope) = plt.subplots(1, 2, figsize=(6.6, 3.2))
        value.plot(z, np.maximum(z, 0), color="black", lw=2.5, label="ReLU")
        slope.plot(z, np.heaviside(z, 0), color="black", lw=2.5)
        for alpha, colour, dashes in zip(alphas, PALETTE, ("--", "-.", ":"), strict=False):
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
