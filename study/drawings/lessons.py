"""The pictures and the table of the teaching notebooks, drawn from networks and images that a notebook hands over.

Images are pixels (B, C, H, W) in [0, 1], labels (B,), eps a length in pixels; networks are in evaluation mode.
"""

from collections.abc import Callable, Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from matplotlib.figure import Figure
from torch import Tensor, nn

from advlib.norm import BRANCHES, DualBatchNorm2d
from study.presentation.figures import MARKERS, PALETTE, picture, style
from study.presentation.marks import legend

LogitsFn = Callable[[Tensor], Tensor]
DASHES = ("-", "--", "-.", ":")


@torch.no_grad()
def measure(logits_fn: LogitsFn, x: Tensor, y: Tensor, shown: Mapping[str, Tensor]) -> pd.DataFrame:
    """What a network makes of images that were shown instead of ``x``: a row for each name.

    The columns: the largest change of a pixel (of 255), the mean cross-entropy, the accuracy (%).
    """
    rows = {}
    for name, images in shown.items():
        logits = logits_fn(images)
        rows[name] = {
            "largest change (of 255)": 255 * (images - x).abs().max().item(),
            "mean loss": F.cross_entropy(logits, y).item(),
            "accuracy (%)": 100 * (logits.argmax(dim=1) == y).float().mean().item(),
        }
    return pd.DataFrame(rows).T.round(2)


@torch.no_grad()
def attacked(
    logits_fn: LogitsFn,
    x: Tensor,
    y: Tensor,
    attacks: Mapping[str, Tensor],
    classes: Sequence[str],
    eps: float,
) -> Figure:
    """Six images, then for each attack its images and, below, what it added: grey 0, black -eps, white +eps."""
    shown = {"clean": x} | dict(attacks)
    images, rows = min(6, len(x)), 2 * len(shown) - 1
    with style():
        figure, axes = plt.subplots(rows, images, figsize=(1.2 * images, 1.3 * rows), squeeze=False)
        figure.get_layout_engine().set(hspace=0, h_pad=0.02)
        panels = iter(axes)
        for name, pixels in shown.items():
            row = next(panels)
            predictions(row, logits_fn, pixels[:images], y, classes)
            row[0].set_ylabel(name, fontsize=8)
            if name == "clean":
                continue
            row = next(panels)
            for panel, added in zip(row, (pixels - x)[:images], strict=True):
                picture(panel, _array(0.5 + added / (2 * eps)), "")
            row[0].set_ylabel(f"added,\namplified {0.5 / eps:.0f}x", fontsize=8)
    return figure


def accuracy_by_steps(needed: Mapping[str, Tensor], steps: int, levels: Mapping[str, float]) -> Figure:
    """Accuracy (%) against the number of steps of PGD, a line for each attack.

    needed: what :func:`advlib.attacks.first_success` returned for each; levels: name -> accuracy (%) of what takes no
    number of steps, drawn as horizontal lines.
    """
    counts = np.arange(steps + 1)
    with style():
        figure, axes = plt.subplots(figsize=(7, 3.4))
        for (name, first), colour, marker in zip(needed.items(), PALETTE, MARKERS, strict=False):
            accuracy = [100 * (first > k).float().mean().item() for k in counts]
            axes.plot(counts, accuracy, color=colour, marker=marker, ms=4, label=name)
        for (name, accuracy), dashes in zip(levels.items(), DASHES[1:], strict=False):
            axes.axhline(accuracy, color="black", ls=dashes, lw=1.2, label=name)
        axes.set(xlabel="steps of PGD", ylabel="accuracy (%)", ylim=(-3, 103))
        axes.xaxis.get_major_locator().set_params(integer=True)
        figure.legend(loc="outside right upper", fontsize=9)
    return figure


@torch.no_grad()
def statistics_gap(model: nn.Module, images: Tensor | None = None) -> list[float]:
    """For each pair of batch norms, in order: how far the means of main and aux lie apart.

    The running means; or, with ``images``, the means of what reaches each layer when the same images go through either
    branch: then whatever lies apart comes from the branches. In running standard deviations of main, averaged over
    the channels.
    """
    layers = [layer for layer in model.modules() if isinstance(layer, DualBatchNorm2d)]
    if images is None:
        means = {branch: [layer[branch].running_mean for layer in layers] for branch in BRANCHES}
    else:
        means = {branch: _arriving(model, layers, images, branch) for branch in BRANCHES}
    deviations = [layer["main"].running_var.sqrt() for layer in layers]
    return [
        ((aux - main).abs() / deviation).mean().item()
        for main, aux, deviation in zip(means["main"], means["aux"], deviations, strict=True)
    ]


def two_statistics(gaps: Mapping[str, Sequence[float]], made: Tensor, learned: Tensor) -> Figure:
    """Left, each of :func:`statistics_gap`; right, the shift of the first layer's channel means.

    made (C,): the shift that the attack makes on test images; learned (C,): aux minus main, as training left it.
    """
    with style():
        figure, (gap, shift) = plt.subplots(1, 2, figsize=(8.4, 3.7), width_ratios=(3, 2))
        for (name, values), colour, marker, dashes in zip(gaps.items(), PALETTE, MARKERS, DASHES, strict=False):
            numbers = range(1, len(values) + 1)
            gap.plot(numbers, values, color=colour, marker=marker, ms=4, ls=dashes, label=name)
        gap.set(title="main and aux: distance of means", xlabel="batch norm", ylabel="standard deviations")
        gap.xaxis.get_major_locator().set_params(integer=True)
        gap.set_ylim(0, None)
        made, learned = made.cpu(), learned.cpu()
        limits = [min(made.min(), learned.min()).item(), max(made.max(), learned.max()).item()]
        shift.plot(limits, limits, color="black", lw=1, ls="--")
        shift.plot(made, learned, color=PALETTE[0], marker="o", ls="")
        shift.set(title="first layer, each channel", xlabel="shift the attack makes", ylabel="aux minus main")
        legend(figure, 2, fontsize=9)
    return figure


@torch.no_grad()
def branch_accuracy(model: nn.Module, y: Tensor, shown: Mapping[str, Tensor]) -> Figure:
    """Accuracy (%) through each branch on each kind of images, as a table of shades with the numbers in."""
    accuracy = np.array(
        [
            [100 * (model(images, branch=branch).argmax(dim=1) == y).float().mean().item() for images in shown.values()]
            for branch in ("main", "aux")
        ]
    )
    with style():
        figure, axes = plt.subplots(figsize=(6, 2.4))
        axes.imshow(accuracy, vmin=0, vmax=100, cmap="Greys_r", aspect="auto")
        for (row, column), value in np.ndenumerate(accuracy):
            colour = "white" if value < 50 else "black"
            axes.text(column, row, f"{value:.1f}", ha="center", va="center", color=colour, fontsize=12)
        axes.set_xticks(range(len(shown)), shown.keys(), fontsize=9)
        axes.set_yticks([0, 1], ["main", "aux"])
        axes.set(title="accuracy (%)", ylabel="classified through")
        axes.grid(False)
    return figure


@torch.no_grad()
def smoothed_targets(
    x: Tensor, logits: Tensor, y: Tensor, targets: Tensor, gradient: Tensor, classes: Sequence[str]
) -> Figure:
    """Each image above its prediction p, its target q, and the gradient with respect to the logits (B, K)."""
    B, K = logits.shape
    p = logits.softmax(dim=1)
    with style():
        figure, axes = plt.subplots(3, B, figsize=(2.1 * B, 5.4), height_ratios=(1.1, 1, 1), squeeze=False)
        for column, (image, bars, slopes) in enumerate(axes.T):
            picture(image, _array(x[column]), f"true class: {classes[y[column]]}")
            ks = np.arange(K)
            bars.bar(ks, p[column].cpu(), color=PALETTE[0], label="prediction p")
            bars.plot(ks, targets[column].cpu(), color="black", marker="_", ms=9, mew=2, ls="", label="target q")
            bars.set(ylim=(-0.04, 1.05))
            slopes.bar(ks, gradient[column].cpu(), color=PALETTE[1])
            slopes.axhline(0, color="black", lw=0.8)
            for panel in (bars, slopes):
                if K <= 20:
                    rotation = 90 if max(map(len, classes)) > 2 else 0
                    panel.set_xticks(ks, classes, fontsize=7, rotation=rotation, parse_math=False)
                panel.tick_params(axis="y", labelsize=7)
                panel.grid(False, axis="x")
        axes[1, 0].set_ylabel("probability", fontsize=9)
        axes[2, 0].set_ylabel("gradient p − q", fontsize=9)
        span = 1.1 * gradient.abs().max().item()
        for panel in axes[2]:
            panel.set_ylim(-span, span)
        legend(figure, 2, fontsize=9)
    return figure


@torch.no_grad()
def confidence(
    models: Mapping[str, nn.Module], x: Tensor, y: Tensor, x_adv: Mapping[str, Tensor], alpha: float
) -> Figure:
    """Left, the confidence on ``x`` of each network; right, its accuracy on ``x`` and on its own ``x_adv``."""
    bins = np.linspace(0, 1, 21)
    with style():
        figure, (counts, accuracy) = plt.subplots(1, 2, figsize=(8.4, 3.2), width_ratios=(3, 2))
        for place, (name, model) in enumerate(models.items()):
            p = model(x).softmax(dim=1).max(dim=1).values.cpu().numpy()
            looks = {"color": PALETTE[place], "hatch": ("", "///")[place % 2]}
            counts.hist(p, bins=bins, alpha=0.6, label=name, ec="black", lw=0.5, **looks)
            right = [100 * (model(shown).argmax(dim=1) == y).float().mean().item() for shown in (x, x_adv[name])]
            bars = accuracy.bar(np.arange(2) + 0.4 * (place - 0.5), right, width=0.38, alpha=0.6, ec="black", **looks)
            accuracy.bar_label(bars, fmt="%.1f", fontsize=8)
        counts.axvline(1 - alpha, color="black", ls="--", lw=1)
        counts.annotate(
            r"$1 - \alpha$", (1 - alpha, 0.9), (-5, 0), ("data", "axes fraction"), "offset points", ha="right"
        )
        counts.set(title="test images by confidence", xlabel="probability of the predicted class", ylabel="images")
        counts.legend(loc="upper left", fontsize=9)
        accuracy.set_xticks([0, 1], ["clean", "attacked"])
        accuracy.set(title="accuracy (%)", ylim=(0, 112))
        accuracy.grid(False, axis="x")
    return figure


def slopes(z: Tensor, curves: Mapping[str, tuple[Tensor, Tensor]]) -> Figure:
    """Value and slope of activations over ``z``: name -> (value, slope), each of the shape of ``z``."""
    with style():
        figure, (value, slope) = plt.subplots(1, 2, figsize=(8.4, 3.2))
        for (name, (f, g)), colour, dashes, width in zip(
            curves.items(), ["black", *PALETTE], DASHES, (4, 2, 2, 2), strict=False
        ):
            value.plot(z.detach(), f.detach(), color=colour, ls=dashes, lw=width, label=name)
            slope.plot(z.detach(), g, color=colour, ls=dashes, lw=min(width, 2.5))
        value.set(title="forward: value", xlabel="z")
        slope.set(title="backward: slope, by autograd", xlabel="z")
        value.legend(loc="upper left")
    return figure


def by_surrogate(alphas: Sequence[float], table: pd.DataFrame, agreement: Sequence[float], trained: float) -> Figure:
    """What attacks find with surrogate slopes of each sharpness, and how often their gradient has the true sign.

    table: :func:`measure` of the attacks, a row for each alpha, then "true" and "clean"; agreement: shares in [0, 1];
    trained: the alpha that the network was trained with.
    """
    with style():
        figure, (accuracy, signs) = plt.subplots(1, 2, figsize=(8.4, 3.3))
        found = table["accuracy (%)"]
        accuracy.plot(alphas, found.iloc[: len(alphas)], color=PALETTE[0], marker="o", label="surrogate gradient")
        for name, label, dashes in [("true", "true gradient", "--"), ("clean", "no attack", ":")]:
            accuracy.axhline(found[name], color="black", ls=dashes, lw=1.5, label=label)
        accuracy.set(title="accuracy under attack (%)", ylim=(-3, 103))
        signs.plot(alphas, 100 * np.asarray(agreement), color=PALETTE[1], marker="s")
        signs.axhline(50, color="black", ls=":", lw=1.5)
        signs.annotate("chance", (alphas[0], 50), (0, -12), textcoords="offset points", fontsize=9)
        signs.set(title="pixels whose gradient has the true sign (%)", ylim=(40, 103))
        for panel in (accuracy, signs):
            panel.set_xscale("log")
            panel.axvline(trained, color="grey", lw=1)
            panel.set_xlabel(r"$\alpha$ of the surrogate (grey line: in training)")
        legend(figure, 3, fontsize=9)
    return figure


def _arriving(model: nn.Module, layers: Sequence[nn.Module], images: Tensor, branch: str) -> list[Tensor]:
    """The channel means (C,) of what arrives at each of ``layers``."""
    means: dict[nn.Module, Tensor] = {}

    def keep(layer: nn.Module, arguments: tuple) -> None:
        means[layer] = arguments[0].mean(dim=(0, 2, 3))

    hooks = [layer.register_forward_pre_hook(keep) for layer in layers]
    try:
        model(images, branch=branch)
    finally:
        for hook in hooks:
            hook.remove()
    return [means[layer] for layer in layers]


def predictions(panels, logits_fn: LogitsFn, pixels: Tensor, y: Tensor, classes: Sequence[str]) -> None:
    """Images in panels, each with the class that it is taken for and its probability, marked where that is wrong."""
    p, predicted = logits_fn(pixels).softmax(dim=1).max(dim=1)
    for panel, image, probability, k, label in zip(panels, pixels, p, predicted, y[: len(pixels)], strict=True):
        picture(panel, _array(image), f"{classes[k]} ({100 * probability:.0f} %)", wrong=bool(k != label))


def _array(image: Tensor) -> np.ndarray:
    """(C, H, W) to (H, W, 3) on the CPU: a single channel becomes grey."""
    return image.expand(3, -1, -1).permute(1, 2, 0).cpu().numpy()
